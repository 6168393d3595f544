-- The archive of the documents: a database copyjob with the tables inode (media m1 and m2) and archive.blob,
-- rows for each blob of the store on both media, some filled already, one blob that is missing.
--
-- psql variables: store (its folder), extension (whether it is to be there), and a blobid for each name of run.py.

SET client_min_messages = warning;
DROP DATABASE IF EXISTS copyjob WITH (FORCE);
CREATE DATABASE copyjob;
SELECT format('CREATE ROLE %I LOGIN', role)
  FROM unnest(ARRAY['archivist', 'watcher']) AS role
 WHERE to_regrole(role) IS NULL
\gexec
\c copyjob
SET client_min_messages = warning;

CREATE TABLE inode (
    medium_hash text NOT NULL,
    ino         bigint NOT NULL,
    size        bigint,
    blobid      text,
    fs_type     char(1),
    mime_type   varchar(255),
    PRIMARY KEY (medium_hash, ino)
) PARTITION BY LIST (medium_hash);
CREATE TABLE inode_m1 PARTITION OF inode FOR VALUES IN ('m1');
CREATE TABLE inode_m2 PARTITION OF inode FOR VALUES IN ('m2');
CREATE INDEX ON inode (mime_type);
CREATE SCHEMA archive;
CREATE TABLE archive.blob (blobid text PRIMARY KEY, mime_type text);

INSERT INTO archive.blob (blobid) VALUES
    (:'pdf'), (:'png'), (:'gif'), (:'text'), (:'html'), (:'json'), (:'gzip'), (:'xml'), (:'empty');
INSERT INTO inode
SELECT medium_hash, n, n * 10, blobid, 'f'
  FROM (VALUES ('m1'), ('m2')) AS medium (medium_hash),
       (SELECT blobid, row_number() OVER (ORDER BY blobid) AS n FROM archive.blob) AS blob;
INSERT INTO inode VALUES
    ('m1', 100, 0, NULL, 'd', NULL),
    ('m1', 101, 7, repeat('0', 64), 'f', NULL),
    ('m2', 102, 8, :'pdf', 'f', 'application/pdf');
VACUUM ANALYZE;
CREATE EXTENSION pg_cron;

SELECT format('ALTER DATABASE copyjob SET ntt_mime.blob_root = %L', :'store') WHERE :'extension'
\gexec
SELECT 'CREATE EXTENSION ntt_mime' WHERE :'extension'
\gexec
