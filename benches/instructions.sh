#!/usr/bin/env bash
# Instructions that a detection takes with the prefilter and without, by class of file, counted by valgrind: the same
# number for the same files and libraries, whatever else the machine is doing.
#
#   benches/instructions.sh [FILE]...
#
# Without files it takes some of its own making and of the machine, and files of the accuracy corpus, if there is one,
# all together: FILES of them (600), by chance, but the same every time.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/common.sh"

command -v valgrind >/dev/null || die "valgrind is missing" "Install Debian's package valgrind."
cargo_do build --quiet --release -p ntt_mime_core --example detect
detect=$(target_directory)/release/examples/detect

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
files=("$@")
if [[ ${#files[@]} -eq 0 ]]; then
    "$PYTHON" - "$folder" <<'PY'
import glob, os, random, shutil, sys, zlib
folder = sys.argv[1]
write = lambda name, content: open(os.path.join(folder, name), "wb").write(content)
write("noise", random.Random(1).randbytes(100_000))
prose = open("/usr/share/common-licenses/GPL-3", "rb").read()
write("prose", prose)
write("latin1", prose.replace(b"the", "thé".encode("latin-1")))
write("newlines", b"\n" * 8192)
write("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + zlib.compress(prose))
write("mail", b"Return-Path: <a@example.org>\nReceived: from example.org\nFrom: a@example.org\nSubject: words\n\n"
      + prose)
write("csv", b"name,place,year\n" + b"".join(b"one,two,%d\n" % n for n in range(3000)))
write("json", b"[" + b",".join(b'{"n": %d}' % n for n in range(900)) + b"]")
for name, pattern in [("python", "/usr/lib/python3*/[a-m]*.py"), ("perl", "/usr/share/perl/*/[A-F]*.pm"),
                      ("c", "/usr/include/[a-z]*.h"), ("shell", "/usr/bin/*grep"), ("elf", "/usr/bin/ls"),
                      ("html", "/usr/share/doc/**/*.html"), ("png", "/usr/share/**/*.png"),
                      ("xml", "/usr/share/**/*.xml"), ("svg", "/usr/share/**/*.svg"),
                      ("jpeg", "/usr/share/**/*.jpg"), ("pdf", "/usr/share/**/*.pdf")]:
    found = [path for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
    found.sort(key=lambda path: abs(os.path.getsize(path) - 20_000))
    for n, path in enumerate(found[:3]):
        shutil.copy(path, os.path.join(folder, f"{name} {n + 1}"))
PY
    files=("$folder"/*)
fi

# Of all of them together, the times that are asked for.
counted() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$detect" "$@" 2>&1 | awk '/Collected/ {print $4}'
}

# A detection once everything is warm: the difference of twelve and two.
of_one() {
    local two twelve
    two=$(counted "$1" 2 "$2")
    twelve=$(counted "$1" 12 "$2")
    echo $(((twelve - two) / 10))
}

row() {
    awk -v name="$1" -v type="$2" -v a="$3" -v b="$4" \
        'BEGIN {printf "| %s | %s | %d | %d | %.3f |\n", name, type, a, b, b / a}'
}

echo "| file | type | instructions without | with | ratio |"
echo "| --- | --- | ---: | ---: | ---: |"
for file in "${files[@]}"; do
    without=$(of_one off "$file")
    with=$(of_one on "$file")
    row "$(basename -- "$file")" "$(file --brief --mime-type -- "$file")" "$without" "$with"
done

# As scripts/accuracy.sh and scripts/test.sh make it.
corpus=$CORPUS_DIR
[[ -d $corpus ]] || corpus=$SHORT_CORPUS_DIR
if [[ $# -eq 0 && -d $corpus ]]; then
    mapfile -t files < <(find "$corpus/files" -type f -size -16M | sort |
        shuf -n "${FILES:-600}" --random-source=<(yes))
    # Twice and once: what is made at the start doesn't count.
    of_all() { echo $(($(counted "$1" 2 "${files[@]}") - $(counted "$1" 1 "${files[@]}"))); }
    row "${#files[@]} files of the accuracy corpus" "a mixture" "$(of_all off)" "$(of_all on)"
fi
