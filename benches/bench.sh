#!/usr/bin/env bash
# Installs what the benchmark needs, starts a cluster for it and hands over to bench.py.
#
#   make bench         or: benches/bench.sh [OPTION]... [PART [OPTION]...]...     see benches/bench.py --help
#
# Environment: NTT_BENCH_DIR (default /var/tmp/ntt_mime_bench), PG (default 15), SHARED_BUFFERS (default: 2GB, or an
# eighth of the memory of a small machine).
#
# The blobs and the results stay in the folder. The cluster goes at the end, unless "--keep" is among the options:
# then it is stopped, and the next run finds the tables that it has made, which is most of the time of a short one.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"
export PYTHONDONTWRITEBYTECODE=1

keep=no
words=(build bench)
for option in "$@"; do
    case $option in
        --help | -h) exec "$PYTHON" "$REPO/benches/bench.py" "$@" ;;
        --keep) keep=yes ;;
        --write) words+=(charts) ;;
    esac
done

# As somebody would give a server with tables of some gigabytes.
buffers() {
    local kilobytes
    kilobytes=$(awk '/^MemTotal:/ {print int($2 / 8)}' /proc/meminfo)
    say "$((kilobytes < 2097152 ? kilobytes : 2097152))kB"
}

finish() {
    if [[ $keep == yes ]]; then cluster_stop "$BENCH_DIR"; else cluster_remove "$BENCH_DIR"; fi
}

"$REPO/scripts/setup.sh" "${words[@]}"
cluster_folder "$BENCH_DIR"
lock "$BENCH_DIR" "make bench"
"$REPO/scripts/install.sh"
for folder in blobs results; do
    as_root install -d -m 0755 -o "$(id -un)" "$BENCH_DIR/$folder"
done
trap finish EXIT
# Thousands of leaves, with eleven indexes each, are made in one transaction.
cluster_resume "$BENCH_DIR" shared_buffers="${SHARED_BUFFERS:-$(buffers)}" max_locks_per_transaction=2048
"$PYTHON" "$REPO/benches/bench.py" --cluster "$BENCH_DIR" --bindir "$(bindir)" "$@"
