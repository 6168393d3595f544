#!/usr/bin/env python3
"""Makes a store of any number of blobs: heads of real files of this machine, each with a tail of its
own.

    make_blobs.py STORE [--blobs N] [--types PATTERN] [--largest KB] [--jobs N]

Real heads, because a detector's cost and its answers depend on what it is shown; cut to sizes from
half a kilobyte to 64, small ones as frequent as large ones on a logarithmic scale, so that a million
blobs need some gigabytes only.  The tail spells the blob's number in blanks: text stays text, and
JSON stays JSON.  Which files: those of demo/make_store.py, each kind (by extension) with an equal
share for as long as it lasts.  --types takes only files that file(1) gives such a type: 'text/*'.

The same machine gives the same blobs.  A store is laid out as demo/make_store.py's: STORE/by-hash
and, beside it, blobs.tsv with blobid, size and extension.  A second run with more blobs adds to it.
"""

import argparse
import concurrent.futures
import fnmatch
import hashlib
import itertools
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "demo"))
import make_store  # noqa: E402  (from demo/)

SOURCES = 20000
SMALLEST = 512
PIECE = 2000
BLANKS = str.maketrans("01", " \t")


def of_types(files, pattern):
    """Those of the files that have such a type, by file(1)."""
    done = subprocess.run(["/usr/bin/file", "--brief", "--mime-type", "--files-from", "-"],
                          input="".join(f"{file.path}\n" for file in files), text=True, check=True,
                          stdout=subprocess.PIPE)
    types = done.stdout.splitlines()
    return [file for file, found in zip(files, types) if fnmatch.fnmatch(found, pattern)]


def sources(store, pattern):
    # The sources of published crates and the Rust toolchain are public, though in a home directory.
    home = os.path.expanduser("~")
    also = [os.path.join(os.environ.get("CARGO_HOME", f"{home}/.cargo"), "registry", "src"),
            os.path.join(os.environ.get("RUSTUP_HOME", f"{home}/.rustup"), "toolchains")]
    kinds = make_store.candidates(also, 16 << 20, store)
    files = (file for file in make_store.in_turn(kinds)
             if file.size >= SMALLEST and "\n" not in file.path)
    if pattern == "*":
        return list(itertools.islice(files, SOURCES))
    return of_types(list(itertools.islice(files, 4 * SOURCES)), pattern)[:SOURCES]


def content_of(number, path, largest):
    """The blob of that number: a head, cut between characters if it is UTF-8, and the tail."""
    chance = random.Random(number)
    size = int(SMALLEST * (largest / SMALLEST) ** chance.random())
    with open(path, "rb") as file:
        head = file.read(size)
    end = len(head)
    while end and head[end - 1] & 0xC0 == 0x80:
        end -= 1
    if end and head[end - 1] >= 0xC0:
        end -= 1
    return head[:end] + b"\n" + f"{number:024b}".translate(BLANKS).encode() + b"\n"


def write(store, content):
    """Not by a rename, which takes as long again: what isn't in the list doesn't count."""
    blobid = hashlib.sha256(content).hexdigest()
    path = make_store.blob_path(store, blobid)
    try:
        file = open(path, "wb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "wb")
    with file:
        file.write(content)
    return blobid


def start(*arguments):
    """What a process needs for all of its pieces: the list of files is long."""
    piece.store, piece.files, piece.largest = arguments


def piece(numbers):
    store, files, largest = piece.store, piece.files, piece.largest
    made = []
    for number in numbers:
        # A file that has gone meanwhile gives its place to the next.
        for attempt in range(len(files)):
            file = files[(number + attempt) % len(files)]
            try:
                content = content_of(number, file.path, largest)
            except OSError:
                continue
            made.append((write(store, content), len(content), file.kind or "-"))
            break
    return made


def read_list(store):
    try:
        with open(f"{store}/blobs.tsv", encoding="ascii") as file:
            return [line.rstrip("\n").split("\t") for line in file]
    except FileNotFoundError:
        return []


def make(store, blobs, pattern="*", largest=65536, jobs=None):
    """Makes the store, or adds what it lacks; nothing if it has that many."""
    have = len(read_list(store))
    if have >= blobs:
        return
    os.makedirs(store, exist_ok=True)
    os.umask(0o022)  # readable by the server's account
    files = sources(store, pattern)
    if not files:
        raise SystemExit(f"error: this machine has no files of type {pattern}")
    starts = range(have, blobs, PIECE)
    numbers = [range(start, min(start + PIECE, blobs)) for start in starts]
    with concurrent.futures.ProcessPoolExecutor(jobs, None, start, (store, files, largest)) as pool, \
            open(f"{store}/blobs.tsv", "a", encoding="ascii") as out:
        for made in pool.map(piece, numbers):
            out.writelines("\t".join(map(str, row)) + "\n" for row in made)


def main():
    parser = argparse.ArgumentParser(
        description="Makes a store of heads of real files, each with a tail of its own.")
    parser.add_argument("store")
    parser.add_argument("--blobs", type=int, default=20000)
    parser.add_argument("--types", default="*", metavar="PATTERN")
    parser.add_argument("--largest", type=int, default=64, metavar="KB")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    began = time.monotonic()
    make(os.path.realpath(options.store), options.blobs, options.types, options.largest << 10,
         options.jobs)
    rows = read_list(options.store)
    print(f"store: {len(rows):,} blobs, {sum(int(row[1]) for row in rows) / 1e6:,.0f} MB, "
          f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
