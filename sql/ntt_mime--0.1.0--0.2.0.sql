-- From 0.1.0 to 0.2.0: a summary of types, and comments on what had none.
--
-- The new library works with the tables and functions of 0.1.0 too, so there is no hurry.

-- Qualified throughout, for the reason that sql/tables.sql has beside ntt_mime.progress. A dry run counts what it has detected, too, and changes nothing: it isn't
-- counted here.
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

COMMENT ON VIEW ntt_mime.mime_summary IS 'blobs by MIME type, as the runs on record counted them; it reads ntt_mime.run only';
COMMENT ON COLUMN ntt_mime.mime_summary.target IS 'table whose mime_type was filled';
COMMENT ON COLUMN ntt_mime.mime_summary.mime_type IS 'MIME type';
COMMENT ON COLUMN ntt_mime.mime_summary.blobs IS 'blobs that runs detected as such; one that two runs have met counts twice';
COMMENT ON COLUMN ntt_mime.mime_summary.percent IS 'share of the target''s blobs';
COMMENT ON COLUMN ntt_mime.mime_summary.runs IS 'runs that met any';
COMMENT ON COLUMN ntt_mime.mime_summary.last_run_id IS 'the last of these';
COMMENT ON COLUMN ntt_mime.mime_summary.last_seen IS 'when that one ended, or started if it has not ended';

REVOKE ALL ON ntt_mime.mime_summary FROM PUBLIC;
GRANT SELECT ON ntt_mime.mime_summary TO pg_monitor;

COMMENT ON SEQUENCE ntt_mime.run_run_id_seq IS 'numbers of runs';
COMMENT ON INDEX ntt_mime.run_pkey IS 'runs by number';
COMMENT ON CONSTRAINT run_pkey ON ntt_mime.run IS 'a run has one row';
COMMENT ON CONSTRAINT run_status_check ON ntt_mime.run IS 'the ways in which a run can stand';
COMMENT ON INDEX ntt_mime.failure_pkey IS 'failures by blobid';
COMMENT ON CONSTRAINT failure_pkey ON ntt_mime.failure IS 'a blob is recorded once';
COMMENT ON CONSTRAINT failure_reason_check ON ntt_mime.failure IS 'the reasons there are';
