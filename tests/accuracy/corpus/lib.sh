# shellcheck shell=bash
# What the makers of the corpus share. Read with "source"; needs nothing but coreutils, so that it works in a
# Debian folder as on a machine.

set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
NOT_MADE=${NOT_MADE:-/dev/stderr}

# not_made WHAT: for the list at the end.
not_made() { printf '%s\n' "$1" >>"$NOT_MADE"; }

# stage WHAT COMMAND...: run it, and say how long it took. That it failed goes to the list: the corpus is made
# of what there is.
stage() {
    local what=$1 start=$SECONDS
    shift
    if ! (set -e; "$@"); then not_made "$what: failed"; fi
    printf '  %4d s  %s\n' $((SECONDS - start)) "$what"
}

# attempt FILE COMMAND...: FILE is what the command should make. It is gone if the command failed, and the list
# says so.
attempt() {
    local file=$1
    shift
    mkdir -p "$(dirname -- "$file")"
    if ! timeout 120 "$@" >/tmp/attempt.$$.log 2>&1 </dev/null || [[ ! -s $file ]]; then
        rm -rf -- "$file"
        not_made "${file##*/} ($(basename -- "$1"))"
    fi
    rm -f /tmp/attempt.$$.log
}

# packages HOW: name and limit of these packages, one a line.
packages() { awk -v how="$1" '$1 == how {print $2, $3}' "$HERE/packages.txt"; }

# fetch_packages STORE TARGET HOW...: download these binary packages into STORE, unpack each into
# TARGET/<name without *>.
fetch_packages() {
    local store=$1 target=$2 how name real
    shift 2
    local known
    known=$(apt-cache pkgnames | sort -V)
    local -a wanted=() found=()
    for how in "$@"; do
        while read -r name _; do
            # Debian's names are plain enough for this to be a pattern.
            real=$(grep -x -- "${name//'*'/.*}" <<<"$known" | tail -n 1) || true
            if [[ -n $real ]]; then
                wanted+=("$real")
                found+=("$real ${name//'*'/}")
            else
                not_made "package $name (not in this release)"
            fi
        done < <(packages "$how")
    done
    local -a apt=(apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    local failures=0
    if ! (cd "$store" && timeout 300 "${apt[@]}" download "${wanted[@]}" >/dev/null 2>&1); then
        for real in "${wanted[@]}"; do
            # One that is gone, or no network at all?
            if [[ $failures -lt 3 ]] &&
                (cd "$store" && timeout 60 "${apt[@]}" download "$real" >/dev/null 2>&1); then
                failures=0
            else
                failures=$((failures + 1))
                not_made "package $real (download)"
            fi
        done
    fi
    printf '%s\n' "${found[@]}" | while read -r real name; do
        local -a files=("$store/$real"_*.deb)
        [[ -e ${files[0]} ]] || continue
        mkdir -p "$target/$name/package"
        dpkg-deb -x "${files[-1]}" "$target/$name" || not_made "package $real (unpacking)"
        # The package itself is a file as well, if it is none of the big ones.
        if [[ $(stat -c %s "${files[-1]}") -lt 4000000 ]]; then
            cp "${files[-1]}" "$target/$name/package/"
        fi
        # Debian compresses documents: what they are is seen when they are not.
        find "$target/$name/usr/share" -type f -name '*.gz' ! -path '*/fonts/*' -size -2000k -print0 2>/dev/null |
            head -z -n 150 | xargs -0 -r gzip -dkqf 2>/dev/null || true
    done
}

# fetch_sources STORE TARGET: the same for source packages, of which only the upstream part is wanted.
fetch_sources() {
    local store=$1 target=$2 name uri file hash got
    while read -r name _; do
        got=
        while read -r uri file _ hash; do
            case $file in
                *.dsc | *.asc | *.debian.tar.* | *-translations.tar.* | *-helpcontent2.tar.* | *-regen-*) continue ;;
            esac
            if [[ ! -e $store/$file ]]; then
                /usr/lib/apt/apt-helper download-file "$uri" "$store/$file" "$hash" >/dev/null 2>&1 || continue
            fi
            mkdir -p "$target/$name/$got"
            local -a only=()
            if [[ $name == libreoffice ]]; then only=(--wildcards '*/qa/*' '*/testdata/*'); fi
            tar --extract --file "$store/$file" --directory "$target/$name/$got" --no-same-owner \
                --no-same-permissions --strip-components 1 "${only[@]}" 2>/dev/null || true
            got=+
        done < <(apt-get source --print-uris --download-only --only-source "$name" 2>/dev/null |
            sed -n "s/^'\([^']*\)' /\1 /p")
        [[ -n $got ]] || not_made "source $name (download)"
    done < <(packages source)
    # libarchive's test files are uuencoded.
    # shellcheck disable=SC2016  # expanded by the shell that it is for
    find "$target/libarchive" -name '*.uu' -exec sh -c 'uudecode -o "${1%.uu}" "$1"' sh {} \; >/dev/null 2>&1 || true
    find "$target" -type d ! -perm -700 -exec chmod u+rwx {} +
}

# make_simple TARGET: what the integration test's maker makes of Python's own modules.
make_simple() {
    local folder
    folder=$(mktemp -d)
    "${PYTHON:-python3}" "$HERE/../../integration/src/make_files.py" "$folder"
    mkdir -p "$1/any"
    mv "$folder" "$1/any/make_files"
}
