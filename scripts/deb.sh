#!/usr/bin/env bash
# Builds Debian's package of the extension for one version of PostgreSQL: PG=17 chooses, default 15.
#
#   scripts/deb.sh
#
# The package lies in target/deb afterwards, and beside it one with line numbers for crash reports.
# The recipe is in debian/. What differs from Debian's way: the Rust toolchain is the builder's own,
# and crates come from where cargo gets them.
#
# Built twice from the same commit with the same compiler, a package has the same bytes, wherever
# the repository lies: scripts/install.sh keeps paths out, and times are those of debian/changelog.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# The package that the server is from, with a comma. One that has been built by hand is from none, and a package of another
# would only bring a second one.
server_package() {
    local server
    server=$(realpath -- "$("$PG_CONFIG" --bindir)/postgres" 2>/dev/null) || return 0
    dpkg-query --search "$server" 2>/dev/null | sed -n 's/^\([^:, ]*\)\(:[a-z0-9]*\)\{0,1\}: .*/\1, /p' | head -n 1
}

"$REPO/scripts/setup.sh" build deb

version=$(package_version) upstream=$(our_version "$REPO/Cargo.toml")
[[ ${version%-*} == "$upstream" ]] || die "debian/changelog is of version $version, Cargo.toml of $upstream" \
    "Put the version that is to be built into both; docs/contributing.md has the other places."

say "building packages of ntt_mime $version for PostgreSQL $PG"
"$REPO/scripts/install.sh" --build-only
# debhelper writes into debian/, so it gets one of its own.
work=$REPO/target/deb/work
as_builder rm -rf -- "$work"
as_builder mkdir -p "$work"
for name in debian CHANGELOG.md README.md docs; do as_builder cp -R "$REPO/$name" "$work/$name"; done
as_builder "$PYTHON" "$REPO/scripts/notices.py" "pg$PG" | as_builder tee "$work/NOTICES" >/dev/null
as_builder sed -i "/^#/d; s/@PG@/$PG/g; s/@SERVER@/$(server_package)/" "$work/debian/control.in"
as_builder mv "$work/debian/control.in" "$work/debian/control"
quietly as_builder env -C "$work" PG="$PG" NTT_BUILT="$REPO/target/package/pg$PG" \
    SOURCE_DATE_EPOCH="$(dpkg-parsechangelog --file "$REPO/debian/changelog" --show-field Timestamp)" \
    fakeroot debian/rules binary || die "could not build the package"
as_builder rm -rf -- "$work"
for package in "$REPO/target/deb/"*"-$PG-"*"_${version}_"*.deb; do say "built ${package#"$REPO/"}"; done
