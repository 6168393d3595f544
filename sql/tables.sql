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

COMMENT ON SCHEMA ntt_mime IS 'runs, failures and progress of ntt_backfill_mime';

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
COMMENT ON INDEX ntt_mime.run_running IS 'the runs that are going on, or whose backend vanished';
COMMENT ON INDEX ntt_mime.run_ended IS 'the other runs, by the time of their end';

COMMENT ON TABLE ntt_mime.run IS 'the runs of ntt_backfill_mime and ntt_verify_mime, one row each; one that found nothing to do takes the place of the one before it of the same target, if that found nothing either';
COMMENT ON COLUMN ntt_mime.run.run_id IS 'number of the run';
COMMENT ON COLUMN ntt_mime.run.target IS 'table whose mime_type is filled, with its schema';
COMMENT ON COLUMN ntt_mime.run.status IS 'running, succeeded, cancelled, failed, or interrupted (its backend vanished; noted by the next run)';
COMMENT ON COLUMN ntt_mime.run.started_at IS 'when the run started';
COMMENT ON COLUMN ntt_mime.run.finished_at IS 'when the run ended, or was found to have ended';
COMMENT ON COLUMN ntt_mime.run.pid IS 'process ID of the backend that ran CALL';
COMMENT ON COLUMN ntt_mime.run.role_name IS 'role that ran it';
COMMENT ON COLUMN ntt_mime.run.options IS 'arguments and settings of the run; how many blobs its prefilter spared libmagic all of its rules for (prefiltered) or could not (prefilter_fallbacks); how many were judged again from all of them and with all rules (audited), and had another type then (audit_differences); all of its workers'' time, and what of it they waited (worker_ms, idle_ms); for how many of its batches other sessions waited (waited_for); how many blobs it read from each directory of the store (roots_read), which of these held none when it began (roots_empty); how many leaves it passed over since nothing can have become pending there, or other than the detected type (leaves_skipped), and in how many of those that seemed so it was otherwise (marks_wrong); of a verification, how many rows it checked (rows_checked), how many had another type (rows_different) or the same in another spelling (rows_spelled_otherwise), and what a sample says of all rows (estimate)';
COMMENT ON COLUMN ntt_mime.run.workers IS 'background workers that it got';
COMMENT ON COLUMN ntt_mime.run.leaves_total IS 'leaf partitions found, 1 for a plain table';
COMMENT ON COLUMN ntt_mime.run.leaves_done IS 'leaf partitions looked at to their end, and not changed by others after that';
COMMENT ON COLUMN ntt_mime.run.blocks_total IS 'blocks to look at, in all passes so far; expected ones until a leaf has been opened; while the run goes on, as many as go with a percentage that does not fall';
COMMENT ON COLUMN ntt_mime.run.blocks_done IS 'blocks looked at';
COMMENT ON COLUMN ntt_mime.run.rows_scanned IS 'rows read: pending ones, in a verification those with a type; a row that is looked at again counts again';
COMMENT ON COLUMN ntt_mime.run.blobs IS 'distinct blobs met among these rows';
COMMENT ON COLUMN ntt_mime.run.detections IS 'files read';
COMMENT ON COLUMN ntt_mime.run.cache_hits IS 'times that a batch met a blob that the run had met before';
COMMENT ON COLUMN ntt_mime.run.rows_updated IS 'rows filled, in a verification corrected';
COMMENT ON COLUMN ntt_mime.run.rows_retried IS 'pending rows that others had changed or locked meanwhile, to be looked at again';
COMMENT ON COLUMN ntt_mime.run.rows_left IS 'rows pending still; null while that is not known, when the run ended before it saw everything, when others kept leaves locked, rewrote or changed them to the end, or in a verification';
COMMENT ON COLUMN ntt_mime.run.failures IS 'distinct blobs that could not be detected, those passed over included';
COMMENT ON COLUMN ntt_mime.run.bytes_read IS 'bytes of blobs read, by libmagic itself too';
COMMENT ON COLUMN ntt_mime.run.scan_ms IS 'time of all workers spent reading pending rows, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.read_ms IS 'time of all workers spent waiting for blobs to be opened and read, in milliseconds; what is done while rows are updated isn''t waited for';
COMMENT ON COLUMN ntt_mime.run.detect_ms IS 'time of all workers spent waiting for detection, in milliseconds: libmagic''s and the prefilter''s, and that of asking and being told';
COMMENT ON COLUMN ntt_mime.run.update_ms IS 'time of all workers spent in UPDATE, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.commit_ms IS 'time of all workers spent in COMMIT of updates, in milliseconds';
COMMENT ON COLUMN ntt_mime.run.libmagic IS 'release of libmagic that detected';
COMMENT ON COLUMN ntt_mime.run.mime_counts IS 'distinct blobs by MIME type, as detected in this run';
COMMENT ON COLUMN ntt_mime.run.error IS 'SQLSTATE and message of the error that ended the run, or why it counts as interrupted';
COMMENT ON COLUMN ntt_mime.run.kind IS 'backfill, or verify: a check of types that were there already';
COMMENT ON SEQUENCE ntt_mime.run_run_id_seq IS 'numbers of runs';
COMMENT ON INDEX ntt_mime.run_pkey IS 'runs by number';
COMMENT ON CONSTRAINT run_pkey ON ntt_mime.run IS 'a run has one row';
COMMENT ON CONSTRAINT run_status_check ON ntt_mime.run IS 'the ways in which a run can stand';
COMMENT ON CONSTRAINT run_kind_check ON ntt_mime.run IS 'the kinds of run there are';

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
COMMENT ON INDEX ntt_mime.failure_quarantined IS 'the blobs in quarantine';

