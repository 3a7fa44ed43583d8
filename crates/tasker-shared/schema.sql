-- The schema that the migrations make, for reading and for differences. A test prints it; nothing runs it.
-- Left out: the monthly partitions, and the migrator's own table.

CREATE SCHEMA tasker;

CREATE FUNCTION tasker.batches(content jsonb, expansions text) RETURNS TABLE(batchable integer, worker integer, first integer, count integer)
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT (x.e ->> 0)::integer, (x.e ->> 1)::integer,
           (jsonb_array_length(content -> 'steps') + sum((x.e ->> 2)::integer) OVER (ORDER BY x.ord) - (x.e ->> 2)::integer)::integer,
           (x.e ->> 2)::integer
    FROM jsonb_array_elements(expansions::jsonb) WITH ORDINALITY AS x (e, ord)
$$;

CREATE FUNCTION tasker.checkpoint(queue text, msg_id bigint, read_ct integer, nonce uuid, lease_ms bigint, task_uuid uuid, step integer, attempt integer, checkpoint text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    found text;
BEGIN
    SELECT e.state INTO found FROM pgmq_notify.extend_fenced(
        ARRAY[checkpoint.queue], ARRAY[checkpoint.msg_id], ARRAY[checkpoint.read_ct], ARRAY[checkpoint.nonce],
        checkpoint.lease_ms) AS e;
    IF found = 'extended' THEN
        INSERT INTO tasker.checkpoints AS c (task_uuid, step, attempt, checkpoint)
        VALUES (checkpoint.task_uuid, checkpoint.step, checkpoint.attempt, checkpoint.checkpoint::json)
        ON CONFLICT (task_uuid, step) DO UPDATE
        SET attempt = EXCLUDED.attempt, checkpoint = EXCLUDED.checkpoint, at = clock_timestamp();
    END IF;
    RETURN coalesce(found, 'lost');
END $$;

CREATE FUNCTION tasker.complete_step(queue text, msg_id bigint, read_ct integer, nonce uuid, task_uuid uuid, step integer, base_attempt integer, attempt integer, worker text, claimed_at timestamp with time zone, started_at timestamp with time zone, result json, metadata json DEFAULT NULL::json, follows json DEFAULT NULL::json, event_queues text[] DEFAULT '{}'::text[], event_bodies text[] DEFAULT '{}'::text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
DECLARE
    said text;
BEGIN
    SELECT r.verdict INTO said FROM tasker.report(
        ARRAY[queue], ARRAY[msg_id], ARRAY[read_ct], ARRAY[nonce], ARRAY[task_uuid], ARRAY[step], ARRAY[base_attempt],
        ARRAY[attempt], ARRAY['success'], ARRAY[NULL::boolean], ARRAY[NULL::bigint], worker, ARRAY[claimed_at],
        ARRAY[started_at], ARRAY[clock_timestamp()], ARRAY[result::text], ARRAY[NULL::text], ARRAY[metadata::text],
        ARRAY[follows::text], array_fill(1, ARRAY[cardinality(event_bodies)]), event_queues, event_bodies) r;
    IF said = 'accepted' THEN
        RETURN;
    ELSIF said = 'duplicate' THEN
        RAISE EXCEPTION 'the attempt was reported on before' USING ERRCODE = 'TK002';
    END IF;
    RAISE EXCEPTION 'the claim is no longer the current one' USING ERRCODE = 'TK001';
END $$;

CREATE FUNCTION tasker.discard(taken integer[], task_uuids uuid[], steps integer[], attempts integer[], nonces uuid[], outcomes text[], worker text, results text[], errors text[]) RETURNS TABLE(ord integer, verdict text)
    LANGUAGE sql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
    WITH r AS (
        SELECT u.*, EXISTS (SELECT FROM tasker.attempts a WHERE a.task_uuid = u.task AND a.step = u.step
                            AND a.attempt = u.attempt AND a.nonce = u.nonce AND a.outcome <> 'lost') AS known
        FROM unnest(task_uuids, steps, attempts, nonces, outcomes, results, errors)
            WITH ORDINALITY AS u (task, step, attempt, nonce, outcome, result, error, ord)
        WHERE NOT u.ord = ANY (taken)
    ), kept AS (
        INSERT INTO tasker.discarded_results (task_uuid, step, attempt, nonce, worker, outcome, result, error, reason)
        SELECT r.task, r.step, r.attempt, r.nonce, worker, r.outcome, r.result::json, r.error::json, 'fenced'
        FROM r WHERE NOT r.known
    )
    SELECT r.ord::integer, CASE WHEN r.known THEN 'duplicate' ELSE 'refused' END FROM r
$$;

CREATE FUNCTION tasker.ensure_partitions() RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
DECLARE
    month date;
    parent text;
    part text;
    storage text;
    made integer := 0;
BEGIN
    FOR month IN SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month',
                                        date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months',
                                        interval '1 month')::date
    LOOP
        FOREACH parent IN ARRAY ARRAY['tasks', 'task_details', 'attempts', 'history'] LOOP
            part := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
            CONTINUE WHEN to_regclass('tasker.' || part) IS NOT NULL;
            -- Two servers may start at once; the loser of this lock finds the partition made.
            PERFORM pg_advisory_xact_lock(hashtext('tasker.ensure_partitions'));
            CONTINUE WHEN to_regclass('tasker.' || part) IS NOT NULL;
            -- Task rows are updated in place some times each: leave room for their next versions.
            storage := CASE parent WHEN 'tasks' THEN ' WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)' ELSE '' END;
            EXECUTE format('CREATE TABLE tasker.%I PARTITION OF tasker.%I FOR VALUES FROM (%L) TO (%L)%s',
                part, parent,
                tasker.task_id_floor(month::timestamp AT TIME ZONE 'UTC'),
                tasker.task_id_floor((month + interval '1 month')::timestamp AT TIME ZONE 'UTC'),
                storage);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

CREATE FUNCTION tasker.live_step_violations() RETURNS TABLE(task_uuid uuid, step integer, letter text, tickets bigint, due bigint, undecided bigint)
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $_$
DECLARE
    every_ticket text;
BEGIN
    SELECT string_agg(format('SELECT %L::text AS queue, msg_id, message FROM pgmq.%I', q.queue, 'q_' || q.queue), ' UNION ALL ')
    INTO every_ticket FROM tasker.queues q;
    RETURN QUERY EXECUTE format($q$
        WITH ticket AS MATERIALIZED (
            SELECT (message ->> 'task_uuid')::uuid AS task, (message ->> 'nonce')::uuid AS nonce, msg_id FROM (%s) m
        ), live AS MATERIALIZED (
            SELECT t.task_uuid AS task, s.i AS step, substr(t.steps, s.i + 1, 1) AS letter,
                   (t.sparse -> (s.i::text) ->> 'n')::uuid AS nonce, (t.sparse -> (s.i::text) ->> 'm')::bigint AS msg_id
            FROM tasker.tasks t, generate_series(0, length(t.steps) - 1) AS s (i)
            WHERE t.ended_at IS NULL OR t.sparse <> '{}'
        ), held AS (
            SELECT l.*, (SELECT count(*) FROM ticket k WHERE k.task = l.task AND k.nonce = l.nonce AND k.msg_id = l.msg_id) AS tickets,
                   (SELECT count(*) FROM tasker.due_times d WHERE d.task_uuid = l.task AND d.step = l.step AND d.nonce = l.nonce) AS due,
                   (SELECT count(*) FROM tasker.attempts a WHERE a.task_uuid = l.task AND a.step = l.step AND a.nonce = l.nonce
                                                             AND a.outcome <> 'lost') AS undecided
            FROM live l
        )
        SELECT task, step, letter, tickets, due, undecided FROM held
        WHERE (letter IN ('H', 'Q', 'W')) <> (tickets + due + undecided = 1) OR tickets + due + undecided > 1
        UNION ALL
        SELECT k.task, NULL, 'stray ticket', 1, 0, 0 FROM ticket k
        WHERE NOT EXISTS (SELECT FROM live l WHERE l.task = k.task AND l.nonce = k.nonce AND l.msg_id = k.msg_id)
        UNION ALL
        SELECT d.task_uuid, d.step, 'stray due time', 0, 1, 0 FROM tasker.due_times d
        WHERE NOT EXISTS (SELECT FROM live l WHERE l.task = d.task_uuid AND l.nonce = d.nonce)
    $q$, coalesce(every_ticket, 'SELECT NULL::text, NULL::bigint AS msg_id, NULL::jsonb AS message WHERE false'));
END $_$;

CREATE FUNCTION tasker.lock_and_take(task_uuids uuid[], queues text[], msg_ids bigint[], read_cts integer[], nonces uuid[]) RETURNS TABLE(task_uuid uuid, version bigint, taken integer, at timestamp with time zone)
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
DECLARE
    least_id uuid;
    last_id uuid;
BEGIN
    SELECT u.id INTO least_id FROM unnest(task_uuids) AS u (id) ORDER BY u.id LIMIT 1;
    SELECT u.id INTO last_id FROM unnest(task_uuids) AS u (id) ORDER BY u.id DESC LIMIT 1;
    RETURN QUERY
        SELECT t.task_uuid, t.version, NULL::integer, clock_timestamp()
        FROM tasker.tasks t WHERE t.task_uuid = ANY (task_uuids) AND t.task_uuid BETWEEN least_id AND last_id
        ORDER BY t.task_uuid FOR NO KEY UPDATE;
    IF cardinality(msg_ids) > 0 THEN
        RETURN QUERY
            SELECT NULL::uuid, NULL::bigint, d.ord, NULL::timestamptz
            FROM pgmq_notify.delete_fenced(queues, msg_ids, read_cts, nonces) AS d (ord);
    END IF;
END $$;

CREATE FUNCTION tasker.lock_resources(namespaces text[], names text[]) RETURNS TABLE(namespace text, resource text, max_in_flight integer, failures_to_open integer, open_ms integer, max_open_ms integer, paused boolean, state text, failures integer, times integer, allowed integer, open_until timestamp with time zone, in_flight bigint, waiting boolean)
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
BEGIN
    PERFORM 1 FROM tasker.resources r JOIN unnest(namespaces, names) AS u (namespace, name)
        ON r.namespace = u.namespace AND r.resource = u.name
    ORDER BY r.namespace, r.resource FOR NO KEY UPDATE OF r;
    RETURN QUERY
        SELECT r.namespace, r.resource, r.max_in_flight, r.failures_to_open, r.open_ms, r.max_open_ms, r.paused, r.state,
               r.failures, r.times, r.allowed, r.open_until,
               (SELECT count(*) FROM tasker.permits p WHERE p.namespace = r.namespace AND p.resource = r.resource),
               EXISTS (SELECT FROM tasker.due_times d WHERE d.namespace = r.namespace AND d.resource = r.resource)
        FROM unnest(namespaces, names) AS u (namespace, name)
        JOIN tasker.resources r ON r.namespace = u.namespace AND r.resource = u.name;
END $$;

CREATE FUNCTION tasker.new_task_uuid() RETURNS uuid
    LANGUAGE sql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
    SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
            -- A random uuid has its variant in the 17th digit, and nothing but chance after that.
            || '7' || substr(r.digits, 14, 3) || substr(r.digits, 17, 4) || substr(r.digits, 21, 7) || '00000')::uuid
    FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS digits OFFSET 0) r
