-- Workers that are there: each says what it can run, at its start, when that changes, and every 15 seconds. One that
-- leaves takes its row along; one that died is not counted once it was not heard of for 45 seconds. A row is a fact for
-- people to read: nothing is decided on it.
CREATE TABLE tasker.workers (
    -- One start of one process: an id that two workers were given by mistake keeps two rows.
    instance   uuid PRIMARY KEY,
    worker     text NOT NULL,
    queues     text[] NOT NULL,
    handlers   text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What the tickets of live steps say, as `tasker.tickets` does, with their times: when each was sent, and when its
-- claim or delay ends or ended.
CREATE FUNCTION tasker.ticket_facts(queues text[], msg_ids bigint[])
RETURNS TABLE (ord integer, read_ct integer, attempt integer, enqueued_at timestamptz, visible_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = tasker, pg_temp AS $$
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
END $$;
