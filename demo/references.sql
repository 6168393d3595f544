-- What refers to the archive's rows, and its triggers, as on the live system: with the key and the indexes of
-- inode_indexes.sql eleven indexes a leaf, seven of which a change of mime_type enters, and three triggers a leaf.

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

-- Each statement adds what it did to queue_stats. The joins of old and new rows are part of what
-- an update of a batch costs.
CREATE FUNCTION count_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue_stats
    SET value = value + (SELECT count(*) FROM new_rows WHERE NOT copied)
    WHERE stat = 'inserted';
    RETURN NULL;
END $$;

CREATE FUNCTION count_updated() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    turned bigint;
BEGIN
    SELECT count(*) INTO turned
    FROM old_rows o JOIN new_rows n ON n.medium_hash = o.medium_hash AND n.ino = o.ino
    WHERE n.copied AND NOT o.copied;
    UPDATE queue_stats SET value = value + turned WHERE stat = 'copied';
    RETURN NULL;
END $$;

CREATE FUNCTION count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue_stats
    SET value = value + (SELECT count(*) FROM old_rows WHERE NOT copied)
    WHERE stat = 'deleted';
    RETURN NULL;
END $$;

-- Leaf by leaf, as the loaders do: a statement trigger of the parent would not fire for a
-- statement that names a leaf.
SELECT format('CREATE TRIGGER count_inserted AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows '
              'FOR EACH STATEMENT EXECUTE FUNCTION count_inserted()', inhrelid::regclass),
       format('CREATE TRIGGER count_updated AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows '
              'NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_updated()', inhrelid::regclass),
       format('CREATE TRIGGER count_deleted AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows '
              'FOR EACH STATEMENT EXECUTE FUNCTION count_deleted()', inhrelid::regclass)
FROM pg_inherits
WHERE inhparent = 'inode'::regclass
ORDER BY inhrelid
\gexec
