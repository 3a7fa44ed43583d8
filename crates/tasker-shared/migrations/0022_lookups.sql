-- Two plain bounds on a task id make the planner think that few rows lie between them: it then reads all of them for each
-- result of a batch instead of looking each result up. A batch of retries spans every task that waits, and its cost grew
-- with the number of these. The second bound has a form whose share of the table is guessed by itself.

-- Takes result messages (by the queue's own function, whose plan is kept) and locks their tasks. What is decided on is the stored attempt, never the
-- message: a message that names no attempt comes back with a null outcome.
CREATE OR REPLACE FUNCTION tasker.take_results(qty integer)
RETURNS TABLE (msg_id bigint, body text, task_uuid uuid, version bigint, step integer, attempt integer, nonce uuid,
               outcome text, retryable boolean, retry_after_ms bigint, at timestamptz)
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
DECLARE
    ids bigint[];
    bodies text[];
    uuids uuid[];
    steps integer[];
    tries integer[];
    least_id uuid;
    last_id uuid;
BEGIN
    SELECT array_agg(m.msg_id), array_agg(m.body),
           array_agg(CASE WHEN p.ours THEN (p.b ->> 'task_uuid')::uuid END),
           array_agg(CASE WHEN p.ours THEN (p.b ->> 'step')::integer END),
           array_agg(CASE WHEN p.ours THEN (p.b ->> 'attempt')::integer END)
    INTO ids, bodies, uuids, steps, tries
    FROM pgmq_notify.pop_orchestration_step_results(qty, clock_timestamp()) m
    CROSS JOIN LATERAL (SELECT m.body::jsonb AS b OFFSET 0) j
    CROSS JOIN LATERAL (
        SELECT j.b, coalesce(j.b ->> 'task_uuid' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                         AND j.b ->> 'step' ~ '^[0-9]{1,6}$' AND j.b ->> 'attempt' ~ '^[0-9]{1,9}$', false) AS ours
        OFFSET 0
    ) p;
    IF ids IS NULL THEN
        RETURN;
    END IF;
    SELECT u.id INTO least_id FROM unnest(uuids) AS u (id) ORDER BY u.id LIMIT 1;
    SELECT u.id INTO last_id FROM unnest(uuids) AS u (id) WHERE u.id IS NOT NULL ORDER BY u.id DESC LIMIT 1;
    PERFORM 1 FROM tasker.tasks t WHERE t.task_uuid = ANY (uuids) AND t.task_uuid BETWEEN least_id AND last_id
    ORDER BY t.task_uuid FOR NO KEY UPDATE;
    RETURN QUERY
        SELECT m.id, m.body, m.task, t.version, m.step, m.attempt, a.nonce, a.outcome, a.retryable, a.retry_after_ms,
               clock_timestamp()
        FROM unnest(ids, bodies, uuids, steps, tries) WITH ORDINALITY AS m (id, body, task, step, attempt, ord)
        LEFT JOIN tasker.tasks t ON t.task_uuid = m.task
            AND t.task_uuid >= least_id AND t.task_uuid <= ANY (ARRAY[last_id])
        LEFT JOIN tasker.attempts a ON a.task_uuid = m.task AND a.step = m.step AND a.attempt = m.attempt
                                   AND a.task_uuid >= least_id AND a.task_uuid <= ANY (ARRAY[last_id])
        ORDER BY m.ord;
END $$;
