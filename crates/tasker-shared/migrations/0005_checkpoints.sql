-- Where the handler of a step got to. The one table of steps that is changed in place: a long step writes it often,
-- and only the last row counts. It is emptied by the slow sweep once the task has ended.
CREATE TABLE tasker.checkpoints (
    task_uuid  uuid NOT NULL,
    step       integer NOT NULL,
    attempt    integer NOT NULL,
    checkpoint json NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (task_uuid, step)
) WITH (fillfactor = 50);

-- Stores a checkpoint and extends the lease, where the claim is still current: `extended`, `lost`, or `skipped` where
-- the ticket is locked at this moment and nothing was stored.
CREATE FUNCTION tasker.checkpoint(queue text, msg_id bigint, read_ct integer, nonce uuid, lease_ms bigint,
                                  task_uuid uuid, step integer, attempt integer, checkpoint text)
RETURNS text LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
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
