-- The lowest task id that a task created at `at` can have: 48 bits of milliseconds lead a UUIDv7.
CREATE FUNCTION tasker.task_id_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the monthly partitions of every per-task table from last month to the one after next: a clock
-- that jumps by an hour, or a server that was not restarted for a month, finds its partition.
CREATE FUNCTION tasker.ensure_partitions() RETURNS integer
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
DECLARE
    month date;
    parent text;
    part text;
    storage text;
    made integer := 0;
BEGIN
    FOR month IN SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month',
                                        date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months',
                                        interval '1 month')::date
    LOOP
        FOREACH parent IN ARRAY ARRAY['tasks', 'task_details', 'attempts', 'history'] LOOP
            part := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
            CONTINUE WHEN to_regclass('tasker.' || part) IS NOT NULL;
            -- Two servers may start at once; the loser of this lock finds the partition made.
            PERFORM pg_advisory_xact_lock(hashtext('tasker.ensure_partitions'));
            CONTINUE WHEN to_regclass('tasker.' || part) IS NOT NULL;
            -- Task rows are updated in place some times each: leave room for their next versions.
            storage := CASE parent WHEN 'tasks' THEN ' WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)' ELSE '' END;
            EXECUTE format('CREATE TABLE tasker.%I PARTITION OF tasker.%I FOR VALUES FROM (%L) TO (%L)%s',
                part, parent,
                tasker.task_id_floor(month::timestamp AT TIME ZONE 'UTC'),
                tasker.task_id_floor((month + interval '1 month')::timestamp AT TIME ZONE 'UTC'),
                storage);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

SELECT tasker.ensure_partitions();
