-- A version that no new task should take: it is not chosen where no version is named, and who names it is warned. Tasks
-- that have it go on.
ALTER TABLE tasker.template_versions
    ADD COLUMN deprecated_at timestamptz,
    ADD COLUMN deprecated_by text,
    ADD COLUMN deprecation_reason text,
    ADD CHECK ((deprecated_at IS NULL) = (deprecated_by IS NULL)
               AND (deprecated_at IS NULL) = (deprecation_reason IS NULL));
