#!/usr/bin/env bash
# Stops the private clusters and deletes what demo, tests and benchmark made, the Debian folders and
# the corpora included, and what was built.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/cluster.sh"
# shellcheck source=scripts/debian.sh
source "$REPO/scripts/debian.sh"

# One that isn't the account postgres's, or whose server doesn't stop, is an error.
remove_cluster() {
    if mountpoint --quiet "$1/disk"; then cluster_unmount "$1/disk" || return; fi
    cluster_remove "$1" && as_root rm -rf --one-file-system -- "$1"
}

left=()
for dir in "$DEMO_DIR" "$BENCH_DIR" "$TEST_DIR"; do
    # In a process of its own: an error there must not keep the others from being cleaned.
    if [[ -d $dir ]]; then (remove_cluster "$dir") || left+=("\"$dir\""); fi
done
# What was built may be root's, if it was built as root. The torture test runs as root, too.
as_root rm -rf --one-file-system -- "$DEBIAN_DIR" "$CORPUS_DIR" "$SHORT_CORPUS_DIR" "$REPO/target" \
    "$REPO"/crates/ntt_mime_core/fuzz/{target,corpus,artifacts,coverage} "${TMPDIR:-/tmp}/ntt_mime_torture.log"
[[ ${#left[@]} -eq 0 ]] || die "could not remove ${left[*]}" "The rest is gone."
