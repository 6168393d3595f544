-- The archive's triggers, as on the live system: three a leaf. With the key, the indexes of inode_indexes.sql and the
-- foreign key of path.sql, eleven indexes a leaf, seven of which a change of mime_type enters.
--
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
