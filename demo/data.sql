-- Fills inode: about 4.75 pending rows a blob, on media of uneven size, and beside them rows that
-- have a type already or no blob at all.
--
-- psql variables: rows_per_blob, filled (rows already filled for each pending one).
-- Expects demo.blob and demo.odd to be filled.
--
-- Chance is a hash of the row's number: the same store gives the same rows, so that measurements
-- of two days mean the same.

-- A number from 0 to 1, for a row and a purpose.
CREATE FUNCTION demo.chance(i bigint, purpose bigint) RETURNS float8
LANGUAGE sql IMMUTABLE AS
$$ SELECT (hashint8extended(i, purpose) & 9007199254740991)::float8 / 9007199254740992 $$;

SET jit = off;
SET work_mem = '256MB';

INSERT INTO inode
WITH size AS (
    SELECT count(*) AS blobs, (count(*) * :rows_per_blob)::bigint AS pending FROM demo.blob
),
-- Each blob has a row; the others fall on some blobs more than on others, up to hundreds on one.
pending AS (
    SELECT i,
           CASE WHEN i <= blobs THEN i ELSE 1 + floor(blobs * demo.chance(i, 1) ^ 2)::bigint END AS n
    FROM size, generate_series(1, pending) i
),
-- What was done before: their blobs are none of the store's, so nobody can look at them again.
filled AS (
    SELECT pending + i AS i,
           floor(i / :rows_per_blob)::bigint AS n,
           (ARRAY['text/plain', 'text/html', 'image/jpeg', 'application/pdf', 'image/png',
                  'application/zip', 'application/msword', 'audio/mpeg', 'video/mp4',
                  'application/octet-stream'])[1 + floor(10 * demo.chance(i, 2) ^ 2)::int] AS mime_type
    FROM size, generate_series(1, (pending * :filled)::bigint) i
),
every AS (
    SELECT i, blobid, size, NULL AS mime_type, 'f' AS fs_type
    FROM pending JOIN demo.blob USING (n)
    UNION ALL
    SELECT (pending * (1 + :filled))::bigint + row_number() OVER (), blobid, 42, NULL, 'f'
    FROM size, demo.odd, generate_series(1, 3)
    UNION ALL
    SELECT i, encode(sha256(int8send(n)), 'hex'), (1000000 * demo.chance(n, 3))::bigint, mime_type, 'f'
    FROM filled WHERE i % 20 <> 0
    UNION ALL
    -- Folders and links have no content.
    SELECT i, NULL, 4096, NULL, CASE WHEN i % 40 = 0 THEN 'd' ELSE 'l' END
    FROM filled WHERE i % 20 = 0
),
placed AS (
    SELECT every.*, 1 + width_bucket(demo.chance(i, 4), edges) AS medium
    FROM every, (SELECT coalesce(array_agg(upto ORDER BY n) FILTER (WHERE upto < 1), '{}') AS edges
                 FROM demo.medium) e
)
SELECT medium_hash, 64768, i, 1, size, 1000000000 + (500000000 * demo.chance(i, 5))::bigint,
       blobid, blobid IS NOT NULL, '/data/cold' , '{}', fs_type, mime_type,
       timestamptz '2025-10-01 00:00+00' + i * interval '1 second',
       blobid IS NOT NULL AND demo.chance(i, 6) > 0.02, NULL, NULL
FROM placed JOIN demo.medium ON n = medium
ORDER BY medium, demo.chance(i, 7);
