"""What a row costs as rows and leaves grow, and what memory a run takes then.

Two series: rows at 17 leaves, and leaves at half a million rows.  No row is filled beforehand, and
the blobs are few for so many rows (--blobs), so that the update is most of the cost: with 4.75 rows
a blob, "--blobs 0", detection would be the larger half, and doesn't depend on either.  All points
take their turn in each round.  Leaves have the archive's eleven indexes, below 50,000 of them; from
there on they have two, else most of the time would go into making their files: a quarter of a million
of them at 20,000 leaves.  The table tells which point has how many.

The memory of leader and workers is their own heap, without the server's shared buffers; what the
run's processes share, the list of leaves and the cache of blobs, is counted once.
"""

import data
import report

from parts import numbers, turns

ROUNDS = 3
MANY_LEAVES = 20000
TWO_INDEXES_FROM = 50000
SECTIONS = ("growth", "growth-many")


def arguments(parser):
    parser.add_argument("--rows", type=numbers, default=[100000, 1000000], metavar="N,...",
                        help="pending rows, with --at-leaves: 1e5,1e6,5e6; empty: none")
    parser.add_argument("--leaves", type=numbers, default=[1, 17, 841, 5000], metavar="N,...",
                        help="leaves, with --at-rows; empty: none")
    parser.add_argument("--at-rows", type=int, default=500000)
    parser.add_argument("--at-leaves", type=int, default=17)
    parser.add_argument("--blobs", type=int, default=20000,
                        help="at most so many blobs; 0: one for 4.75 rows")
    parser.add_argument("--skew", type=float, default=1.0,
                        help="the n-th leaf has a share of 1/n^SKEW; 0: all are equal")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--floor", action="store_true", help="the floor at each point as well")


def section(options):
    return SECTIONS[max(options.leaves, default=0) >= MANY_LEAVES]


def shape_of(rows, leaves, options):
    blobs = round(rows / 4.75)
    if options.blobs and options.blobs < blobs:
        blobs = options.blobs
    return data.Shape(blobs, leaves, rows / blobs, 0.0, options.skew,
                      indexes=leaves < TWO_INDEXES_FROM)


def points_of(options):
    """(rows, leaves)"""
    points = [(rows, options.at_leaves) for rows in options.rows]
    points += [(options.at_rows, leaves) for leaves in options.leaves]
    return sorted(set(points))


def shapes(options):
    return [shape_of(*point, options) for point in points_of(options)]


def measure(bench, options):
    points = points_of(options)
    names = [f"ours-{options.workers}"] + (["floor"] if options.floor else [])
    arenas = {point: bench.arena(shape_of(*point, options), options) for point in points}
    runs = {point: {name: [] for name in names} for point in points}
    for number, point in turns(options, points):
        for name in names:
            result = arenas[point].run(name)
            runs[point][name].append(result)
            bench.say(f"round {number + 1}, {point[0]:,} rows, {point[1]:,} leaves, {name}: "
                      f"{result['seconds']:.1f} s")
    return {"workers": options.workers, "series": {"rows": options.at_leaves,
                                                   "leaves": options.at_rows},
            "blobs": options.blobs,
            "points": [{"rows": point[0], "leaves": point[1],
                        "blobs": len(arenas[point].store.blobids),
                        "pending": arenas[point].description["pending"], "runs": runs[point]}
                       for point in points]}


def ours(point, result):
    return point["runs"][f"ours-{result['workers']}"]


def cost(point, runs):
    """Microseconds of the clock a row."""
    return [1e6 * run["seconds"] / point["pending"] for run in runs]


def updates(point, runs):
    """Microseconds a row that a worker spends in updates and their commits."""
    return [1e3 * (run["profile"]["update_ms"] + run["profile"]["commit_ms"]) / point["pending"]
            for run in runs]


def megabytes(runs, name):
    known = [run["peak"][name] for run in runs if run["peak"].get(name)]
    return report.number(max(known) / 1024) if known else "not seen"


def base(result):
    """What the others are compared with: the fewest rows at the given leaves."""
    same = [p for p in result["points"] if p["leaves"] == result["series"]["rows"]]
    return min(same or result["points"], key=lambda p: p["rows"])


def render(result):
    first = base(result)
    floor = "floor" in first["runs"]
    rows = []
    for point in result["points"]:
        runs = ours(point, result)
        indexes = 11 if point["leaves"] < TWO_INDEXES_FROM else 2
        row = [f"{point['pending']:,}", f"{point['leaves']:,}", str(indexes), f"{point['blobs']:,}",
               report.spread([run["seconds"] for run in runs]),
               report.spread(cost(point, runs)), report.spread(updates(point, runs)),
               report.number(report.median(updates(point, runs)) /
                             report.median(updates(first, ours(first, result))), 2),
               megabytes(runs, "session_kb"), megabytes(runs, "worker_kb"),
               megabytes(runs, "shared_kb")]
        if floor:
            bare = cost(point, point["runs"]["floor"])
            row += [report.spread(bare), report.ratios(cost(point, runs), bare)]
        rows.append(row)
    head = ["rows", "leaves", "indexes", "blobs", "seconds", "µs a row, clock", "µs a row, updates",
            f"updates / those of {first['pending']:,} rows, {first['leaves']:,} leaves",
            "leader MB", "worker MB", "shared MB"]
    head += ["floor, µs a row, clock", "ours / floor"] if floor else []
    lines = [f"{result['workers']} workers, no rows filled beforehand; "
             f"rounds: {len(ours(first, result))}.", "", *report.table(head, rows, text=0), "",
             "Cost of a row in each tenth of a run:", ""]
    return lines + report.tenths_table(
        [(f"{point['pending']:,} rows, {point['leaves']:,} leaves",
          report.tenths(ours(point, result))) for point in result["points"]])


def charts(result):
    def series(name, other):
        points = [p for p in result["points"] if p[other] == result["series"][name]]
        return points if len(points) > 1 else []

    made = {}
    for name, other in (("rows", "leaves"), ("leaves", "rows")):
        points = sorted(series(name, other), key=lambda p: p[name])
        if not points:
            continue

        def draw(axes, points=points, name=name):
            x = [point[name] for point in points]
            shown = {"updates of a worker": (x, [report.median(updates(p, ours(p, result)))
                                                 for p in points]),
                     "on the clock": (x, [report.median(cost(p, ours(p, result)))
                                          for p in points])}
            if "floor" in points[0]["runs"]:
                shown["floor, on the clock"] = (x, [report.median(cost(p, p["runs"]["floor"]))
                                                    for p in points])
            report.lines(axes, shown, name, "µs a row", log=True)

        made[f"growth-{name}.svg"] = (f"Cost of a row by number of {name}", draw)

    known = [(p, report.tenths(ours(p, result))) for p in result["points"]]
    known = [(p, costs) for p, costs in known if costs]
    if known:
        def draw_tenths(axes):
            report.lines(axes, {f"{p['pending']:,} rows, {p['leaves']:,} leaves":
                                (list(range(1, 11)), costs["update_us"]) for p, costs in known},
                         "tenth of the run", "µs a row, in updates")

        made["growth-tenths.svg"] = ("Cost of a row in each tenth of a run", draw_tenths)
    return made
