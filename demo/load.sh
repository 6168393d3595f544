#!/usr/bin/env bash
# Makes a database with the archive's tables, filled with rows that point at a store's blobs, and
# the extension in it.
#
#   demo/load.sh CLUSTER DATABASE STORE [BLOBS [FILLED]]
#
# CLUSTER is a running one of scripts/cluster.sh, BLOBS how many of the store's blobs to use
# (default: all), FILLED how many rows are there with a type already for each pending one
# (default: 0, may be 0.5).
#
# Environment: LEAVES (default 841), ROWS_PER_BLOB (default 4.75), ODD=no leaves out blobids that
# can't be detected, EXTENSION=no leaves the extension out.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"

[[ $# -ge 3 ]] || die "usage: demo/load.sh CLUSTER DATABASE STORE [BLOBS [FILLED]]"
cluster=$1 database=$2 store=$3 blobs=${4:-0} filled=${5:-0}
here=$REPO/demo

# One transaction a step.
sql() {
    cluster_psql "$cluster" -q -d "$database" -v leaves="${LEAVES:-841}" -v filled="$filled" \
        -v rows_per_blob="${ROWS_PER_BLOB:-4.75}" -1 "$@" >/dev/null
}

# Eleven thousand small files are made here, and waiting for each to reach the disk is most of the
# time. Nothing is lost if the machine goes down: the next run starts with an empty cluster.
cluster_fsync "$cluster" off
cluster_psql "$cluster" -q -c "CREATE DATABASE \"$database\"" postgres
sql -f "$here/schema.sql" -f "$here/leaves.sql"
if [[ $blobs -eq 0 ]]; then cat "$store/blobs.tsv"; else head -n "$blobs" "$store/blobs.tsv"; fi |
    sql -c "COPY demo.blob (blobid, size, kind) FROM STDIN"
if [[ ${ODD:-yes} == yes ]]; then
    # A blobid in upper case can be in the table, but not in a store.
    sql -c "COPY demo.odd FROM STDIN" \
        -c "INSERT INTO demo.odd VALUES (upper(encode(sha256('odd'), 'hex')), 'invalid')" \
        <"$store/odd.tsv"
fi
sql -c "ANALYZE demo.blob" -c "ANALYZE demo.medium" -f "$here/data.sql"
sql -c "ALTER TABLE inode ADD PRIMARY KEY (medium_hash, ino)" \
    -f "$here/inode_indexes.sql" -f "$here/path.sql" -f "$here/triggers.sql"
cluster_psql "$cluster" -q -d "$database" -c "VACUUM ANALYZE"
if [[ ${EXTENSION:-yes} == yes ]]; then
    sql -c "CREATE EXTENSION ntt_mime"
fi
cluster_psql "$cluster" -q -d "$database" \
    -c "ALTER DATABASE \"$database\" SET ntt_mime.blob_root = '$store/by-hash'"
cluster_fsync "$cluster" on
