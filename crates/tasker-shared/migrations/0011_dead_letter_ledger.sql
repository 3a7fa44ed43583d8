-- Dead letter entries become a ledger: who looked into them, what was found, and every change of that.
ALTER TABLE tasker.dead_letters
    -- Who filed it; nobody where the engine did.
    ADD COLUMN filed_by         text,
    ADD COLUMN resolution_notes text,
    ADD COLUMN resolved_by      text,
    ADD COLUMN resolved_at      timestamptz,
    -- Every resolution so far, oldest first: status, notes, by, at.
    ADD COLUMN resolutions      jsonb NOT NULL DEFAULT '[]',
    ADD CHECK (resolution_status IN ('pending', 'manually_resolved', 'permanently_failed', 'cancelled')),
    ADD CHECK ((resolution_status = 'pending') = (resolved_at IS NULL));

-- The table grows with failures only, so its indexes are made while it is locked.
CREATE INDEX dead_letters_by_time ON tasker.dead_letters (created_at, entry_uuid);
CREATE INDEX dead_letters_by_status ON tasker.dead_letters (resolution_status, created_at, entry_uuid);
