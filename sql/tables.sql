-- The schema ntt_mime: what runs did, what they could not do, and what they are doing.

-- Nobody else may own the schema that holds our tables: its owner could replace them.
DO $$
DECLARE
    owner oid := (SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'ntt_mime');
BEGIN
    IF owner IS NULL THEN
        CREATE SCHEMA ntt_mime;
    ELSIF owner <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'schema "ntt_mime" already exists and belongs to another role'
            USING ERRCODE = 'duplicate_schema',
                  HINT = 'Drop or rename it, or create the extension as its owner.';
    END IF;
END
$$;

COMMENT ON SCHEMA ntt_mime IS 'runs of ntt_backfill_mime and ntt_verify_mime, their progress, and what they could not detect';

CREATE TABLE ntt_mime.run (
    run_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target        text NOT NULL,
    status        text NOT NULL
                  CHECK (status IN ('running', 'succeeded', 'cancelled', 'failed', 'interrupted')),
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    pid           int NOT NULL,
    role_name     text NOT NULL,
    options       jsonb NOT NULL,
    workers       int NOT NULL,
    leaves_total  bigint NOT NULL DEFAULT 0,
    leaves_done   bigint NOT NULL DEFAULT 0,
    blocks_total  bigint NOT NULL DEFAULT 0,
    blocks_done   bigint NOT NULL DEFAULT 0,
    rows_scanned  bigint NOT NULL DEFAULT 0,
    blobs         bigint NOT NULL DEFAULT 0,
    detections    bigint NOT NULL DEFAULT 0,
    cache_hits    bigint NOT NULL DEFAULT 0,
    rows_updated  bigint NOT NULL DEFAULT 0,
    rows_retried  bigint NOT NULL DEFAULT 0,
    rows_left     bigint,
    failures      bigint NOT NULL DEFAULT 0,
    bytes_read    bigint NOT NULL DEFAULT 0,
    scan_ms       double precision NOT NULL DEFAULT 0,
    read_ms       double precision NOT NULL DEFAULT 0,
    detect_ms     double precision NOT NULL DEFAULT 0,
    update_ms     double precision NOT NULL DEFAULT 0,
    commit_ms     double precision NOT NULL DEFAULT 0,
    libmagic      text NOT NULL,
    mime_counts   jsonb NOT NULL DEFAULT '{}',
    error         text,
    kind          text NOT NULL DEFAULT 'backfill' CHECK (kind IN ('backfill', 'verify'))
) WITH (fillfactor = 50);  -- updated every second while a run goes on

-- Each run looks for those that are going on, and for those that are to be removed. Of columns that don't change
-- while a run goes on: its updates are HOT.
CREATE INDEX run_running ON ntt_mime.run (run_id) WHERE status = 'running';
CREATE INDEX run_ended ON ntt_mime.run (coalesce(finished_at, started_at)) WHERE status <> 'running';
COMMENT ON INDEX ntt_mime.run_running IS 'runs that are going on, or whose backend vanished';
COMMENT ON INDEX ntt_mime.run_ended IS 'runs that have ended, by the time at which they ended';

