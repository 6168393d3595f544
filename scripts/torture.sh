#!/usr/bin/env bash
# Faults of every kind at random moments of runs, loaders beside runs, and memory over ten thousand batches.
#
#   make torture           or: scripts/torture.sh [OPTION]...
#
# TORTURE="--seconds 7200 --write" passes options, of which tests/torture/src/main.rs has the list. Installs the
# extension first, but not with --short, the part of "make test", which has just installed it. Runs as root, since some
# faults need filesystems of their own; these are seen by nobody else, and go with the process.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [[ " $* " != *" --short "* ]]; then "$REPO/scripts/install.sh"; fi
cargo_do build --quiet -p ntt_mime_torture
as_root env PG="$PG" PG_CONFIG="$PG_CONFIG" "$(target_directory)/debug/ntt_mime_torture" "$@"
