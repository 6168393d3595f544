#!/usr/bin/env bash
# What the method that the extension replaces has made of the demo's store, checked and corrected: a second database,
# filled by benches/script.py, which judges by the first 2 KiB.  Ends with status 0 only if what is counted is what file(1)
# says, every row agrees with file(1) in the end, and rows that agreed before have not been touched.
#
#   demo/verify.sh CLUSTER DATABASE STORE
#
# CLUSTER is a running one of scripts/cluster.sh, DATABASE a new one, STORE made by demo/store.sh.
#
# Environment: BLOBS (default: all of the store), LEAVES (default 841), BATCH (default 10000).

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"

[[ $# -eq 3 ]] || die "usage: demo/verify.sh CLUSTER DATABASE STORE"
cluster=$1 database=$2 store=$3

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

sql() { cluster_psql "$cluster" -q -d "$database" "$@" 2>&1; }

value() { cluster_psql "$cluster" -q -d "$database" -A -t -c "$1"; }

failed=0

# check WHAT QUERY EXPECTED
check() {
    local found
    found=$(value "$2")
    if [[ $found == "$3" ]]; then
        say "ok: $1: $found"
    else
        say "FAILED: $1: $found, expected $3"
        failed=$((failed + 1))
    fi
}

ODD=no "$REPO/demo/load.sh" "$cluster" "$database" "$store" "${BLOBS:-0}"

say "the method before: the first 2 KiB, in a script outside the database"
"$PYTHON" "$REPO/benches/script.py" "host=$cluster/run port=$(cat "$cluster/port") user=postgres dbname=$database" \
    "$store/by-hash" --cookie process --processes 2

# The extension's name for an empty file is application/x-empty, file's is inode/x-empty.
value "SELECT blobid FROM demo.blob ORDER BY blobid" >"$work/blobids"
sed -E "s#^(..)(..)(.*)#$store/by-hash/\1/\2/\1\2\3#" "$work/blobids" >"$work/paths"
"$FILE" --brief --mime-type --files-from "$work/paths" |
    sed 's#^inode/x-empty$#application/x-empty#' | paste "$work/blobids" - >"$work/truth"
sql -c "CREATE TABLE demo.truth (blobid text PRIMARY KEY, mime_type text NOT NULL)"
sql -c "COPY demo.truth FROM STDIN" <"$work/truth"
sql -c "CREATE TABLE demo.before AS
        SELECT medium_hash, ino, mime_type, i.xmin::text AS version,
               hashtextextended(ROW(medium_hash, dev, ino, nlink, size, mtime, blobid, copied, copied_to, errors, fs_type,
                                    processed_at, by_hash_created, claimed_by, claimed_at)::text, 0) AS others
        FROM inode i" -c "VACUUM ANALYZE"
different=$(value "SELECT count(*) FROM inode JOIN demo.truth t USING (blobid) WHERE inode.mime_type <> t.mime_type")
rows=$(value "SELECT count(*) FROM inode WHERE blobid IS NOT NULL AND mime_type IS NOT NULL")
last="FROM ntt_mime.run WHERE run_id = (SELECT max(run_id) FROM ntt_mime.run)"

say "CALL ntt_verify_mime(sample_percent => 5)"
sql -c "CALL ntt_verify_mime(sample_percent => 5)"
say "CALL ntt_verify_mime(${BATCH:-10000})"
sql -c "CALL ntt_verify_mime(${BATCH:-10000})"
check "rows checked" "SELECT options->>'rows_checked' $last" "$rows"
check "rows of which file says another type" "SELECT options->>'rows_different' $last" "$different"
check "the same in ntt_mime.difference" \
    "SELECT sum(rows) FROM ntt_mime.difference WHERE run_id = (SELECT max(run_id) FROM ntt_mime.run)" "$different"
check "rows that a check has touched" \
    "SELECT count(*) FROM inode i JOIN demo.before USING (medium_hash, ino) WHERE i.xmin::text <> version" 0

say "CALL ntt_verify_mime(${BATCH:-10000}, correct => true)"
sql -c "CALL ntt_verify_mime(${BATCH:-10000}, correct => true)"
check "rows corrected" "SELECT rows_updated $last" "$different"
check "rows that differ from file" \
    "SELECT count(*) FROM inode i JOIN demo.truth t USING (blobid) WHERE i.mime_type IS DISTINCT FROM t.mime_type" 0
check "rows that agreed before and have been touched" \
    "SELECT count(*) FROM inode i JOIN demo.before b USING (medium_hash, ino) LEFT JOIN demo.truth t USING (blobid)
     WHERE b.mime_type IS NOT DISTINCT FROM t.mime_type AND i.xmin::text <> version" 0
check "rows that differ in other columns, or are gone" \
    "SELECT count(*) FROM demo.before b LEFT JOIN inode i USING (medium_hash, ino)
     WHERE others IS DISTINCT FROM
           hashtextextended(ROW(i.medium_hash, dev, i.ino, nlink, size, mtime, blobid, copied, copied_to, errors, fs_type,
                                processed_at, by_hash_created, claimed_by, claimed_at)::text, 0)" 0
sql -c "CALL ntt_verify_mime(${BATCH:-10000})"
check "leaves that are passed over when all has been corrected" \
    "SELECT options->>'leaves_skipped' $last" "$(value "SELECT count(*) FROM demo.medium")"
if [[ $failed -gt 0 ]]; then die "$failed of the checks of a verification failed"; fi
