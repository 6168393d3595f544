#!/usr/bin/env python3
"""Keeps the chart in README.md the same as the figures in docs/performance.md.

    benches/chart.py            writes the chart
    benches/chart.py --check    says whether it is up to date

The figures are those of the section "contest" of docs/performance.md, which the benchmark writes.  The chart
stands between two markers, as text, so that it can be read on a terminal, too.  scripts/test.sh docs checks it.
"""

import os
import re
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
README = os.path.join(REPOSITORY, "README.md")
PAGE = os.path.join(REPOSITORY, "docs", "performance.md")

# Rows of the table by the start of their first cell, and what README calls them.
ROWS = {
    "script:": "the Python script that it replaces",
    "file:": "file(1), COPY and UPDATE",
    "libmagic:": "libmagic alone, no database",
    "ours, 1 worker": "ntt_mime, 1 worker",
    "ours, 2 workers": "ntt_mime, 2 workers",
}
WIDTH = 30
SECTION = re.compile(r"<!-- contest -->(.*?)<!-- end of contest -->", re.DOTALL)
CHART = re.compile(r"(<!-- chart -->\n).*?(<!-- end of chart -->)", re.DOTALL)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def chart():
    section = SECTION.search(read(PAGE))[1]
    table = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in section.splitlines() if line.startswith("|")]
    column = table[0].index("blobs/s")
    rates = {}
    for start, name in ROWS.items():
        (row,) = (cells for cells in table if cells[0].startswith(start))
        rates[name] = int(row[column].replace(",", ""))
    most, names = max(rates.values()), max(map(len, rates))
    lines = [f"{name:<{names}}  {rate:>6,}  {'█' * max(1, round(WIDTH * rate / most))}"
             for name, rate in rates.items()]
    return "\n".join(["```text", f"{'':<{names}}  blobs a second", *lines, "```", ""])


def update():
    """Whether the chart had to be changed."""
    before = read(README)
    after, count = CHART.subn(lambda found: found[1] + chart() + found[2], before)
    if count != 1:
        raise SystemExit(f"error: {README} has no place for the chart")
    if after != before:
        with open(README, "w", encoding="utf-8") as file:
            file.write(after)
    return after != before


def is_current():
    return CHART.search(read(README))[0] == f"<!-- chart -->\n{chart()}<!-- end of chart -->"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if not is_current():
            raise SystemExit("error: the chart in README.md is not that of docs/performance.md: run benches/chart.py")
    elif update():
        print("README.md: chart written")
