#!/usr/bin/env bash
# Makes the archive that PGXN takes: the last commit, without what .gitattributes leaves out.
#
#   make dist          or: scripts/dist.sh

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

git_do() { as_builder git -c safe.directory="$REPO" "$@"; }

# The commit's version, which is in its META.json, too; not that of what has been changed since.
version=$(git_do show HEAD:Cargo.toml | our_version /dev/stdin)
archive=target/ntt_mime-$version.zip
as_builder mkdir -p target
git_do archive --format=zip --prefix="ntt_mime-$version/" -o "$archive" HEAD
say "made $archive of commit $(git_do log -1 --format=%h)"