$$;

CREATE FUNCTION tasker.pattern(content jsonb, expansions text, step integer) RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT coalesce((SELECT b.worker FROM tasker.batches(content, expansions) b
                     WHERE step >= b.first AND step < b.first + b.count), step)
$$;

CREATE FUNCTION tasker.permit_violations() RETURNS TABLE(task_uuid uuid, step integer, resource text, violation text)
    LANGUAGE sql
    SET search_path TO 'tasker', 'pg_temp'
    AS $_$
    WITH wanted AS (
        SELECT t.task_uuid, s.i AS step, t.namespace, u.resource
        FROM tasker.tasks t
        JOIN tasker.templates c ON c.hash = t.template_hash AND c.content @? '$.steps[*].uses[*]'
        CROSS JOIN LATERAL generate_series(0, length(t.steps) - 1) AS s (i)
        CROSS JOIN LATERAL jsonb_array_elements_text(
            c.content -> 'steps' -> tasker.pattern(c.content, t.expansions, s.i) -> 'uses') AS u (resource)
        WHERE substr(t.steps, s.i + 1, 1) = 'Q'
    )
    SELECT coalesce(w.task_uuid, p.task_uuid), coalesce(w.step, p.step), coalesce(w.resource, p.resource),
           CASE WHEN w.task_uuid IS NULL THEN 'a permit without a ticket' ELSE 'a ticket without its permit' END
    FROM wanted w
    FULL JOIN tasker.permits p ON p.task_uuid = w.task_uuid AND p.step = w.step AND p.namespace = w.namespace
                              AND p.resource = w.resource
    WHERE w.task_uuid IS NULL OR p.task_uuid IS NULL
