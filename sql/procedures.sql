-- The backfill. Neither SECURITY DEFINER nor a SET clause: both would forbid its commits.

CREATE PROCEDURE ntt_backfill_mime(
    batch_size   int      DEFAULT 10000,
    workers      int      DEFAULT NULL,
    max_blobs    bigint   DEFAULT NULL,
    dry_run      boolean  DEFAULT false,
    target       regclass DEFAULT NULL,
    retry_failed boolean  DEFAULT false,
    INOUT run_id       bigint   DEFAULT NULL,
    INOUT blobs        bigint   DEFAULT NULL,
    INOUT rows_updated bigint   DEFAULT NULL,
    INOUT failures     bigint   DEFAULT NULL,
    INOUT elapsed      interval DEFAULT NULL)
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'ntt_backfill_mime';
COMMENT ON PROCEDURE ntt_backfill_mime(int, int, bigint, boolean, regclass, boolean, bigint, bigint, bigint, bigint, interval) IS
    'fills mime_type wherever blobid is set and mime_type is null, with background workers, in committed batches';
