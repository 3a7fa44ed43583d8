-- One statement for a whole batch: task rows, history, attempts and tickets. The tasks are locked already, or else are
-- locked, and their tickets deleted, before the first row is updated: no row of the join is complete without `taken`.
WITH taken AS MATERIALIZED (
    SELECT CASE WHEN cardinality($39::uuid[]) > 0 THEN tasker.take_expected($39, $40, $41, $42, $43, $44)
                ELSE $7::timestamptz END AS at
), advanced AS (
    UPDATE tasker.tasks AS t
    SET state = u.state, version = u.version, seq = u.seq, steps = u.steps, sparse = u.sparse::jsonb,
        expansions = u.expansions, updated_at = taken.at,
        ended_at = CASE WHEN u.state IN ('complete', 'error', 'cancelled', 'resolved_manually') THEN taken.at END
    FROM taken, unnest($1::uuid[], $2::text[], $3::bigint[], $4::integer[], $5::text[], $6::text[], $37::text[])
        AS u (id, state, version, seq, steps, sparse, expansions)
    -- The range lets the executor open only the partitions of this batch. Two plain bounds would make the planner think
    -- that few rows lie between them, and read all of them for each of ours: hence the form of the second.
    WHERE t.task_uuid = u.id AND t.task_uuid >= $35 AND t.task_uuid <= ANY (ARRAY[$36::uuid])
    RETURNING t.task_uuid
), told AS (
    INSERT INTO tasker.history (task_uuid, seq, at, cause, processor, from_state, to_state, changes, detail)
    SELECT h.id, h.seq, taken.at, h.cause, $8, h.from_state, h.to_state, h.changes, h.detail::json
    FROM taken, unnest($9::uuid[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[])
        AS h (id, seq, cause, from_state, to_state, changes, detail)
), tried AS (
    INSERT INTO tasker.attempts (task_uuid, step, attempt, nonce, outcome, retryable, retry_after_ms, worker,
                                 claimed_at, started_at, ended_at, result, error, metadata, follows)
    SELECT a.id, a.step, a.attempt, a.nonce, a.outcome, a.retryable, a.retry_after, a.worker, a.claimed, a.started,
           a.ended, a.result::json, a.error::json, a.metadata::json, a.follows::json
    FROM unnest($16::uuid[], $17::integer[], $18::integer[], $19::uuid[], $20::text[], $21::boolean[], $22::bigint[],
                $23::text[], $24::timestamptz[], $25::timestamptz[], $26::timestamptz[], $27::text[], $28::text[],
                $29::text[], $38::text[])
        AS a (id, step, attempt, nonce, outcome, retryable, retry_after, worker, claimed, started, ended, result, error,
              metadata, follows)
)
-- The count of tickets is added as nothing, so that one row answers and the sends are made.
SELECT (SELECT count(*) FROM advanced) + 0 * pgmq_notify.send($30, $31, $32, $33, $34) AS "written!"
