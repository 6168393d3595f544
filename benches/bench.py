#!/usr/bin/env python3
"""Measures the extension beside the method that it replaces, and beside what the database allows.

    make bench BENCH='[OPTION]... [PART [OPTION]...]...'

Parts, in this order if none is named:

  contest      everybody over the same rows: the script that ntt_mime replaces, ours, the floor, libmagic, a shell
  plain        the same over one plain table with a row a blob
  small        thousands of small leaves, beside the floor
  growth       what a row costs as rows and leaves grow; memory; each tenth of a run
  incremental  few pending rows in a few of 50,000 leaves, as for a scheduled run
  index        the partial index on what is pending
  wal          what is written: WAL, full pages, dead tuples, transactions, locks
  cold         blobs that aren't in memory, beside plain readers
  kindness     what a run does to others: a pgbench load, loaders that make partitions
  analyze      what it does to the planner's statistics, and what ANALYZE corrects
  first        what a session pays for its first detection
  session      detection in one session, beside a dry run and file(1)
  verify       a verification beside a dry run, and a sample beside the whole

  --write      put the results into docs/performance.md, with charts
  --keep       keep the tables for the next run
  --prepare    make the tables, measure nothing, and keep them: for contest, growth, kindness, small
  --show       no measuring: show (or, with --write, write) the last results of the parts

A part's own options follow its name: "make bench BENCH='contest --blobs 98000'", and
"benches/bench.sh contest --help" lists them.  Each part's file in benches/parts says how it
measures.

In all of them contestants alternate, round by round, each on its own fresh copy of the same tables
(data.py), with the blobs in memory unless they are to be cold; a time counts only if all rows were
filled, with the right answers, and nothing else has changed.  Trust the ratios, not the seconds: on
shared machines these drift by a factor of two between hours.  Results are kept as JSON in the
folder "results" of the benchmark's folder.
"""

import argparse
import glob
import importlib
import json
import os
import sys
import time

PARTS = ("contest", "plain", "small", "growth", "incremental", "index", "wal", "cold", "kindness",
         "analyze", "first", "session", "verify")


class Bench:
    """What the parts share."""

    def __init__(self, options):
        from cluster import Cluster
        self.cluster = Cluster(options.cluster, options.bindir)
        self.folder = options.folder
        self.began = time.monotonic()

    def say(self, text):
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def arena(self, shape, options):
        """Contestants' place, with the template of that shape, made if it isn't there."""
        import data
        from contestants import Arena
        from store import Store
        store = Store(os.path.join(self.folder, "blobs"), shape.types, shape.blobs)
        return Arena(self.cluster, store, *data.template(self.cluster, store, shape, self.say),
                     options)


def parser_of_all():
    parser = argparse.ArgumentParser(
        allow_abbrev=False, usage="make bench BENCH='[OPTION]... [PART [OPTION]...]...'",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--folder", "--cluster", "--bindir"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--write", "--keep", "--prepare", "--show"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    return parser


def split(words):
    """[(part, its words)], from the words behind the general options."""
    parts = []
    for word in words:
        if word in PARTS:
            parts.append((word, []))
        elif parts:
            parts[-1][1].append(word)
        else:
            raise SystemExit(f"error: \"{word}\" is neither a general option nor a part: "
                             f"{', '.join(PARTS)}")
    return parts or [(name, []) for name in PARTS]


def load(name, words):
    part = importlib.import_module(f"parts.{name}")
    parser = argparse.ArgumentParser(
        prog=f"make bench BENCH='{name}", description=part.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=part.ROUNDS)
    part.arguments(parser)
    return part, parser.parse_args(words)


def measure(bench, name, words, part, options):
    bench.say(f"== {name}")
    words = " ".join([name, *words])
    section = part.section(options) if hasattr(part, "section") else name
    result = {"part": name, "section": section, "command": f"make bench BENCH='{words}'",
              "options": vars(options), "machine": "", "finished_at": "", "data": part.measure(bench, options)}
    import machine
    from contestants import libmagic
    result["machine"] = (f"{machine.describe()}, {bench.cluster.describe()}, "
                         f"libmagic {libmagic()}")
    result["finished_at"] = time.strftime("%Y-%m-%dT%H:%M:%S")
    path = os.path.join(bench.folder, "results", time.strftime(f"{section}-%Y%m%d-%H%M%S.json"))
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, default=str)
    bench.say(f"{name} done, kept in {path}")
    return result


def last(folder, name, part):
    """The last results of each of its sections."""
    for section in getattr(part, "SECTIONS", (name,)):
        kept = sorted(glob.glob(os.path.join(folder, "results", f"{section}-[0-9]*.json")))
        for path in kept[-1:]:
            with open(path, encoding="utf-8") as file:
                yield json.load(file)


def main():
    words = sys.argv[1:]
    named = [word for word in words if word in PARTS]
    if named and {"-h", "--help"} & set(words):
        load(named[0], ["--help"])
    options, rest = parser_of_all().parse_known_args(words)
    # All of the words are understood before anything is measured.
    parts = [(name, own, *load(name, own)) for name, own in split(rest)]
    bench = None if options.show else Bench(options)
    for name, own, part, part_options in parts:
        if options.prepare:
            for shape in part.shapes(part_options) if hasattr(part, "shapes") else ():
                bench.arena(shape, part_options)
            continue
        if options.show:
            results = list(last(options.folder, name, part))
        else:
            results = [measure(bench, name, own, part, part_options)]
        if not results:
            print(f"no results of {name} yet")
        for result in results:
            print("\n" + "\n".join(part.render(result["data"])) + "\n", flush=True)
            if options.write:
                import report
                report.write(part, result)


if __name__ == "__main__":
    sys.exit(main())
