-- The settings and their defaults, as SHOW gives them once the library is loaded.
LOAD 'ntt_mime';
SHOW ntt_mime.blob_root;
SHOW ntt_mime.target;
SHOW ntt_mime.head_bytes;
SHOW ntt_mime.read_ahead;
SHOW ntt_mime.cache_size;
SHOW ntt_mime.lock_timeout;
SHOW ntt_mime.retry_failures_after;
SHOW ntt_mime.batch_delay;
SHOW ntt_mime.nice;
SHOW ntt_mime.prefilter;
SHOW ntt_mime.audit_interval;
SHOW ntt_mime.full_scan_after;
SHOW ntt_mime.run_history;
-- The number of CPUs, 8 at most.
SELECT current_setting('ntt_mime.workers')::int BETWEEN 1 AND 8 AS workers;
SELECT name, vartype, context FROM pg_settings WHERE name LIKE 'ntt_mime.%' ORDER BY name;
-- A misspelt name is an error. (Codes only: the words differ between versions of PostgreSQL.)
\set VERBOSITY sqlstate
SET ntt_mime.blob_rot = '/data';
-- Units work as elsewhere.
SET ntt_mime.batch_delay = '1min';
SHOW ntt_mime.batch_delay;
SET ntt_mime.head_bytes = '64kB';
SHOW ntt_mime.head_bytes;
-- Out of range.
SET ntt_mime.workers = 0;
SET ntt_mime.batch_delay = -1;
SET ntt_mime.lock_timeout = -1;
SET ntt_mime.retry_failures_after = -1;
SET ntt_mime.head_bytes = 0;
SET ntt_mime.read_ahead = -1;
SET ntt_mime.read_ahead = 129;
SET ntt_mime.nice = -1;
SET ntt_mime.nice = 20;
SET ntt_mime.cache_size = -1;
SET ntt_mime.audit_interval = -1;
SET ntt_mime.run_history = -1;