$_$;

CREATE FUNCTION tasker.publish(accepted integer[], ords integer[], queues text[], bodies text[]) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
    SELECT pgmq_notify.send(array_agg(e.queue ORDER BY e.n), array_agg(e.id ORDER BY e.n), array_agg(e.body ORDER BY e.n),
                            array_agg(0::bigint), array_agg(0))
    FROM (
        SELECT u.queue, u.body, u.n, r.id
        FROM unnest(ords, queues, bodies) WITH ORDINALITY AS u (ord, queue, body, n)
        CROSS JOIN LATERAL pgmq_notify.reserve_ids(u.queue, 1) AS r (id)
        WHERE u.ord = ANY (accepted)
    ) e
$$;

CREATE FUNCTION tasker.report(queues text[], msg_ids bigint[], read_cts integer[], nonces uuid[], task_uuids uuid[], steps integer[], base_attempts integer[], attempts integer[], outcomes text[], retryables boolean[], retry_afters bigint[], worker text, claimed_ats timestamp with time zone[], started_ats timestamp with time zone[], ended_ats timestamp with time zone[], results text[], errors text[], metadatas text[], follows text[], event_ords integer[], event_queues text[], event_bodies text[]) RETURNS TABLE(ord integer, verdict text)
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
DECLARE
    taken integer[];
    accepted integer[];
    bodies text[];
    n integer;
BEGIN
    -- In the order of the reports: what was said first is decided first.
    SELECT coalesce(array_agg(d.ord ORDER BY d.ord), '{}') INTO taken
    FROM pgmq_notify.delete_fenced(queues, msg_ids, read_cts, nonces) AS d (ord);

    WITH r AS (
        SELECT u.* FROM unnest(task_uuids, steps, base_attempts, attempts, nonces, outcomes, retryables, retry_afters,
                               claimed_ats, started_ats, ended_ats, results, errors, metadatas, follows)
            WITH ORDINALITY AS u (task, step, base, attempt, nonce, outcome, retryable, retry_after, claimed, started,
                                  ended, result, error, metadata, follows, ord)
        WHERE u.ord = ANY (taken)
    ), stored AS (
        INSERT INTO tasker.attempts AS a (task_uuid, step, attempt, nonce, outcome, retryable, retry_after_ms, worker,
                                          claimed_at, started_at, ended_at, result, error, metadata, follows)
        SELECT r.task, r.step, r.attempt, r.nonce, r.outcome, r.retryable, r.retry_after, report.worker,
               r.claimed, r.started, r.ended, r.result::json, r.error::json, r.metadata::json, r.follows::json FROM r
        UNION ALL
        SELECT r.task, r.step, lost, r.nonce, 'lost', NULL, NULL, report.worker, NULL, NULL, r.ended, NULL, NULL, NULL, NULL
        FROM r, generate_series(greatest(r.base, 0) + 1, r.attempt - 1) AS lost
        ON CONFLICT DO NOTHING
        RETURNING a.outcome
    )
    SELECT count(*) FILTER (WHERE s.outcome <> 'lost') INTO n FROM stored s;

    accepted := taken;
    IF n < cardinality(taken) THEN
        -- A ticket was ours although its attempt is stored already: only a broken writer makes that happen.
        SELECT coalesce(array_agg(o ORDER BY o), '{}') INTO accepted FROM unnest(taken) AS o
        JOIN tasker.attempts a ON a.task_uuid = task_uuids[o] AND a.step = steps[o] AND a.attempt = attempts[o]
                              AND a.nonce = nonces[o] AND a.outcome = outcomes[o];
    END IF;
    -- Eight to a message: most of what a message costs is the message.
    SELECT array_agg(CASE WHEN m.n = 1 THEN m.said ELSE '[' || m.said || ']' END ORDER BY m.chunk) INTO bodies
    FROM (
        SELECT (a.n - 1) / 8 AS chunk, count(*) AS n,
               string_agg(format('{"task_uuid":"%s","step":%s,"attempt":%s}', task_uuids[a.o], steps[a.o], attempts[a.o]),
                          ',' ORDER BY a.n) AS said
        FROM unnest(accepted) WITH ORDINALITY AS a (o, n) GROUP BY 1
    ) m;
    IF cardinality(bodies) > 0 THEN
        PERFORM pgmq_notify.post_orchestration_step_results(bodies, clock_timestamp());
        IF cardinality(event_ords) > 0 THEN
            PERFORM tasker.publish(accepted, event_ords, event_queues, event_bodies);
        END IF;
    END IF;
    RETURN QUERY SELECT o, CASE WHEN o = ANY (accepted) THEN 'accepted' ELSE 'refused' END FROM unnest(taken) AS o;

    IF cardinality(taken) < cardinality(msg_ids) THEN
        RETURN QUERY SELECT d.ord, d.verdict FROM tasker.discard(taken, task_uuids, steps, attempts, nonces, outcomes,
            worker, results, errors) d;
    END IF;
