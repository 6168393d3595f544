-- The procedure's errors that need no store, and what a refused CALL leaves behind: nothing.
CREATE TABLE target (blobid text, mime_type text);
CREATE VIEW target_view AS SELECT * FROM target;
CREATE TABLE without_blobid (mime_type text);
CREATE TABLE without_mime_type (blobid text);
CREATE TABLE number (blobid text, mime_type int);
LOAD 'ntt_mime';
SET ntt_mime.blob_root = '/no/such/folder';
\set VERBOSITY sqlstate
CALL ntt_backfill_mime(0, target => 'target');
CALL ntt_backfill_mime(1000001, target => 'target');
CALL ntt_backfill_mime(NULL, target => 'target');
CALL ntt_backfill_mime(workers => 0, target => 'target');
CALL ntt_backfill_mime(max_blobs => 0, target => 'target');
CALL ntt_backfill_mime(target => 'target_view');
CALL ntt_backfill_mime(target => 'without_blobid');
CALL ntt_backfill_mime(target => 'without_mime_type');
CALL ntt_backfill_mime(target => 'number');
CALL ntt_backfill_mime(target => 'target');
BEGIN;
CALL ntt_backfill_mime(target => 'target');
ROLLBACK;
SET ntt_mime.target = 'no_such_table';
CALL ntt_backfill_mime();
\set VERBOSITY default
-- Their words.
CALL ntt_backfill_mime(0, target => 'target');
CALL ntt_backfill_mime(target => 'target_view');
CALL ntt_backfill_mime(target => 'without_blobid');
CALL ntt_backfill_mime(target => 'number');
CALL ntt_backfill_mime(target => 'target');
BEGIN;
CALL ntt_backfill_mime(target => 'target');
ROLLBACK;
SELECT count(*) FROM ntt_mime.run;
SELECT count(*) FROM ntt_mime.progress;
SELECT ntt_cancel_backfill(1);
DROP VIEW target_view;
DROP TABLE target, without_blobid, without_mime_type, number;
