#!/usr/bin/env bash
# Installs what the benchmark needs, starts a cluster for it and hands over to bench.py.
#
#   make bench         or: benches/bench.sh [OPTION]...     see benches/bench.py --help
#
# Environment: NTT_BENCH_DIR (default /var/tmp/ntt_mime_bench), PG (default 15), and what
# demo/store.sh reads: the store is the demo's.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"

for option in "$@"; do
    if [[ $option == --help || $option == -h ]]; then
        exec "$PYTHON" "$REPO/benches/bench.py" --help
    fi
done

"$REPO/scripts/setup.sh" build bench
cluster_folder "$BENCH_DIR"
lock "$BENCH_DIR" "make bench"
"$REPO/scripts/install.sh"
"$REPO/demo/store.sh"
trap 'cluster_remove "$BENCH_DIR"' EXIT
cluster_start "$BENCH_DIR"
"$PYTHON" "$REPO/benches/bench.py" --cluster "$BENCH_DIR" --store "$STORE_DIR" "$@"
