# shellcheck shell=bash
# What the scripts share: which PostgreSQL, which Rust, which versions and folders, and who runs what.
#
# Four accounts can be involved, and mixing them up is how such scripts break:
#   - root           installs packages and puts the extension into PostgreSQL's directories;
#   - postgres       owns and runs the private clusters, since a server refuses to run as root;
#   - the caller     whose psql connects to these clusters;
#   - the builder    whose Rust toolchain compiles.  It is the caller, except under sudo: then it
#                    is the account that called sudo, if its toolchain is in its home directory,
#                    so that "sudo make demo" leaves no root-owned file in target/.
#
# Read by the other scripts with "source"; does nothing by itself but set variables and PATH.

set -euo pipefail

REPO=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Debian's own Python and file(1): a pyenv or conda in front of them in PATH has neither the
# packages that we install nor the libmagic that the server uses.
PYTHON=${PYTHON:-/usr/bin/python3}
FILE=${FILE:-/usr/bin/file}

# Where the clusters of the demo, the benchmark and the tests live, the store that the first two
# share, and the files of the accuracy test and of its short form.  Not in the repository: the
# postgres account must be able to enter them.
# shellcheck disable=SC2034  # used by those who source this
{
    DEMO_DIR=${NTT_DEMO_DIR:-/var/tmp/ntt_mime_demo}
    BENCH_DIR=${NTT_BENCH_DIR:-/var/tmp/ntt_mime_bench}
    TEST_DIR=${NTT_TEST_DIR:-/var/tmp/ntt_mime_test}
    STORE_DIR=${NTT_STORE_DIR:-$DEMO_DIR/store}
    CORPUS_DIR=${NTT_CORPUS_DIR:-/var/tmp/ntt_mime_corpus}
    SHORT_CORPUS_DIR=${NTT_SHORT_CORPUS_DIR:-/var/tmp/ntt_mime_corpus_short}
}

# Nothing here may reach another server because of what the caller's environment says.
unset PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGSERVICE PGOPTIONS PGDATA
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }

die() {
    printf 'error: %s\n' "$1" >&2
    shift
    local line
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# quietly COMMAND...: shows what it says only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    {
        rm -f -- "$log" # now already, so that nothing stays behind, however this ends
        ("$@") </dev/null >&8 2>&1 8>&- || status=$? # a process of its own: it may "die"
        if [[ $status -ne 0 ]]; then cat /dev/fd/8 >&2; fi
    } 8<>"$log"
    return "$status"
}

# as_root COMMAND...: run it as root, by sudo unless we are root already.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "\"$1\" must run as root" "Run this as root, or install sudo."
    fi
}

# as_user ACCOUNT COMMAND...: from /, since the account may not be able to enter where we are.
as_user() {
    local account=$1
    shift
    if [[ $(id -un) == "$account" ]]; then
        (cd / && "$@")
    else
        (cd / && as_root runuser -u "$account" -- "$@")
    fi
}

as_postgres() { as_user postgres "$@"; }

# apt_get ARGUMENT...: with nobody there to be asked; waits for another one that is at work.
apt_get() {
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o APT::Install-Recommends=false \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@"
}

apt_update() { apt_get update || die "could not update the package lists"; }

# Sets PG, the major version of PostgreSQL to build for, and PG_CONFIG, the program that tells where
# it is.  A caller who names that program has chosen the version by it, and has installed it, perhaps
# not from a package: PG_CONFIG_GIVEN says so to setup.sh.  PG is for the tests' programs, too.
# shellcheck disable=SC2034  # used by those who source this
find_postgres() {
    PG_CONFIG_GIVEN=no
    if [[ -n ${PG_CONFIG:-} ]]; then
        local named=$PG_CONFIG version
        PG_CONFIG_GIVEN=yes
        PG_CONFIG=$(command -v -- "$named") ||
            die "no PostgreSQL at \"$named\"" "Set PG_CONFIG to its program pg_config, or choose a version with PG."
        PG_CONFIG=$(realpath -s -- "$PG_CONFIG")
        version=$("$PG_CONFIG" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p') || version=
        [[ -n $version ]] || die "\"$PG_CONFIG\" is not PostgreSQL's pg_config"
        [[ ${PG:-$version} == "$version" ]] ||
            die "PG is $PG, but \"$PG_CONFIG\" is of PostgreSQL $version" "Set one of them only."
        PG=$version
    fi
    export PG=${PG:-15}
    PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG/bin/pg_config}
}