COMMENT ON TABLE ntt_mime.run IS 'runs of ntt_backfill_mime and ntt_verify_mime, one row each; of several runs of a target in succession that find nothing to do, only the last one keeps its row';
COMMENT ON COLUMN ntt_mime.run.run_id IS 'number of the run';
COMMENT ON COLUMN ntt_mime.run.target IS 'table whose mime_type is filled or checked, with its schema';
COMMENT ON COLUMN ntt_mime.run.status IS 'running, succeeded, cancelled, failed, or interrupted (its backend vanished, which the next run notices)';
COMMENT ON COLUMN ntt_mime.run.started_at IS 'when the run started';
COMMENT ON COLUMN ntt_mime.run.finished_at IS 'when the run ended, or was found to be interrupted';
COMMENT ON COLUMN ntt_mime.run.pid IS 'process ID of the backend that executed the CALL';
COMMENT ON COLUMN ntt_mime.run.role_name IS 'role that executed the CALL';
COMMENT ON COLUMN ntt_mime.run.options IS 'arguments and settings of the run, and further counts: blobs for which libmagic did not need all of its rules (prefiltered), and blobs that the prefilter could not decide (prefilter_fallbacks); blobs detected again from the whole file and with all rules (audited), and those that had another type then (audit_differences); time of all workers, and how much of it they had nothing to do (worker_ms, idle_ms), and of that, how much they rested because other sessions were at work (rested_ms); batches for which other sessions waited (waited_for); blobs read from each directory of the store (roots_read), and directories that held none when the run began (roots_empty); leaves skipped because nothing can have become pending in them, or differ from the detected type (leaves_skipped), and leaves in which this turned out to be wrong (marks_wrong); of a verification, rows checked (rows_checked), rows with another type (rows_different), rows with another spelling of the same type (rows_spelled_otherwise), and what a sample says of all rows (estimate)';
COMMENT ON COLUMN ntt_mime.run.workers IS 'background workers that were started';
COMMENT ON COLUMN ntt_mime.run.leaves_total IS 'leaf partitions found; 1 for a plain table';
COMMENT ON COLUMN ntt_mime.run.leaves_done IS 'leaf partitions that were read to their end and not changed by others afterwards';
COMMENT ON COLUMN ntt_mime.run.blocks_total IS 'blocks to read, in all passes so far; estimated for a leaf that has not been opened; adjusted while the run goes on so that the percentage does not fall';
COMMENT ON COLUMN ntt_mime.run.blocks_done IS 'blocks read';
COMMENT ON COLUMN ntt_mime.run.rows_scanned IS 'rows read: pending ones, in a verification those with a type; a row that is read again counts again';
COMMENT ON COLUMN ntt_mime.run.blobs IS 'distinct blobs among these rows';
COMMENT ON COLUMN ntt_mime.run.detections IS 'files read';
COMMENT ON COLUMN ntt_mime.run.cache_hits IS 'times that a batch met a blob which the run had already detected';
COMMENT ON COLUMN ntt_mime.run.rows_updated IS 'rows filled; in a verification, rows corrected';
COMMENT ON COLUMN ntt_mime.run.rows_retried IS 'rows that others had changed or locked when they were to be updated, and that are read again';
COMMENT ON COLUMN ntt_mime.run.rows_left IS 'rows still pending; null if that is not known: the run ended early, others kept leaves locked or went on rewriting or changing them, or the run is a verification';
COMMENT ON COLUMN ntt_mime.run.failures IS 'distinct blobs that could not be detected, including those skipped because of a failure on record';
COMMENT ON COLUMN ntt_mime.run.bytes_read IS 'bytes of blobs read, including those read by libmagic itself';
COMMENT ON COLUMN ntt_mime.run.scan_ms IS 'time that all workers spent reading rows, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.read_ms IS 'time that all workers spent waiting for blobs to be opened and read, in milliseconds; reading during an UPDATE does not count';
COMMENT ON COLUMN ntt_mime.run.detect_ms IS 'time that all workers spent waiting for detection by the prefilter and libmagic, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.update_ms IS 'time that all workers spent in UPDATE, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.commit_ms IS 'time that all workers spent in COMMIT of updates, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.libmagic IS 'release of libmagic that the run used';
COMMENT ON COLUMN ntt_mime.run.mime_counts IS 'distinct blobs that this run detected, by MIME type';
COMMENT ON COLUMN ntt_mime.run.error IS 'SQLSTATE and message of the error that ended the run, or the reason why it counts as interrupted';
COMMENT ON COLUMN ntt_mime.run.kind IS 'backfill or verify';
COMMENT ON SEQUENCE ntt_mime.run_run_id_seq IS 'numbers of runs';
COMMENT ON INDEX ntt_mime.run_pkey IS 'runs by number';
COMMENT ON CONSTRAINT run_pkey ON ntt_mime.run IS 'a run has one row';
COMMENT ON CONSTRAINT run_status_check ON ntt_mime.run IS 'the states of a run';
COMMENT ON CONSTRAINT run_kind_check ON ntt_mime.run IS 'the kinds of run';

