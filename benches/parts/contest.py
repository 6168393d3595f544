"""Everybody over the same rows: contestants.py tells who they are.

The archive's tables with 841 leaves of uneven size, 4.75 pending rows a blob and as many rows that
are filled already.  A round is each contestant once; whoever was first is last in the next round.

From 200,000 blobs on, the script is sampled: some batches at the start, in the middle and at
the end are timed, and what is between is filled as the floor does it.  libmagic and file are left
out there, since what they cost a blob doesn't change with the number of blobs.
"""

import data
import report

from parts import turns

ROUNDS = 3
ALL = ("script", "file", "libmagic", "floor", "ours-1", "ours-2", "ours-4")
MANY = ("script", "floor", "ours-2")
SAMPLED_FROM = 200000
SECTIONS = ("contest", "contest-many")


def arguments(parser):
    parser.add_argument("--blobs", type=int, default=20000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--rows-per-blob", type=float, default=4.75)
    parser.add_argument("--filled", type=float, default=1.0,
                        help="rows that are filled already, for each pending one")
    parser.add_argument("--skew", type=float, default=1.0,
                        help="the n-th leaf has a share of 1/n^SKEW; 0: all are equal")
    parser.add_argument("--types", default="*", metavar="PATTERN",
                        help="only blobs made of files of such a type: 'text/*'")
    parser.add_argument("--contestants", metavar="NAME,...",
                        help=f"of {', '.join(ALL)}; ours-N is with N workers")
    parser.add_argument("--script", choices=["whole", "sampled"],
                        help="whether all of its batches are run")
    parser.add_argument("--script-rounds", type=int, help="rounds with it; default: all, sampled: 1")
    parser.add_argument("--script-batch", type=int, default=10000, help="blobs of one of its batches")
    parser.add_argument("--script-batches", type=int, default=2, help="batches of each sample")
    parser.add_argument("--script-cookie", choices=["blob", "process"], default="blob",
                        help="whether the script opens libmagic for every blob, as it did")


def section(options):
    return SECTIONS[options.blobs >= SAMPLED_FROM]


def shapes(options):
    return [data.Shape(options.blobs, options.leaves, options.rows_per_blob, options.filled,
                       options.skew, options.types)]


def measure(bench, options):
    many = options.blobs >= SAMPLED_FROM
    options.script = options.script or ("sampled" if many else "whole")
    names = options.contestants.split(",") if options.contestants else (MANY if many else ALL)
    script_rounds = options.script_rounds or (1 if options.script == "sampled" else options.rounds)
    [shape] = shapes(options)
    arena = bench.arena(shape, options)
    runs = {name: [] for name in names}
    for number, name in turns(options, names):
        if name == "script" and number >= script_rounds:
            continue
        result = arena.run(name)
        runs[name].append(result)
        bench.say(f"round {number + 1}, {name}: {result['seconds']:.1f} s, "
                  f"{options.blobs / result['seconds']:,.0f} blobs/s")
    return {"shape": str(shape), "blobs": options.blobs, "pending": arena.description["pending"],
            "bytes": arena.store.bytes(), "script": options.script, "cookie": options.script_cookie,
            "runs": runs}


def seconds(runs, name):
    return [run["seconds"] for run in runs[name]]


def title(name, result):
    if name == "script":
        sampled = ", sampled" if result["script"] == "sampled" else ""
        kept = ", libmagic opened once a process" if result["cookie"] == "process" else ""
        return f"script: the script that ntt_mime replaces{sampled}{kept}"
    if name.startswith("ours-"):
        count = int(name.split("-")[1])
        return f"ours, {count} worker" + ("s" if count > 1 else "")
    return {"floor": "floor: the same updates, answers known", "file": "file: file(1) at a shell",
            "libmagic": "libmagic: 2 processes, no database"}[name]


def render(result):
    runs = result["runs"]
    lines = [f"{result['shape']}; {result['bytes'] / 1e6:,.0f} MB of blobs; "
             f"rounds: {max(map(len, runs.values()))}.", ""]
    head = ["", "seconds", "blobs/s", "rows/s"]
    compared = [name for name in ("script", "floor", "libmagic") if name in runs]
    head += [f"times as fast as {name}" if name == "script" else f"time relative to {name}"
             for name in compared]
    rows = []
    for name in runs:
        own = seconds(runs, name)
        middle = report.median(own)
        row = [title(name, result), report.spread(own), report.number(result["blobs"] / middle, 0),
               report.number(result["pending"] / middle, 0) if name != "libmagic" else ""]
        for other in compared:
            pair = (seconds(runs, other), own) if other == "script" else (own, seconds(runs, other))
            row.append("" if other == name else report.ratios(*pair))
        rows.append(row)
    lines += report.table(head, rows)
    return lines + ["", *where_the_time_went(runs), *answers(result)]


def where_the_time_went(runs):
    """Of the run in the middle of each."""
    lines = ["Where the time went, in seconds:", ""]
    for name in runs:
        middle = sorted(runs[name], key=lambda run: run["seconds"])[len(runs[name]) // 2]
        if "profile" in middle:
            parts = ", ".join(f"{part.removesuffix('_ms')} {ms / 1000:.1f}"
                              for part, ms in middle["profile"].items())
            lines.append(f"- {name}, sum over workers: {parts}; in all "
                         f"{100 * middle['profile_share']:.0f}% of the workers' time")
        elif "select" in middle:
            parts = ", ".join(f"{part} {middle[part]:.1f}"
                              for part in ("select", "detect", "update"))
            lines.append(f"- {name}: {parts}")
            for where, stage in zip(("start", "middle", "end"), middle.get("stages", ())):
                lines.append(f"  - at the {where}: {stage['blobs'] / stage['seconds']:,.0f} blobs/s"
                             f" (select {stage['select']:.1f}, detect {stage['detect']:.1f}, "
                             f"update {stage['update']:.1f})")
    return lines


def answers(result):
    """How many of the answers differ from ours."""
    lines = []
    for name in result["runs"]:
        last = result["runs"][name][-1]
        if "other_blobs" in last:
            lines.append(f"{name}: {last['other_blobs']:,} of {result['blobs']:,} blobs")
        elif name in ("script", "file") and "other_answers" in last:
            lines.append(f"{name}: {last['other_answers']:,} of {result['pending']:,} rows")
    return ["", "Answers that differ from ours: " + "; ".join(lines) + "."] if lines else []


def charts(result):
    runs = result["runs"]

    def draw(axes):
        report.bars(axes, list(runs), [[result["blobs"] / s for s in seconds(runs, name)]
                                       for name in runs], "blobs a second", digits=0)

    return {f"contest-{result['blobs']}.svg": (f"Blobs per second, {result['shape']}", draw)}
