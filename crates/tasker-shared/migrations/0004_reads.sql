-- What the tickets of live steps say, by queue and message number: whether a worker holds one now, and the
-- attempt that its claim is or would be the last of. A ticket that is not there is left out: its report was
-- accepted and waits for its decision.
CREATE FUNCTION tasker.tickets(queues text[], msg_ids bigint[])
RETURNS TABLE (ord integer, claimed boolean, attempt integer)
LANGUAGE plpgsql STABLE SET search_path = tasker, pg_temp AS $$
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
END $$;