CREATE TABLE ntt_mime.failure (
    blobid        text PRIMARY KEY,
    reason        text NOT NULL
                  CHECK (reason IN ('missing', 'unreadable', 'not_a_file', 'invalid', 'error', 'quarantined')),
    detail        text,
    attempts      int NOT NULL DEFAULT 1,
    first_run_id  bigint NOT NULL,
    last_run_id   bigint NOT NULL,
    first_seen    timestamptz NOT NULL DEFAULT now(),
    last_seen     timestamptz NOT NULL DEFAULT now()
);

-- Each statement that detects asks for all that is in quarantine: nearly always nothing.
CREATE INDEX failure_quarantined ON ntt_mime.failure (blobid) WHERE reason = 'quarantined';
COMMENT ON INDEX ntt_mime.failure_quarantined IS 'blobs in quarantine';

COMMENT ON TABLE ntt_mime.failure IS 'blobs that could not be detected, for all targets; a row is removed when its blob is detected';
COMMENT ON COLUMN ntt_mime.failure.blobid IS 'blobid as in the target; a long text that is not a blobid is cut and hashed';
COMMENT ON COLUMN ntt_mime.failure.reason IS 'missing, unreadable, not_a_file, invalid (not a blobid), error (of libmagic), or quarantined (it crashed a process, or detection did not end: never opened again until the row is deleted)';
COMMENT ON COLUMN ntt_mime.failure.detail IS 'what went wrong, with the system''s message if there is one';
COMMENT ON COLUMN ntt_mime.failure.attempts IS 'number of runs that tried the blob';
COMMENT ON COLUMN ntt_mime.failure.first_run_id IS 'first run that tried it';
COMMENT ON COLUMN ntt_mime.failure.last_run_id IS 'last run that tried it';
COMMENT ON COLUMN ntt_mime.failure.first_seen IS 'when the first run tried it';
COMMENT ON COLUMN ntt_mime.failure.last_seen IS 'when the last run tried it; runs skip the blob until ntt_mime.retry_failures_after has elapsed since then';
COMMENT ON INDEX ntt_mime.failure_pkey IS 'failures by blobid';
COMMENT ON CONSTRAINT failure_pkey ON ntt_mime.failure IS 'a blob is recorded once';
COMMENT ON CONSTRAINT failure_reason_check ON ntt_mime.failure IS 'the reasons of a failure';

CREATE TABLE ntt_mime.leaf_error (
    target        text NOT NULL,
    leaf          text NOT NULL,
    leaf_oid      oid NOT NULL,
    sqlstate      text NOT NULL,
    message       text NOT NULL,
    detail        text,
    hint          text,
    context       text,
    attempts      int NOT NULL DEFAULT 1,
    first_run_id  bigint NOT NULL,
    last_run_id   bigint NOT NULL,
    first_seen    timestamptz NOT NULL DEFAULT now(),
    last_seen     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, leaf)
);

COMMENT ON TABLE ntt_mime.leaf_error IS 'leaves whose update raised an error of its own; a row is removed when a run finishes its leaf';
COMMENT ON COLUMN ntt_mime.leaf_error.target IS 'table whose mime_type is filled, with its schema';
COMMENT ON COLUMN ntt_mime.leaf_error.leaf IS 'leaf partition, with its schema; the target itself if it is not partitioned';
COMMENT ON COLUMN ntt_mime.leaf_error.leaf_oid IS 'OID of the leaf, by which runs find it again; meaningless after a restore';
COMMENT ON COLUMN ntt_mime.leaf_error.sqlstate IS 'SQLSTATE of the error';
COMMENT ON COLUMN ntt_mime.leaf_error.message IS 'message of the error';
COMMENT ON COLUMN ntt_mime.leaf_error.detail IS 'detail of the error, which may show values of rows';
COMMENT ON COLUMN ntt_mime.leaf_error.hint IS 'hint of the error';
COMMENT ON COLUMN ntt_mime.leaf_error.context IS 'context of the error, such as the function of a trigger';
COMMENT ON COLUMN ntt_mime.leaf_error.attempts IS 'number of runs that met an error in the leaf';
COMMENT ON COLUMN ntt_mime.leaf_error.first_run_id IS 'first run that met an error there';
COMMENT ON COLUMN ntt_mime.leaf_error.last_run_id IS 'last run that met an error there; message, detail, hint and context are from it';
COMMENT ON COLUMN ntt_mime.leaf_error.first_seen IS 'when the first run met an error there';
COMMENT ON COLUMN ntt_mime.leaf_error.last_seen IS 'when the last run met an error there';
COMMENT ON INDEX ntt_mime.leaf_error_pkey IS 'leaves by target and name';
COMMENT ON CONSTRAINT leaf_error_pkey ON ntt_mime.leaf_error IS 'a leaf of a target is recorded once';

