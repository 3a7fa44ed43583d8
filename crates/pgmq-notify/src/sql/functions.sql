-- Batched, fenced access to PGMQ's queue tables.
--
-- A message is claimed by raising its read_ct and hiding it until vt. The claim's token is
-- (queue, msg_id, read_ct, nonce), the nonce being a field of the message's body. PGMQ's own delete and set_vt know
-- only the msg_id, so a claimer that was paused past its lease could delete the next claimer's message. Every write
-- here names the whole token instead, and says which tokens matched.
--
-- Arrays are parallel: element i of each belongs to message i. The number of inner statements depends on the number
-- of distinct queues, never on the number of messages. Rows are locked in the order (queue, msg_id), so that two
-- batches can't deadlock on messages.
--
-- Times are taken from clock_timestamp(), not now(): now() stands still in a transaction, and a lease counted from
-- the start of a long one would be short by its age.
--
-- Queue tables grow and shrink between two ANALYZE runs, so their statistics are wrong most of the time. The
-- functions therefore rule out plans that read a whole table or lose the order of their input. The operations of
-- the hot path (send, post, read, next_vt, pop, delete_fenced) have a function of their own for each queue, made with
-- the queue: its plan is kept by the session, where a dynamic statement would be planned at each call, which costs more
-- than running it. The rare operations are dynamic.
--
-- A line that ends in "-- last_read_at" is left out where PGMQ is too old to have that column.

CREATE SCHEMA IF NOT EXISTS pgmq_notify;

