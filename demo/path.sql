-- The table path and its foreign key, as on the live system.
--
-- Where on its medium an inode was found; here, for some of them. The foreign key comes before
-- the leaves, which then need no check: one for each of them, planned over all leaves of inode,
-- would take minutes.
CREATE TABLE path (
    medium_hash text NOT NULL,
    ino         bigint NOT NULL,
    path        text NOT NULL,
    FOREIGN KEY (medium_hash, ino) REFERENCES inode (medium_hash, ino)
) PARTITION BY LIST (medium_hash);

SELECT format('CREATE TABLE path_%s PARTITION OF path FOR VALUES IN (%L)',
              left(medium_hash, 12), medium_hash)
FROM demo.medium
ORDER BY n
\gexec

INSERT INTO path
SELECT medium_hash, ino, '/' || ino / 1000 || '/' || ino
FROM inode
WHERE ino % 50 = 0;
