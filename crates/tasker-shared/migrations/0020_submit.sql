-- Submitting a task from SQL: the request is sent by the transaction that calls the function, so that it is there if
-- and only if that transaction's own data are.

-- Requests that became no task. Whoever sent them has an id in hand, and learns under it why. Few rows, written once
-- and found by their key: not partitioned, and left alone when a month of tasks is dropped.
CREATE TABLE tasker.refused_requests (
    task_uuid  uuid PRIMARY KEY,
    namespace  text NOT NULL,
    name       text NOT NULL,
    version    text,
    code       text NOT NULL,
    message    text NOT NULL,
    details    json NOT NULL,
    request    json NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The id of a task created now: a UUIDv7 from this clock whose lowest 20 bits, the step's number, are zero.
CREATE FUNCTION tasker.new_task_uuid() RETURNS uuid
LANGUAGE sql VOLATILE SET search_path = tasker, pg_temp AS $$
    SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
            -- A random uuid has its variant in the 17th digit, and nothing but chance after that.
            || '7' || substr(r.digits, 14, 3) || substr(r.digits, 17, 4) || substr(r.digits, 21, 7) || '00000')::uuid
    FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS digits OFFSET 0) r
$$;

-- Asks for a task and answers its id. The request takes effect with the caller's commit, and is judged after it: one
-- that is refused (no such template, a context that does not match, a key used before) is kept in refused_requests and
-- shown as a task in error. The caller's role needs USAGE on the schema and nothing else.
--
-- The notification is the one that is sent by a transaction: nobody else knows when it commits. PostgreSQL sends one
-- for all calls of a transaction.
CREATE FUNCTION tasker.submit_task(
    namespace text, name text, context jsonb DEFAULT '{}', version text DEFAULT NULL, priority integer DEFAULT 0,
    idempotency_key text DEFAULT NULL, correlation_id uuid DEFAULT NULL, parent_correlation_id uuid DEFAULT NULL,
    initiator text DEFAULT NULL, source_system text DEFAULT NULL, reason text DEFAULT NULL, tags text[] DEFAULT '{}')
RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = tasker, pg_temp AS $$
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
