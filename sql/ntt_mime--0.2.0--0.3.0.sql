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
COMMENT ON COLUMN ntt_mime.run.options IS 'arguments and settings of the run; how many blobs its prefilter spared libmagic all of its rules for (prefiltered) or could not (prefilter_fallbacks); how many were judged again from all of them and with all rules (audited), and had another type then (audit_differences); all of its workers'' time, and what of it they waited (worker_ms, idle_ms); how many blobs it read from each directory of the store (roots_read), which of these held none when it began (roots_empty); how many leaves it passed over since nothing can have become pending there (leaves_skipped), and in how many of those that seemed so rows were pending nevertheless (marks_wrong)';
COMMENT ON COLUMN ntt_mime.run.kind IS 'backfill, or verify: a check of types that were there already';
COMMENT ON CONSTRAINT run_kind_check ON ntt_mime.run IS 'the kinds of run there are';
COMMENT ON COLUMN ntt_mime.run.leaves_done IS 'leaf partitions looked at to their end, and not changed by others after that';
COMMENT ON COLUMN ntt_mime.run.blocks_total IS 'blocks to look at, in all passes so far; expected ones until a leaf has been opened; while the run goes on, as many as go with a percentage that does not fall';
COMMENT ON COLUMN ntt_mime.run.rows_left IS 'rows pending still; null while that is not known, when the run ended before it saw everything, or when others kept leaves locked, rewrote or changed them to the end';
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
