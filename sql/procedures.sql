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

-- The same for commands that are run on many nodes, of which Citus asks that they return one column.
CREATE PROCEDURE ntt_backfill_mime_on_node(
    batch_size   int      DEFAULT 10000,
    workers      int      DEFAULT NULL,
    max_blobs    bigint   DEFAULT NULL,
    dry_run      boolean  DEFAULT false,
    target       regclass DEFAULT NULL,
    retry_failed boolean  DEFAULT false,
    INOUT result jsonb    DEFAULT NULL)
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'ntt_backfill_mime_on_node';
COMMENT ON PROCEDURE ntt_backfill_mime_on_node(int, int, bigint, boolean, regclass, boolean, jsonb) IS
    'ntt_backfill_mime with its results in one column, for Citus'' run_command_on_all_nodes(); does nothing on a node that has no shard of the table';