-- Unlogged: after a crash, in which the server's counters are lost, nothing in it is true, and it is empty. Not dumped: it
-- is about tables of this database by their oids.
CREATE UNLOGGED TABLE ntt_mime.leaf (
    leaf_oid         oid PRIMARY KEY,
    reltablespace    oid NOT NULL,
    relfilenode      oid NOT NULL,
    blobid_attnum    smallint NOT NULL,
    mime_type_attnum smallint NOT NULL,
    shape            bigint,
    tuples_written   bigint NOT NULL,
    tuples_deleted   bigint NOT NULL,
    rows_left        bigint NOT NULL,
    blocks           bigint NOT NULL,
    blobids          text[],
    looked_at        timestamptz NOT NULL,
    epoch            bigint NOT NULL
) WITH (fillfactor = 70);  -- a row is written anew when a run has looked at its leaf again

COMMENT ON TABLE ntt_mime.leaf IS 'leaf partitions in which nothing can have become pending since a run read them, and how the next run can tell; rows may be deleted at any time, then their leaves are read again';
COMMENT ON COLUMN ntt_mime.leaf.leaf_oid IS 'OID of the leaf partition, or of the target itself if it is not partitioned';
COMMENT ON COLUMN ntt_mime.leaf.reltablespace IS 'tablespace of the leaf when it was read';
COMMENT ON COLUMN ntt_mime.leaf.relfilenode IS 'number of the leaf''s file when it was read';
COMMENT ON COLUMN ntt_mime.leaf.blobid_attnum IS 'number of the leaf''s column blobid';
COMMENT ON COLUMN ntt_mime.leaf.mime_type_attnum IS 'number of the leaf''s column mime_type';
COMMENT ON COLUMN ntt_mime.leaf.shape IS 'hash of the target''s column numbers, and of the rows of pg_class from the target down to the leaf: while it is the same, the leaf''s column numbers are, too';
COMMENT ON COLUMN ntt_mime.leaf.tuples_written IS 'rows inserted and updated in the leaf, as counted by the server before it was read, plus the run''s own updates';
COMMENT ON COLUMN ntt_mime.leaf.tuples_deleted IS 'rows deleted in the leaf, as counted by the server before it was read';
COMMENT ON COLUMN ntt_mime.leaf.rows_left IS 'rows left pending because their blobs could not be detected';
COMMENT ON COLUMN ntt_mime.leaf.blocks IS 'blocks of the leaf when it was read';
COMMENT ON COLUMN ntt_mime.leaf.blobids IS 'blobs of the rows left pending, as in ntt_mime.failure';
COMMENT ON COLUMN ntt_mime.leaf.looked_at IS 'start of the run that read the leaf last; it is read again before ntt_mime.full_scan_after has elapsed, even if it seems unchanged';
COMMENT ON COLUMN ntt_mime.leaf.epoch IS 'hash of the server''s identity, timeline and start, of the database, and of the times when statistics were reset: counters of another epoch cannot be compared';
COMMENT ON INDEX ntt_mime.leaf_pkey IS 'leaves by OID';
COMMENT ON CONSTRAINT leaf_pkey ON ntt_mime.leaf IS 'a leaf has one row';

