-- New tasks with what their requesters said, their first history row and their first tickets.
WITH made AS (
    INSERT INTO tasker.tasks (task_uuid, namespace, name, template_hash, priority, state, version, seq, steps, sparse,
                              created_at, updated_at, ended_at)
    SELECT u.id, u.namespace, u.name, u.hash, u.priority, u.state, u.version, u.seq, u.steps, u.sparse::jsonb, $7, $7,
           CASE WHEN u.state IN ('complete', 'error', 'cancelled', 'resolved_manually') THEN $7::timestamptz END
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::integer[], $5::text[], $6::text[], $20::text[], $21::text[],
                $22::bytea[], $23::smallint[])
        AS u (id, state, version, seq, steps, sparse, namespace, name, hash, priority)
), told AS (
    INSERT INTO tasker.history (task_uuid, seq, at, cause, processor, from_state, to_state, changes)
    SELECT h.id, h.seq, $7, h.cause, $8, h.from_state, h.to_state, h.changes
    FROM unnest($9::uuid[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::text[])
        AS h (id, seq, cause, from_state, to_state, changes)
), said AS (
    INSERT INTO tasker.task_details (task_uuid, context, correlation_id, parent_correlation_id, initiator, source_system,
                                     reason, tags, idempotency_key, requested_at, options)
    SELECT d.id, d.context::json, d.correlation, d.parent, d.initiator, d.source, d.reason,
           CASE d.tags WHEN '[]' THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(d.tags::jsonb)) END,
           d.key, coalesce(d.requested, $7), d.options::json
    FROM unnest($1::uuid[], $24::text[], $25::uuid[], $26::uuid[], $27::text[], $28::text[], $29::text[], $30::text[],
                $31::text[], $32::timestamptz[], $33::text[])
        AS d (id, context, correlation, parent, initiator, source, reason, tags, key, requested, options)
)
SELECT pgmq_notify.send($15, $16, $17, $18, $19) AS "sent!"
