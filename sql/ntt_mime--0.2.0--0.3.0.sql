-- From 0.2.0 to 0.3.0.
--
-- The new library works with the tables and functions of 0.2.0 too, so there is no hurry.

ALTER TABLE ntt_mime.run
    ADD COLUMN kind text NOT NULL DEFAULT 'backfill' CHECK (kind IN ('backfill', 'verify'));
CREATE INDEX run_running ON ntt_mime.run (run_id) WHERE status = 'running';
CREATE INDEX run_ended ON ntt_mime.run (coalesce(finished_at, started_at)) WHERE status <> 'running';
COMMENT ON INDEX ntt_mime.run_running IS 'the runs that are going on, or whose backend vanished';
COMMENT ON INDEX ntt_mime.run_ended IS 'the other runs, by the time of their end';
COMMENT ON TABLE ntt_mime.run IS 'the runs of ntt_backfill_mime and ntt_verify_mime, one row each; one that found nothing to do takes the place of the one before it of the same target, if that found nothing either';
COMMENT ON COLUMN ntt_mime.run.options IS 'arguments and settings of the run; how many blobs its prefilter spared libmagic all of its rules for (prefiltered) or could not (prefilter_fallbacks); how many were judged again from all of them and with all rules (audited), and had another type then (audit_differences); all of its workers'' time, and what of it they waited (worker_ms, idle_ms); for how many of its batches other sessions waited (waited_for); how many blobs it read from each directory of the store (roots_read), which of these held none when it began (roots_empty); how many leaves it passed over since nothing can have become pending there, or other than the detected type (leaves_skipped), and in how many of those that seemed so it was otherwise (marks_wrong); of a verification, how many rows it checked (rows_checked), how many had another type (rows_different) or the same in another spelling (rows_spelled_otherwise), and what a sample says of all rows (estimate)';
COMMENT ON COLUMN ntt_mime.run.kind IS 'backfill, or verify: a check of types that were there already';
COMMENT ON CONSTRAINT run_kind_check ON ntt_mime.run IS 'the kinds of run there are';
COMMENT ON COLUMN ntt_mime.run.leaves_done IS 'leaf partitions looked at to their end, and not changed by others after that';
COMMENT ON COLUMN ntt_mime.run.blocks_total IS 'blocks to look at, in all passes so far; expected ones until a leaf has been opened; while the run goes on, as many as go with a percentage that does not fall';
COMMENT ON COLUMN ntt_mime.run.rows_left IS 'rows pending still; null while that is not known, when the run ended before it saw everything, when others kept leaves locked, rewrote or changed them to the end, or in a verification';
COMMENT ON COLUMN ntt_mime.run.rows_scanned IS 'rows read: pending ones, in a verification those with a type; a row that is looked at again counts again';
COMMENT ON COLUMN ntt_mime.run.blobs IS 'distinct blobs met among these rows';
COMMENT ON COLUMN ntt_mime.run.rows_updated IS 'rows filled, in a verification corrected';
COMMENT ON COLUMN ntt_mime.progress.phase IS 'starting, filling or checking, or looking again at what was changed, locked or added meanwhile';
COMMENT ON COLUMN ntt_mime.progress.percent IS 'share of the blocks looked at; it does not fall';

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
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.leaf_error', '');
REVOKE ALL ON ntt_mime.leaf_error FROM PUBLIC;
-- Not detail and context, in which values of rows may stand.
GRANT SELECT (target, leaf, leaf_oid, sqlstate, message, hint, attempts, first_run_id, last_run_id, first_seen, last_seen)
    ON ntt_mime.leaf_error TO pg_monitor;

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
REVOKE ALL ON PROCEDURE ntt_backfill_mime_on_node(int, int, bigint, boolean, regclass, boolean, jsonb) FROM PUBLIC;

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
REVOKE ALL ON ntt_mime.leaf FROM PUBLIC;

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
REVOKE ALL ON ntt_mime.verified_leaf FROM PUBLIC;

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
SELECT pg_catalog.pg_extension_config_dump('ntt_mime.difference', '');
REVOKE ALL ON ntt_mime.difference FROM PUBLIC;
GRANT SELECT ON ntt_mime.difference TO pg_monitor;

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
    'compares the mime_type that rows have with what is detected, counts the differences, and corrects them if asked to';
REVOKE ALL ON PROCEDURE ntt_verify_mime(int, int, bigint, float8, boolean, text[], regclass, bigint, bigint, bigint, bigint, bigint, bigint, interval)
    FROM PUBLIC;

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
    'ntt_verify_mime with its results in one column, for Citus'' run_command_on_all_nodes(); does nothing on a node that has no shard of the table';
REVOKE ALL ON PROCEDURE ntt_verify_mime_on_node(int, int, bigint, float8, boolean, text[], regclass, jsonb) FROM PUBLIC;

-- Qualified throughout: see the comments of these views in the script of the whole version.
CREATE OR REPLACE VIEW ntt_mime.progress AS
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

CREATE OR REPLACE VIEW ntt_mime.mime_summary AS
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
