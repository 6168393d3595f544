-- The archive's table inode, partitioned by medium with one leaf a medium, as its loaders make it.
--
-- psql variables: leaves (how many media).
--
-- Its leaves follow in leaves.sql; keys and indexes (inode_indexes.sql), the table path (path.sql) and triggers
-- (triggers.sql) after the rows: that is faster by far.

CREATE TABLE inode (
    medium_hash     text NOT NULL,
    dev             bigint,
    ino             bigint NOT NULL,
    nlink           int,
    size            bigint,
    mtime           bigint,
    blobid          text,
    copied          bool DEFAULT false,
    copied_to       text,
    errors          text[] DEFAULT '{}',
    fs_type         char(1),
    mime_type       varchar(255),
    processed_at    timestamptz,
    by_hash_created bool DEFAULT false,
    claimed_by      text,
    claimed_at      timestamptz
) PARTITION BY LIST (medium_hash);

-- What is known of the queue without counting it: the triggers keep it.
CREATE TABLE queue_stats (
    stat  text PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO queue_stats VALUES ('inserted', 0), ('copied', 0), ('deleted', 0);

-- Only for making the data: the media, the store's blobs and what can't be detected.
CREATE SCHEMA demo;
CREATE TABLE demo.blob (
    n      bigint GENERATED ALWAYS AS IDENTITY,
    blobid text NOT NULL,
    size   bigint NOT NULL,
    kind   text NOT NULL
);
CREATE TABLE demo.odd (
    blobid text NOT NULL,
    reason text NOT NULL
);

-- The media's sizes are very uneven, as 1/rank: the largest of 841 has a tenth of the rows, most
-- have a few dozen. upto is the share of rows on this medium and all larger ones.
CREATE TABLE demo.medium AS
SELECT n,
       encode(sha256(convert_to('medium ' || n, 'UTF8')), 'hex') AS medium_hash,
       (sum(1 / (n + 0.4)) OVER (ORDER BY n) / sum(1 / (n + 0.4)) OVER ())::float8 AS upto
FROM generate_series(1, :leaves) n;
