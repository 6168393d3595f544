#!/usr/bin/env python3
"""Runs what README and docs/ tell to run, and compares what they say comes out.

    tests/docs/run.py STORE [FILE...]
    tests/docs/run.py --steps FILE SECTION

A server is at PGHOST and PGPORT, with the extension installed; STORE is an empty folder that its account
can read. scripts/test.sh docs sees to both.

In each file, from its top to its end, in a database `copyjob` that is made anew for it (setup.sql), with the
extension in it unless the file says CREATE EXTENSION itself:

  - a block of "sql" is run by psql, in a session of its own;
  - a block of "text" right after it is what has to come out, warnings and errors included. "…" stands for
    anything in a line, and alone in a line for any lines;
  - an error that no block of text tells of is a failure;
  - `\\watch` looks once, and the archive's folders are STORE;
  - of a block of "sh", and of code within a line, each command of "make" has to exist, with its options; so
    has each benchmark of cargo's. They aren't run: the suite, which runs this, is among them.

A block that can't be run here stands behind a comment that says why: <!-- not run: … -->.

With --steps, nothing is run: the blocks of "sh" and "sql" of a section, skipped ones included, are printed as one
script for bash. tests/package takes them.
"""

import hashlib
import os
import re
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
DATABASE = "copyjob"

# Blobs of the store, by name: setup.sql has psql's variables for their blobids.
BLOBS = {
    "pdf": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x02\x00\x00\x00",
    "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "text": b"A statement, made on the 3rd of March.\n",
    "html": b"<!DOCTYPE html>\n<html><head><title>News</title></head><body></body></html>\n",
    "json": b'{"witness": 17, "place": "the bridge"}\n',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    "xml": b'<?xml version="1.0" encoding="UTF-8"?>\n<report/>\n',
    "empty": b"",
}

# Where the archive of the documents keeps its blobs.
FOLDERS = ("/data/cold/by-hash:/data/fast/by-hash", "/data/cold/by-hash")

FENCE = re.compile(r"^```(\w*)\s*$")
SKIPPED = re.compile(r"^<!-- not run: (.+) -->$")
INLINE = re.compile(r"`((?:make|cargo bench) [^`]+)`")


class Block:
    def __init__(self, language, line, skipped):
        self.language, self.line, self.skipped, self.lines = language, line, skipped, []

    def text(self):
        return "\n".join(self.lines)


def blocks(text):
    """The fenced blocks of a file, in order; whether one directly follows another is told by None between
    those that don't."""
    found, block, skipped = [], None, False
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if block is not None:
            if fence:
                found.append(block)
                block = None
            else:
                block.lines.append(line)
        elif fence:
            block, skipped = Block(fence.group(1), number, skipped), False
        elif line.strip():
            skipped = bool(SKIPPED.match(line))
            if found and found[-1] is not None:
                found.append(None)
    return found


def put_blobs(store):
    """{name: blobid}"""
    named = {}
    for name, content in BLOBS.items():
        blobid = hashlib.sha256(content).hexdigest()
        folder = os.path.join(store, blobid[:2], blobid[2:4])
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, blobid), "wb") as file:
            file.write(content)
        named[name] = blobid
    return named


def psql(script, *options, database=DATABASE):
    done = subprocess.run(
        ["psql", "-X", "-q", "-d", database, *options], input=script, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PSQL_PAGER": "cat"})
    return done.returncode, done.stdout


def without_widths(text):
    """psql makes a column as wide as its widest value: unknown where "…" stands for that."""
    return re.sub(r"-{2,}", "--", re.sub(r" {2,}", " ", text))


def pattern(expected):
    """A regular expression of what has to come out."""
    parts = []
    for line in "\n".join(expected).rstrip().split("\n"):
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ ]*\n")
    return re.compile("".join(parts))


