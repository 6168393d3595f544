#!/usr/bin/env bash
# The whole job on this machine's own files, by one command: a store of at least 50,000 blobs, the
# archive's tables in a private cluster, one CALL of the extension's procedure, and a look at what
# came out; and the same tables filled by another method, checked and corrected (verify.sh).  Ends with
# status 0 only if every pending row that can be filled is filled, and nothing else has changed.
#
#   make demo
#
# Environment: NTT_DEMO_DIR (default /var/tmp/ntt_mime_demo), PG (default 15), BLOBS (default
# 50000), MEGABYTES (the store's size at most, default 2000), FILLED (rows that have a type
# already, for each pending one; default 0.2), BATCH (default 10000).
#
# Run again, it keeps the store and makes everything else anew.  The cluster is left running, to be
# looked at; "make demo-stop" ends it.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"

database=ntt
sample=200
SECONDS=0

step() { printf '\n== %s\n' "$*"; }

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

failed=0
fail() {
    say "FAILED: $*"
    failed=$((failed + 1))
}

# check WHAT QUERY EXPECTED [FOUND]
check() {
    local found=${4-}
    [[ $# -gt 3 ]] || found=$(value "$2")
    if [[ $found == "$3" ]]; then
        say "ok: $1: $found"
    else
        fail "$1: $found, expected $3"
    fi
}

sql() { cluster_psql "$DEMO_DIR" -q -d "$database" "$@" 2>&1; }

value() { cluster_psql "$DEMO_DIR" -q -d "$database" -A -t -c "$1"; }

# What a run must leave as it is: of a row whose blob is in the store all columns but mime_type, of
# all other rows every column.
fingerprint() {
    value "SELECT count(*) || ' rows, ' || sum(hashtextextended(ROW(medium_hash, dev, ino, nlink,
               i.size, mtime, i.blobid, copied, copied_to, errors, fs_type,
               CASE WHEN b.n IS NULL THEN mime_type END, processed_at, by_hash_created, claimed_by,
               claimed_at)::text, 0))
           FROM inode i LEFT JOIN demo.blob b ON b.blobid = i.blobid"
}

step "what is needed"
"$REPO/scripts/setup.sh" build bench
cluster_folder "$DEMO_DIR"
lock "$DEMO_DIR" "make demo"
"$REPO/scripts/install.sh"

step "a store of this machine's files, $STORE_DIR"
"$REPO/demo/store.sh"

step "a cluster and the archive's tables"
cluster_start "$DEMO_DIR"
"$REPO/demo/load.sh" "$DEMO_DIR" "$database" "$STORE_DIR" 0 "${FILLED:-0.2}"
sql -c "SELECT count(*) AS rows,
               count(*) FILTER (WHERE blobid IS NOT NULL AND mime_type IS NULL) AS pending,
               (SELECT count(*) FROM demo.blob) AS blobs,
               (SELECT count(*) FROM demo.odd) AS undetectable,
               (SELECT count(*) FROM pg_inherits WHERE inhparent = 'inode'::regclass) AS leaves
        FROM inode"
before=$(fingerprint)

step "CALL ntt_backfill_mime(${BATCH:-10000})"
sql -c "CALL ntt_backfill_mime(${BATCH:-10000})"

step "summary (ntt_mime.run)"
sql -x -c "SELECT * FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1" | cut -c 1-100

step "most frequent types"
sql -c "SELECT mime_type, count(DISTINCT i.blobid) AS blobs, count(*) AS rows
        FROM inode i JOIN demo.blob b ON b.blobid = i.blobid
        GROUP BY mime_type ORDER BY blobs DESC, mime_type LIMIT 15"

step "failures (ntt_mime.failure)"
sql -c "SELECT reason, left(blobid, 12) || '…' AS blobid, attempts,
               replace(detail, current_setting('ntt_mime.blob_root'), '…') AS detail
        FROM ntt_mime.failure ORDER BY reason, blobid"

step "$sample blobs beside file --mime-type"
value "SELECT b.blobid || E'\t' || coalesce(max(mime_type), 'null')
       FROM (SELECT * FROM demo.blob ORDER BY random() LIMIT $sample) b
       JOIN inode i ON i.blobid = b.blobid
       GROUP BY b.blobid ORDER BY b.blobid" >"$work/ours"
cut -f 1 "$work/ours" |
    sed -E "s#^(..)(..)(.*)#$STORE_DIR/by-hash/\1/\2/\1\2\3#" >"$work/paths"
# The extension's name for an empty file is application/x-empty, file's is inode/x-empty.
"$FILE" --brief --mime-type --files-from "$work/paths" |
    sed 's#^inode/x-empty$#application/x-empty#' >"$work/theirs"
paste "$work/ours" "$work/theirs" |
    awk -F '\t' '$2 != $3 {print substr($1, 1, 12) "…  ntt_mime: " $2 "  file: " $3; n++}
                  END {print NR - n " of " NR " agree" > "/dev/stderr"; exit n > NR / 20}' ||
    fail "more than one in twenty differ from file"

step "checks"
check "detectable rows that are still pending" \
    "SELECT count(*) FROM inode i JOIN demo.blob b ON b.blobid = i.blobid WHERE mime_type IS NULL" 0
check "undetectable rows that have got a type" \
    "SELECT count(*) FROM inode i JOIN demo.odd o ON o.blobid = i.blobid
     WHERE mime_type IS NOT NULL" 0
check "blobs whose rows differ in type" \
    "SELECT count(*) FROM (SELECT FROM inode WHERE mime_type IS NOT NULL AND blobid IN
         (SELECT blobid FROM demo.blob) GROUP BY blobid HAVING min(mime_type) <> max(mime_type)) b" 0
check "failures that were not expected, or the other way round" \
    "SELECT count(*) FROM demo.odd o FULL JOIN ntt_mime.failure f USING (blobid)
     WHERE o.reason IS DISTINCT FROM f.reason" 0
check "rows, and a sum over all that a run must not change" "" "$before" "$(fingerprint)"

step "types of another method, in a second database: checked and corrected"
"$REPO/demo/verify.sh" "$DEMO_DIR" verified "$STORE_DIR" || fail "types of another method"

step "the cluster is running"
port=$(cat "$DEMO_DIR/port")
cat <<EOT
to look at it:  $(bindir)/psql -h $DEMO_DIR/run -p $port -U postgres $database
to run it again: make demo
to stop it:      make demo-stop
log:             $DEMO_DIR/log
EOT
printf '\nfinished in %d s\n' "$SECONDS"
if [[ $failed -gt 0 ]]; then die "$failed of the checks failed"; fi
