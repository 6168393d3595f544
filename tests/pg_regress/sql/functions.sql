-- The functions and the procedure: names, arguments, defaults, results, marks.
\df ntt_*
SELECT p.oid::regprocedure AS function, p.provolatile, p.proisstrict, p.proparallel, p.prosecdef, p.proconfig
  FROM pg_proc p WHERE p.proname LIKE 'ntt\_%' ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regprocedure AS function, coalesce(r.rolname, 'PUBLIC') AS grantee, a.privilege_type
  FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
 WHERE p.proname LIKE 'ntt\_%' AND a.grantee <> p.proowner
 ORDER BY p.oid::regprocedure::text COLLATE "C", 2;
-- All of them belong to the extension.
SELECT p.oid::regprocedure AS function FROM pg_proc p
 WHERE p.proname LIKE 'ntt\_%'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e');
