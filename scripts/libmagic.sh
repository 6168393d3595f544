#!/usr/bin/env bash
# libmagic 5.41 with its database, for tests beside the machine's own: prints the folder that has both. That is the
# oldest that the prefilter knows, and what Ubuntu 22.04 has; a package of PyPI's carries it as built.
#
# It is fetched once, with pip, and kept in target/. Fails, having said why, where that can't be done: without pip, without
# PyPI, or on another processor than x86-64.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

folder=$(target_directory)/libmagic-5.41
if [[ ! -e $folder/magic.mgc ]]; then
    [[ $(uname -m) == x86_64 ]] || die "there is no libmagic 5.41 for $(uname -m) in PyPI"
    "$PYTHON" -m pip --version >/dev/null 2>&1 || die "$PYTHON has no pip to fetch libmagic 5.41 with"
    as_builder mkdir -p "$folder"
    quietly as_builder "$PYTHON" -m pip --quiet --disable-pip-version-check download --no-deps --retries 1 \
        --timeout 10 --only-binary :all: --dest "$folder" pylibmagic==0.5.0 ||
        die "PyPI could not be reached for libmagic 5.41"
    # The database last: it says that all is there.
    as_builder "$PYTHON" - "$folder" <<'PY'
import glob, os, shutil, sys, zipfile
[wheel] = glob.glob(os.path.join(sys.argv[1], "pylibmagic-*.whl"))
with zipfile.ZipFile(wheel) as packed:
    for name, to in [("libmagic.so.1", "libmagic.so.1"), ("magic.mgc", "magic.new")]:
        with packed.open(f"pylibmagic/{name}") as content, open(os.path.join(sys.argv[1], to), "wb") as file:
            shutil.copyfileobj(content, file)
os.rename(os.path.join(sys.argv[1], "magic.new"), os.path.join(sys.argv[1], "magic.mgc"))
os.remove(wheel)
PY
fi
say "$folder"