-- The same for verifications. Unlogged and not dumped for the same reasons.
CREATE UNLOGGED TABLE ntt_mime.verified_leaf (
    leaf_oid         oid PRIMARY KEY,
    reltablespace    oid NOT NULL,
    relfilenode      oid NOT NULL,
    blobid_attnum    smallint NOT NULL,
    mime_type_attnum smallint NOT NULL,
    shape            bigint,
    tuples_written   bigint NOT NULL,
    tuples_deleted   bigint NOT NULL,
    rows_left        bigint NOT NULL,
    blocks           bigint NOT NULL,
    blobids          text[],
    looked_at        timestamptz NOT NULL,
    epoch            bigint NOT NULL,
    detector         bigint NOT NULL
) WITH (fillfactor = 70);

COMMENT ON TABLE ntt_mime.verified_leaf IS 'leaf partitions in which a verification has checked all rows and all have the detected type, and how the next verification can tell whether this is still so; rows may be deleted at any time, then their leaves are checked again';
COMMENT ON COLUMN ntt_mime.verified_leaf.leaf_oid IS 'OID of the leaf partition, or of the target itself if it is not partitioned';
COMMENT ON COLUMN ntt_mime.verified_leaf.reltablespace IS 'tablespace of the leaf when it was checked';
COMMENT ON COLUMN ntt_mime.verified_leaf.relfilenode IS 'number of the leaf''s file when it was checked';
COMMENT ON COLUMN ntt_mime.verified_leaf.blobid_attnum IS 'number of the leaf''s column blobid';
COMMENT ON COLUMN ntt_mime.verified_leaf.mime_type_attnum IS 'number of the leaf''s column mime_type';
COMMENT ON COLUMN ntt_mime.verified_leaf.shape IS 'as in ntt_mime.leaf';
COMMENT ON COLUMN ntt_mime.verified_leaf.tuples_written IS 'rows inserted and updated in the leaf, as counted by the server before the verification began, plus its own updates';
COMMENT ON COLUMN ntt_mime.verified_leaf.tuples_deleted IS 'rows deleted in the leaf, as counted by the server before the verification began';
COMMENT ON COLUMN ntt_mime.verified_leaf.rows_left IS 'rows that were not compared because their blobs could not be detected';
COMMENT ON COLUMN ntt_mime.verified_leaf.blocks IS 'blocks of the leaf when it was checked';
COMMENT ON COLUMN ntt_mime.verified_leaf.blobids IS 'blobs of the rows that were not compared, as in ntt_mime.failure';
COMMENT ON COLUMN ntt_mime.verified_leaf.looked_at IS 'start of the verification that checked the leaf; it is checked again before ntt_mime.full_scan_after has elapsed, even if it seems unchanged';
COMMENT ON COLUMN ntt_mime.verified_leaf.epoch IS 'as in ntt_mime.leaf';
COMMENT ON COLUMN ntt_mime.verified_leaf.detector IS 'hash of the release of libmagic, of its magic database, of the version of this extension and of ntt_mime.head_bytes: another detector may find other types';
COMMENT ON INDEX ntt_mime.verified_leaf_pkey IS 'leaves by OID';
COMMENT ON CONSTRAINT verified_leaf_pkey ON ntt_mime.verified_leaf IS 'a leaf has one row';

CREATE TABLE ntt_mime.difference (
    run_id          bigint NOT NULL,
    old_type        text,
    new_type        text,
    blobs           bigint NOT NULL,
    rows            bigint NOT NULL,
    example_blobid  text,
    spelling_only   boolean NOT NULL DEFAULT false,
    UNIQUE NULLS NOT DISTINCT (run_id, old_type, new_type)
);

COMMENT ON TABLE ntt_mime.difference IS 'types of rows that differ from the detected type, as found by verifications, one row for each pair; the 10,000 most frequent pairs of a run, and one row without types for all others';
COMMENT ON COLUMN ntt_mime.difference.run_id IS 'verification that found the difference; the row is removed with the run';
COMMENT ON COLUMN ntt_mime.difference.old_type IS 'type of the rows; a text of more than 256 bytes is cut and hashed';
COMMENT ON COLUMN ntt_mime.difference.new_type IS 'detected type';
COMMENT ON COLUMN ntt_mime.difference.blobs IS 'distinct blobs of these rows';
COMMENT ON COLUMN ntt_mime.difference.rows IS 'number of rows, including those that were corrected';
COMMENT ON COLUMN ntt_mime.difference.example_blobid IS 'one of the blobs';
COMMENT ON COLUMN ntt_mime.difference.spelling_only IS 'true if both are the same type in another case, with blanks around it or with parameters; such rows do not count as different';
COMMENT ON INDEX ntt_mime.difference_run_id_old_type_new_type_key IS 'differences by run and pair';
COMMENT ON CONSTRAINT difference_run_id_old_type_new_type_key ON ntt_mime.difference IS 'a pair has one row for each run';

