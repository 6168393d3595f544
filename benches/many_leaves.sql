-- The leaves of inode, one for each of demo.medium, for thousands of them.
--
-- CREATE TABLE … PARTITION OF, and ATTACH, read the bounds of all partitions that are there: 5,000
-- leaves take a minute or two so, 50,000 would take hours. Here the leaves are made as tables by
-- themselves, and what makes a table a partition is written into the catalogs, with the bounds of a
-- real one as the pattern. The outcome is the same, as the end checks for each leaf; it is no way to
-- treat a database that is needed longer than a benchmark.

SELECT format('CREATE TABLE inode_%s PARTITION OF inode FOR VALUES IN (%L)',
              left(medium_hash, 12), medium_hash)
FROM demo.medium
WHERE n = 1
\gexec

SELECT format('CREATE TABLE inode_%s (LIKE inode INCLUDING DEFAULTS)', left(medium_hash, 12))
FROM demo.medium
WHERE n > 1
ORDER BY n
\gexec

SET allow_system_table_mods = on;
CREATE CAST (text AS pg_node_tree) WITHOUT FUNCTION;

CREATE TEMPORARY TABLE leaf AS
SELECT n, medium_hash, ('inode_' || left(medium_hash, 12))::regclass AS oid
FROM demo.medium;

INSERT INTO pg_inherits (inhrelid, inhparent, inhseqno, inhdetachpending)
SELECT oid, 'inode'::regclass, 1, false FROM leaf WHERE n > 1;

INSERT INTO pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
SELECT d.classid, leaf.oid, d.objsubid, d.refclassid, d.refobjid, d.refobjsubid, d.deptype
FROM leaf, pg_depend d, leaf pattern
WHERE leaf.n > 1 AND pattern.n = 1 AND d.classid = 'pg_class'::regclass AND d.objid = pattern.oid
  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = 'inode'::regclass;

UPDATE pg_attribute SET attislocal = false, attinhcount = 1
WHERE attrelid IN (SELECT oid FROM leaf WHERE n > 1) AND attnum > 0;

-- The value stands in the bounds as its bytes: four of its length, then one for each digit.
UPDATE pg_class c
SET relispartition = true,
    relpartbound = regexp_replace(
        pattern.bounds, '\[ (\d+ \d+ \d+ \d+) .* \]', '[ \1 ' || leaf.bytes || ' ]')::pg_node_tree
FROM (SELECT leaf.oid, n, (SELECT string_agg(ascii(digit)::text, ' ' ORDER BY place)
                           FROM regexp_split_to_table(medium_hash, '') WITH ORDINALITY d(digit, place)) AS bytes
      FROM leaf) leaf,
     (SELECT relpartbound::text AS bounds FROM pg_class WHERE oid = (SELECT oid FROM leaf WHERE n = 1)) pattern
WHERE leaf.n > 1 AND c.oid = leaf.oid;

DROP CAST (text AS pg_node_tree);
RESET allow_system_table_mods;

DO $$
DECLARE
    wrong bigint;
BEGIN
    SELECT count(*) INTO wrong
    FROM leaf JOIN pg_class c USING (oid)
    WHERE pg_get_expr(c.relpartbound, c.oid) IS DISTINCT FROM format('FOR VALUES IN (%L)', medium_hash);
    IF wrong > 0 THEN
        RAISE EXCEPTION '% leaves have wrong bounds', wrong;
    END IF;
END $$;
