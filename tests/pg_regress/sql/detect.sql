-- Detection of bytes in hand, and of blobids that name nothing.
SELECT ntt_detect_mime('%PDF-1.4'::bytea);
SELECT ntt_detect_mime('\x89504e470d0a1a0a0000000d49484452000000100000001008060000001ff3ff61'::bytea);
SELECT ntt_detect_mime(E'#!/bin/sh\necho hello\n'::bytea);
SELECT ntt_detect_mime('Just a few words.'::bytea);
SELECT ntt_detect_mime(''::bytea);
SELECT ntt_detect_mime(NULL::bytea);
SELECT ntt_detect_mime(NULL::text);
-- An untyped literal is a blobid, as text is the preferred type.
SELECT ntt_detect_mime('not a blobid');
SELECT ntt_detect_mime(repeat('A', 64));
SELECT ntt_detect_mime(repeat('a', 63));
SELECT ntt_detect_mime('../../../../../../../../../../../../../../../../../../etc/passwd');
-- What lies in no store. (A root that every machine has.)
SET ntt_mime.blob_root = '/usr';
SELECT path, status, mime_type, size, bytes_read FROM ntt_inspect_blob('not a blobid');
SELECT status, mime_type, size, bytes_read FROM ntt_inspect_blob(repeat('0', 64));
SELECT extension = extversion AS extension, libmagic ~ '^5\.[0-9]+$' AS libmagic, magic_entries > 1000 AS magic_entries
  FROM ntt_mime_version(), pg_extension WHERE extname = 'ntt_mime';
-- The warning of a blob that isn't there, once a statement, with its words.
\set VERBOSITY default
SELECT ntt_detect_mime(repeat('0', 64)), ntt_detect_mime(repeat('1', 64));
