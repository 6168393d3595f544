#!/usr/bin/env bash
# Makes the corpus of the accuracy test: many files of many types, on which the detector is compared with file(1).
#
#   tests/accuracy/corpus/make.sh [short|full]
#
#   short   some thousand files in less than a minute: a few small Debian packages, what Python can write by itself,
#           and a sample of the machine's own files
#   full    more than 20,000 files of more than 150 types, all made in a Debian 12 in a folder (scripts/debian.sh),
#           so that the corpus doesn't depend on the machine and nothing is installed on it; about 10 minutes
#
# The corpus is left in $NTT_CORPUS_DIR, complete or not at all: files/<class>/<origin>/<name>, each content once.
# A second run finds it by its stamp, which stands for the level and for the makers' own texts.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../../scripts/common.sh"

LEVEL=${1:-short}
[[ $LEVEL == short || $LEVEL == full ]] || die "usage: make.sh [short|full]"

# shellcheck source=tests/accuracy/corpus/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

stamp=$LEVEL-$(cat "$HERE"/*.sh "$HERE"/*.py "$HERE/packages.txt" "$REPO/tests/integration/src/make_files.py" |
    sha256sum | cut -c1-16)
if [[ $(cat "$CORPUS_DIR/.stamp" 2>/dev/null) == "$stamp" ]]; then
    say "the corpus ($LEVEL) is in $CORPUS_DIR: $(cat "$CORPUS_DIR/.summary")"
    exit
fi

new=$CORPUS_DIR.new
say "making the corpus ($LEVEL) in $CORPUS_DIR"
as_root rm -rf --one-file-system -- "$new" "$CORPUS_DIR.work"
as_root install -d -m 0755 "$new"
NOT_MADE=$(mktemp)
export NOT_MADE
trap 'rm -f -- "$NOT_MADE"' EXIT

# From packages that need not be installed, and from the machine.
make_short() {
    local work=$new/.work store
    store=$new/.work/store
    mkdir -p "$work/unpacked" "$work/edge" "$store"
    # A new machine, or a container's image, may have no lists of packages yet.
    if [[ $(apt-cache pkgnames | wc -l) -lt 10000 ]]; then
        stage "lists of packages fetched" as_root apt-get -qq update
    fi
    stage "packages unpacked" fetch_packages "$store" "$work/unpacked" short
    stage "texts and data made" "$PYTHON" "$HERE/texts.py" "$work/edge" short
    stage "simple files made" make_simple "$work/edge"
    stage "zip-based files made" "$PYTHON" "$HERE/zips.py" "$work/edge/archives/zip-order" short
    stage "files of old disks made" "$PYTHON" "$HERE/old_disks.py" "$work/old-disks"
    local name limit
    {
        while read -r name limit; do
            echo "move ${name//'*'/} $limit $work/unpacked/${name//'*'/}"
        done < <(packages short)
        echo "edge - 0 $work/edge"
        echo "class old-disks 0 $work/old-disks"
        echo "even machine 1500 /usr"
        echo "copy machine 1500 /usr"
        echo "copy machine-etc 200 /etc"
    } >"$work/sources"
    stage "files chosen" "$PYTHON" "$HERE/collect.py" "$new" "$work/sources" --file "$FILE" \
        --cap 5500 --type-cap 150 --at-least 4500 --largest 2000000
    stage "damaged files made" "$PYTHON" "$HERE/damaged.py" "$new/files" 300
}

if [[ $LEVEL == short ]]; then
    if [[ $EUID -ne 0 ]]; then
        as_root chown "$(id -u):$(id -g)" "$new"
    fi
    make_short
else
    "$REPO/scripts/debian.sh" make corpus bookworm
    as_root touch "$new/.not_made"
    "$REPO/scripts/debian.sh" run corpus --bind "$new:/srv/corpus" --read-only "$REPO/tests:/srv/tests" \
        bash /srv/tests/accuracy/corpus/in_folder.sh /srv/corpus /srv/corpus/.not_made
    cat "$new/.not_made" >>"$NOT_MADE"
    as_root rm -f "$new/.not_made"
fi

# What was not chosen: hundreds of thousands of files, which take a while to go.
as_root mv -- "$new/.work" "$CORPUS_DIR.work"
as_root rm -rf --one-file-system -- "$CORPUS_DIR.work" &
cleaning=$!

say "by class:"
(cd "$new/files" && find . -type f -printf '%P\n' | cut -d/ -f1 | sort | uniq -c | sort -rn) | sed 's/^/  /'
summary=$(find "$new/files" -type f -printf '%s\n' | awk '
    {n++; bytes += $1; if ($1 > 16384) a++; if ($1 > 65536) b++}
    END {printf "%d files, %d MB, %d of them > 16 kB, %d > 64 kB", n, bytes / 1e6, a, b}')

# The machine's own file(1) counts the types: it is the one that the detector is compared with. That it fails on a file
# (and then says so at its end) is no failure here.
count_types() {
    local scratch half
    scratch=$(mktemp -d)
    (cd "$new" && find files -type f) | sort >"$scratch/list"
    split -n l/2 "$scratch/list" "$scratch/half."
    local -a asked=()
    for half in "$scratch"/half.*; do
        {
            cd "$new"
            "$FILE" --mime-type --brief --files-from "$half" >"$half.types" || true
        } &
        asked+=($!)
    done
    wait "${asked[@]}"
    sort "$scratch"/half.*.types | uniq -c | sort -rn | as_root tee "$new/.types" >/dev/null
    rm -rf -- "$scratch"
}
stage "types counted" count_types
types=$(wc -l <"$new/.types")
summary="$summary, $types types"
if [[ -s $NOT_MADE ]]; then
    say "not made:"
    sort -u "$NOT_MADE" | sed 's/^/  /'
fi
printf '%s\n' "$summary" | as_root tee "$new/.summary" >/dev/null
printf '%s\n' "$stamp" | as_root tee "$new/.stamp" >/dev/null
as_root rm -rf --one-file-system -- "$CORPUS_DIR"
as_root mv -- "$new" "$CORPUS_DIR"
wait "$cleaning"
say "$CORPUS_DIR: $summary"