COMMENT ON TABLE ntt_mime.failure IS 'blobs that could not be detected; a row goes away when its blob is detected';
COMMENT ON COLUMN ntt_mime.failure.blobid IS 'blobid as it stands in the target; a long text that is none is cut and hashed';
COMMENT ON COLUMN ntt_mime.failure.reason IS 'missing, unreadable, not_a_file, invalid (no blobid), error (of libmagic), or quarantined (it crashed a process, or came to no end: never looked at again until the row is deleted)';
COMMENT ON COLUMN ntt_mime.failure.detail IS 'what went wrong, in the system''s words where there are any';
COMMENT ON COLUMN ntt_mime.failure.attempts IS 'number of runs that tried it';
COMMENT ON COLUMN ntt_mime.failure.first_run_id IS 'run that met it first';
COMMENT ON COLUMN ntt_mime.failure.last_run_id IS 'run that tried it last';
COMMENT ON COLUMN ntt_mime.failure.first_seen IS 'when it was met first';
COMMENT ON COLUMN ntt_mime.failure.last_seen IS 'when it was tried last; it is passed over until ntt_mime.retry_failures_after has gone by';
COMMENT ON INDEX ntt_mime.failure_pkey IS 'failures by blobid';
COMMENT ON CONSTRAINT failure_pkey ON ntt_mime.failure IS 'a blob is recorded once';
COMMENT ON CONSTRAINT failure_reason_check ON ntt_mime.failure IS 'the reasons there are';

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

COMMENT ON TABLE ntt_mime.leaf_error IS 'leaves whose update raised an error of their own; a row goes away when a run finishes its leaf';
COMMENT ON COLUMN ntt_mime.leaf_error.target IS 'table whose mime_type is filled, with its schema';
COMMENT ON COLUMN ntt_mime.leaf_error.leaf IS 'leaf partition, with its schema; the table itself if it is a plain one';
COMMENT ON COLUMN ntt_mime.leaf_error.leaf_oid IS 'its OID, by which runs find it again; of no meaning after a restore';
COMMENT ON COLUMN ntt_mime.leaf_error.sqlstate IS 'SQLSTATE of the error';
COMMENT ON COLUMN ntt_mime.leaf_error.message IS 'its message';
COMMENT ON COLUMN ntt_mime.leaf_error.detail IS 'its detail, which may tell values of a row';
COMMENT ON COLUMN ntt_mime.leaf_error.hint IS 'its hint';
COMMENT ON COLUMN ntt_mime.leaf_error.context IS 'where it came about: in which function of a trigger, say';
COMMENT ON COLUMN ntt_mime.leaf_error.attempts IS 'number of runs that met an error there';
COMMENT ON COLUMN ntt_mime.leaf_error.first_run_id IS 'run that met one first';
COMMENT ON COLUMN ntt_mime.leaf_error.last_run_id IS 'run that met this one';
COMMENT ON COLUMN ntt_mime.leaf_error.first_seen IS 'when one was met first';
COMMENT ON COLUMN ntt_mime.leaf_error.last_seen IS 'when this one was met';
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