-- No foreign key, which would forbid to truncate ntt_mime.run by itself.
CREATE FUNCTION ntt_mime.remove_differences() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'ntt_remove_differences';
COMMENT ON FUNCTION ntt_mime.remove_differences() IS 'removes rows of ntt_mime.difference whose run has been removed';
REVOKE ALL ON FUNCTION ntt_mime.remove_differences() FROM PUBLIC;
CREATE TRIGGER remove_differences AFTER DELETE OR TRUNCATE ON ntt_mime.run
    FOR EACH STATEMENT EXECUTE FUNCTION ntt_mime.remove_differences();
COMMENT ON TRIGGER remove_differences ON ntt_mime.run IS 'differences are removed with their run';

-- 1314149427 is lock::RUN_CLASS, and 3 says that no SQL function took it: the leader holds this advisory
-- lock as long as it lives.
--
-- Every operator and function is qualified: CREATE EXTENSION binds them by the search path that it runs
-- with, which includes the schema the extension is made in. Whoever may create there could plant one that
-- fits the types better than PostgreSQL's own, and it would run as whoever reads the view.
CREATE VIEW ntt_mime.progress AS
SELECT r.run_id,
       r.pid,
       r.target,
       CASE WHEN r.leaves_total OPERATOR(pg_catalog.=) 0::bigint THEN 'starting'
            WHEN r.leaves_done OPERATOR(pg_catalog.<) r.leaves_total
            THEN CASE r.kind WHEN 'verify' THEN 'checking' ELSE 'filling' END
            ELSE 'looking again' END AS phase,
       r.workers,
       r.leaves_total,
       r.leaves_done,
       r.blocks_total,
       r.blocks_done,
       r.blobs,
       r.rows_updated,
       r.failures,
       pg_catalog.round((r.blobs::double precision OPERATOR(pg_catalog./) t.seconds)::numeric, 1)
           AS blobs_per_second,
       pg_catalog.round((100::double precision OPERATOR(pg_catalog.*) t.share)::numeric, 1) AS percent,
       CASE WHEN t.share OPERATOR(pg_catalog.>) 0.001::double precision
            THEN pg_catalog.make_interval(secs => pg_catalog.round(
                     t.seconds OPERATOR(pg_catalog.*) (1::double precision OPERATOR(pg_catalog.-) t.share)
                               OPERATOR(pg_catalog./) t.share))
       END AS eta,
       r.started_at
  FROM ntt_mime.run r
 CROSS JOIN LATERAL (
       SELECT greatest(pg_catalog.date_part('epoch',
                           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) r.started_at),
                       0.001::double precision) AS seconds,
              CASE WHEN r.blocks_total OPERATOR(pg_catalog.>) 0::bigint
                   THEN least(r.blocks_done::double precision
                                  OPERATOR(pg_catalog./) r.blocks_total::double precision,
                              1::double precision)
                   ELSE 0::double precision END AS share) t
 WHERE r.status OPERATOR(pg_catalog.=) 'running'::text
   AND EXISTS (
       SELECT FROM pg_catalog.pg_locks l
        WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'::text AND l.granted
          AND l.objsubid OPERATOR(pg_catalog.=) 3::smallint
          AND l.pid OPERATOR(pg_catalog.=) r.pid
          AND l.database OPERATOR(pg_catalog.=) (
              SELECT d.oid FROM pg_catalog.pg_database d
               WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
          AND l.classid OPERATOR(pg_catalog.=) 1314149427::oid
          AND l.objid OPERATOR(pg_catalog.=)
              (r.run_id OPERATOR(pg_catalog.&) 4294967295::bigint)::oid);

COMMENT ON VIEW ntt_mime.progress IS 'runs that are going on; at most two seconds old';
COMMENT ON COLUMN ntt_mime.progress.run_id IS 'number of the run';
COMMENT ON COLUMN ntt_mime.progress.pid IS 'process ID of the backend that executes the CALL';
COMMENT ON COLUMN ntt_mime.progress.target IS 'table whose mime_type is filled or checked';
COMMENT ON COLUMN ntt_mime.progress.phase IS 'starting, filling or checking, or looking again (at what others changed, locked or added meanwhile)';
COMMENT ON COLUMN ntt_mime.progress.workers IS 'background workers';
COMMENT ON COLUMN ntt_mime.progress.leaves_total IS 'leaf partitions found';
COMMENT ON COLUMN ntt_mime.progress.leaves_done IS 'leaf partitions done';
COMMENT ON COLUMN ntt_mime.progress.blocks_total IS 'blocks to read';
COMMENT ON COLUMN ntt_mime.progress.blocks_done IS 'blocks read';
COMMENT ON COLUMN ntt_mime.progress.blobs IS 'distinct blobs met';
COMMENT ON COLUMN ntt_mime.progress.rows_updated IS 'rows filled or corrected';
COMMENT ON COLUMN ntt_mime.progress.failures IS 'distinct blobs that could not be detected';
COMMENT ON COLUMN ntt_mime.progress.blobs_per_second IS 'mean rate since the run started';
COMMENT ON COLUMN ntt_mime.progress.percent IS 'share of the blocks that have been read; it does not fall';
COMMENT ON COLUMN ntt_mime.progress.eta IS 'time left, at the mean rate since the run started';
COMMENT ON COLUMN ntt_mime.progress.started_at IS 'when the run started';

-- Qualified throughout, as above. A dry run and a verification count what they have detected, too, and fill nothing: they
-- aren't counted here.
CREATE VIEW ntt_mime.mime_summary AS
SELECT r.target,
       c.key AS mime_type,
       pg_catalog.sum(c.value::bigint)::bigint AS blobs,
       pg_catalog.round(100::numeric OPERATOR(pg_catalog.*) pg_catalog.sum(c.value::bigint)
                            OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.sum(c.value::bigint))
                                OVER (PARTITION BY r.target), 2) AS percent,
       pg_catalog.count(*) AS runs,
       pg_catalog.max(r.run_id) AS last_run_id,
       pg_catalog.max(coalesce(r.finished_at, r.started_at)) AS last_seen
  FROM ntt_mime.run r
 CROSS JOIN LATERAL pg_catalog.jsonb_each_text(r.mime_counts) AS c (key, value)
 WHERE (r.options OPERATOR(pg_catalog.->>) 'dry_run'::text)::boolean IS NOT TRUE
   AND r.kind OPERATOR(pg_catalog.=) 'backfill'::text
 GROUP BY r.target, c.key;

COMMENT ON VIEW ntt_mime.mime_summary IS 'detections of backfills by target and MIME type: the sum of mime_counts in ntt_mime.run, without dry runs; not a count of what the table holds';
COMMENT ON COLUMN ntt_mime.mime_summary.target IS 'table whose mime_type was filled';
COMMENT ON COLUMN ntt_mime.mime_summary.mime_type IS 'MIME type';
COMMENT ON COLUMN ntt_mime.mime_summary.blobs IS 'distinct blobs of each run, added up; a blob that two runs detected counts twice';
COMMENT ON COLUMN ntt_mime.mime_summary.percent IS 'share of the target''s detections';
COMMENT ON COLUMN ntt_mime.mime_summary.runs IS 'number of runs that detected the type';
COMMENT ON COLUMN ntt_mime.mime_summary.last_run_id IS 'last run that detected the type';
COMMENT ON COLUMN ntt_mime.mime_summary.last_seen IS 'when that run ended, or started if it has not ended';

SELECT pg_catalog.pg_extension_config_dump('ntt_mime.run', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.run_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.failure', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.leaf_error', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.difference', '');
