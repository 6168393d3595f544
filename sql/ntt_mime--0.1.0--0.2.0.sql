-- From 0.1.0 to 0.2.0: a summary of types, comments on what had none, an error of ntt_mime_suggest_index where the target
-- that is set does not exist.
--
-- The new library works with the tables and functions of 0.1.0 too, so there is no hurry.

-- Qualified throughout, for the reason that sql/tables.sql has beside ntt_mime.progress. A dry run counts what it has
-- detected, too, and changes nothing: it isn't counted here.
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
 GROUP BY r.target, c.key;

COMMENT ON VIEW ntt_mime.mime_summary IS 'blobs by MIME type, as the runs in ntt_mime.run counted them; of older runs, which ntt_mime.run_history removes, it knows nothing';
COMMENT ON COLUMN ntt_mime.mime_summary.target IS 'table whose mime_type was filled';
COMMENT ON COLUMN ntt_mime.mime_summary.mime_type IS 'MIME type';
COMMENT ON COLUMN ntt_mime.mime_summary.blobs IS 'blobs that runs detected as such; one that two runs have met counts twice';
COMMENT ON COLUMN ntt_mime.mime_summary.percent IS 'share of the target''s blobs';
COMMENT ON COLUMN ntt_mime.mime_summary.runs IS 'runs that met any';
COMMENT ON COLUMN ntt_mime.mime_summary.last_run_id IS 'the last of these';
COMMENT ON COLUMN ntt_mime.mime_summary.last_seen IS 'when that one ended, or started if it has not ended';

REVOKE ALL ON ntt_mime.mime_summary FROM PUBLIC;
GRANT SELECT ON ntt_mime.mime_summary TO pg_monitor;

COMMENT ON COLUMN ntt_mime.run.error IS 'SQLSTATE and message of the error that ended the run, or why it counts as interrupted';
COMMENT ON SEQUENCE ntt_mime.run_run_id_seq IS 'numbers of runs';
COMMENT ON INDEX ntt_mime.run_pkey IS 'runs by number';
COMMENT ON CONSTRAINT run_pkey ON ntt_mime.run IS 'a run has one row';
COMMENT ON CONSTRAINT run_status_check ON ntt_mime.run IS 'the ways in which a run can stand';
COMMENT ON INDEX ntt_mime.failure_pkey IS 'failures by blobid';
COMMENT ON CONSTRAINT failure_pkey ON ntt_mime.failure IS 'a blob is recorded once';
COMMENT ON CONSTRAINT failure_reason_check ON ntt_mime.failure IS 'the reasons there are';

CREATE OR REPLACE FUNCTION ntt_mime_suggest_index(
    target regclass DEFAULT coalesce(pg_catalog.current_setting('ntt_mime.target', true), 'inode')::pg_catalog.regclass)
    RETURNS SETOF text
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
    SET search_path = pg_catalog, pg_temp
    AS $$
WITH RECURSIVE tree(oid, parent, depth, kind) AS (
    SELECT c.oid, NULL::oid, 0, c.relkind
      FROM pg_class c
     WHERE c.oid = target
       AND c.relkind IN ('r', 'p')
    UNION ALL
    SELECT c.oid, i.inhparent, t.depth + 1, c.relkind
      FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid
     WHERE t.kind = 'p' AND c.relkind IN ('r', 'p') AND NOT i.inhdetachpending
), pending AS (
    -- The index of each table that will do, the valid and attached one first.
    SELECT DISTINCT ON (x.indrelid) x.indrelid, x.indexrelid, x.indisvalid,
           EXISTS (SELECT FROM pg_inherits a WHERE a.inhrelid = x.indexrelid) AS attached
      FROM tree t JOIN pg_index x ON x.indrelid = t.oid
     WHERE pg_get_expr(x.indpred, x.indrelid) IN (
               '((mime_type IS NULL) AND (blobid IS NOT NULL))',
               '((blobid IS NOT NULL) AND (mime_type IS NULL))')
     ORDER BY x.indrelid, attached DESC, x.indisvalid DESC, x.indexrelid
), step AS (
    -- present: the index that is there; fresh: the one that is to be made where that isn't there, or isn't valid.
    SELECT t.oid, t.parent, t.depth, t.kind, p.indexrelid::regclass AS present, coalesce(p.attached, false) AS attached,
           p.indexrelid IS NULL OR t.kind = 'r' AND NOT p.indisvalid AS wanting,
           format('ntt_mime_pending_%s', t.oid) AS fresh, c.relnamespace::regnamespace AS schema
      FROM tree t JOIN pg_class c ON c.oid = t.oid
      LEFT JOIN pending p ON p.indrelid = t.oid
), named AS (
    SELECT *, CASE WHEN wanting THEN format('%s.%I', schema, fresh) ELSE present::text END AS index FROM step
)
SELECT statement
  FROM (SELECT 1 AS phase, depth, oid,
               format('CREATE INDEX %I ON ONLY %s (blobid) WHERE mime_type IS NULL AND blobid IS NOT NULL',
                      fresh, oid::regclass) AS statement
          FROM named WHERE kind = 'p' AND wanting
        UNION ALL
        SELECT 2, depth, oid, format('DROP INDEX CONCURRENTLY %s', present)
          FROM named WHERE kind = 'r' AND wanting AND present IS NOT NULL
        UNION ALL
        SELECT 3, depth, oid,
               format('CREATE INDEX CONCURRENTLY %I ON %s (blobid) WHERE mime_type IS NULL AND blobid IS NOT NULL',
                      fresh, oid::regclass)
          FROM named WHERE kind = 'r' AND wanting
        UNION ALL
        SELECT 4, -n.depth, n.oid, format('ALTER INDEX %s ATTACH PARTITION %s', p.index, n.index)
          FROM named n JOIN named p ON p.oid = n.parent
         WHERE NOT n.attached) AS statements
 ORDER BY phase, depth, oid
$$;
