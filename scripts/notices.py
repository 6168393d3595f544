#!/usr/bin/python3
"""Prints the licences of all that is compiled into the extension's library, for packages of it.

    scripts/notices.py FEATURE       such as pg15

Crates under several licences to choose from are taken under MIT where that is one of them. A crate that may be taken
so, but comes without the text, or without names in it, is given these; any other without is an error.
"""

import glob
import json
import os
import re
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# Names of files in a crate's folder, and what stands for names in SPDX's own text of MIT.
FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "UNLICENSE*", "LICENSES/*")
NOBODY = "<year> <copyright holders>"

MIT = """\
The crate has no text of its licence. That of MIT is:

Copyright (c) {authors}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def cargo(*words):
    return subprocess.run(["cargo", *words], cwd=REPOSITORY, check=True, text=True, stdout=subprocess.PIPE).stdout


def linked(feature):
    """(name, version) of the crates in the library; those that only compile or test are not."""
    tree = cargo("tree", "--package", "ntt_mime", "--edges", "normal,no-proc-macro", "--prefix", "none",
                 "--no-default-features", "--features", feature, "--format", "{p}")
    words = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    return {(name, version.removeprefix("v")) for name, version in words}


def licences(package):
    """The texts in a crate's folder: the one chosen, or all; and the standard one if there is none."""
    folder, expression = os.path.dirname(package["manifest_path"]), package["license"] or ""
    authors = ", ".join(package["authors"]) or f"the authors of {package['name']}"
    paths = sorted({path for name in FILES for path in glob.glob(os.path.join(folder, name)) if os.path.isfile(path)})
    mit = "MIT" in re.split(r"[\s()/]+", expression) and " AND " not in expression
    if mit:
        chosen = [path for path in paths if "MIT" in os.path.basename(path).upper()]
        paths = chosen or paths
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield file.read().strip().replace(NOBODY, authors)
    if not paths:
        if not mit:
            raise SystemExit(f"error: {package['name']} {package['version']} comes without the text of its licence, "
                             f"{expression or 'which it does not name'}")
        yield MIT.format(authors=authors)


def main(feature):
    packages = {(p["name"], p["version"]): p
                for p in json.loads(cargo("metadata", "--format-version", "1"))["packages"]}
    texts = {}
    for key in sorted(linked(feature)):
        package = packages[key]
        if not package["source"]:
            continue  # ours
        title = f"{key[0]} {key[1]} ({package['license']}), {package['repository']}"
        texts.setdefault("\n\n".join(licences(package)), []).append(title)
    print("The library of ntt_mime contains these works of others, under these licences.")
    for text, titles in texts.items():
        print("\n" + "=" * 78 + "\n" + "\n".join(titles) + "\n" + "-" * 78 + "\n" + text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
