# shellcheck shell=bash
# What the scripts share: which PostgreSQL, which Rust, and who runs what.
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

# The major version of PostgreSQL to build for.
PG=${PG:-15}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG/bin/pg_config}

# Debian's own Python and file(1): a pyenv or conda in front of them in PATH has neither the
# packages that we install nor the libmagic that the server uses.
PYTHON=${PYTHON:-/usr/bin/python3}
FILE=${FILE:-/usr/bin/file}

# Where the clusters of the demo, the benchmark and the tests live, and the store that the first
# two share.  Not in the repository: the postgres account must be able to enter them.
# shellcheck disable=SC2034  # used by those who source this
{
    DEMO_DIR=${NTT_DEMO_DIR:-/var/tmp/ntt_mime_demo}
    BENCH_DIR=${NTT_BENCH_DIR:-/var/tmp/ntt_mime_bench}
    TEST_DIR=${NTT_TEST_DIR:-/var/tmp/ntt_mime_test}
    STORE_DIR=${NTT_STORE_DIR:-$DEMO_DIR/store}
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

# lock DIRECTORY WHAT: let one run at a time use the directory; held until the script exits.
# The lock is on the directory itself, so that no account needs to write into it.  Whatever we
# start that outlives us must not inherit descriptor 9.
lock() {
    exec 9<"$1"
    flock --nonblock 9 || die "another \"$2\" is using $1"
}

find_builder
