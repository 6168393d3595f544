"""The blobs of a measurement, and what the detector says of each.

Answers are made by ntt_detect_mime in two sessions and kept beside the blobs, under the name of the
library that gave them.  They are what the floor fills in, and what every contestant's rows are
compared with; a part of them is compared with those of file(1) beforehand.
"""

import concurrent.futures
import os
import subprocess

import machine
import make_blobs

FILE = os.environ.get("FILE", "/usr/bin/file")

# Of the blobs, this many are shown to file(1) when no contestant does so anyway.
SAMPLE = 5000

# Share of blobs that may be called otherwise by file(1): see docs/accuracy.md for what it may be.
DIFFERENCES = 0.001


def file_types(paths):
    """The types of files by two processes of file(1)."""
    def types(part):
        done = subprocess.run([FILE, "--brief", "--mime-type", "--files-from", "-"],
                              input="".join(path + "\n" for path in part), text=True, check=True,
                              stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
        return done.stdout.splitlines()

    parts = machine.halves(paths)
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(types, parts))
    found = [None] * len(paths)
    for n, part in enumerate(answers):
        found[n::len(parts)] = part
    return found


def differences(theirs, ours):
    """Blobs that file(1) calls something else, as a count; ends everything if they are many."""
    def type_only(answer):
        """Without the complaint that libmagic appends to the type of a damaged ELF file."""
        return answer.split(", ")[0].replace("inode/x-empty", "application/x-empty")

    differ = [(b, theirs[b], ours[b]) for b in theirs if type_only(theirs[b]) != ours[b]]
    if len(differ) > DIFFERENCES * len(theirs):
        shown = "; ".join(f"{b[:12]} {a}, not {c}" for b, a, c in differ[:5])
        raise SystemExit(f"error: {len(differ)} of {len(theirs)} blobs are something else to "
                         f"file(1): {shown}")
    return len(differ)


class Store:
    def __init__(self, folder, types, blobs):
        name = "mixed" if types == "*" else types.replace("/", "_").replace("*", "all")
        self.types, self.folder = types, os.path.join(folder, name)
        self.root = os.path.join(self.folder, "by-hash")
        make_blobs.make(self.folder, blobs, types)
        self.rows = make_blobs.read_list(self.folder)[:blobs]
        self.blobids = [row[0] for row in self.rows]

    def paths(self):
        return [f"{self.root}/{b[0:2]}/{b[2:4]}/{b}" for b in self.blobids]

    def warm(self):
        machine.warm(self.root, self.blobids)

    def bytes(self):
        return sum(int(row[1]) for row in self.rows)

    def answers(self, cluster):
        """{blobid: type}, from the file if this library has been asked before."""
        path = os.path.join(self.folder, f"answers-{cluster.library()}.tsv")
        known = {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                known = dict(line.rstrip("\n").split("\t") for line in file)
        lacking = [blobid for blobid in self.blobids if blobid not in known]
        if lacking:
            known.update(self.detect(cluster, lacking))
            sample = self.blobids[:SAMPLE]
            theirs = dict(zip(sample, file_types(self.paths()[:SAMPLE])))
            differences(theirs, known)
            with open(path + ".new", "w", encoding="utf-8") as file:
                file.writelines(f"{blobid}\t{known[blobid]}\n" for blobid in known)
            os.rename(path + ".new", path)
        return {blobid: known[blobid] for blobid in self.blobids}

    def detect(self, cluster, blobids):
        cluster.drop("bench_answers")
        cluster.query("CREATE DATABASE bench_answers",
                      f"ALTER DATABASE bench_answers SET ntt_mime.blob_root = '{self.root}'",
                      database="postgres")
        cluster.query("CREATE EXTENSION ntt_mime", database="bench_answers")

        def ask(part):
            return cluster.query("SELECT b, ntt_detect_mime(b) FROM unnest(%s) AS b",
                                 database="bench_answers", values=(part,))

        parts = [blobids[n:n + 5000] for n in range(0, len(blobids), 5000)]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            found = dict(row for rows in pool.map(ask, parts) for row in rows)
        cluster.drop("bench_answers")
        unknown = [blobid for blobid in blobids if not found.get(blobid)]
        if unknown:
            raise SystemExit(f"error: no type for {len(unknown)} blobs, such as {unknown[0]}")
        return found