END $$;

CREATE FUNCTION tasker.stale_tasks(after uuid, most integer) RETURNS TABLE(task_uuid uuid, namespace text, name text, state text, since timestamp with time zone, bound text, minutes bigint, files boolean, fails boolean, is_filed boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
    WITH bounded AS MATERIALIZED (
        SELECT c.hash, c.content -> 'lifecycle' AS l FROM tasker.templates c WHERE coalesce(
            c.content -> 'lifecycle' ->> 'max_duration_minutes',
            c.content -> 'lifecycle' ->> 'max_waiting_for_dependencies_minutes',
            c.content -> 'lifecycle' ->> 'max_waiting_for_retry_minutes',
            c.content -> 'lifecycle' ->> 'max_steps_in_process_minutes') IS NOT NULL
    )
    SELECT t.task_uuid, t.namespace, t.name, t.state, passed.since, passed.bound, passed.minutes,
           b.l ->> 'staleness_action' = 'dlq' OR (b.l ->> 'auto_dlq_on_timeout')::boolean,
           b.l ->> 'staleness_action' = 'error' OR (b.l ->> 'auto_fail_on_timeout')::boolean,
           EXISTS (SELECT FROM tasker.dead_letters d WHERE d.task_uuid = t.task_uuid AND d.step IS NULL AND d.reason = 'stale')
    FROM bounded b
    JOIN tasker.tasks t ON t.template_hash = b.hash AND t.ended_at IS NULL AND t.task_uuid > after
    CROSS JOIN LATERAL (
        SELECT v.bound, v.since, v.minutes
        FROM (VALUES
            (1, 'max_duration_minutes', t.created_at, (b.l ->> 'max_duration_minutes')::bigint),
            (2, 'max_' || t.state || '_minutes',
             (SELECT max(h.at) FROM tasker.history h
              WHERE h.task_uuid = t.task_uuid AND h.to_state = t.state AND h.from_state <> h.to_state),
             (b.l ->> ('max_' || t.state || '_minutes'))::bigint)
        ) AS v (rank, bound, since, minutes)
        WHERE v.since < clock_timestamp() - v.minutes * interval '1 minute'
        ORDER BY v.rank LIMIT 1
    ) passed
    ORDER BY t.task_uuid LIMIT most
$$;

CREATE FUNCTION tasker.step_name(content jsonb, expansions text, task uuid, step integer) RETURNS text
    LANGUAGE sql STABLE
    AS $$
    SELECT coalesce(content -> 'steps' -> step ->> 'name', (
        SELECT (content -> 'steps' -> b.worker ->> 'name') || '_' || coalesce((
                   SELECT a.result -> 'batch_processing_outcome' -> 'cursor_configs' -> (step_name.step - b.first) ->> 'batch_id'
                   FROM tasker.attempts a
                   WHERE a.task_uuid = task AND a.step = b.batchable AND a.outcome IN ('success', 'by_hand')
                   ORDER BY a.attempt DESC LIMIT 1), '000')
        FROM tasker.batches(content, expansions) b
        WHERE step_name.step >= b.first AND step_name.step < b.first + b.count))
$$;

CREATE FUNCTION tasker.submit_task(namespace text, name text, context jsonb DEFAULT '{}'::jsonb, version text DEFAULT NULL::text, priority integer DEFAULT 0, idempotency_key text DEFAULT NULL::text, correlation_id uuid DEFAULT NULL::uuid, parent_correlation_id uuid DEFAULT NULL::uuid, initiator text DEFAULT NULL::text, source_system text DEFAULT NULL::text, reason text DEFAULT NULL::text, tags text[] DEFAULT '{}'::text[]) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
DECLARE
    most_bytes CONSTANT integer := 16 * 1024 * 1024;
    queue CONSTANT text := 'orchestration_task_requests';
    id uuid := tasker.new_task_uuid();
    body text;
BEGIN
    IF namespace IS NULL OR name IS NULL OR context IS NULL THEN
        RAISE EXCEPTION 'submit_task: namespace, name and context must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    body := json_build_object(
        'task_uuid', id,
        'request', json_build_object(
            'namespace', namespace, 'name', name, 'version', version, 'context', context,
            'priority', coalesce(priority, 0), 'idempotency_key', idempotency_key, 'correlation_id', correlation_id,
            'parent_correlation_id', parent_correlation_id, 'initiator', initiator, 'source_system', source_system,
            'reason', reason, 'tags', to_json(coalesce(tags, '{}')), 'requested_at', clock_timestamp()))::text;
    IF octet_length(body) > most_bytes THEN
        RAISE EXCEPTION 'submit_task: the request is larger than % bytes', most_bytes
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Keep the data in a table and hand on its key.';
    END IF;
    PERFORM pgmq_notify.post_orchestration_task_requests(ARRAY[body], clock_timestamp());
    PERFORM pg_notify('pgmq_' || queue, '');
    RETURN id;
