-- The leaves of inode, one for each of demo.medium.

SELECT format('CREATE TABLE inode_%s PARTITION OF inode FOR VALUES IN (%L)',
              left(medium_hash, 12), medium_hash)
FROM demo.medium
ORDER BY n
\gexec
