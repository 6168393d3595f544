#!/usr/bin/env bash
# Makes the store that demo and benchmark share, or finds it made: at least 50,000 blobs out of
# real files of this machine (see make_store.py, which does the work).
#
#   demo/store.sh
#
# Environment: NTT_STORE_DIR (default: store in the demo's folder), BLOBS (default 50000),
# MEGABYTES (its size at most, default 2000).
#
# The store is root's and readable by all, as the archive's is; some of its blobs are unreadable to
# everybody else on purpose, which only root can make.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/cluster.sh"

if [[ ! -d $STORE_DIR ]]; then
    if [[ ${STORE_DIR%/*} == "$DEMO_DIR" ]]; then cluster_folder "$DEMO_DIR"; fi
    as_root install -d -m 0755 "$STORE_DIR"
fi
as_postgres test -x "$STORE_DIR" || die "the account postgres cannot enter \"$STORE_DIR\"" \
    "Open the folders above it to others (chmod o+x), or choose another with NTT_STORE_DIR."
lock "$STORE_DIR" "demo/store.sh"

# The sources of published crates and the Rust toolchain, with its manual, are public, though they
# lie in a home directory.
as_root "$PYTHON" "$REPO/demo/make_store.py" "$STORE_DIR" \
    --blobs "${BLOBS:-50000}" --total "${MEGABYTES:-2000}" \
    --also "${CARGO_HOME:-$BUILDER_HOME/.cargo}/registry/src" \
    --also "${RUSTUP_HOME:-$BUILDER_HOME/.rustup}/toolchains"