END $$;

CREATE FUNCTION tasker.take_expected(task_uuids uuid[], versions bigint[], queues text[], msg_ids bigint[], read_cts integer[], nonces uuid[]) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $$
DECLARE
    found bigint[];
    taken integer;
    reading timestamptz;
BEGIN
    SELECT array_agg(l.version ORDER BY l.task_uuid) FILTER (WHERE l.taken IS NULL), count(l.taken), max(l.at)
    INTO found, taken, reading
    FROM tasker.lock_and_take(task_uuids, queues, msg_ids, read_cts, nonces) l;
    IF found IS DISTINCT FROM versions OR taken <> cardinality(msg_ids) THEN
        RAISE EXCEPTION 'a task or a ticket is not as it was expected' USING ERRCODE = 'TK003';
    END IF;
    RETURN reading;
END $$;

CREATE FUNCTION tasker.take_results(qty integer) RETURNS TABLE(msg_id bigint, body text, task_uuid uuid, version bigint, step integer, attempt integer, nonce uuid, outcome text, retryable boolean, retry_after_ms bigint, follows text, at timestamp with time zone)
    LANGUAGE plpgsql
    SET search_path TO 'tasker', 'pg_temp'
    AS $_$
DECLARE
    wanted integer;
    popped integer;
    ids bigint[] := '{}';
    bodies text[] := '{}';
    uuids uuid[] := '{}';
    steps integer[] := '{}';
    tries integer[] := '{}';
    least_id uuid;
    last_id uuid;
BEGIN
    -- So few messages at a time that they can't name more than is wanted, but for the last one.
    LOOP
        wanted := greatest(1, (qty - cardinality(ids)) / 8);
        SELECT count(DISTINCT m.msg_id), ids || array_agg(m.msg_id), bodies || array_agg(m.body),
               uuids || array_agg(CASE WHEN p.ours THEN (p.b ->> 'task_uuid')::uuid END),
               steps || array_agg(CASE WHEN p.ours THEN (p.b ->> 'step')::integer END),
               tries || array_agg(CASE WHEN p.ours THEN (p.b ->> 'attempt')::integer END)
        INTO popped, ids, bodies, uuids, steps, tries
        FROM pgmq_notify.pop_orchestration_step_results(wanted, clock_timestamp()) m
        CROSS JOIN LATERAL (SELECT m.body::jsonb AS b OFFSET 0) j
        CROSS JOIN LATERAL jsonb_array_elements(
            CASE WHEN jsonb_typeof(j.b) = 'array' AND jsonb_array_length(j.b) BETWEEN 1 AND 8 THEN j.b
                 ELSE jsonb_build_array(j.b) END) e (b)
        CROSS JOIN LATERAL (
            SELECT e.b, coalesce(e.b ->> 'task_uuid' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                             AND e.b ->> 'step' ~ '^[0-9]{1,6}$' AND e.b ->> 'attempt' ~ '^[0-9]{1,9}$', false) AS ours
            OFFSET 0
        ) p;
        EXIT WHEN popped < wanted OR cardinality(ids) >= qty;
    END LOOP;
    IF cardinality(ids) = 0 THEN
        RETURN;
    END IF;
    SELECT u.id INTO least_id FROM unnest(uuids) AS u (id) ORDER BY u.id LIMIT 1;
    SELECT u.id INTO last_id FROM unnest(uuids) AS u (id) WHERE u.id IS NOT NULL ORDER BY u.id DESC LIMIT 1;
    PERFORM 1 FROM tasker.tasks t WHERE t.task_uuid = ANY (uuids) AND t.task_uuid BETWEEN least_id AND last_id
    ORDER BY t.task_uuid FOR NO KEY UPDATE;
    RETURN QUERY
        SELECT m.id,
               CASE WHEN t.version IS NULL OR a.outcome IN ('success', 'failure', 'lease_lost') IS NOT TRUE THEN m.body END,
               m.task, t.version, m.step, m.attempt, a.nonce, a.outcome, a.retryable, a.retry_after_ms,
               a.follows::text, clock_timestamp()
        FROM unnest(ids, bodies, uuids, steps, tries) WITH ORDINALITY AS m (id, body, task, step, attempt, ord)
        LEFT JOIN tasker.tasks t ON t.task_uuid = m.task
            AND t.task_uuid >= least_id AND t.task_uuid <= ANY (ARRAY[last_id])
        LEFT JOIN tasker.attempts a ON a.task_uuid = m.task AND a.step = m.step AND a.attempt = m.attempt
                                   AND a.task_uuid >= least_id AND a.task_uuid <= ANY (ARRAY[last_id])
        ORDER BY m.ord;
END $_$;

