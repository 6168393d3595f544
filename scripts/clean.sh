#!/usr/bin/env bash
# Stops the private clusters and deletes what demo, tests and benchmark made, the Debian folders and
# the corpus included, and what was built.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/cluster.sh"
# shellcheck source=scripts/debian.sh
source "$REPO/scripts/debian.sh"

if mountpoint --quiet "$BENCH_DIR/disk"; then
    cluster_stop "$BENCH_DIR/disk"
    as_root umount --detach-loop "$BENCH_DIR/disk"
fi
for dir in "$DEMO_DIR" "$BENCH_DIR" "$TEST_DIR"; do
    if [[ -d $dir ]]; then
        cluster_remove "$dir" # refuses a folder that isn't one of ours
        as_root rm -rf --one-file-system -- "$dir"
    fi
done
for dir in "$DEBIAN_DIR" "${NTT_CORPUS_DIR:-/var/tmp/ntt_mime_corpus}" \
    "${NTT_SHORT_CORPUS_DIR:-/var/tmp/ntt_mime_corpus_short}"; do
    as_root rm -rf --one-file-system -- "$dir"
done
if command -v cargo >/dev/null; then cargo_do clean; fi
