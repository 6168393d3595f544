#!/usr/bin/env bash
# Installs what the benchmark needs, starts a cluster for it and hands over to bench.py.
#
#   make bench         or: benches/bench.sh [OPTION]... [PART [OPTION]...]...     see benches/bench.py --help
#
# Environment: NTT_BENCH_DIR (default /var/tmp/ntt_mime_bench), PG (default 15), SHARED_BUFFERS (default: 2GB, or an
# eighth of the memory of a small machine), IMAGE.
#
# IMAGE=40 puts the cluster into a file system of its own, in a file of so many gigabytes (root only). Fresh tables are
# made for each contestant, and where the disk is mounted with "discard", as those of virtual machines often are, the
# deletion of ten thousand files before that takes longer than what is measured; there it takes a moment.
#
# The blobs and the results stay in the folder. The cluster goes at the end, unless "--keep" or "--prepare" is among the options:
# then it is stopped, and the next run finds the tables that it has made, which is most of the time of a short one.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"
export PYTHONDONTWRITEBYTECODE=1
CLUSTER_PATIENCE=600

keep=no
show=no
words=(build bench)
for option in "$@"; do
    case $option in
        --help | -h) exec "$PYTHON" "$REPO/benches/bench.py" "$@" ;;
        --keep | --prepare) keep=yes ;;
        --show) show=yes ;;
        --write) words+=(charts) ;;
    esac
done

mount_image() {
    as_root install -d "$1"
    if mountpoint --quiet "$1"; then return; fi
    if [[ ! -e $BENCH_DIR/image ]]; then
        as_root truncate --size "${IMAGE}G" "$BENCH_DIR/image"
        as_root mkfs.ext4 -q -F -m 0 -N 2000000 -E nodiscard "$BENCH_DIR/image"
    fi
    # Past the page cache: what is in the cluster's own file system is there once already.
    local device
    device=$(as_root losetup --find --show --direct-io=on "$BENCH_DIR/image")
    as_root mount -o nodiscard,noatime,noinit_itable "$device" "$1"
    as_root chown postgres:postgres "$1"
}

finish() {
    if [[ -n ${IMAGE:-} ]]; then
        cluster_unmount "$cluster"
        [[ $keep == yes ]] || as_root rm -f "$BENCH_DIR/image"
    elif [[ $keep == yes ]]; then
        cluster_stop "$cluster"
    else
        cluster_remove "$cluster"
    fi
}

"$REPO/scripts/setup.sh" "${words[@]}"
if [[ $show == yes ]]; then
    exec "$PYTHON" "$REPO/benches/bench.py" --folder "$BENCH_DIR" "$@"
fi
cluster_folder "$BENCH_DIR"
lock "$BENCH_DIR" "make bench"
"$REPO/scripts/install.sh"
for folder in blobs results; do
    as_root install -d -m 0755 -o "$(id -un)" "$BENCH_DIR/$folder"
done
cluster=$BENCH_DIR
if [[ -n ${IMAGE:-} ]]; then
    cluster=$BENCH_DIR/disk
    mount_image "$cluster"
fi
trap finish EXIT
# As much memory as somebody would give a server with tables of some gigabytes; and thousands of leaves, with eleven
# indexes each, are made in one transaction.
cluster_resume "$cluster" shared_buffers="${SHARED_BUFFERS:-$(shared_buffers 2097152)}" max_locks_per_transaction=2048
"$PYTHON" "$REPO/benches/bench.py" --folder "$BENCH_DIR" --cluster "$cluster" --bindir "$(bindir)" "$@"
