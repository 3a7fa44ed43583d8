-- Tasker's own schema. Tickets and messages live beside it, in PGMQ's.
--
-- A task is one row: locking it locks the task, advancing it is one narrow HOT update. All other
-- per-task tables are insert-only. Every per-task table is partitioned by ranges of the task id, which
-- carries its time (UUIDv7), and leads every key with it. No foreign keys between them: they would
-- lock the task row from the other side.
-- The schema itself is made before the first migration, because the table of migrations lives in it.

CREATE TABLE tasker.namespaces (
    namespace  text PRIMARY KEY CHECK (namespace ~ '^[a-z][a-z0-9_]{0,28}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Every queue that holds tickets; `namespace` and `pool` say whose.
CREATE TABLE tasker.queues (
    queue     text PRIMARY KEY,
    namespace text NOT NULL REFERENCES tasker.namespaces,
    pool      text NOT NULL,
    band      smallint NOT NULL CHECK (band BETWEEN -1 AND 1),
    UNIQUE (namespace, pool, band)
);

-- Immutable by content: a task keeps the template it started with.
CREATE TABLE tasker.templates (
    hash       bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    namespace  text NOT NULL REFERENCES tasker.namespaces,
    name       text NOT NULL,
    version    text NOT NULL,
    content    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Which content a version means at present.
CREATE TABLE tasker.template_versions (
    namespace     text NOT NULL,
    name          text NOT NULL,
    version       text NOT NULL,
    hash          bytea NOT NULL REFERENCES tasker.templates,
    registered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (namespace, name, version)
);

-- The aggregate. `steps` holds one letter per step, `sparse` what a letter can't say: attempts, limit,
-- retry time, ticket. `expansions` lists the batches whose workers stand behind the steps of the template:
-- `[[batchable, worker, count], ...]`. A complete task may have failed batch workers, where each may fail alone.
-- `version` is random and new with every commit; `seq` counts history rows.
CREATE TABLE tasker.tasks (
    task_uuid     uuid NOT NULL,
    namespace     text NOT NULL,
    name          text NOT NULL,
    template_hash bytea NOT NULL,
    priority      smallint NOT NULL CHECK (priority BETWEEN -100 AND 100),
    state         text NOT NULL CHECK (state IN (
        'pending', 'steps_in_process', 'waiting_for_dependencies', 'waiting_for_retry',
        'blocked_by_failures', 'complete', 'error', 'cancelled', 'resolved_manually')),
    version       bigint NOT NULL,
    seq           integer NOT NULL,
    steps         text NOT NULL CHECK (steps <> ''),
    sparse        jsonb NOT NULL,
    expansions    text,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    PRIMARY KEY (task_uuid),
    CHECK ((ended_at IS NOT NULL) = (state IN ('complete', 'error', 'cancelled', 'resolved_manually'))),
    CHECK (state <> 'complete' OR steps ~ '^[CR.E]+$')
) PARTITION BY RANGE (task_uuid);
CREATE INDEX tasks_live ON tasker.tasks (task_uuid) WHERE ended_at IS NULL;
CREATE INDEX tasks_by_name ON tasker.tasks (namespace, name, task_uuid);

-- What the requester said; written once.
CREATE TABLE tasker.task_details (
    task_uuid             uuid NOT NULL,
    context               json NOT NULL,
    correlation_id        uuid NOT NULL,
    parent_correlation_id uuid,
    initiator             text,
    source_system         text,
    reason                text,
    tags                  text[] NOT NULL,
    idempotency_key       text,
    requested_at          timestamptz NOT NULL,
    options               json,
    PRIMARY KEY (task_uuid)
) PARTITION BY RANGE (task_uuid);
-- A correlation id that nobody gave is the task's own id and needs no index entry.
CREATE INDEX task_details_by_correlation ON tasker.task_details (correlation_id)
    WHERE correlation_id <> task_uuid;

-- One row per finished attempt: the audit trail, and where results are read from. JSON text as it was
-- reported: jsonb would rewrite numbers and cost a parse.
CREATE TABLE tasker.attempts (
    task_uuid   uuid NOT NULL,
    step        integer NOT NULL CHECK (step >= 0),
    attempt     integer NOT NULL CHECK (attempt > 0),
    nonce       uuid NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('success', 'failure', 'lost', 'lease_lost', 'by_hand')),
    retryable   boolean,
    retry_after_ms bigint,
    worker      text NOT NULL,
    claimed_at  timestamptz,
    started_at  timestamptz,
    ended_at    timestamptz NOT NULL,
    result      json,
    error       json,
    metadata    json,
    -- What the result leads to: `{"branches": [3, 4]}` or `{"worker": 5, "count": 10}`.
    follows     json,
    PRIMARY KEY (task_uuid, step, attempt),
    CHECK ((outcome IN ('success', 'by_hand')) = (result IS NOT NULL)),
    CHECK ((outcome = 'failure') = (error IS NOT NULL)),
    CHECK ((outcome = 'failure') = (retryable IS NOT NULL))
) PARTITION BY RANGE (task_uuid);

-- One row per task, commit and cause. `changes` lists step transitions as `step:FROM TO@attempts`
-- without the space, e.g. `0:QC@1 1:PQ@0`; folding them over all-pending steps gives `tasks.steps`.
CREATE TABLE tasker.history (
    task_uuid  uuid NOT NULL,
    seq        integer NOT NULL,
    at         timestamptz NOT NULL,
    cause      text NOT NULL,
    processor  text NOT NULL,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    changes    text NOT NULL,
    detail     json,
    PRIMARY KEY (task_uuid, seq)
) PARTITION BY RANGE (task_uuid);

-- Steps whose ticket is still to be sent: retry times further away than a delayed ticket may be, and steps that are
-- held by a resource, since `due_at`.
CREATE TABLE tasker.due_times (
    task_uuid uuid NOT NULL,
    step      integer NOT NULL,
    nonce     uuid NOT NULL,
    due_at    timestamptz NOT NULL,
    namespace text,
    resource  text,
    PRIMARY KEY (task_uuid, step),
    CHECK ((namespace IS NULL) = (resource IS NULL))
);
CREATE INDEX due_times_by_time ON tasker.due_times (due_at) WHERE resource IS NULL;
CREATE INDEX due_times_by_resource ON tasker.due_times (namespace, resource, due_at) WHERE resource IS NOT NULL;

-- One task per (namespace, key), across all partitions.
CREATE TABLE tasker.idempotency_keys (
    namespace  text NOT NULL,
    key        text NOT NULL,
    body_hash  bytea NOT NULL,
    task_uuid  uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (namespace, key)
);

-- Steps that are not tried again, and messages that could not be read. The entry is written in the commit
-- that gives the step up; the snapshot of all its attempts follows.
CREATE TABLE tasker.dead_letters (
    entry_uuid        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    task_uuid         uuid,
    step              integer,
    attempt           integer,
    reason            text NOT NULL,
    snapshot          jsonb,
    resolution_status text NOT NULL DEFAULT 'pending',
    created_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_uuid, step, attempt)
);
CREATE INDEX dead_letters_without_snapshot ON tasker.dead_letters (created_at) WHERE snapshot IS NULL;

-- Reports whose claim token was not the current one. They change nothing.
CREATE TABLE tasker.discarded_results (
    task_uuid  uuid NOT NULL,
    step       integer NOT NULL,
    attempt    integer NOT NULL,
    nonce      uuid NOT NULL,
    worker     text NOT NULL,
    outcome    text NOT NULL,
    result     json,
    error      json,
    reason     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX discarded_results_by_task ON tasker.discarded_results (task_uuid);
