#!/usr/bin/env python3
"""Damages a thousand files of the corpus: half of it an archive of evidence has plenty of.

    damaged.py FILES [COUNT]

Each is cut off somewhere (also just within what a detector reads first), or has a stretch of zeros (from its start
too), or is the front of one file and the back of another, or has a few bytes changed at its start.  Which files, where
and how is decided by a seeded generator over the sorted names, so that it is the same whenever the files are.
"""

import hashlib
import os
import random
import sys


def main():
    files = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    target = os.path.join(files, "damaged")
    by_class, by_size = {}, {}
    for here, folders, names in os.walk(files):
        folders.sort()
        kind = os.path.relpath(here, files).split(os.sep)[0]
        if kind in ("damaged", "edge"):
            continue
        for name in sorted(names):
            path = os.path.join(here, name)
            by_size.setdefault(os.path.getsize(path), []).append(path)
            if 64 < os.path.getsize(path) < 8 << 20:
                by_class.setdefault(kind, []).append(path)
    chance = random.Random(20230610)
    seen = set()
    kinds = sorted(by_class)

    def whole(path):
        with open(path, "rb") as stream:
            return stream.read()

    made = 0
    while made < count:
        kind = kinds[made % len(kinds)]
        path = chance.choice(by_class[kind])
        content = whole(path)
        size = len(content)
        how = ("cut", "cut", "zeros", "zeros-first", "spliced", "spliced", "bytes", "cut-head")[made % 8]
        if how == "cut":
            content = content[:chance.randrange(1, size)]
        elif how == "cut-head":
            # Around the sizes that detectors read, and the start missing altogether.
            content = content[chance.randrange(1, min(size, 4096)):] if chance.random() < 0.5 \
                else content[:chance.choice((1, 3, 8, 16, 100, 511, 512, 4096, 16383, 16384, 65536))]
        elif how == "zeros":
            start = chance.randrange(size)
            stretch = min(size - start, chance.choice((16, 512, 4096, 65536)))
            content = content[:start] + bytes(stretch) + content[start + stretch:]
        elif how == "zeros-first":
            stretch = min(size, chance.choice((1, 4, 512, 4096)))
            content = bytes(stretch) + content[stretch:]
        elif how == "spliced":
            other = whole(chance.choice(by_class[chance.choice(kinds)]))
            content = content[:chance.randrange(1, size)] + other[chance.randrange(len(other)):]
        else:
            changed = bytearray(content)
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(min(size, 64))] = chance.randrange(256)
            content = bytes(changed)
        digest = hashlib.sha256(content).digest()
        made += 1
        # Each content once, in the corpus as a whole too.
        if digest in seen or any(whole(other) == content for other in by_size.get(len(content), ())):
            continue
        seen.add(digest)
        folder = os.path.join(target, how)
        os.makedirs(folder, exist_ok=True)
        name = f"{made:04d}-{os.path.basename(path)}"[:100]
        with open(os.path.join(folder, name), "wb") as out:
            out.write(content)
        os.chmod(os.path.join(folder, name), 0o644)


if __name__ == "__main__":
    main()
