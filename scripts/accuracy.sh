#!/usr/bin/env bash
# The detector beside file(1), on 30,000 files of hundreds of types: how many answers agree, by class, which
# don't and why, and what was read. Fails if the project's goals are missed.
#
#   make accuracy          or: scripts/accuracy.sh [OPTION]...
#   make accuracy-matrix   or: scripts/accuracy.sh --matrix [OPTION]...; the same beside the libmagic of each release of
#                          Debian (scripts/matrix.sh), on the same corpus
#
# ACCURACY="--rules --report FILE" passes options, of which tests/accuracy/src/main.rs has the list. The corpus is
# made in the first run and kept (tests/accuracy/corpus/make.sh): ten minutes, a gigabyte to download, six of disk.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

"$REPO/scripts/setup.sh" build
"$REPO/tests/accuracy/corpus/make.sh" full
if [[ ${1:-} == --matrix ]]; then
    shift
    exec "$REPO/scripts/matrix.sh" --read-only "$CORPUS_DIR:/srv/corpus" --env NTT_CORPUS_DIR=/srv/corpus \
        scripts/accuracy.sh "$@"
fi
cargo_do run --release --quiet -p ntt_mime_accuracy -- --goals "$@" "$CORPUS_DIR/files"
