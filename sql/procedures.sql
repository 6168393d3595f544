-- The backfill and the verification. Neither SECURITY DEFINER nor a SET clause: both would forbid its commits.

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
    'fills mime_type in all rows that have a blobid and no mime_type, by background workers and in committed batches';

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
    'ntt_backfill_mime with its results in one column, for run_command_on_all_nodes() of Citus; does nothing on a node without shards of the table';

CREATE PROCEDURE ntt_verify_mime(
    batch_size     int      DEFAULT 10000,
    workers        int      DEFAULT NULL,
    max_blobs      bigint   DEFAULT NULL,
    sample_percent float8   DEFAULT 100,
    correct        boolean  DEFAULT false,
    only_types     text[]   DEFAULT NULL,
    target         regclass DEFAULT NULL,
    INOUT run_id         bigint   DEFAULT NULL,
    INOUT blobs          bigint   DEFAULT NULL,
    INOUT rows_checked   bigint   DEFAULT NULL,
    INOUT rows_different bigint   DEFAULT NULL,
    INOUT rows_corrected bigint   DEFAULT NULL,
    INOUT failures       bigint   DEFAULT NULL,
    INOUT elapsed        interval DEFAULT NULL)
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'ntt_verify_mime';
COMMENT ON PROCEDURE ntt_verify_mime(int, int, bigint, float8, boolean, text[], regclass, bigint, bigint, bigint, bigint, bigint, bigint, interval) IS
    'compares the mime_type of rows with the detected type, counts the differences, and corrects them on request';

CREATE PROCEDURE ntt_verify_mime_on_node(
    batch_size     int      DEFAULT 10000,
    workers        int      DEFAULT NULL,
    max_blobs      bigint   DEFAULT NULL,
    sample_percent float8   DEFAULT 100,
    correct        boolean  DEFAULT false,
    only_types     text[]   DEFAULT NULL,
    target         regclass DEFAULT NULL,
    INOUT result   jsonb    DEFAULT NULL)
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'ntt_verify_mime_on_node';
COMMENT ON PROCEDURE ntt_verify_mime_on_node(int, int, bigint, float8, boolean, text[], regclass, jsonb) IS
    'ntt_verify_mime with its results in one column, for run_command_on_all_nodes() of Citus; does nothing on a node without shards of the table';
