"""The cost of a leaf as such: thousands of small leaves, compared with the floor.

5,000 leaves of 38 rows each, with all of the archive's indexes and triggers.  Most of the time is
spent once for each leaf: on opening it, planning, its triggers, and two transactions.  The
contestants are those of contest, and take turns.
"""

import data
import report

from parts import contest, turns

ROUNDS = 3


def arguments(parser):
    parser.add_argument("--leaves", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=38, help="of a leaf, all of them pending")
    parser.add_argument("--contestants", default="floor,ours-1,ours-2", metavar="NAME,...",
                        help=f"of {', '.join(contest.ALL)}; ours-N is with N workers")


def shapes(options):
    rows = options.rows * options.leaves
    blobs = round(rows / 4.75)
    return [data.Shape(blobs, options.leaves, rows / blobs, 0.0, 0.0)]


def measure(bench, options):
    [shape] = shapes(options)
    arena = bench.arena(shape, options)
    names = options.contestants.split(",")
    runs = {name: [] for name in names}
    for number, name in turns(options, names):
        runs[name].append(arena.run(name))
        bench.say(f"round {number + 1}, {name}: {runs[name][-1]['seconds']:.1f} s")
    return {"shape": str(shape), "leaves": options.leaves, "pending": arena.description["pending"],
            "script": "whole", "cookie": "blob", "runs": runs}


def render(result):
    runs, leaves = result["runs"], result["leaves"]
    rows = []
    for name in runs:
        own = contest.seconds(runs, name)
        updates = [(run["profile"]["update_ms"] + run["profile"]["commit_ms"]) / leaves
                   for run in runs[name] if "profile" in run]
        row = [contest.title(name, result), report.spread(own),
               report.spread([1000 * seconds / leaves for seconds in own], 2),
               report.spread(updates, 2) if updates else ""]
        if "floor" in runs:
            row.append("" if name == "floor" else report.ratios(own, contest.seconds(runs, "floor")))
        rows.append(row)
    head = ["", "seconds", "ms a leaf", "of it, updates of a worker"]
    head += ["time relative to floor"] if "floor" in runs else []
    return [f"{result['shape']}; rounds: {max(map(len, runs.values()))}.", "",
            *report.table(head, rows), "", *contest.where_the_time_went(runs)]


def charts(_result):
    return {}
