"""Turns the results of a part into text, and the text and its charts into docs/performance.md.

Each part has a section of its own there, or one for usual and one for large sizes, between two
markers; what stands around them is written by hand.  Charts are SVG, by matplotlib, which is needed
for nothing else.
"""

import os
import re
import statistics

import chart
import cluster as clusters

DOCS = os.path.join(clusters.REPOSITORY, "docs")
PAGE = os.path.join(DOCS, "performance.md")

COLOURS = {"ours": "#1f6feb", "worker": "#1f6feb", "floor": "#8b949e", "script": "#d1242f",
           "other": "#bf8700"}


def median(values):
    return statistics.median(values)


def number(value, digits=1):
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}"


def spread(values, digits=1):
    """The median, and from where to where they go."""
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(a, b, digits=2):
    """Of medians, and from where to where single rounds go: a and b are of the same rounds."""
    pairs = [x / y for x, y in zip(a, b)]
    middle = f"{median(a) / median(b):.{digits}f}"
    return middle if len(pairs) == 1 else (
        f"{middle} ({min(pairs):.{digits}f} to {max(pairs):.{digits}f})")


def table(head, rows, text=1):
    """A table in Markdown; the first columns are text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * text + "---:|" * (len(head) - text)]
    return lines + ["| " + " | ".join(number(cell) for cell in row) + " |" for row in rows]


def tenths(runs):
    """The cost of a row in each tenth of the run, medians of the runs that were long enough."""
    known = [run["tenths"] for run in runs if run.get("tenths")]
    if not known:
        return None
    return {name: [median([run[name][n] for run in known]) for n in range(10)]
            for name in known[0]}


def tenths_table(named):
    """named: [(what, tenths)]."""
    rows = []
    for what, costs in named:
        if costs is None:
            rows.append([what, "too short to tell"] + [""] * 11)
            continue
        for key, name in (("clock_us", "on the clock"), ("update_us", "in updates, of a worker"),
                          ("leaves", "leaves finished")):
            last = costs[key][9] / costs[key][0] if key != "leaves" and costs[key][0] else None
            rows.append([what, name, *(number(cost, 0 if key == "leaves" else 1)
                                       for cost in costs[key]), number(last, 2)])
    return table(["run", "µs a row", *map(str, range(1, 11)), "last / first"], rows, text=2)


def colour(name):
    for word, value in COLOURS.items():
        if word in name:
            return value
    return COLOURS["other"]


def figure(draw, path, size=(7, 3.2)):
    """draw(axes) draws it. The same data give the same file."""
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "ntt_mime", "svg.fonttype": "none",
                                "font.size": 9, "axes.spines.top": False,
                                "axes.spines.right": False})
    from matplotlib import pyplot
    shown, axes = pyplot.subplots(figsize=size, layout="constrained")
    draw(axes)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shown.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(shown)


def bars(axes, names, values, unit, digits=1):
    """Horizontal bars with their values; values may hold lists, of which the median is shown."""
    middles = [median(value) if isinstance(value, list) else value for value in values]
    axes.barh(names, middles, color=[colour(name) for name in names])
    axes.invert_yaxis()
    for place, middle in enumerate(middles):
        axes.annotate(number(middle, digits), (middle, place), xytext=(4, 0),
                      textcoords="offset points", va="center")
    axes.margins(x=0.15)
    axes.set_xlabel(unit)


def lines(axes, series, xlabel, ylabel, log=False):
    """series: {name: ([x], [y])}."""
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o", markersize=3, label=name)
    if log:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)


def write(part, result):
    """Puts a part's section into the page, and its charts beside it."""
    lines_ = [f"`{result['command']}`, on {result['machine']}.", "", *part.render(result["data"])]
    for name, (title, draw) in part.charts(result["data"]).items():
        figure(draw, os.path.join(DOCS, "charts", name))
        lines_ += ["", f"![{title}](charts/{name})"]
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    start, end = f"<!-- {result['section']} -->", f"<!-- end of {result['section']} -->"
    if start not in page or end not in page:
        raise SystemExit(f"error: {PAGE} has no place for {result['section']}: \"{start}\"")
    section = "\n".join([start, "", *lines_, "", end])
    page = re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: section, page,
                  flags=re.DOTALL)
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page)
    print(f"written to {os.path.relpath(PAGE)}")
    if chart.update():
        print("written to README.md: its chart")
