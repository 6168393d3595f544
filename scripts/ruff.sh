#!/usr/bin/env bash
# ruff, the linter of our Python (ruff.toml): prints the path of the program. Debian has no package of it.
#
# It is fetched once, with pip, and kept in target/. Fails, having said why, where that can't be done: without pip, or
# without PyPI. scripts/setup.sh test fetches it, for those who run the tests without a network.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

version=0.17.5
folder=$(target_directory)/ruff-$version
if [[ ! -e $folder ]]; then
    "$PYTHON" -m pip --version >/dev/null 2>&1 || die "$PYTHON has no pip to fetch ruff with"
    as_builder rm -rf -- "$folder.new"
    quietly as_builder "$PYTHON" -m pip --quiet --disable-pip-version-check --no-cache-dir install --no-deps \
        --retries 1 --timeout 10 --only-binary :all: --target "$folder.new" "ruff==$version" ||
        die "PyPI could not be reached for ruff $version"
    as_builder mv -- "$folder.new" "$folder"
fi
say "$folder/bin/ruff"
