-- The table path with a single leaf, where the demo's (demo/path.sql) has one a medium: PostgreSQL
-- plans the check of a foreign key over all leaves of inode, once for each leaf that refers to it.
-- For the same reason the rows come before the key, and are checked by one join.

CREATE TABLE path (
    medium_hash text NOT NULL,
    ino         bigint NOT NULL,
    path        text NOT NULL
) PARTITION BY LIST (medium_hash);
CREATE TABLE path_all PARTITION OF path DEFAULT;

INSERT INTO path
SELECT medium_hash, ino, '/' || ino / 1000 || '/' || ino
FROM inode
WHERE ino % 50 = 0;
ANALYZE path;

ALTER TABLE path ADD FOREIGN KEY (medium_hash, ino) REFERENCES inode (medium_hash, ino);
