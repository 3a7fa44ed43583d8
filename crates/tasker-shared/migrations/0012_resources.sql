-- What the steps of a namespace share (`uses`): how much it bears, and the state of its circuit breaker. A row is locked
-- by every commit that sends or decides on a ticket of a step that uses it, so its counts are exact.
CREATE TABLE tasker.resources (
    namespace        text NOT NULL REFERENCES tasker.namespaces,
    resource         text NOT NULL,
    -- The most steps that may have a ticket at once; any number where it is null.
    max_in_flight    integer CHECK (max_in_flight > 0),
    -- So many failures in a row open the breaker; 0 never does.
    failures_to_open integer NOT NULL DEFAULT 5 CHECK (failures_to_open >= 0),
    open_ms          integer NOT NULL DEFAULT 5000 CHECK (open_ms > 0),
    max_open_ms      integer NOT NULL DEFAULT 300000 CHECK (max_open_ms >= open_ms),
    paused           boolean NOT NULL DEFAULT false,
    -- Who gave it these settings last, and why.
    set_by           text,
    reason           text,
    state            text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half_open')),
    -- Failures in a row while it is closed.
    failures         integer NOT NULL DEFAULT 0,
    -- How many times in a row it has opened.
    times            integer NOT NULL DEFAULT 0,
    -- How many may have a ticket at once while it is half open.
    allowed          integer NOT NULL DEFAULT 0,
    open_until       timestamptz,
    changed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (namespace, resource),
    CHECK ((state = 'open') = (open_until IS NOT NULL))
);

-- One row for each resource of each step that has a ticket.
CREATE TABLE tasker.permits (
    namespace text NOT NULL,
    resource  text NOT NULL,
    task_uuid uuid NOT NULL,
    step      integer NOT NULL,
    PRIMARY KEY (namespace, resource, task_uuid, step)
);

-- Locks resources in the order of their names. Read after the lock, in a statement of its own: what holds permits, and
-- whether steps wait.
CREATE FUNCTION tasker.lock_resources(namespaces text[], names text[])
RETURNS TABLE (namespace text, resource text, max_in_flight integer, failures_to_open integer, open_ms integer, max_open_ms integer,
               paused boolean, state text, failures integer, times integer, allowed integer, open_until timestamptz,
               in_flight bigint, waiting boolean)
LANGUAGE plpgsql SET search_path = tasker, pg_temp AS $$
BEGIN
    PERFORM 1 FROM tasker.resources r JOIN unnest(namespaces, names) AS u (namespace, name)
        ON r.namespace = u.namespace AND r.resource = u.name
    ORDER BY r.namespace, r.resource FOR NO KEY UPDATE OF r;
    RETURN QUERY
        SELECT r.namespace, r.resource, r.max_in_flight, r.failures_to_open, r.open_ms, r.max_open_ms, r.paused, r.state,
               r.failures, r.times, r.allowed, r.open_until,
               (SELECT count(*) FROM tasker.permits p WHERE p.namespace = r.namespace AND p.resource = r.resource),
               EXISTS (SELECT FROM tasker.due_times d WHERE d.namespace = r.namespace AND d.resource = r.resource)
        FROM unnest(namespaces, names) AS u (namespace, name)
        JOIN tasker.resources r ON r.namespace = u.namespace AND r.resource = u.name;
END $$;

-- Permits must be those of the steps that have a ticket. Answers the violations.
CREATE FUNCTION tasker.permit_violations() RETURNS TABLE (task_uuid uuid, step integer, resource text, violation text)
LANGUAGE sql SET search_path = tasker, pg_temp AS $$
    WITH wanted AS (
        SELECT t.task_uuid, s.i AS step, t.namespace, u.resource
        FROM tasker.tasks t
        JOIN tasker.templates c ON c.hash = t.template_hash AND c.content @? '$.steps[*].uses[*]'
        CROSS JOIN LATERAL generate_series(0, length(t.steps) - 1) AS s (i)
        CROSS JOIN LATERAL jsonb_array_elements_text(
            c.content -> 'steps' -> tasker.pattern(c.content, t.expansions, s.i) -> 'uses') AS u (resource)
        WHERE substr(t.steps, s.i + 1, 1) = 'Q'
    )
    SELECT coalesce(w.task_uuid, p.task_uuid), coalesce(w.step, p.step), coalesce(w.resource, p.resource),
           CASE WHEN w.task_uuid IS NULL THEN 'a permit without a ticket' ELSE 'a ticket without its permit' END
    FROM wanted w
    FULL JOIN tasker.permits p ON p.task_uuid = w.task_uuid AND p.step = w.step AND p.namespace = w.namespace
                              AND p.resource = w.resource
    WHERE w.task_uuid IS NULL OR p.task_uuid IS NULL
$$;
