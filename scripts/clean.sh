#!/usr/bin/env bash
# Stops the private clusters and deletes what demo, tests and benchmark made, and what was built.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/cluster.sh"

for dir in "$DEMO_DIR" "$BENCH_DIR" "$TEST_DIR"; do
    if [[ -d $dir ]]; then
        cluster_remove "$dir" # refuses a folder that isn't one of ours
        as_root rm -rf --one-file-system -- "$dir"
    fi
done
if command -v cargo >/dev/null; then cargo_do clean; fi