-- The different ones of these queues, in their order. Most often there is one, and a query that finds that out would cost
-- as much as the rest of what its callers do.
CREATE OR REPLACE FUNCTION pgmq_notify.different(queues text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
    IF queues[1] = ALL (queues) THEN
        RETURN queues[1:1];
    END IF;
    RETURN ARRAY(SELECT DISTINCT q FROM unnest(queues) AS q ORDER BY q);
END
$function$;

-- Makes the functions of one queue.
CREATE OR REPLACE FUNCTION pgmq_notify.compile(target text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    EXECUTE format($query$
        CREATE OR REPLACE FUNCTION pgmq_notify.%1$I(
            queues text[], msg_ids bigint[], bodies text[], delays_ms bigint[], read_cts int[], at timestamptz
        ) RETURNS bigint LANGUAGE plpgsql AS $body$
        DECLARE
            inserted bigint;
        BEGIN
            INSERT INTO pgmq.%2$I (
                msg_id, read_ct, enqueued_at,
                last_read_at, -- last_read_at
                vt, message)
            OVERRIDING SYSTEM VALUE
            SELECT m.msg_id, m.read_ct, at,
                CASE WHEN m.read_ct > 0 THEN at END, -- last_read_at
                at + CASE WHEN m.delay_ms > 0 THEN m.delay_ms * interval '1 millisecond'
                    ELSE (m.ord - cardinality(queues)) * interval '1 microsecond' END,
                m.body::jsonb
            FROM unnest(queues, msg_ids, bodies, delays_ms, read_cts) WITH ORDINALITY
                AS m(queue, msg_id, body, delay_ms, read_ct, ord)
            WHERE m.queue = %3$L;
            GET DIAGNOSTICS inserted = ROW_COUNT;
            RETURN inserted;
        END $body$
        $query$, 'send_' || target, 'q_' || target, target);
    -- Messages of no delay whose ids nobody needs beforehand.
    EXECUTE format($query$
        CREATE OR REPLACE FUNCTION pgmq_notify.%1$I(bodies text[], at timestamptz) RETURNS bigint
        LANGUAGE plpgsql AS $body$
        DECLARE
            inserted bigint;
        BEGIN
            INSERT INTO pgmq.%2$I (read_ct, enqueued_at, vt, message)
            SELECT 0, at, at + (m.ord - cardinality(bodies)) * interval '1 microsecond', m.body::jsonb
            FROM unnest(bodies) WITH ORDINALITY AS m(body, ord) ORDER BY m.ord;
            GET DIAGNOSTICS inserted = ROW_COUNT;
            RETURN inserted;
        END $body$
        $query$, 'post_' || target, 'q_' || target);
    EXECUTE format($query$
        CREATE OR REPLACE FUNCTION pgmq_notify.%1$I(lease_ms bigint, wanted int, at timestamptz)
        RETURNS TABLE (queue text, msg_id bigint, read_ct int, enqueued_at timestamptz, vt timestamptz, body text)
        LANGUAGE plpgsql AS $body$
        BEGIN
            -- Most looks find nothing, and finding that out is cheaper than starting a claim.
            PERFORM FROM pgmq.%2$I AS m WHERE m.vt <= at LIMIT 1;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            RETURN QUERY
            WITH due AS MATERIALIZED (
                SELECT m.msg_id, m.vt FROM pgmq.%2$I AS m
                WHERE m.vt <= at ORDER BY m.vt LIMIT wanted FOR UPDATE SKIP LOCKED
            ), claimed AS (
                UPDATE pgmq.%2$I AS m SET
                    last_read_at = at, -- last_read_at
                    read_ct = m.read_ct + 1, vt = at + lease_ms * interval '1 millisecond'
                FROM due WHERE m.msg_id = due.msg_id
                RETURNING due.vt AS visible_at, m.msg_id, m.read_ct, m.enqueued_at, m.vt, m.message
            )
            SELECT %3$L::text, c.msg_id, c.read_ct, c.enqueued_at, c.vt, c.message::text
            FROM claimed AS c ORDER BY c.visible_at, c.msg_id;
        END $body$
        $query$, 'read_' || target, 'q_' || target, target);
    EXECUTE format($query$
        CREATE OR REPLACE FUNCTION pgmq_notify.%1$I(since timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $body$
        BEGIN
            RETURN (SELECT m.vt FROM pgmq.%2$I AS m WHERE m.vt > since ORDER BY m.vt LIMIT 1);
        END $body$
        $query$, 'next_' || target, 'q_' || target);
    EXECUTE format($query$
        CREATE OR REPLACE FUNCTION pgmq_notify.%1$I(wanted int, at timestamptz)
        RETURNS TABLE (msg_id bigint, read_ct int, enqueued_at timestamptz, body text)
        LANGUAGE plpgsql AS $body$
        BEGIN
            RETURN QUERY
            WITH due AS MATERIALIZED (
                SELECT m.msg_id, m.vt FROM pgmq.%2$I AS m
                WHERE m.vt <= at ORDER BY m.vt LIMIT wanted FOR UPDATE SKIP LOCKED
            ), popped AS (
                DELETE FROM pgmq.%2$I AS m USING due WHERE m.msg_id = due.msg_id
                RETURNING due.vt, m.msg_id, m.read_ct, m.enqueued_at, m.message
            )
            SELECT p.msg_id, p.read_ct, p.enqueued_at, p.message::text FROM popped AS p ORDER BY p.vt, p.msg_id;
        END $body$
        $query$, 'pop_' || target, 'q_' || target);
    EXECUTE format($query$
        CREATE OR REPLACE FUNCTION pgmq_notify.%1$I(queues text[], msg_ids bigint[], read_cts int[], nonces uuid[])
        RETURNS SETOF int LANGUAGE plpgsql AS $body$
        BEGIN
            RETURN QUERY
            DELETE FROM pgmq.%2$I AS m
            USING (
                SELECT * FROM unnest(queues, msg_ids, read_cts, nonces) WITH ORDINALITY
                    AS t(queue, msg_id, read_ct, nonce, ord)
                WHERE t.queue = %3$L ORDER BY t.msg_id OFFSET 0
            ) AS token
            WHERE m.msg_id = token.msg_id AND m.read_ct = token.read_ct AND m.message->>'nonce' = token.nonce::text
            RETURNING token.ord::int;
        END $body$
        $query$, 'delete_' || target, 'q_' || target, target);
END
$function$;

-- Creates the missing queues; returns how many there were. The lock is held to the end of the transaction: create
-- queues in a transaction of their own.
CREATE OR REPLACE FUNCTION pgmq_notify.create_queues(queues text[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    target text;
    created bigint := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM unnest(queues) AS q
                   WHERE to_regclass(format('pgmq.%I', 'q_' || q)) IS NULL
                      OR to_regproc(format('pgmq_notify.%I', 'send_' || q)) IS NULL) THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('pgmq_notify.create_queues', 0));
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        IF to_regclass(format('pgmq.%I', 'q_' || target)) IS NOT NULL THEN
            PERFORM pgmq_notify.compile(target);
            CONTINUE;
        END IF;
        PERFORM pgmq.create(target);
        PERFORM pgmq_notify.compile(target);
        -- A row lives for one insert, one or two updates and a delete. Room in the page keeps the updated row next to
        -- the old one: a sixth less WAL per message than at 100. A vacuum after a fixed number of dead rows keeps the
        -- table small whatever the backlog.
        EXECUTE format(
            'ALTER TABLE pgmq.%I SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
                autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
                autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000)',
            'q_' || target);
        created := created + 1;
    END LOOP;
    RETURN created;
END
$function$;

-- Takes n ids from the queue's sequence, so that a sender knows the ids of messages before it writes them.
CREATE OR REPLACE FUNCTION pgmq_notify.reserve_ids(queue text, n int) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    ids regclass := pg_get_serial_sequence(format('pgmq.%I', 'q_' || queue), 'msg_id');
BEGIN
    RETURN QUERY SELECT nextval(ids) FROM generate_series(1, n);
END
$function$;

-- Inserts messages under ids from reserve_ids. read_ct 0 is a normal message; read_ct 1 is one that its sender
-- claims with the same statement, hidden for the delay as its lease. Returns the number of messages.
--
-- Messages without a delay get times one microsecond apart, the last being now: claims come in the order of vt, and
-- so a batch keeps its order.
CREATE OR REPLACE FUNCTION pgmq_notify.send(
    queues text[], msg_ids bigint[], bodies text[], delays_ms bigint[], read_cts int[]
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
    target text;
    inserted bigint;
    total bigint := 0;
BEGIN
    IF cardinality(msg_ids) <> cardinality(queues) OR cardinality(bodies) <> cardinality(queues)
        OR cardinality(delays_ms) <> cardinality(queues) OR cardinality(read_cts) <> cardinality(queues) THEN
        RAISE EXCEPTION 'arrays of different lengths' USING ERRCODE = 'array_subscript_error';
    END IF;
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        EXECUTE format('SELECT pgmq_notify.%I($1, $2, $3, $4, $5, $6)', 'send_' || target)
        INTO inserted USING queues, msg_ids, bodies, delays_ms, read_cts, clock_timestamp();
        total := total + inserted;
    END LOOP;
    RETURN total;
END
$function$;

-- Claims up to qty messages over the queues, in the order in which the queues are named and within a queue by the
-- time since which a message is visible. That order is one index scan that never meets a hidden message; by msg_id,
-- as PGMQ reads, each claim would step over every hidden message before the first visible one.
CREATE OR REPLACE FUNCTION pgmq_notify.read(queues text[], lease_ms bigint, qty int)
RETURNS TABLE (queue text, msg_id bigint, read_ct int, enqueued_at timestamptz, vt timestamptz, body text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
    claimed int;
    wanted int := qty;
BEGIN
    FOREACH target IN ARRAY queues LOOP
        EXIT WHEN wanted <= 0;
        RETURN QUERY EXECUTE format('SELECT * FROM pgmq_notify.%I($1, $2, $3)', 'read_' || target)
        USING lease_ms, wanted, clock_timestamp();
        GET DIAGNOSTICS claimed = ROW_COUNT;
        wanted := wanted - claimed;
    END LOOP;
END
$function$;

-- Claims up to qty messages by looking into queues[i] for messages that have been visible for at least ages_ms[i].
-- Neighbours with the same number in groups stand beside each other: each gets an equal share of what is still wanted,
-- and what one has no messages for is shared among those that have more. The next group gets what is then left.
--
-- A message must have been visible at an earlier time, so the queue's function is given that time as its own; the lease
-- is longer by as much. Where PGMQ has last_read_at, it is that earlier time too.
CREATE OR REPLACE FUNCTION pgmq_notify.read_shared(
    queues text[], groups int[], ages_ms bigint[], lease_ms bigint, qty int
) RETURNS TABLE (queue text, msg_id bigint, read_ct int, enqueued_at timestamptz, vt timestamptz, body text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    wanted int := qty;
    at int := 1;
    beside int[];
    more int[];
    share int;
    place int;
    claimed int;
BEGIN
    WHILE wanted > 0 AND at <= cardinality(queues) LOOP
        beside := ARRAY[at];
        WHILE groups[at + 1] = groups[at] LOOP
            at := at + 1;
            beside := beside || at;
        END LOOP;
        at := at + 1;
        WHILE wanted > 0 AND cardinality(beside) > 0 LOOP
            share := (wanted + cardinality(beside) - 1) / cardinality(beside);
            more := '{}';
            FOREACH place IN ARRAY beside LOOP
                EXIT WHEN wanted <= 0;
                share := least(share, wanted);
                RETURN QUERY EXECUTE format('SELECT * FROM pgmq_notify.%I($1, $2, $3)', 'read_' || queues[place])
                USING lease_ms + ages_ms[place], share, clock_timestamp() - ages_ms[place] * interval '1 millisecond';
                GET DIAGNOSTICS claimed = ROW_COUNT;
                wanted := wanted - claimed;
                IF claimed = share THEN
                    more := more || place;
                END IF;
            END LOOP;
            beside := more;
        END LOOP;
    END LOOP;
END
$function$;

-- The earliest time at which a hidden message becomes visible, null if there is none. "Hidden" counts from the start
-- of the caller's transaction: what became visible between an empty read and this question in the same transaction
-- is reported as a time just past, and can't be slept over.
CREATE OR REPLACE FUNCTION pgmq_notify.next_vt(queues text[]) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $function$
DECLARE
    target text;
    found timestamptz;
    earliest timestamptz;
BEGIN
    FOREACH target IN ARRAY queues LOOP
        EXECUTE format('SELECT pgmq_notify.%I($1)', 'next_' || target)
        INTO found USING now();
        earliest := least(earliest, found);
    END LOOP;
    RETURN earliest;
END
$function$;

-- Takes visible messages out of the queue for good, if the caller's transaction commits.
CREATE OR REPLACE FUNCTION pgmq_notify.pop(queue text, qty int)
RETURNS TABLE (msg_id bigint, read_ct int, enqueued_at timestamptz, body text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
BEGIN
    RETURN QUERY EXECUTE format('SELECT * FROM pgmq_notify.%I($1, $2)', 'pop_' || queue)
    USING qty, clock_timestamp();
END
$function$;

-- Deletes the messages whose token is the current one; returns their positions in the arrays, counted from 1.
CREATE OR REPLACE FUNCTION pgmq_notify.delete_fenced(
    queues text[], msg_ids bigint[], read_cts int[], nonces uuid[]
) RETURNS SETOF int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        RETURN QUERY EXECUTE format('SELECT pgmq_notify.%I($1, $2, $3, $4)', 'delete_' || target)
        USING queues, msg_ids, read_cts, nonces;
    END LOOP;
END
$function$;

-- Hides claimed messages for another lease from now. A message that another transaction has locked at this moment is
-- 'skipped': its token still matched, so the claim is not lost, but it was not extended either. The second statement
-- runs only where something was not extended.
CREATE OR REPLACE FUNCTION pgmq_notify.extend_fenced(
    queues text[], msg_ids bigint[], read_cts int[], nonces uuid[], lease_ms bigint
) RETURNS TABLE (ord int, state text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
    wanted bigint;
    done bigint[];
BEGIN
    FOR target, wanted IN SELECT q, count(*) FROM unnest(queues) AS q GROUP BY q ORDER BY q LOOP
        EXECUTE format($query$
            WITH held AS MATERIALIZED (
                SELECT m.msg_id, token.ord
                FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS token(queue, msg_id, read_ct, nonce, ord)
                JOIN pgmq.%1$I AS m USING (msg_id)
                WHERE token.queue = %2$L AND m.read_ct = token.read_ct AND m.message->>'nonce' = token.nonce::text
                FOR UPDATE OF m SKIP LOCKED
            ), extended AS (
                UPDATE pgmq.%1$I AS m SET vt = $6 + $5 * interval '1 millisecond'
                FROM held WHERE m.msg_id = held.msg_id
                RETURNING held.ord
            )
            SELECT coalesce(array_agg(ord), '{}') FROM extended
            $query$, 'q_' || target, target)
        INTO done USING queues, msg_ids, read_cts, nonces, lease_ms, clock_timestamp();
        RETURN QUERY SELECT o::int, 'extended' FROM unnest(done) AS o;
        CONTINUE WHEN cardinality(done) = wanted;
        RETURN QUERY EXECUTE format($query$
            SELECT token.ord::int, CASE WHEN EXISTS (
                SELECT FROM pgmq.%I AS m
                WHERE m.msg_id = token.msg_id AND m.read_ct = token.read_ct
                  AND m.message->>'nonce' = token.nonce::text
            ) THEN 'skipped' ELSE 'lost' END
            FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS token(queue, msg_id, read_ct, nonce, ord)
            WHERE token.queue = %L AND token.ord <> ALL ($5)
            $query$, 'q_' || target, target)
        USING queues, msg_ids, read_cts, nonces, done;
    END LOOP;
END
$function$;

-- Gives claims back that did not run; returns the positions that matched. The number of the next attempt is the
-- body's base_attempt + read_ct as of the next claim, and must be the number of this one. read_ct goes up by one all
-- the same: the token ends here, so that a release that is repeated after a lost answer changes nothing. The base
-- goes down by two to make up for both raises.
CREATE OR REPLACE FUNCTION pgmq_notify.release_fenced(
    queues text[], msg_ids bigint[], read_cts int[], nonces uuid[], delay_ms bigint
) RETURNS SETOF int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        RETURN QUERY EXECUTE format($query$
            UPDATE pgmq.%I AS m SET
                read_ct = m.read_ct + 1,
                vt = $6 + $5 * interval '1 millisecond',
                message = jsonb_set(m.message, '{base_attempt}',
                    to_jsonb(coalesce((m.message->>'base_attempt')::int, 0) - 2))
            FROM (
                SELECT * FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS t(queue, msg_id, read_ct, nonce, ord)
                WHERE t.queue = %L ORDER BY t.msg_id OFFSET 0
            ) AS token
            WHERE m.msg_id = token.msg_id AND m.read_ct = token.read_ct AND m.message->>'nonce' = token.nonce::text
            RETURNING token.ord::int
            $query$, 'q_' || target, target)
        USING queues, msg_ids, read_cts, nonces, delay_ms, clock_timestamp();
    END LOOP;
END
$function$;

-- Deletes messages whoever holds them: the nonce must match, the read_ct need not. Returns the positions deleted.
CREATE OR REPLACE FUNCTION pgmq_notify.delete_any(queues text[], msg_ids bigint[], nonces uuid[]) RETURNS SETOF int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        RETURN QUERY EXECUTE format($query$
            DELETE FROM pgmq.%I AS m
            USING (
                SELECT * FROM unnest($1, $2, $3) WITH ORDINALITY AS t(queue, msg_id, nonce, ord)
                WHERE t.queue = %L ORDER BY t.msg_id OFFSET 0
            ) AS token
            WHERE m.msg_id = token.msg_id AND m.message->>'nonce' = token.nonce::text
            RETURNING token.ord::int
            $query$, 'q_' || target, target)
        USING queues, msg_ids, nonces;
    END LOOP;
END
$function$;

-- Deletes messages that nobody has ever claimed, where the nonce matches. Returns the positions deleted.
CREATE OR REPLACE FUNCTION pgmq_notify.delete_unclaimed(queues text[], msg_ids bigint[], nonces uuid[]) RETURNS SETOF int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        RETURN QUERY EXECUTE format($query$
            DELETE FROM pgmq.%I AS m
            USING (
                SELECT * FROM unnest($1, $2, $3) WITH ORDINALITY AS t(queue, msg_id, nonce, ord)
                WHERE t.queue = %L ORDER BY t.msg_id OFFSET 0
            ) AS token
            WHERE m.msg_id = token.msg_id AND m.message->>'nonce' = token.nonce::text AND m.read_ct = 0
            RETURNING token.ord::int
            $query$, 'q_' || target, target)
        USING queues, msg_ids, nonces;
    END LOOP;
END
$function$;

-- Moves messages to the queue's archive table, the reason in their headers; returns how many there were.
CREATE OR REPLACE FUNCTION pgmq_notify.archive(queue text, msg_ids bigint[], reason text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    archived bigint;
BEGIN
    EXECUTE format($query$
        WITH moved AS (
            DELETE FROM pgmq.%I AS m
            USING (SELECT DISTINCT id FROM unnest($1) AS id ORDER BY id OFFSET 0) AS named
            WHERE m.msg_id = named.id
            RETURNING m.*
        )
        INSERT INTO pgmq.%I (
            msg_id, read_ct, enqueued_at, vt,
            last_read_at, -- last_read_at
            message, headers)
        SELECT msg_id, read_ct, enqueued_at, vt,
            last_read_at, -- last_read_at
            message, coalesce(headers, '{}') || jsonb_build_object('reason', $2)
        FROM moved
        $query$, 'q_' || queue, 'a_' || queue)
    USING msg_ids, reason;
    GET DIAGNOSTICS archived = ROW_COUNT;
    RETURN archived;
END
$function$;

-- Repairs times that a jump of the clock has moved out of reach; returns how many. A claim hidden for longer than the
-- longest lease counts as expired. A message that waits for its first claim waits for its own delay once more, which is
-- what lies between the time it was sent and the time it becomes visible.
CREATE OR REPLACE FUNCTION pgmq_notify.clamp_vt(queues text[], max_lease_ms bigint, max_delay_ms bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $function$
DECLARE
    target text;
    clamped bigint;
    total bigint := 0;
BEGIN
    FOREACH target IN ARRAY pgmq_notify.different(queues) LOOP
        EXECUTE format($query$
            WITH far AS MATERIALIZED (
                SELECT msg_id FROM pgmq.%1$I
                WHERE vt > $1 + least($2, $3) * interval '1 millisecond'
                  AND vt > $1 + CASE WHEN read_ct > 0 THEN $2 ELSE $3 END * interval '1 millisecond'
                FOR UPDATE SKIP LOCKED
            )
            UPDATE pgmq.%1$I AS m
            SET vt = $1 + CASE WHEN m.read_ct > 0 THEN interval '0'
                ELSE least(greatest(m.vt - m.enqueued_at, interval '0'), $3 * interval '1 millisecond') END
            FROM far WHERE m.msg_id = far.msg_id
            $query$, 'q_' || target)
        USING clock_timestamp(), max_lease_ms, max_delay_ms;
        GET DIAGNOSTICS clamped = ROW_COUNT;
        total := total + clamped;
    END LOOP;
    RETURN total;
END
$function$;

-- How much waits in each queue. Counting stops at 10,000, so that looking at a large backlog costs no more than
-- looking at a small one. oldest_ms is the time since which the first visible message could have been claimed.
CREATE OR REPLACE FUNCTION pgmq_notify.depth(queues text[])
RETURNS TABLE (queue text, visible bigint, hidden bigint, oldest_ms bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $function$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY queues LOOP
        RETURN QUERY EXECUTE format($query$
            SELECT %2$L::text,
                (SELECT count(*) FROM (SELECT FROM pgmq.%1$I WHERE vt <= $1 ORDER BY vt LIMIT 10000) AS v),
                (SELECT count(*) FROM (SELECT FROM pgmq.%1$I WHERE vt > $1 ORDER BY vt LIMIT 10000) AS h),
                (SELECT (extract(epoch FROM $1 - vt) * 1000)::bigint
                 FROM pgmq.%1$I WHERE vt <= $1 ORDER BY vt LIMIT 1)
            $query$, 'q_' || target, target)
        USING clock_timestamp();
    END LOOP;
END
$function$;

-- Queues that were made with earlier functions get these.
SELECT pgmq_notify.compile(queue_name::text) FROM pgmq.meta
WHERE to_regproc(format('pgmq_notify.%I', 'send_' || queue_name)) IS NOT NULL;
