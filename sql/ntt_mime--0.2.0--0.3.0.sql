-- From 0.2.0 to 0.3.0.
--
-- The new library works with the tables and functions of 0.2.0 too, so there is no hurry.

ALTER TABLE ntt_mime.run
    ADD COLUMN kind text NOT NULL DEFAULT 'backfill' CHECK (kind IN ('backfill', 'verify'));
CREATE INDEX run_running ON ntt_mime.run (run_id) WHERE status = 'running';
CREATE INDEX run_ended ON ntt_mime.run (coalesce(finished_at, started_at)) WHERE status <> 'running';
COMMENT ON INDEX ntt_mime.run_running IS 'the runs that are going on, or whose backend vanished';
COMMENT ON INDEX ntt_mime.run_ended IS 'the other runs, by the time of their end';
COMMENT ON TABLE ntt_mime.run IS 'the runs of ntt_backfill_mime, one row each; one that found nothing to do takes the place of the one before it of the same target, if that found nothing either';
COMMENT ON COLUMN ntt_mime.run.options IS 'arguments and settings of the run; how many blobs its prefilter spared libmagic all of its rules for (prefiltered) or could not (prefilter_fallbacks); how many were judged again from all of them and with all rules (audited), and had another type then (audit_differences); all of its workers'' time, and what of it they waited (worker_ms, idle_ms); how many blobs it read from each directory of the store (roots_read), and which of these held none when it began (roots_empty)';
COMMENT ON COLUMN ntt_mime.run.kind IS 'backfill, or verify: a check of types that were there already';
COMMENT ON CONSTRAINT run_kind_check ON ntt_mime.run IS 'the kinds of run there are';