COMMENT ON TABLE ntt_mime.leaf IS 'leaf partitions that a run has seen to their end, with all by which the next one can tell whether anything can have become pending there; rows may be deleted at any time, then their leaves are looked at again';
COMMENT ON COLUMN ntt_mime.leaf.leaf_oid IS 'OID of the leaf partition, or of the table itself if it is a plain one';
COMMENT ON COLUMN ntt_mime.leaf.reltablespace IS 'tablespace in which it was';
COMMENT ON COLUMN ntt_mime.leaf.relfilenode IS 'number of the file in which it was';
COMMENT ON COLUMN ntt_mime.leaf.blobid_attnum IS 'number of its column blobid';
COMMENT ON COLUMN ntt_mime.leaf.mime_type_attnum IS 'number of its column mime_type';
COMMENT ON COLUMN ntt_mime.leaf.shape IS 'stands for the numbers of the target''s columns, and the rows of pg_class of the tables below it down to the leaf: as long as these are the same, so are the numbers of the leaf''s columns';
COMMENT ON COLUMN ntt_mime.leaf.tuples_written IS 'rows inserted and updated in it, as the server''s statistics count them: before it was looked at, and by the run itself';
COMMENT ON COLUMN ntt_mime.leaf.tuples_deleted IS 'rows deleted in it, as the server''s statistics counted them before it was looked at';
COMMENT ON COLUMN ntt_mime.leaf.rows_left IS 'rows that were left pending, since their blobs could not be detected';
COMMENT ON COLUMN ntt_mime.leaf.blocks IS 'blocks that it had';
COMMENT ON COLUMN ntt_mime.leaf.blobids IS 'the blobs of these rows, as they stand in ntt_mime.failure';
COMMENT ON COLUMN ntt_mime.leaf.looked_at IS 'when the run began that looked at it last; it is looked at again, whatever it seems, before ntt_mime.full_scan_after has gone by';
COMMENT ON COLUMN ntt_mime.leaf.epoch IS 'stands for the server, its timeline and start, the database, and the times when statistics were reset: in another one counters can not be compared';
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

COMMENT ON TABLE ntt_mime.verified_leaf IS 'leaf partitions of which a verification has checked all rows, and in which all have the detected type, with all by which the next one can tell whether this is still so; rows may be deleted at any time, then their leaves are checked again';
COMMENT ON COLUMN ntt_mime.verified_leaf.leaf_oid IS 'OID of the leaf partition, or of the table itself if it is a plain one';
COMMENT ON COLUMN ntt_mime.verified_leaf.reltablespace IS 'tablespace in which it was';
COMMENT ON COLUMN ntt_mime.verified_leaf.relfilenode IS 'number of the file in which it was';
COMMENT ON COLUMN ntt_mime.verified_leaf.blobid_attnum IS 'number of its column blobid';
COMMENT ON COLUMN ntt_mime.verified_leaf.mime_type_attnum IS 'number of its column mime_type';
COMMENT ON COLUMN ntt_mime.verified_leaf.shape IS 'as in ntt_mime.leaf';
COMMENT ON COLUMN ntt_mime.verified_leaf.tuples_written IS 'rows inserted and updated in it, as the server''s statistics count them: before the verification began, and by itself';
COMMENT ON COLUMN ntt_mime.verified_leaf.tuples_deleted IS 'rows deleted in it, as the server''s statistics counted them before the verification began';
COMMENT ON COLUMN ntt_mime.verified_leaf.rows_left IS 'rows that were not compared, since their blobs could not be detected';
COMMENT ON COLUMN ntt_mime.verified_leaf.blocks IS 'blocks that it had';
COMMENT ON COLUMN ntt_mime.verified_leaf.blobids IS 'the blobs of these rows, as they stand in ntt_mime.failure';
COMMENT ON COLUMN ntt_mime.verified_leaf.looked_at IS 'when the verification began that checked it; it is checked again, whatever it seems, before ntt_mime.full_scan_after has gone by';
COMMENT ON COLUMN ntt_mime.verified_leaf.epoch IS 'as in ntt_mime.leaf';
COMMENT ON COLUMN ntt_mime.verified_leaf.detector IS 'stands for the release of libmagic, the contents of its magic database, the version of this extension and ntt_mime.head_bytes: another detector may find other types';
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

