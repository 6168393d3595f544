#!/usr/bin/env bash
# Installs what building, demo, tests and benchmark need on Debian 12 or later: system packages,
# cargo-pgrx, and pgrx's note of where PostgreSQL is.  Run again, it finds that all is there and
# says nothing.
#
#   scripts/setup.sh [build] [test] [bench] [charts] [deb]
#
# The words choose which packages; "build" is always included.  PG=17 chooses the version of
# PostgreSQL.  Who sets PG_CONFIG has PostgreSQL already: its packages are left out.  Where there is
# no apt-get, this looks only for what building needs.
#
# The Rust toolchain itself is not ours to install: which one, and how, is for the owner of the
# machine to decide, so a missing or old one is an error that says what to do.

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
    printf '%s\n' ca-certificates file gcc libc6-dev libmagic-dev make pkg-config python3 sudo "${clang[@]}"
    if [[ $PG_CONFIG_GIVEN == no ]]; then printf '%s\n' "postgresql-$PG" "postgresql-server-dev-$PG"; fi
    local word
    for word in "$@"; do
        case $word in
            build) ;;
            test)
                printf '%s\n' shellcheck locales python3-pip
                if [[ $PG_CONFIG_GIVEN == no ]]; then printf '%s\n' "postgresql-$PG-cron"; fi
                neighbours
                ;;
            bench) printf '%s\n' python3-magic python3-psycopg2 ;;
            charts) printf '%s\n' python3-matplotlib ;; # large, and only for pictures in docs/
            deb) printf '%s\n' debhelper dpkg-dev fakeroot ;;
            *) die "unrecognized word \"$word\"" "Known are: build, test, bench, charts, deb." ;;
        esac
    done
}

# What tests run beside ntt_mime. Not each release of Debian has all of them; Debian 12 has.
neighbours() {
    local extension
    [[ $PG_CONFIG_GIVEN == no ]] || return 0
    for extension in partman pg-qualstats pg-stat-kcache pgaudit repack; do
        printf '%s\n' "postgresql-$PG-$extension"
    done
    printf 'pgbouncer\n'
}

# Prints those of the packages given that are not installed.
missing_packages() {
    local installed
    installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p') || true
    printf '%s\n' "$@" | grep -vxF -- "$installed" || true
}

# Prints those of the packages given that this machine's package sources have.
known_packages() {
    local package
    for package in "$@"; do
        if apt-cache show --no-all-versions "$package" >/dev/null 2>&1; then printf '%s\n' "$package"; fi
    done
}

install_packages() {
    local list optional
    local -a wanted missing
    list=$(packages "$@")
    mapfile -t wanted <<<"$list"
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    # What Debian doesn't have isn't looked for each time.
    optional=$(neighbours)
    if ! printf '%s\n' "${missing[@]}" | grep -qvxF -- "$optional"; then
        mapfile -t missing < <(known_packages "${missing[@]}")
    fi
    [[ ${#missing[@]} -eq 0 ]] && return

    say "installing packages: ${missing[*]}"
    apt_update

    local package
    for package in "${missing[@]}"; do
        grep -qxF -- "$package" <<<"$optional" || [[ -n $(known_packages "$package") ]] ||
            die "package $package is not in this machine's package sources" \
                "For a PostgreSQL that the distribution does not have (PG=$PG), add the" \
                "PostgreSQL project's own apt repository, or choose another with PG=15."
    done
    mapfile -t missing < <(known_packages "${missing[@]}")

    # The first installation of a server makes and starts a cluster "main" on port 5432.  Nobody
    # asked for that, so it is switched off while we install, unless PostgreSQL is here already.
    local dropin=
    if [[ $PG_CONFIG_GIVEN == no ]] && ! dpkg-query --show postgresql-common >/dev/null 2>&1; then
        dropin=/etc/postgresql-common/createcluster.d/ntt_mime.conf
        as_root mkdir -p "${dropin%/*}"
        as_root tee "$dropin" >/dev/null <<<"create_main_cluster = false"
    fi
    local status=0
    case " ${missing[*]} " in *" pgbouncer "*) install_pgbouncer || status=$? ;; esac
    [[ $status -ne 0 ]] || apt_get install "${missing[@]}" || status=$?
    if [[ -n $dropin ]]; then as_root rm -f "$dropin"; fi
    [[ $status -eq 0 ]] || die "could not install packages" "apt-get ended with status $status."
}

# The tests start a pgbouncer of their own. That of the package is a service, which nobody asked for.
install_pgbouncer() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [[ -e $policy ]]; then policy=; fi
    if [[ -n $policy ]]; then
        as_root tee "$policy" >/dev/null <<<$'#!/bin/sh\nexit 101'
        as_root chmod 0755 "$policy"
    fi
    apt_get install pgbouncer || status=$?
    if [[ -n $policy ]]; then as_root rm -f "$policy"; fi
    if [[ $status -eq 0 ]] && command -v systemctl >/dev/null; then
        quietly as_root systemctl disable pgbouncer.service || true
    fi
    return "$status"
}

# Without apt-get, installing is the owner's.
check_tools() {
    local tool
    local -a missing=()
    for tool in cargo cc clang pkg-config; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if ! pkg-config --exists libmagic 2>/dev/null; then missing+=("libmagic for pkg-config"); fi
    if [[ ! -x $PG_CONFIG ]]; then missing+=("$PG_CONFIG"); fi
    [[ ${#missing[@]} -eq 0 ]] || die "not found: $(printf '%s, ' "${missing[@]}" | sed 's/, $//')" \
        "There is no apt-get here to install it with: install it in this system's way." \
        "PG_CONFIG tells where PostgreSQL's program pg_config is."
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

init_pgrx() {
    [[ -x $PG_CONFIG ]] || die "no PostgreSQL at \"$PG_CONFIG\"" "Set PG_CONFIG to its program pg_config."
    [[ -e $("$PG_CONFIG" --includedir-server)/postgres.h ]] ||
        die "PostgreSQL's headers are missing in \"$("$PG_CONFIG" --includedir-server)\"" \
            "Install them: often they are a package of their own."
    local config=${PGRX_HOME:-$BUILDER_HOME/.pgrx}/config.toml
    grep -qsxF "pg$PG = \"$PG_CONFIG\"" "$config" && return
    say "registering $PG_CONFIG with cargo-pgrx"
    # It adds to what the file has.  Its own cluster is not wanted, ours are made by cluster.sh.
    quietly cargo_do pgrx init "--pg$PG" "$PG_CONFIG" --no-run || die "could not register $PG_CONFIG with cargo-pgrx"
}

if command -v apt-get >/dev/null; then install_packages "$@"; else check_tools; fi
check_rust
cargo_tool pgrx "$(pgrx_version)"
init_pgrx
# Tests without it are worth more than none.
case " $* " in *" test "*) quietly "$REPO/scripts/ruff.sh" || true ;; esac