class Runner:
    def __init__(self, store):
        self.store, self.blobids = store, put_blobs(store)
        self.ran = self.compared = self.commands = 0
        self.problems = []

    def fail(self, path, line, what):
        self.problems.append(f"{os.path.relpath(path, REPOSITORY)}:{line}: {what}")

    def make_database(self, extension):
        variables = [word for name, blobid in self.blobids.items() for word in ("-v", f"{name}={blobid}")]
        with open(os.path.join(HERE, "setup.sql"), encoding="utf-8") as file:
            status, output = psql(file.read(), "-v", "ON_ERROR_STOP=1", "-v", f"store={self.store}",
                                  "-v", f"extension={extension}", *variables, database="postgres")
        if status:
            raise SystemExit(f"error: setup.sql failed\n{output}")

    def run_file(self, path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = blocks(text)
        if any(block and block.language == "sql" for block in found):
            self.make_database(extension="CREATE EXTENSION ntt_mime" not in text)
        for number, block in enumerate(found):
            if block is None or block.skipped:
                continue
            after = found[number + 1] if number + 1 < len(found) else None
            if block.language == "sql":
                expected = after.lines if after and after.language == "text" else None
                self.run_sql(path, block, expected)
            elif block.language == "sh":
                for command in block.lines:
                    self.check_command(path, block.line, command.split("#")[0].strip())
        for command in INLINE.findall(text.replace("\n", " ")):
            self.check_command(path, 0, command)

    def run_sql(self, path, block, expected):
        script = re.sub(r"\\watch.*", ";", block.text())
        for folder in FOLDERS:
            script = script.replace(folder, self.store)
        status, output = psql(script + "\n", *([] if expected else ["-v", "ON_ERROR_STOP=1"]))
        output = output.replace(self.store, FOLDERS[-1])
        self.ran += 1
        if expected is None:
            if status or "ERROR:" in output:
                self.fail(path, block.line, f"this fails:\n{output}")
        else:
            self.compared += 1
            found = output.rstrip() + "\n"
            if "…" in "".join(expected):
                expected, found = [without_widths(line) for line in expected], without_widths(found)
            if not pattern(expected).fullmatch(found):
                self.fail(path, block.line, f"what comes out is\n{output}")

    def check_command(self, path, line, command):
        """Is there such a command of make's, or such a benchmark of cargo's, with such options?"""
        words = shlex.split(command)
        if words[:2] == ["cargo", "bench"] and "--bench" in words:
            name = words[words.index("--bench") + 1]
            known = os.path.exists(f"{REPOSITORY}/crates/ntt_mime_core/benches/{name}.rs")
        elif words[:1] == ["make"]:
            known = not subprocess.run(["make", "-n", *words[1:]], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL).returncode
            for word in words:
                if word.startswith("BENCH="):
                    known &= not subprocess.run(
                        ["benches/bench.sh", "--show", *shlex.split(word.removeprefix("BENCH="))],
                        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        else:
            return
        self.commands += 1
        if not known:
            self.fail(path, line, f"no such command: {command}")


def steps(path, section):
    """The script of a section's steps; SQL goes to the server's own administrator."""
    with open(path, encoding="utf-8") as file:
        parts = re.split(r"^## (.*)$", file.read(), flags=re.MULTILINE)
    if section not in parts[1::2]:
        raise SystemExit(f"error: {path} has no section \"{section}\"")
    script = []
    for block in blocks(parts[2::2][parts[1::2].index(section)]):
        if block and block.language == "sh":
            script.append(block.text())
        elif block and block.language == "sql":
            script.append(f"sudo -u postgres psql -X -v ON_ERROR_STOP=1 {DATABASE} <<'END_OF_SQL'\n"
                          f"{block.text()}\nEND_OF_SQL")
    return "\n".join(script)


def main(words):
    if words[:1] == ["--steps"]:
        print(steps(*words[1:]))
        return 0
    if not words:
        raise SystemExit(__doc__)
    store, *files = words
    if not files:
        docs = os.path.join(REPOSITORY, "docs")
        files = [os.path.join(REPOSITORY, "README.md"),
                 *(os.path.join(docs, name) for name in sorted(os.listdir(docs)) if name.endswith(".md"))]
    runner = Runner(store)
    for path in files:
        runner.run_file(path)
    for problem in runner.problems:
        print(problem)
    print(f"{runner.ran} blocks of SQL run, {runner.compared} compared, {runner.commands} commands looked up, "
          f"{len(runner.problems)} problems")
    return bool(runner.problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