COMMENT ON TABLE ntt_mime.difference IS 'types that verifications found in rows and that differ from what is detected, one row for each pair; the most frequent 10,000 pairs of a run, and one row without types for all others';
COMMENT ON COLUMN ntt_mime.difference.run_id IS 'verification that found it; its rows here go with it';
COMMENT ON COLUMN ntt_mime.difference.old_type IS 'type that the rows had; a text of more than 256 bytes is cut and hashed';
COMMENT ON COLUMN ntt_mime.difference.new_type IS 'type that is detected';
COMMENT ON COLUMN ntt_mime.difference.blobs IS 'distinct blobs of these rows';
COMMENT ON COLUMN ntt_mime.difference.rows IS 'rows, those that were corrected included';
COMMENT ON COLUMN ntt_mime.difference.example_blobid IS 'one of the blobs';
COMMENT ON COLUMN ntt_mime.difference.spelling_only IS 'the same type, spelled otherwise: in case, blanks or parameters; not counted among rows_different';
COMMENT ON INDEX ntt_mime.difference_run_id_old_type_new_type_key IS 'differences by run and pair';
COMMENT ON CONSTRAINT difference_run_id_old_type_new_type_key ON ntt_mime.difference IS 'a pair has one row a run';

-- No foreign key, which would forbid to truncate ntt_mime.run by itself.
CREATE FUNCTION ntt_mime.remove_differences() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'ntt_remove_differences';
COMMENT ON FUNCTION ntt_mime.remove_differences() IS 'removes rows of ntt_mime.difference whose run has gone';
REVOKE ALL ON FUNCTION ntt_mime.remove_differences() FROM PUBLIC;
CREATE TRIGGER remove_differences AFTER DELETE OR TRUNCATE ON ntt_mime.run
    FOR EACH STATEMENT EXECUTE FUNCTION ntt_mime.remove_differences();
COMMENT ON TRIGGER remove_differences ON ntt_mime.run IS 'differences go with their run';

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

COMMENT ON VIEW ntt_mime.progress IS 'the runs going on now, at most two seconds old';
COMMENT ON COLUMN ntt_mime.progress.run_id IS 'number of the run';
COMMENT ON COLUMN ntt_mime.progress.pid IS 'process ID of the backend that runs CALL';
COMMENT ON COLUMN ntt_mime.progress.target IS 'table whose mime_type is filled';
COMMENT ON COLUMN ntt_mime.progress.phase IS 'starting, filling or checking, or looking again at what was changed, locked or added meanwhile';
COMMENT ON COLUMN ntt_mime.progress.workers IS 'background workers';
COMMENT ON COLUMN ntt_mime.progress.leaves_total IS 'leaf partitions found';
COMMENT ON COLUMN ntt_mime.progress.leaves_done IS 'leaf partitions done';
COMMENT ON COLUMN ntt_mime.progress.blocks_total IS 'blocks to look at';
COMMENT ON COLUMN ntt_mime.progress.blocks_done IS 'blocks looked at';
COMMENT ON COLUMN ntt_mime.progress.blobs IS 'distinct blobs met';
COMMENT ON COLUMN ntt_mime.progress.rows_updated IS 'rows filled';
COMMENT ON COLUMN ntt_mime.progress.failures IS 'distinct blobs that could not be detected';
COMMENT ON COLUMN ntt_mime.progress.blobs_per_second IS 'mean rate since the start';
COMMENT ON COLUMN ntt_mime.progress.percent IS 'share of the blocks looked at; it does not fall';
COMMENT ON COLUMN ntt_mime.progress.eta IS 'time left, at the mean rate so far';
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

COMMENT ON VIEW ntt_mime.mime_summary IS 'blobs by MIME type, as the runs in ntt_mime.run counted them; of older runs, which ntt_mime.run_history removes, it knows nothing';
COMMENT ON COLUMN ntt_mime.mime_summary.target IS 'table whose mime_type was filled';
COMMENT ON COLUMN ntt_mime.mime_summary.mime_type IS 'MIME type';
COMMENT ON COLUMN ntt_mime.mime_summary.blobs IS 'blobs that runs detected as such; one that two runs have met counts twice';
COMMENT ON COLUMN ntt_mime.mime_summary.percent IS 'share of the target''s blobs';
COMMENT ON COLUMN ntt_mime.mime_summary.runs IS 'runs that met any';
COMMENT ON COLUMN ntt_mime.mime_summary.last_run_id IS 'the last of these';
COMMENT ON COLUMN ntt_mime.mime_summary.last_seen IS 'when that one ended, or started if it has not ended';

SELECT pg_catalog.pg_extension_config_dump('ntt_mime.run', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.run_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.failure', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.leaf_error', '');
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.difference', '');
