-- Look-ups of a batch say between which ids its tasks lie: the executor then opens the partitions of that range only,
-- whatever number of months is kept. Two plain bounds would make the planner think that few rows lie between them: it
-- would read all of them for each row of the batch instead of looking each up. The second bound of joins therefore has
-- a form whose share of the table is guessed by itself.

-- Locks tasks by id, then deletes the tickets whose claim token still matches. Two statements inside,
-- so that the second one sees what was committed while the first one waited.
-- Answers one row per locked task (its version) and one per deleted ticket (its 1-based ordinal); `at`
-- is the one clock reading of the batch.
CREATE FUNCTION tasker.lock_and_take(task_uuids uuid[], queues text[], msg_ids bigint[], read_cts integer[], nonces uuid[])
RETURNS TABLE (task_uuid uuid, version bigint, taken integer, at timestamptz)
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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

-- The same, where all of it is as it was expected: each task, in the order of their ids, at its version, and each ticket
-- there. Answers the one clock reading of the batch. Where something is not as expected nothing is done, and TK003 says
-- so.
CREATE FUNCTION tasker.take_expected(task_uuids uuid[], versions bigint[], queues text[], msg_ids bigint[],
                                     read_cts integer[], nonces uuid[])
RETURNS timestamptz
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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

-- Takes result messages (by the queue's own function, whose plan is kept) until they name `qty` attempts, and locks
-- their tasks. A message names one attempt, or up to eight in an array, and is taken whole. What is decided on is the
-- stored attempt, never the message: what names no attempt comes back with a null outcome and the message's body.
CREATE FUNCTION tasker.take_results(qty integer)
RETURNS TABLE (msg_id bigint, body text, task_uuid uuid, version bigint, step integer, attempt integer, nonce uuid,
               outcome text, retryable boolean, retry_after_ms bigint, follows text, at timestamptz)
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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
END $$;

-- Sends the domain events of accepted reports; `ords` says whose report each belongs to.
CREATE FUNCTION tasker.publish(accepted integer[], ords integer[], queues text[], bodies text[]) RETURNS bigint
LANGUAGE sql SET search_path = tasker, pg_temp AS $$
    SELECT pgmq_notify.send(array_agg(e.queue ORDER BY e.n), array_agg(e.id ORDER BY e.n), array_agg(e.body ORDER BY e.n),
                            array_agg(0::bigint), array_agg(0))
    FROM (
        SELECT u.queue, u.body, u.n, r.id
        FROM unnest(ords, queues, bodies) WITH ORDINALITY AS u (ord, queue, body, n)
        CROSS JOIN LATERAL pgmq_notify.reserve_ids(u.queue, 1) AS r (id)
        WHERE u.ord = ANY (accepted)
    ) e
$$;

-- A worker's reports in one statement: the fenced delete of the tickets, the attempts (with `lost` rows
-- for claims that never reported), result messages for the attempts that were stored, and their domain events.
-- Answers one verdict per report: accepted, duplicate (an earlier answer got lost) or refused (fenced).
CREATE FUNCTION tasker.report(
    queues text[], msg_ids bigint[], read_cts integer[], nonces uuid[],
    task_uuids uuid[], steps integer[], base_attempts integer[], attempts integer[],
    outcomes text[], retryables boolean[], retry_afters bigint[], worker text,
    claimed_ats timestamptz[], started_ats timestamptz[], ended_ats timestamptz[],
    results text[], errors text[], metadatas text[], follows text[],
    event_ords integer[], event_queues text[], event_bodies text[])
RETURNS TABLE (ord integer, verdict text)
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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

-- Reports whose ticket was not theirs any more: known by their nonce (the first answer got lost), or kept
-- as discarded.
CREATE FUNCTION tasker.discard(taken integer[], task_uuids uuid[], steps integer[], attempts integer[], nonces uuid[],
                               outcomes text[], worker text, results text[], errors text[])
RETURNS TABLE (ord integer, verdict text)
LANGUAGE sql SET search_path = tasker, pg_temp AS $$
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

