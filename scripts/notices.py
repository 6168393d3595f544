#!/usr/bin/python3
"""Prints the licences of all that is compiled into the extension's library, for packages of it.

    scripts/notices.py FEATURE       such as pg15

Crates under several licences to choose from are taken under MIT where that is one of them.
"""

import glob
import json
import os
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "UNLICENSE*")


def cargo(*words):
    return subprocess.run(["cargo", *words], cwd=REPOSITORY, check=True, text=True, stdout=subprocess.PIPE).stdout


def linked(feature):
    """(name, version) of the crates in the library; those that only compile or test are not."""
    tree = cargo("tree", "--package", "ntt_mime", "--edges", "normal,no-proc-macro", "--prefix", "none",
                 "--no-default-features", "--features", feature, "--format", "{p}")
    words = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    return {(name, version.removeprefix("v")) for name, version in words}


def licences(folder, expression):
    """The texts in a crate's folder: the one chosen, or all."""
    paths = sorted({path for name in FILES for path in glob.glob(os.path.join(folder, name))})
    if "MIT" in expression and " AND " not in expression:
        chosen = [path for path in paths if "MIT" in os.path.basename(path).upper()]
        paths = chosen or paths
    for path in paths:
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                yield file.read().strip()


def main(feature):
    packages = {(p["name"], p["version"]): p
                for p in json.loads(cargo("metadata", "--format-version", "1"))["packages"]}
    texts = {}
    for key in sorted(linked(feature)):
        package = packages[key]
        if not package["source"]:
            continue  # ours
        title = f"{key[0]} {key[1]} ({package['license']}), {package['repository']}"
        text = "\n\n".join(licences(os.path.dirname(package["manifest_path"]), package["license"] or ""))
        texts.setdefault(text or "Its text is not in the crate.", []).append(title)
    print("The library of ntt_mime contains these works of others, under these licences.")
    for text, titles in texts.items():
        print("\n" + "=" * 78 + "\n" + "\n".join(titles) + "\n" + "-" * 78 + "\n" + text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
