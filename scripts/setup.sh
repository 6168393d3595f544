#!/usr/bin/env bash
# Installs what building, demo, tests and benchmark need on Debian 12 or later: system packages,
# cargo-pgrx, and pgrx's note of where PostgreSQL is.  Run again, it finds that all is there and
# says nothing.
#
#   scripts/setup.sh [build] [test] [bench] [charts] [deb]
#
# The words choose which packages; "build" is always included.  PG=17 chooses the version of
# PostgreSQL.  The Rust toolchain itself is not ours to install: which one, and how, is for the
# owner of the machine to decide, so a missing or old one is an error that says what to do.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

packages() {
    # bindgen reads PostgreSQL's headers through libclang; 14 is bookworm's, elsewhere the
    # distribution's default one serves.
    local clang=(libclang-dev clang)
    if grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
        clang=(libclang-14-dev clang-14)
    fi
    # libc6-dev is only recommended by gcc, and we install without what is recommended.
    printf '%s\n' ca-certificates file gcc libc6-dev libmagic-dev make pkg-config python3 sudo \
        "postgresql-$PG" "postgresql-server-dev-$PG" "${clang[@]}"
    local word
    for word in "$@"; do
        case $word in
            build) ;;
            test) printf '%s\n' "postgresql-$PG-cron" shellcheck ;;
            bench) printf '%s\n' python3-magic python3-psycopg2 ;;
            charts) printf '%s\n' python3-matplotlib ;; # large, and only for pictures in docs/
            deb) printf '%s\n' debhelper dpkg-dev fakeroot ;;
            *) die "unknown word \"$word\"" "Known are: build, test, bench, charts, deb." ;;
        esac
    done
}

# quietly COMMAND...: shows what it says only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" </dev/null >"$log" 2>&1 || status=$?
    if [[ $status -ne 0 ]]; then cat "$log" >&2; fi
    rm -f -- "$log"
    return "$status"
}

# Prints those of the packages given that are not installed.
missing_packages() {
    local installed
    installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p') || true
    printf '%s\n' "$@" | grep -vxF -- "$installed" || true
}

install_packages() {
    local -a wanted missing
    mapfile -t wanted < <(packages "$@")
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    [[ ${#missing[@]} -eq 0 ]] && return

    local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0)
    say "installing packages: ${missing[*]}"
    quietly as_root "${apt[@]}" update || die "the lists of packages could not be read"

    local package
    for package in "${missing[@]}"; do
        apt-cache show --no-all-versions "$package" >/dev/null 2>&1 ||
            die "package $package is not in this machine's package sources" \
                "For a PostgreSQL that the distribution does not have (PG=$PG), add the" \
                "PostgreSQL project's own apt repository, or choose another with PG=15."
    done

    # The first installation of a server makes and starts a cluster "main" on port 5432.  Nobody
    # asked for that, so it is switched off while we install, unless PostgreSQL is here already.
    local dropin=
    if ! dpkg-query --show postgresql-common >/dev/null 2>&1; then
        dropin=/etc/postgresql-common/createcluster.d/ntt_mime.conf
        as_root mkdir -p "${dropin%/*}"
        as_root tee "$dropin" >/dev/null <<<"create_main_cluster = false"
    fi
    local status=0
    quietly as_root "${apt[@]}" install --no-install-recommends -y "${missing[@]}" || status=$?
    if [[ -n $dropin ]]; then as_root rm -f "$dropin"; fi
    [[ $status -eq 0 ]] || die "packages could not be installed" "apt-get ended with status $status."
}

check_rust() {
    local want have
    want=$(rust_version)
    local -a how=("Install Rust $want or later with rustup, then run this again:"
        "the Rust project's site, under \"Install\", has the command.")
    command -v cargo >/dev/null ||
        die "no Rust toolchain found in PATH, CARGO_HOME or $BUILDER_HOME/.cargo" "${how[@]}"
    have=$(cargo_do --version | cut -d' ' -f2)
    if [[ $(printf '%s\n' "$want" "$have" | sort -V | head -n 1) != "$want" ]]; then
        if command -v rustup >/dev/null; then
            how=("Run \"rustup update stable\" and \"rustup default stable\", then this again.")
        fi
        die "Rust $want or later is needed, but $(command -v cargo) is $have" "${how[@]}"
    fi
}

install_cargo_pgrx() {
    local want have
    want=$(pgrx_version)
    have=$(cargo_do pgrx --version 2>/dev/null | cut -d' ' -f2) || have=
    [[ $have == "$want" ]] && return
    say "installing cargo-pgrx $want (some minutes)"
    quietly cargo_do install cargo-pgrx --version "$want" --locked --quiet ||
        die "cargo-pgrx $want could not be installed"
}

init_pgrx() {
    [[ -x $PG_CONFIG ]] || die "no pg_config at $PG_CONFIG" "Set PG_CONFIG to where it is."
    local config=${PGRX_HOME:-$BUILDER_HOME/.pgrx}/config.toml
    grep -qsxF "pg$PG = \"$PG_CONFIG\"" "$config" && return
    say "telling pgrx about $PG_CONFIG"
    # It adds to what the file has.  Its own cluster is not wanted, ours are made by cluster.sh.
    quietly cargo_do pgrx init "--pg$PG" "$PG_CONFIG" --no-run || die "pgrx could not be told"
}

command -v apt-get >/dev/null ||
    die "this script knows Debian and its derivatives only" \
        "Elsewhere, install what its function packages() lists by hand."
install_packages "$@"
check_rust
install_cargo_pgrx
init_pgrx