-- The batches that were made in a task of this template: whose workers are the steps from `first` on, made of which
-- pattern.
CREATE FUNCTION tasker.batches(content jsonb, expansions text)
RETURNS TABLE (batchable integer, worker integer, first integer, count integer)
LANGUAGE sql IMMUTABLE AS $$
    SELECT (x.e ->> 0)::integer, (x.e ->> 1)::integer,
           (jsonb_array_length(content -> 'steps') + sum((x.e ->> 2)::integer) OVER (ORDER BY x.ord) - (x.e ->> 2)::integer)::integer,
           (x.e ->> 2)::integer
    FROM jsonb_array_elements(expansions::jsonb) WITH ORDINALITY AS x (e, ord)
$$;

-- The step of the template that says how this one is run: itself, or the pattern that a batch worker was made of.
CREATE FUNCTION tasker.pattern(content jsonb, expansions text, step integer) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce((SELECT b.worker FROM tasker.batches(content, expansions) b
                     WHERE step >= b.first AND step < b.first + b.count), step)
$$;

-- What a step is called; a batch worker by its pattern and the id of its batch.
CREATE FUNCTION tasker.step_name(content jsonb, expansions text, task uuid, step integer) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(content -> 'steps' -> step ->> 'name', (
        SELECT (content -> 'steps' -> b.worker ->> 'name') || '_' || coalesce((
                   SELECT a.result -> 'batch_processing_outcome' -> 'cursor_configs' -> (step_name.step - b.first) ->> 'batch_id'
                   FROM tasker.attempts a
                   WHERE a.task_uuid = task AND a.step = b.batchable AND a.outcome IN ('success', 'by_hand')
                   ORDER BY a.attempt DESC LIMIT 1), '000')
        FROM tasker.batches(content, expansions) b
        WHERE step_name.step >= b.first AND step_name.step < b.first + b.count))
$$;

-- Every step of every task, relationally: the public read API for people and BI tools. A live step whose
-- ticket is claimed is shown as enqueued here; who needs `in_progress` asks the server.
CREATE VIEW tasker.steps AS
SELECT t.task_uuid, t.namespace, t.name AS task_name, (n.ord - 1)::integer AS step,
       tasker.step_name(c.content, t.expansions, t.task_uuid, (n.ord - 1)::integer) AS step_name,
       CASE n.letter
           WHEN 'P' THEN 'pending' WHEN 'H' THEN 'held' WHEN 'Q' THEN 'enqueued' WHEN 'W' THEN 'waiting_for_retry' WHEN 'C' THEN 'complete'
           WHEN 'E' THEN 'error' WHEN 'X' THEN 'cancelled' WHEN 'R' THEN 'resolved_manually' END AS state,
       coalesce((s.entry ->> 'a')::integer, CASE n.letter WHEN 'C' THEN 1 ELSE 0 END) AS attempts,
       to_timestamp((s.entry ->> 'r')::double precision / 1e6) AS next_retry_at
FROM tasker.tasks t
JOIN tasker.templates c ON c.hash = t.template_hash
CROSS JOIN LATERAL string_to_table(t.steps, NULL) WITH ORDINALITY AS n (letter, ord)
CROSS JOIN LATERAL (SELECT t.sparse -> ((n.ord - 1)::text) AS entry) s
WHERE n.letter NOT IN ('-', '.');

-- Tasks that have not ended, oldest first.
CREATE VIEW tasker.live_tasks AS
SELECT task_uuid, namespace, name, state, steps, created_at, updated_at FROM tasker.tasks WHERE ended_at IS NULL;

-- Why a task is blocked: its failed steps with their last error.
CREATE VIEW tasker.blocked AS
SELECT s.task_uuid, s.namespace, s.task_name, s.step_name, s.attempts, a.outcome, a.error, a.ended_at
FROM tasker.tasks t
JOIN tasker.steps s USING (task_uuid)
LEFT JOIN tasker.attempts a ON a.task_uuid = s.task_uuid AND a.step = s.step AND a.attempt = s.attempts
WHERE t.ended_at IS NULL AND t.state = 'blocked_by_failures' AND s.state = 'error';

-- The invariant of live steps: held by exactly one ticket, due-time row or undecided attempt, and no ticket
-- or due-time row that no live step names. Answers the violations; none is the only good answer.
CREATE FUNCTION tasker.live_step_violations()
RETURNS TABLE (task_uuid uuid, step integer, letter text, tickets bigint, due bigint, undecided bigint)
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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
END $$;
