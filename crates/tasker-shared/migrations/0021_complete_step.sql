-- Completes a step inside the transaction of its handler: the outcome is stored if and only if the handler's own data
-- are, so that what it does in this database happens exactly once. The token is the fence, as in a report. A claim that
-- is not the current one fails the whole transaction: TK001 where another claim took its place, TK002 where this one was
-- reported on before.
--
-- Nobody is notified from here: notifying would make every transaction wait for the others at its commit. The worker
-- does so when the handler has come back.
CREATE FUNCTION tasker.complete_step(
    queue text, msg_id bigint, read_ct integer, nonce uuid, task_uuid uuid, step integer, base_attempt integer,
    attempt integer, worker text, claimed_at timestamptz, started_at timestamptz, result json, metadata json DEFAULT NULL,
    follows json DEFAULT NULL, event_queues text[] DEFAULT '{}', event_bodies text[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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
