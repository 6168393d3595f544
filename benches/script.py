#!/usr/bin/env python3
"""The method that the extension replaces, written anew from its description, to measure beside.

    script.py DSN ROOT [--table NAME] [--processes N] [--batch N] [--head BYTES]
              [--cookie blob|process] [--batches N]

A script outside the database: select a batch of distinct pending blobids through the partitioned
table, give the files' first 2 KiB to libmagic in a pool of processes, write the batch back with one
UPDATE through the partitioned table, commit, repeat until none is left.  In its last form it ran
with batches of 10,000 and 8 processes, which are the defaults here, and it opened libmagic anew for
every blob (--cookie process spares it that, to see what it makes of the difference).

Where it would go on for ever, with blobs that can't be detected and so are selected again, this one
ends: a batch that fills nothing is the last.  --batches ends it after so many, to see what a batch
costs at that stage of a long job.

Prints one line of JSON: blobs, rows, failed, seconds and where they went, batches.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time

import magic
import psycopg2

SELECT = """
    SELECT DISTINCT blobid FROM {table}
    WHERE blobid IS NOT NULL AND mime_type IS NULL
    LIMIT %s
"""

UPDATE = """
    UPDATE {table} SET mime_type = d.mime_type
    FROM unnest(%s::text[], %s::text[]) AS d(blobid, mime_type)
    WHERE {table}.blobid = d.blobid AND {table}.mime_type IS NULL
"""

settings = None
kept = None


def start(options):
    global settings
    settings = options


def detect(blobid):
    """The blobid and its type, or no type if it can't be told."""
    global kept
    path = os.path.join(settings.root, blobid[0:2], blobid[2:4], blobid)
    try:
        with open(path, "rb") as file:
            head = file.read(settings.head)
        if settings.cookie == "blob":
            return blobid, magic.Magic(mime=True).from_buffer(head)
        if kept is None:
            kept = magic.Magic(mime=True)
        return blobid, kept.from_buffer(head)
    except (OSError, magic.MagicException):
        return blobid, None


def main():
    parser = argparse.ArgumentParser(description="The method that the extension replaces.")
    parser.add_argument("dsn")
    parser.add_argument("root")
    parser.add_argument("--table", default="inode")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=10000)
    parser.add_argument("--head", type=int, default=2048)
    parser.add_argument("--cookie", choices=["blob", "process"], default="blob")
    parser.add_argument("--batches", type=int, metavar="N", help="end after so many")
    options = parser.parse_args()

    totals = {"blobs": 0, "rows": 0, "failed": 0, "batches": 0}
    spent = {"select": 0.0, "detect": 0.0, "update": 0.0}

    # The processes are forked before there is a connection that they could share.
    with multiprocessing.Pool(options.processes, start, (options,)) as pool:
        connection = psycopg2.connect(options.dsn)
        began = time.monotonic()
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        while options.batches is None or totals["batches"] < options.batches:
            with connection, connection.cursor() as cursor:
                clock = time.monotonic()
                cursor.execute(SELECT.format(table=options.table), (options.batch,))
                blobids = [row[0] for row in cursor]
                spent["select"] += time.monotonic() - clock
                if not blobids:
                    break

                clock = time.monotonic()
                answers = pool.map(detect, blobids)
                found = [answer for answer in answers if answer[1] is not None]
                spent["detect"] += time.monotonic() - clock

                clock = time.monotonic()
                cursor.execute(UPDATE.format(table=options.table),
                               ([b for b, _ in found], [m for _, m in found]))
                connection.commit()
                spent["update"] += time.monotonic() - clock

                totals["blobs"] += len(found)
                totals["rows"] += cursor.rowcount
                totals["failed"] += len(answers) - len(found)
                totals["batches"] += 1
                if cursor.rowcount == 0:
                    break
        seconds = time.monotonic() - began
        connection.close()

    print(json.dumps({**totals, "seconds": seconds, **spent}))


if __name__ == "__main__":
    sys.exit(main())
