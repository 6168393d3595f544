#!/usr/bin/env python3
"""Runs what README and docs/ tell to run, and compares what they say comes out.

    tests/docs/run.py STORE [FILE...]
    tests/docs/run.py --steps FILE SECTION...

A server is at PGHOST and PGPORT, with the extension installed; STORE is an empty folder that its account
can read. scripts/test.sh docs sees to both.

In each file, from its top to its end, in a database `copyjob` that is made anew for it (setup.sql), with the
extension in it unless the file says CREATE EXTENSION itself:

  - a block of "sql" is run by psql, in a session of its own;
  - a block of "text" right after it is what has to come out, warnings and errors included. "…" stands for
    anything in a line, and alone in a line for any lines;
  - an error that no block of text tells of is a failure;
  - `\\watch` looks once, and the archive's folders are STORE;
  - of a block of "sh", and of code within a line, each command of "make" has to exist, with its variables, each
    script, and each benchmark of cargo's. They aren't run: the suite, which runs this, is among them;
  - a relative link leads to something that is there, its #anchor to a heading, and a file of the source that is
    named with its folder exists;
  - a table of settings says what the server says of them: their names, defaults, and who may set them;
  - reference.md names every object of the extension, with its arguments or columns.

A block that can't be run here stands behind a comment that says why: <!-- not run: … -->.

With --steps, nothing is run: the blocks of "sh" and "sql" of these sections, skipped ones included, are printed as one
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
INLINE = re.compile(r"`((?:[A-Z_]+=[^\s`]+ )*(?:make|cargo bench|scripts/\S+\.sh) [^`]+)`")
CODE = re.compile(r"`(?:[^`\n]|\n(?!\n))*`")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
SOURCE = re.compile(r"(?<![\w./-])(?:benches|crates|debian|demo|scripts|src|tests)/[\w./-]+\.(?:md|py|rs|sh|sql|txt)\b")
SETTINGS = "| name | default | who | meaning |"
SETTING = re.compile(r"^\| `(ntt_mime\.\w+)` \| ([^|]+?) \| (\w+) \|", re.MULTILINE)


# What belongs to the extension: kind, name, and its arguments or columns.
MEMBERS = """
SELECT CASE WHEN p.oid IS NOT NULL AND p.prorettype <> 'trigger'::regtype THEN 'routine'
            WHEN c.relkind IN ('r', 'v') THEN 'relation' ELSE coalesce(o.type, '?') END,
       CASE WHEN p.prorettype <> 'trigger'::regtype THEN p.proname ELSE replace(o.identity, '()', '') END,
       CASE WHEN p.oid IS NOT NULL THEN pg_get_function_arguments(p.oid)
            ELSE (SELECT string_agg(a.attname, ' ') FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END
  FROM pg_depend d
 CROSS JOIN pg_identify_object(d.classid, d.objid, d.objsubid) o
  LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
   -- Up to PostgreSQL 16 the types of a table's rows are no members of their own.
   AND d.classid <> 'pg_type'::regclass
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ntt_mime')
 ORDER BY 1, 2
"""


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


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def prose(text):
    """The text with its fenced blocks blank."""
    lines, inside = [], False
    for line in text.split("\n"):
        fence = FENCE.match(line)
        lines.append("" if fence or inside else line)
        inside ^= bool(fence)
    return "\n".join(lines)


def anchors(text):
    """Those of a file's headings, by GitHub's rule."""
    found = set()
    for heading in HEADING.findall(prose(text)):
        title = LINK.sub(lambda link: link[0][1:link[0].index("]")], heading)
        plain = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        anchor, count = plain, 0
        while anchor in found:
            count += 1
            anchor = f"{plain}-{count}"
        found.add(anchor)
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
        self.ran = self.compared = self.commands = self.links = 0
        self.problems = []

    def fail(self, path, line, what):
        self.problems.append(f"{os.path.relpath(path, REPOSITORY)}:{line}: {what}")

    def make_database(self, extension):
        variables = [word for name, blobid in self.blobids.items() for word in ("-v", f"{name}={blobid}")]
        status, output = psql(read(os.path.join(HERE, "setup.sql")), "-v", "ON_ERROR_STOP=1",
                              "-v", f"store={self.store}", "-v", f"extension={extension}", *variables,
                              database="postgres")
        if status:
            raise SystemExit(f"error: setup.sql failed\n{output}")

    def run_file(self, path):
        text = read(path)
        self.check_links(path, text)
        self.check_settings(path, text)
        found = blocks(text)
        if any(block and block.language == "sql" for block in found):
            self.make_database(extension="CREATE EXTENSION ntt_mime" not in text)
        if os.path.basename(path) == "reference.md":
            self.check_reference(path, text)
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

    def check_links(self, path, text):
        for name in sorted(set(SOURCE.findall(text))):
            if not os.path.exists(os.path.join(REPOSITORY, name)):
                self.fail(path, text[:text.index(name)].count("\n") + 1, f"no such file: {name}")
        # What is code stays as wide as it is, lest lines be counted wrongly.
        text = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), prose(text))
        for link in LINK.finditer(text):
            target, _, anchor = link[1].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            self.links += 1
            file = os.path.normpath(os.path.join(os.path.dirname(path), target)) if target else path
            if not os.path.exists(file) or anchor and file.endswith(".md") and anchor not in anchors(read(file)):
                self.fail(path, text.count("\n", 0, link.start()) + 1, f"the link leads nowhere: {link[1]}")

    def check_settings(self, path, text):
        if SETTINGS not in text:
            return
        told = SETTING.findall(text)
        # The server knows units: what is set to the default that is told has to be the default.
        script = ["LOAD 'ntt_mime';"]
        script += [f"SET {name} = '{default.strip('`')}';" for name, default, _ in told
                   if not default.startswith("number of ")]
        script.append("SELECT name, setting = boot_val, context FROM pg_catalog.pg_settings"
                      " WHERE name LIKE 'ntt\\_mime.%';")
        _, output = psql("\n".join(script), "-A", "-t", database="postgres")
        for line in sorted(set(output.splitlines()) ^ {f"{name}|t|{who}" for name, _, who in told}):
            self.fail(path, text[:text.index(SETTINGS)].count("\n") + 1,
                      f"table and server differ (name|is this the default|who): {line}")

    def check_reference(self, path, text):
        """Does the page have all objects, with the arguments of routines, with defaults, and the columns of relations?"""
        status, output = psql(MEMBERS, "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1")
        members = [line.split("\t") for line in output.splitlines()]
        if status or not members:
            raise SystemExit(f"error: the extension's objects can't be listed\n{output}")
        signatures = " ".join(" ".join(block.text() for block in blocks(text) if block and not block.skipped).split())
        signatures = signatures.replace("( ", "(")
        sections = re.split(r"^##+ (.*)$", text, flags=re.MULTILINE)
        sections = dict(zip(sections[1::2], sections[2::2]))
        for kind, name, parts in members:
            if kind == "routine":
                parts = re.sub(r"::[a-z ]+(\[\])?|\bIN ", "", parts)
                signature = re.sub(r"DEFAULT \(.*\)\)?", "DEFAULT …", f"{name}({parts})").rstrip(")") + ")"
                if signature not in signatures:
                    self.fail(path, 1, f"no signature: {signature}")
            elif kind == "relation":
                for column in parts.split():
                    if f"`{column}`" not in sections.get(name, ""):
                        self.fail(path, 1, f"section {name} says nothing of column {column}")
            elif not re.search(rf"`{re.escape(name)}(\(\))?`", text):
                self.fail(path, 1, f"not named: {kind} {name}")

    def check_command(self, path, line, command):
        """Is there such a command of make's, such a script, or such a benchmark of cargo's, with such variables?"""
        words = shlex.split(command)
        variables = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        knowing = None
        if words[:2] == ["cargo", "bench"] and "--bench" in words:
            name = words[words.index("--bench") + 1]
            known = os.path.exists(f"{REPOSITORY}/crates/ntt_mime_core/benches/{name}.rs")
        elif words and re.fullmatch(r"scripts/\S+\.sh", words[0]):
            knowing = words[0]
            known = os.path.exists(os.path.join(REPOSITORY, knowing))
        elif words[:1] == ["make"]:
            knowing = "Makefile"
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
        if known and knowing:
            words_known = set(re.findall(r"\w+", read(os.path.join(REPOSITORY, knowing))))
            known = words_known.issuperset(variables)
        if not known:
            self.fail(path, line, f"no such command: {command}")


def steps(path, *sections):
    """The script of the sections' steps; SQL goes to the server's own administrator."""
    parts = re.split(r"^##+ (.*)$", read(path), flags=re.MULTILINE)
    script = []
    for section in sections:
        if section not in parts[1::2]:
            raise SystemExit(f"error: {path} has no section \"{section}\"")
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
    print(f"{runner.ran} blocks of SQL run, {runner.compared} compared, {runner.commands} commands and "
          f"{runner.links} links looked up, {len(runner.problems)} problems")
    return bool(runner.problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