CREATE FUNCTION tasker.task_id_floor(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

CREATE FUNCTION tasker.ticket_facts(queues text[], msg_ids bigint[]) RETURNS TABLE(ord integer, read_ct integer, attempt integer, enqueued_at timestamp with time zone, visible_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'tasker', 'pg_temp'
    AS $_$
DECLARE
    target text;
BEGIN
    FOR target IN SELECT DISTINCT q FROM unnest(queues) AS q LOOP
        CONTINUE WHEN to_regclass(format('pgmq.%I', 'q_' || target)) IS NULL;
        RETURN QUERY EXECUTE format(
            'SELECT u.ord::integer, m.read_ct, (m.message ->> ''base_attempt'')::integer + m.read_ct, m.enqueued_at, m.vt
             FROM unnest($1, $2) WITH ORDINALITY AS u (queue, msg_id, ord)
             JOIN pgmq.%I m ON m.msg_id = u.msg_id
             WHERE u.queue = $3', 'q_' || target)
        USING queues, msg_ids, target;
    END LOOP;
END $_$;

CREATE FUNCTION tasker.tickets(queues text[], msg_ids bigint[]) RETURNS TABLE(ord integer, claimed boolean, attempt integer)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'tasker', 'pg_temp'
    AS $_$
DECLARE
    target text;
BEGIN
    FOR target IN SELECT DISTINCT q FROM unnest(queues) AS q LOOP
        CONTINUE WHEN to_regclass(format('pgmq.%I', 'q_' || target)) IS NULL;
        RETURN QUERY EXECUTE format(
            'SELECT u.ord::integer, m.read_ct > 0 AND m.vt > clock_timestamp(),
                    (m.message ->> ''base_attempt'')::integer + m.read_ct
             FROM unnest($1, $2) WITH ORDINALITY AS u (queue, msg_id, ord)
             JOIN pgmq.%I m ON m.msg_id = u.msg_id
             WHERE u.queue = $3', 'q_' || target)
        USING queues, msg_ids, target;
    END LOOP;
END $_$;

CREATE TABLE tasker.attempts (
    task_uuid uuid NOT NULL,
    step integer NOT NULL,
    attempt integer NOT NULL,
    nonce uuid NOT NULL,
    outcome text NOT NULL,
    retryable boolean,
    retry_after_ms bigint,
    worker text NOT NULL,
    claimed_at timestamp with time zone,
    started_at timestamp with time zone,
    ended_at timestamp with time zone NOT NULL,
    result json,
    error json,
    metadata json,
    follows json,
    CONSTRAINT attempts_attempt_check CHECK ((attempt > 0)),
    CONSTRAINT attempts_check CHECK (((outcome = ANY (ARRAY['success'::text, 'by_hand'::text])) = (result IS NOT NULL))),
    CONSTRAINT attempts_check1 CHECK (((outcome = 'failure'::text) = (error IS NOT NULL))),
    CONSTRAINT attempts_check2 CHECK (((outcome = 'failure'::text) = (retryable IS NOT NULL))),
    CONSTRAINT attempts_outcome_check CHECK ((outcome = ANY (ARRAY['success'::text, 'failure'::text, 'lost'::text, 'lease_lost'::text, 'by_hand'::text]))),
    CONSTRAINT attempts_step_check CHECK ((step >= 0))
)
PARTITION BY RANGE (task_uuid);

CREATE TABLE tasker.tasks (
    task_uuid uuid NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    template_hash bytea NOT NULL,
    priority smallint NOT NULL,
    state text NOT NULL,
    version bigint NOT NULL,
    seq integer NOT NULL,
    steps text NOT NULL,
    sparse jsonb NOT NULL,
    expansions text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT tasks_check CHECK (((ended_at IS NOT NULL) = (state = ANY (ARRAY['complete'::text, 'error'::text, 'cancelled'::text, 'resolved_manually'::text])))),
    CONSTRAINT tasks_check1 CHECK (((state <> 'complete'::text) OR (steps ~ '^[CR.E]+$'::text))),
    CONSTRAINT tasks_priority_check CHECK (((priority >= '-100'::integer) AND (priority <= 100))),
    CONSTRAINT tasks_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'steps_in_process'::text, 'waiting_for_dependencies'::text, 'waiting_for_retry'::text, 'blocked_by_failures'::text, 'complete'::text, 'error'::text, 'cancelled'::text, 'resolved_manually'::text]))),
    CONSTRAINT tasks_steps_check CHECK ((steps <> ''::text))
)
PARTITION BY RANGE (task_uuid);

CREATE TABLE tasker.templates (
    hash bytea NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    content jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT templates_hash_check CHECK ((octet_length(hash) = 32))
);

CREATE VIEW tasker.steps AS
 SELECT t.task_uuid,
    t.namespace,
    t.name AS task_name,
    ((n.ord - 1))::integer AS step,
    tasker.step_name(c.content, t.expansions, t.task_uuid, ((n.ord - 1))::integer) AS step_name,
        CASE n.letter
            WHEN 'P'::text THEN 'pending'::text
            WHEN 'H'::text THEN 'held'::text
            WHEN 'Q'::text THEN 'enqueued'::text
            WHEN 'W'::text THEN 'waiting_for_retry'::text
            WHEN 'C'::text THEN 'complete'::text
            WHEN 'E'::text THEN 'error'::text
            WHEN 'X'::text THEN 'cancelled'::text
            WHEN 'R'::text THEN 'resolved_manually'::text
            ELSE NULL::text
        END AS state,
    COALESCE(((s.entry ->> 'a'::text))::integer,
        CASE n.letter
            WHEN 'C'::text THEN 1
            ELSE 0
        END) AS attempts,
    to_timestamp((((s.entry ->> 'r'::text))::double precision / ('1000000'::numeric)::double precision)) AS next_retry_at
   FROM (((tasker.tasks t
     JOIN tasker.templates c ON ((c.hash = t.template_hash)))
     CROSS JOIN LATERAL string_to_table(t.steps, NULL::text) WITH ORDINALITY n(letter, ord))
     CROSS JOIN LATERAL ( SELECT (t.sparse -> ((n.ord - 1))::text) AS entry) s)
  WHERE (n.letter <> ALL (ARRAY['-'::text, '.'::text]));

