#!/usr/bin/env bash
# Debian's package, tried as a user would: in a Debian that has nothing but its own packages, in a folder
# (scripts/debian.sh). Makes an archive; takes README's steps, word for word, from installing the package to a
# scheduled backfill; compares with file(1); upgrades the extension from each older version, and the package while
# the server runs; removes it.
#
#   scripts/test-deb.sh [RELEASE]
#
# For bookworm, the default, the package is built here. For trixie and forky it is the one that
# "MATRIX=RELEASE scripts/matrix.sh scripts/deb.sh" has left in the release's own folder.

# shellcheck source=scripts/debian.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/debian.sh"

release=${1:-bookworm}
known_release "$release"
folder=package_$release
version=${POSTGRES[$release]}
if [[ $release == bookworm ]]; then
    PG=$version "$REPO/scripts/deb.sh"
    built=$REPO/target/deb
else
    built=$DEBIAN_DIR/$release$SOURCE/target/deb
fi
# Packages of earlier versions may lie there, too.
package=$built/postgresql-$version-ntt-mime_$(package_version)_$(dpkg --print-architecture).deb
[[ -e $package ]] ||
    die "there is no package \"$package\"" "Build it: MATRIX=$release scripts/matrix.sh scripts/deb.sh"

# Each time from nothing: what an earlier run left would be there already.
debian_remove "$folder"
debian_make "$folder" "$release"
as_root install -d "$DEBIAN_DIR/$folder/srv/test"
as_root install -m 0644 -t "$DEBIAN_DIR/$folder/srv/test" "$package"
# README has the steps for bookworm's version.
"$PYTHON" -B "$REPO/tests/docs/run.py" --steps "$REPO/README.md" Install "Schedule runs" |
    sed -E "s#(postgresql[-/])15#\1$version#g; s/\\b15 main/$version main/" |
    as_root tee "$DEBIAN_DIR/$folder/srv/test/steps.sh" >/dev/null
find_earlier_scripts
as_root cp "${earlier[@]}" "$DEBIAN_DIR/$folder/srv/test"
as_root install "$REPO/tests/package/inside.sh" "$DEBIAN_DIR/$folder/srv/test"
debian_run "$folder" /srv/test/inside.sh "$version"
debian_remove "$folder"
