"""Blobs that aren't in memory: files per second, compared with processes that only read.

On two disks: the machine's own, where the operating system drops all files from its cache before each run
(so this needs root, and disturbs the whole machine), and a simulated array of disks, which serves 16
requests at a time in 3 ms each (slow_disk.py, needs root too).  If the machine's own disk is so fast that
reading keeps its processors busy, a run, which also detects, can't keep up with processes that only read;
the array shows what reading ahead is for.

The readers are processes that open each blob of their share, read its first 16 kB and close it, in the
order of the rows.  The runs are dry runs, which read and detect but update nothing, over as many rows as
blobs.  The first number of each option is the one that others are compared with.  A run with the blobs in
memory shows whether what helps with a slow disk costs anything without one.
"""

import multiprocessing
import os
import sys
import time

import cluster as clusters
import contestants
import data
import machine
import report

from parts import numbers, turns

ROUNDS = 3

CALL = "CALL ntt_backfill_mime(10000, workers => %s, dry_run => true)"


def arguments(parser):
    parser.add_argument("--blobs", type=int, default=50000)
    parser.add_argument("--slow-blobs", type=int, default=10000, help="blobs on the simulated disks")
    parser.add_argument("--disks", default="own,slow", metavar="NAME,...")
    parser.add_argument("--types", default="*", metavar="PATTERN",
                        help="only blobs made of files of such a type: 'image/*'")
    parser.add_argument("--workers", type=numbers, default=[1, 2, 8, 16], metavar="N,...")
    parser.add_argument("--readers", type=numbers, default=[16], metavar="N,...")
    parser.add_argument("--leaves", type=int, default=17)


def read_share(root, blobids, start, ready):
    ready.release()
    start.wait()
    machine.read_heads(root, blobids, 16384)


def run_readers(root, blobids, count):
    start, ready = multiprocessing.Event(), multiprocessing.Semaphore(0)
    readers = [multiprocessing.Process(target=read_share, args=(root, share, start, ready))
               for share in machine.halves(blobids, count)]
    for reader in readers:
        reader.start()
    for _ in readers:
        ready.acquire()
    began = time.monotonic()
    start.set()
    for reader in readers:
        reader.join()
    if any(reader.exitcode for reader in readers):
        raise SystemExit("error: a reader failed")
    return {"seconds": time.monotonic() - began, "blobs": len(blobids)}


class OwnDisk:
    """The one that the blobs are on."""
    TITLE = "The machine's own disk"

    def __init__(self, store, _folder):
        self.root = store.root

    def forget(self):
        machine.drop_caches()

    def close(self):
        pass


class SlowDisk:
    """The same blobs, through slow_disk.py."""
    TITLE = "A simulated array of disks, 16 requests at a time in 3 ms each"

    def __init__(self, store, folder):
        self.root, self.behind = os.path.join(folder, "slow"), store.root
        os.makedirs(self.root, exist_ok=True)
        self.mount()

    def mount(self):
        machine.as_root(sys.executable, os.path.join(clusters.HERE, "slow_disk.py"), self.behind,
                        self.root)

    def forget(self):
        """What Linux has in memory of a file system goes with it."""
        self.close()
        self.mount()

    def close(self):
        machine.as_root("umount", "--lazy", self.root)


DISKS = {"own": OwnDisk, "slow": SlowDisk}


def forget_blobs(cluster, disk):
    """All but what has nothing to do with blobs: programs, libmagic's database, the tables."""
    disk.forget()
    cluster.query("SELECT ntt_detect_mime('\\x00'::bytea), count(blobid) FROM inode")
    cluster.query("SELECT pg_sleep(0.5)")


def measure_on(bench, options, name):
    cluster = bench.cluster
    count = options.slow_blobs if name == "slow" else options.blobs
    shape = data.Shape(count, options.leaves, 1.0, 0.0, types=options.types)
    arena = bench.arena(shape, options)
    arena.fresh()
    blobids = [row[0] for row in cluster.query("SELECT blobid FROM inode WHERE blobid IS NOT NULL")]
    names = [f"readers-{n}" for n in options.readers] + [f"ours-{n}" for n in options.workers]
    hot = [f"in memory, ours-{n}" for n in options.workers[:2]] if name == "own" else []
    runs = {name: [] for name in [*names, *hot]}
    disk = DISKS[name](arena.store, bench.folder)
    cluster.query(f"ALTER DATABASE {clusters.DATABASE} SET ntt_mime.blob_root = '{disk.root}'")
    try:
        for number, who in turns(options, runs):
            if who in hot:
                arena.store.warm()
            else:
                forget_blobs(cluster, disk)
            runs[who].append(run(arena, who, disk.root, blobids))
            seconds = runs[who][-1]["seconds"]
            bench.say(f"{name} disk, round {number + 1}, {who}: {seconds:.2f} s, "
                      f"{len(blobids) / seconds:,.0f} files/s")
    finally:
        disk.close()
    return {"title": disk.TITLE, "blobs": count, "bytes": arena.store.bytes(), "runs": runs}


def run(arena, who, root, blobids):
    count = int(who.split("-")[1])
    if who.startswith("readers"):
        result = run_readers(root, blobids, count)
    else:
        result = contestants.run_ours(arena, count, CALL)
    if result["blobs"] != len(blobids) or result.get("failed"):
        raise SystemExit(f"error: {who} read {result['blobs']} of {len(blobids)} blobs")
    return result


def measure(bench, options):
    return {"types": options.types, "beside": f"readers-{max(options.readers)}",
            "disks": [measure_on(bench, options, name) for name in options.disks.split(",")]}


def title(name):
    cold, _, rest = name.rpartition(", ")
    kind, count = rest.split("-")
    what = {"readers": "plain readers", "ours": "workers" if count != "1" else "worker"}[kind]
    return f"{count} {what}" + (", blobs in memory" if cold else "")


def render(result):
    lines = []
    for disk in result["disks"]:
        lines += [*render_disk(disk, result), ""]
    return lines[:-1]


def render_disk(disk, result):
    beside = [run["seconds"] for run in disk["runs"][result["beside"]]]
    rows = []
    for name, runs in disk["runs"].items():
        own = [run["seconds"] for run in runs]
        profile = ["", ""]
        if "profile" in runs[0]:
            middle = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
            profile = [report.number(middle["profile"][key] * 1000 / disk["blobs"], 0)
                       for key in ("read_ms", "detect_ms")]
        rows.append([title(name), report.spread(own, 2),
                     report.spread([disk["blobs"] / s for s in own], 0),
                     report.ratios(beside, own) if name != result["beside"] else "", *profile])
    types = "" if result["types"] == "*" else f" of {result['types']}"
    return [f"{disk['title']}; {disk['blobs']:,} blobs{types}, {disk['bytes'] / 1e6:,.0f} MB; "
            f"rounds: {len(beside)}.", "",
            *report.table(["", "seconds", "files/s", f"relative to {title(result['beside'])}",
                           "worker time per blob, µs: reading", "detection"], rows)]


def charts(result):
    def draw_disk(disk):
        def draw(axes):
            report.bars(axes, [title(name) for name in disk["runs"]],
                        [[disk["blobs"] / run["seconds"] for run in runs]
                         for runs in disk["runs"].values()], "files a second", digits=0)
        return draw

    return {f"cold-{number}.svg": (f"Files a second, blobs not in memory: {disk['title']}",
                                   draw_disk(disk))
            for number, disk in enumerate(result["disks"], 1)}
