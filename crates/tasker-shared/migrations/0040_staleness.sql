-- Templates that bound the life of their tasks: few, and looked for by every sweep.
CREATE INDEX templates_bounded ON tasker.templates (hash) WHERE coalesce(
    content -> 'lifecycle' ->> 'max_duration_minutes',
    content -> 'lifecycle' ->> 'max_waiting_for_dependencies_minutes',
    content -> 'lifecycle' ->> 'max_waiting_for_retry_minutes',
    content -> 'lifecycle' ->> 'max_steps_in_process_minutes') IS NOT NULL;

-- Live tasks that have passed a bound of their template: which one, since when, and what its template says to do then.
-- The bound on the whole life comes first. A task that was filed as stale is filed no second time.
CREATE FUNCTION tasker.stale_tasks(after uuid, most integer)
RETURNS TABLE (task_uuid uuid, namespace text, name text, state text, since timestamptz, bound text, minutes bigint,
               files boolean, fails boolean, is_filed boolean)
LANGUAGE sql STABLE SET search_path = tasker, pg_temp AS $$
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
