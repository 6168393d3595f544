#!/usr/bin/env bash
# Builds the extension in release mode and puts it into PostgreSQL's directories.
#
#   scripts/install.sh [--build-only]
#
# Not by "cargo pgrx install": that writes over the library in place, which crashes every server
# process that has it loaded.  Here the new file is renamed into place, and the processes keep the
# old one until they end.  Besides, no compiler has to run as root.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

mapfile -t features < <(pg_features)
out=$REPO/target/package/pg$PG

# Paths of this machine in the library would make each one different, and are nobody's business.
export RUSTFLAGS="--remap-path-prefix=$REPO=/usr/src/ntt_mime \
--remap-path-prefix=${CARGO_HOME:-$BUILDER_HOME/.cargo}=/usr/src/cargo"
export CFLAGS="-ffile-prefix-map=$REPO=/usr/src/ntt_mime"

say "building ntt_mime for PostgreSQL $PG (some minutes the first time)"
SECONDS=0
# A file that an earlier build left must not be installed again.
as_builder rm -rf -- "$out" || die "could not remove \"$out\"" \
    "Another account has built here. As root, give it to $(as_builder id -un) with chown, or delete \"$REPO/target\"."
quietly cargo_do pgrx package --pg-config "$PG_CONFIG" --out-dir "$out" "${features[@]}" ||
    die "could not build ntt_mime"
say "built in $SECONDS s"
[[ ${1:-} == --build-only ]] && exit

# The folder mirrors the root of the file system.
changed=0
while read -r -d '' file; do
    cmp -s "$out/$file" "/$file" && continue
    as_root install -D -m 0644 -T -- "$out/$file" "/$file.new"
    as_root mv -f -T -- "/$file.new" "/$file"
    say "installed /$file"
    changed=1
done < <(cd "$out" && find . -type f -printf '%P\0' | sort -z)
[[ $changed -eq 1 ]] || say "installed already"