# Sets BUILDER (empty: the account that runs us) and its home directory, and puts its toolchain
# first in PATH: Debian's own cargo, which may come before it, is too old, and sudo's PATH leaves
# home directories out.
find_builder() {
    BUILDER=
    BUILDER_HOME=${HOME:-$(getent passwd "$(id -un)" | cut -d: -f6)}
    if [[ $EUID -eq 0 && -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        local home
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        if [[ -x $home/.cargo/bin/cargo ]] &&
            runuser -u "$SUDO_USER" -- test -w "$REPO"; then
            BUILDER=$SUDO_USER
            BUILDER_HOME=$home
        fi
    fi
    local dir
    for dir in /usr/local/cargo/bin "$BUILDER_HOME/.cargo/bin" "${CARGO_HOME:-/nonexistent}/bin"; do
        if [[ -x $dir/cargo ]]; then PATH=$dir:$PATH; fi
    done
    export PATH
}

# as_builder COMMAND...: in the repository, as the builder, with its toolchain.
as_builder() {
    if [[ -n $BUILDER ]]; then
        (cd "$REPO" && runuser -u "$BUILDER" -- env HOME="$BUILDER_HOME" PATH="$PATH" "$@")
    else
        (cd "$REPO" && "$@")
    fi
}

# cargo_do ARGUMENTS...: cargo, likewise.
cargo_do() { as_builder cargo "$@"; }

# cargo_tool NAME VERSION: sees that the builder has cargo-NAME, of this version.
cargo_tool() {
    local have
    have=$(cargo_do "$1" --version 2>/dev/null | cut -d' ' -f2) || have=
    [[ $have == "$2" ]] && return
    say "installing cargo-$1 $2 (some minutes)"
    quietly cargo_do install "cargo-$1" --version "$2" --locked --quiet || die "could not install cargo-$1 $2"
}

# Where cargo puts what it builds, which need not be target/ in the repository.
target_directory() {
    cargo_do metadata --no-deps --format-version 1 |
        "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

# our_version CARGO_TOML: the extension's.
our_version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$1" | head -n 1; }

# The Debian package's.
package_version() { sed -n '1s/^ntt-mime (\(.*\)).*/\1/p' "$REPO/debian/changelog"; }

# Fills the array `earlier` with the scripts of released versions before this one, whose own script is what the build
# makes.
find_earlier_scripts() {
    local version script
    version=$(our_version "$REPO/Cargo.toml")
    earlier=()
    for script in "$REPO"/tests/released/*.sql; do
        [[ $script == */ntt_mime--"$version".sql ]] || earlier+=("$script")
    done
}

# The version of pgrx that Cargo.toml asks for; cargo-pgrx must be of the same.
pgrx_version() {
    sed -n 's/^pgrx *= *"=\{0,1\}\([0-9.]*\)".*/\1/p' "$REPO/Cargo.toml" | head -n 1
}

# The oldest Rust that Cargo.toml allows.
rust_version() {
    sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$REPO/Cargo.toml" | head -n 1
}

# Prints the cargo options that select the version of PostgreSQL, one a line.
pg_features() {
    printf '%s\n' --no-default-features --features "pg$PG"
}

# need_room DIRECTORY GIGABYTES: a disk that fills up midway fails whatever happens to write just then.
need_room() {
    local folder=$1 free
    until [[ -e $folder ]]; do folder=$(dirname -- "$folder"); done
    free=$(($(stat --file-system --format='%a * %S' -- "$folder") >> 20))
    [[ $free -ge $(($2 * 1024)) ]] || die "no room in \"$1\": $free MB are free, $2 GB are needed"
}

# lock DIRECTORY COMMAND: let one run at a time use the directory; held until the script exits.
# The lock is on the directory itself, so that no account needs to write into it.  Whatever we
# start that outlives us must not inherit descriptor 9.
lock() {
    exec 9<"$1"
    flock --nonblock 9 || die "another \"$2\" is using \"$1\"" "Wait until it has ended."
}

find_postgres
find_builder
