#!/usr/bin/env bash
# The test suite, or another command of the repository, beside each release of PostgreSQL and of
# libmagic that Debian has: in folders (scripts/debian.sh) that nothing of the machine's own is in
# but this repository as it stands, uncommitted work included, and the Rust toolchain.
#
#   scripts/matrix.sh [--show] [--bind DIRECTORY[:PLACE]] [--read-only DIRECTORY[:PLACE]]
#                     [--env NAME=VALUE]... [COMMAND...]
#
# Without a command, the whole suite (scripts/test.sh). MATRIX="trixie forky" chooses releases. The
# command runs as root in a copy of the repository, with PG set and what scripts/setup.sh installs at
# hand, but without a network. What it says goes to a log; --show shows it, too. The other options are
# debian.sh's.
#
# A folder keeps its packages and its target/ for the next run, which is much quicker.

# shellcheck source=scripts/debian.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/debian.sh"

MATRIX=${MATRIX:-${RELEASES[*]}}

# Where the toolchain is for those inside a folder.
TOOLCHAIN=/opt/rust

# What cargo downloads, for all folders; no folder of debian.sh can have this name.
CARGO=$DEBIAN_DIR/.cargo

# What the builder's cargo has downloaded, and cargo-pgrx, where folders can use them.
prepare_cargo() {
    local home=${CARGO_HOME:-$BUILDER_HOME/.cargo} pgrx
    say "fetching crates"
    cargo_do fetch --locked --quiet
    cargo_do fetch --locked --quiet --manifest-path crates/ntt_mime_core/fuzz/Cargo.toml
    pgrx=$(command -v cargo-pgrx) || die "cargo-pgrx is not installed" "Run scripts/setup.sh: it installs it."
    as_root install -d "$CARGO/bin" "$CARGO/registry"
    as_root cp -R --update --no-preserve=ownership "$home/registry/cache" "$home/registry/index" \
        "$CARGO/registry"
    as_root install "$pgrx" "$CARGO/bin"
}

# copy_source FOLDER: the repository without what git ignores. What is gone here goes there. All files are as new as
# the copy: cargo goes by that, and one that was changed while a folder was building would be older than its build.
copy_source() {
    local new=$1$SOURCE.new old=$1$SOURCE
    as_root rm -rf --one-file-system -- "$new"
    as_root install -d "$new"
    # git lists a file that has been deleted until that is committed.
    (cd "$REPO" && git -c safe.directory="$REPO" ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            if [[ -e $file || -L $file ]]; then printf '%s\0' "$file"; fi
        done |
        tar --create --null --files-from=- |
        as_root tar --extract --touch --no-same-owner --directory "$new")
    if [[ -d $old/target ]]; then as_root mv -- "$old/target" "$new/target"; fi
    as_root rm -rf --one-file-system -- "$old"
    as_root mv -- "$new" "$old"
}

# inside RELEASE [OPTION]... COMMAND...: in the folder, with toolchain and environment.
inside() {
    local release=$1
    shift
    debian_run "$release" --read-only "$SYSROOT:$TOOLCHAIN" --bind "$CARGO:/root/.cargo" \
        --env "PATH=$TOOLCHAIN/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        --env CARGO_NET_OFFLINE=true --env PG="${POSTGRES[$release]}" "$@" </dev/null
}

# in_source RELEASE [OPTION]... -- COMMAND...: the same, in the copy of the repository.
in_source() {
    local release=$1
    local -a options=()
    shift
    while [[ $1 != -- ]]; do options+=("$1") && shift; done
    shift
    # shellcheck disable=SC2016  # expanded by the shell that it is for
    inside "$release" "${options[@]}" bash -c 'cd "$1" && shift && exec "$@"' bash "$SOURCE" "$@"
}

# What is installed, as the programs say.
versions() {
    # shellcheck disable=SC2016  # expanded by the shell that it is for
    inside "$1" bash -c '
        postgres=$("/usr/lib/postgresql/$PG/bin/postgres" --version) magic=$(file --version | head -n 1)
        postgres=${postgres#*) } magic=${magic#file-}
        echo "PostgreSQL ${postgres%% *}, libmagic $magic"'
}

# write_log FILE: what is read goes to the file, and is shown if that was asked for.
write_log() {
    if [[ $show == yes ]]; then as_root tee "$1"; else as_root tee "$1" >/dev/null; fi
}

# run_release RELEASE: all that is done for it; what it says is the log.
run_release() {
    need_room "$DEBIAN_DIR" 6
    debian_make "$1" "$1"
    copy_source "$DEBIAN_DIR/$1"
    in_source "$1" -- scripts/setup.sh build test bench deb
    # The files of the corpus come from there.
    if [[ ${command[*]} == scripts/test.sh || ${command[*]} == "scripts/test.sh "*corpus* ]]; then
        in_source "$1" -- scripts/test.sh corpus
    fi
    in_source "$1" "${options[@]}" --no-network -- "${command[@]}"
}

options=() show=no
while [[ ${1:-} == --* ]]; do
    case $1 in
        --show)
            show=yes
            shift
            continue
            ;;
        --bind | --read-only | --env) ;;
        *) die "unrecognized option \"$1\"" "Known are: --show, --bind, --read-only, --env." ;;
    esac
    [[ $# -ge 2 ]] || die "option \"$1\" requires a value"
    options+=("$1" "$2")
    shift 2
done
command=("${@:-scripts/test.sh}")
read -ra releases <<<"$MATRIX"
for release in "${releases[@]}"; do known_release "$release"; done

as_root install -d -m 0755 "$DEBIAN_DIR"
lock "$DEBIAN_DIR" "scripts/matrix.sh"
SYSROOT=$(as_builder rustc --print sysroot) ||
    die "no Rust toolchain found" "Run scripts/setup.sh: it tells what to do."
prepare_cargo

passed=0 failed=0
for release in "${releases[@]}"; do
    log=$DEBIAN_DIR/$release.log
    printf '\n== %s: %s\n   log in %s\n' "$release" "${command[*]}" "$log"
    SECONDS=0
    # Not "if ( … )", which would switch off errexit within it.
    set +e
    (set -e && run_release "$release") 2>&1 | write_log "$log"
    status=${PIPESTATUS[0]}
    set -e
    took=$SECONDS
    what=$(versions "$release" 2>/dev/null) || what="nothing installed"
    if [[ $status -eq 0 ]]; then
        result=passed
        passed=$((passed + 1))
    else
        result=FAILED
        failed=$((failed + 1))
        [[ $show == yes ]] || as_root tail -n 60 "$log"
    fi
    printf -- '-- %s %s: %s, %d s\n' "$release" "$result" "$what" "$took"
done
printf '\nmatrix: %d passed, %d failed\n' "$passed" "$failed"
[[ $failed -eq 0 ]]
