-- Figures of the newest tasks down to the id $1: at most $2 tasks, and $3 of their attempts.
WITH newest AS MATERIALIZED (
    SELECT t.task_uuid, t.state, t.created_at, t.ended_at FROM tasker.tasks t WHERE t.task_uuid >= $1
    ORDER BY t.task_uuid DESC LIMIT $2
), tasks AS (
    SELECT count(*) AS tasks, min(created_at) AS oldest,
           count(*) FILTER (WHERE ended_at IS NULL AND state <> 'blocked_by_failures') AS active,
           count(*) FILTER (WHERE state IN ('complete', 'resolved_manually')) AS completed,
           count(*) FILTER (WHERE state IN ('blocked_by_failures', 'error')) AS failed,
           count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
           (avg(extract(epoch FROM ended_at - created_at)) FILTER (WHERE state = 'complete'))::float8 AS task_seconds
    FROM newest
), tried AS MATERIALIZED (
    SELECT a.outcome, (extract(epoch FROM a.ended_at - a.started_at) * 1000)::float8 AS ms
    FROM newest n JOIN tasker.attempts a ON a.task_uuid = n.task_uuid AND a.task_uuid >= $1 LIMIT $3
), attempts AS (
    SELECT count(*) AS attempts, count(*) FILTER (WHERE outcome IN ('success', 'by_hand')) AS steps_completed,
           count(*) FILTER (WHERE outcome = 'failure') AS attempts_failed,
           count(*) FILTER (WHERE outcome IN ('lost', 'lease_lost')) AS attempts_lost,
           avg(ms) AS mean_ms, max(ms) AS max_ms,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY ms) AS at
    FROM tried
)
SELECT t.tasks AS "tasks!", t.oldest, t.active AS "active!", t.completed AS "completed!", t.failed AS "failed!",
       t.cancelled AS "cancelled!", t.task_seconds, a.attempts AS "attempts!", a.steps_completed AS "steps_completed!",
       a.attempts_failed AS "attempts_failed!", a.attempts_lost AS "attempts_lost!", a.mean_ms, a.at[1] AS p50_ms,
       a.at[2] AS p95_ms, a.at[3] AS p99_ms, a.max_ms
FROM tasks t, attempts a
