-- The tables and views, as \d shows them.
\d ntt_mime.run
\d ntt_mime.difference

\d ntt_mime.failure
\d ntt_mime.leaf_error
\d ntt_mime.leaf
\d ntt_mime.verified_leaf
\d ntt_mime.progress
-- Who may do what with them. The owner is whoever made the extension.
SELECT c.relname, coalesce(r.rolname, 'PUBLIC') AS grantee, string_agg(a.privilege_type, ', ' ORDER BY 1) AS may
  FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
 WHERE c.relnamespace = 'ntt_mime'::regnamespace AND a.grantee <> c.relowner
 GROUP BY 1, 2 ORDER BY 1, 2;
-- All of it belongs to the extension.
SELECT c.relname, c.relkind FROM pg_class c
 WHERE c.relnamespace = 'ntt_mime'::regnamespace AND c.relkind IN ('r', 'v')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e');
