-- What a DBA may do to make runs cheaper.

-- An index of the pending rows alone. It is small, an UPDATE that fills a row adds nothing to it, and a run finds in it
-- what little is pending in a leaf that has changed. A leaf that has not changed isn't read in any case, and a small one
-- is read in a few milliseconds: so only leaves of 1,024 blocks (8 MB) and more get it. Partitioned tables get none, since
-- then each new partition would have it too. Leaf by leaf and CONCURRENTLY, which keeps no loader waiting; names by oid,
-- since those of leaves may be long and alike. Run again after an interruption, or when leaves have grown, it gives what is
-- left to do. Where a partitioned table has such an index, by earlier versions or otherwise, those of leaves are attached to
-- it. (The setting is read in the default of the argument: there the caller's search_path is in force.)
CREATE FUNCTION ntt_mime_suggest_index(
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
    -- present: the index that is there; fresh: the one that is to be made where that isn't there, or isn't valid. The size
    -- as of the last VACUUM or ANALYZE, for which no table has to be opened; if there was none, that of the file.
    SELECT t.oid, t.parent, t.depth, t.kind, p.indexrelid::regclass AS present, coalesce(p.attached, false) AS attached,
           t.kind = 'r' AND p.indisvalid IS NOT TRUE
           AND CASE WHEN c.relpages > 0 THEN c.relpages
                    ELSE pg_relation_size(t.oid) / current_setting('block_size')::int END >= 1024 AS wanting,
           t.kind = 'p' OR p.indisvalid AS usable,
           format('ntt_mime_pending_%s', t.oid) AS fresh, c.relnamespace::regnamespace AS schema
      FROM tree t JOIN pg_class c ON c.oid = t.oid
      LEFT JOIN pending p ON p.indrelid = t.oid
), named AS (
    SELECT *, CASE WHEN wanting THEN format('%s.%I', schema, fresh) ELSE present::text END AS index FROM step
)
SELECT statement
  FROM (SELECT 1 AS phase, depth, oid, format('DROP INDEX CONCURRENTLY %s', present) AS statement
          FROM named WHERE wanting AND present IS NOT NULL
        UNION ALL
        SELECT 2, depth, oid,
               format('CREATE INDEX CONCURRENTLY %I ON %s (blobid) WHERE mime_type IS NULL AND blobid IS NOT NULL',
                      fresh, oid::regclass)
          FROM named WHERE wanting
        UNION ALL
        SELECT 3, -n.depth, n.oid, format('ALTER INDEX %s ATTACH PARTITION %s', p.index, n.index)
          FROM named n JOIN named p ON p.oid = n.parent
         WHERE NOT n.attached AND n.index IS NOT NULL AND p.index IS NOT NULL AND (n.usable OR n.wanting)) AS statements
 ORDER BY phase, depth, oid
$$;
COMMENT ON FUNCTION ntt_mime_suggest_index(regclass) IS
    'statements, for \gexec of psql, that create on large leaves an index by which runs find few pending rows among many; none if they have it';