CREATE VIEW tasker.blocked AS
 SELECT s.task_uuid,
    s.namespace,
    s.task_name,
    s.step_name,
    s.attempts,
    a.outcome,
    a.error,
    a.ended_at
   FROM ((tasker.tasks t
     JOIN tasker.steps s USING (task_uuid))
     LEFT JOIN tasker.attempts a ON (((a.task_uuid = s.task_uuid) AND (a.step = s.step) AND (a.attempt = s.attempts))))
  WHERE ((t.ended_at IS NULL) AND (t.state = 'blocked_by_failures'::text) AND (s.state = 'error'::text));

CREATE TABLE tasker.checkpoints (
    task_uuid uuid NOT NULL,
    step integer NOT NULL,
    attempt integer NOT NULL,
    checkpoint json NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE tasker.dead_letters (
    entry_uuid uuid DEFAULT gen_random_uuid() NOT NULL,
    task_uuid uuid,
    step integer,
    attempt integer,
    reason text NOT NULL,
    snapshot jsonb,
    resolution_status text DEFAULT 'pending'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    filed_by text,
    resolution_notes text,
    resolved_by text,
    resolved_at timestamp with time zone,
    resolutions jsonb DEFAULT '[]'::jsonb NOT NULL,
    CONSTRAINT dead_letters_check CHECK (((resolution_status = 'pending'::text) = (resolved_at IS NULL))),
    CONSTRAINT dead_letters_resolution_status_check CHECK ((resolution_status = ANY (ARRAY['pending'::text, 'manually_resolved'::text, 'permanently_failed'::text, 'cancelled'::text])))
);

CREATE TABLE tasker.discarded_results (
    task_uuid uuid NOT NULL,
    step integer NOT NULL,
    attempt integer NOT NULL,
    nonce uuid NOT NULL,
    worker text NOT NULL,
    outcome text NOT NULL,
    result json,
    error json,
    reason text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE tasker.due_times (
    task_uuid uuid NOT NULL,
    step integer NOT NULL,
    nonce uuid NOT NULL,
    due_at timestamp with time zone NOT NULL,
    namespace text,
    resource text,
    CONSTRAINT due_times_check CHECK (((namespace IS NULL) = (resource IS NULL)))
);

CREATE TABLE tasker.history (
    task_uuid uuid NOT NULL,
    seq integer NOT NULL,
    at timestamp with time zone NOT NULL,
    cause text NOT NULL,
    processor text NOT NULL,
    from_state text NOT NULL,
    to_state text NOT NULL,
    changes text NOT NULL,
    detail json
)
PARTITION BY RANGE (task_uuid);

CREATE TABLE tasker.idempotency_keys (
    namespace text NOT NULL,
    key text NOT NULL,
    body_hash bytea NOT NULL,
    task_uuid uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE VIEW tasker.live_tasks AS
 SELECT tasks.task_uuid,
    tasks.namespace,
    tasks.name,
    tasks.state,
    tasks.steps,
    tasks.created_at,
    tasks.updated_at
   FROM tasker.tasks
  WHERE (tasks.ended_at IS NULL);

CREATE TABLE tasker.namespaces (
    namespace text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT namespaces_namespace_check CHECK ((namespace ~ '^[a-z][a-z0-9_]{0,28}$'::text))
);

CREATE TABLE tasker.permits (
    namespace text NOT NULL,
    resource text NOT NULL,
    task_uuid uuid NOT NULL,
    step integer NOT NULL
);

CREATE TABLE tasker.queues (
    queue text NOT NULL,
    namespace text NOT NULL,
    pool text NOT NULL,
    band smallint NOT NULL,
    CONSTRAINT queues_band_check CHECK (((band >= '-1'::integer) AND (band <= 1)))
);

CREATE TABLE tasker.refused_requests (
    task_uuid uuid NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    version text,
    code text NOT NULL,
    message text NOT NULL,
    details json NOT NULL,
    request json NOT NULL,
    refused_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE tasker.resources (
    namespace text NOT NULL,
    resource text NOT NULL,
    max_in_flight integer,
    failures_to_open integer DEFAULT 5 NOT NULL,
    open_ms integer DEFAULT 5000 NOT NULL,
    max_open_ms integer DEFAULT 300000 NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    set_by text,
    reason text,
    state text DEFAULT 'closed'::text NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    times integer DEFAULT 0 NOT NULL,
    allowed integer DEFAULT 0 NOT NULL,
    open_until timestamp with time zone,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT resources_check CHECK ((max_open_ms >= open_ms)),
    CONSTRAINT resources_check1 CHECK (((state = 'open'::text) = (open_until IS NOT NULL))),
    CONSTRAINT resources_failures_to_open_check CHECK ((failures_to_open >= 0)),
    CONSTRAINT resources_max_in_flight_check CHECK ((max_in_flight > 0)),
    CONSTRAINT resources_open_ms_check CHECK ((open_ms > 0)),
    CONSTRAINT resources_state_check CHECK ((state = ANY (ARRAY['closed'::text, 'open'::text, 'half_open'::text])))
);

CREATE TABLE tasker.task_details (
    task_uuid uuid NOT NULL,
    context json NOT NULL,
    correlation_id uuid NOT NULL,
    parent_correlation_id uuid,
    initiator text,
    source_system text,
    reason text,
    tags text[] NOT NULL,
    idempotency_key text,
    requested_at timestamp with time zone NOT NULL,
    options json
)
PARTITION BY RANGE (task_uuid);

CREATE TABLE tasker.template_versions (
    namespace text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    hash bytea NOT NULL,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    deprecated_at timestamp with time zone,
    deprecated_by text,
    deprecation_reason text,
    CONSTRAINT template_versions_check CHECK ((((deprecated_at IS NULL) = (deprecated_by IS NULL)) AND ((deprecated_at IS NULL) = (deprecation_reason IS NULL))))
);

CREATE TABLE tasker.workers (
    instance uuid NOT NULL,
    worker text NOT NULL,
    queues text[] NOT NULL,
    handlers text[] NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_seen timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY tasker.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (task_uuid, step, attempt);

ALTER TABLE ONLY tasker.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (task_uuid, step);

ALTER TABLE ONLY tasker.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (entry_uuid);

ALTER TABLE ONLY tasker.dead_letters
    ADD CONSTRAINT dead_letters_task_uuid_step_attempt_key UNIQUE (task_uuid, step, attempt);

ALTER TABLE ONLY tasker.due_times
    ADD CONSTRAINT due_times_pkey PRIMARY KEY (task_uuid, step);

ALTER TABLE ONLY tasker.history
    ADD CONSTRAINT history_pkey PRIMARY KEY (task_uuid, seq);

ALTER TABLE ONLY tasker.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (namespace, key);

ALTER TABLE ONLY tasker.namespaces
    ADD CONSTRAINT namespaces_pkey PRIMARY KEY (namespace);

ALTER TABLE ONLY tasker.permits
    ADD CONSTRAINT permits_pkey PRIMARY KEY (namespace, resource, task_uuid, step);

ALTER TABLE ONLY tasker.queues
    ADD CONSTRAINT queues_namespace_pool_band_key UNIQUE (namespace, pool, band);

ALTER TABLE ONLY tasker.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (queue);

ALTER TABLE ONLY tasker.refused_requests
    ADD CONSTRAINT refused_requests_pkey PRIMARY KEY (task_uuid);

ALTER TABLE ONLY tasker.resources
    ADD CONSTRAINT resources_pkey PRIMARY KEY (namespace, resource);

ALTER TABLE ONLY tasker.task_details
    ADD CONSTRAINT task_details_pkey PRIMARY KEY (task_uuid);

ALTER TABLE ONLY tasker.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (task_uuid);

ALTER TABLE ONLY tasker.template_versions
    ADD CONSTRAINT template_versions_pkey PRIMARY KEY (namespace, name, version);

ALTER TABLE ONLY tasker.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (hash);

ALTER TABLE ONLY tasker.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (instance);

CREATE INDEX dead_letters_by_status ON tasker.dead_letters USING btree (resolution_status, created_at, entry_uuid);

CREATE INDEX dead_letters_by_time ON tasker.dead_letters USING btree (created_at, entry_uuid);

CREATE INDEX dead_letters_without_snapshot ON tasker.dead_letters USING btree (created_at) WHERE (snapshot IS NULL);

CREATE INDEX discarded_results_by_task ON tasker.discarded_results USING btree (task_uuid);

CREATE INDEX due_times_by_resource ON tasker.due_times USING btree (namespace, resource, due_at) WHERE (resource IS NOT NULL);

CREATE INDEX due_times_by_time ON tasker.due_times USING btree (due_at) WHERE (resource IS NULL);

CREATE INDEX task_details_by_correlation ON ONLY tasker.task_details USING btree (correlation_id) WHERE (correlation_id <> task_uuid);

CREATE INDEX tasks_by_name ON ONLY tasker.tasks USING btree (namespace, name, task_uuid);

CREATE INDEX tasks_live ON ONLY tasker.tasks USING btree (task_uuid) WHERE (ended_at IS NULL);

CREATE INDEX templates_bounded ON tasker.templates USING btree (hash) WHERE (COALESCE(((content -> 'lifecycle'::text) ->> 'max_duration_minutes'::text), ((content -> 'lifecycle'::text) ->> 'max_waiting_for_dependencies_minutes'::text), ((content -> 'lifecycle'::text) ->> 'max_waiting_for_retry_minutes'::text), ((content -> 'lifecycle'::text) ->> 'max_steps_in_process_minutes'::text)) IS NOT NULL);

ALTER TABLE ONLY tasker.queues
    ADD CONSTRAINT queues_namespace_fkey FOREIGN KEY (namespace) REFERENCES tasker.namespaces(namespace);

ALTER TABLE ONLY tasker.resources
    ADD CONSTRAINT resources_namespace_fkey FOREIGN KEY (namespace) REFERENCES tasker.namespaces(namespace);

ALTER TABLE ONLY tasker.template_versions
    ADD CONSTRAINT template_versions_hash_fkey FOREIGN KEY (hash) REFERENCES tasker.templates(hash);

ALTER TABLE ONLY tasker.templates
    ADD CONSTRAINT templates_namespace_fkey FOREIGN KEY (namespace) REFERENCES tasker.namespaces(namespace);
