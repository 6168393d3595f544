#!/usr/bin/env python3
"""Shows a folder as if it were on a slow disk, with Linux's own caches in front of it.

    slow_disk.py FOLDER MOUNTPOINT [--latency MS] [--at-once N]

Each look at a name and each read takes MS milliseconds (3), and N of them are served at a time (16):
an array of N disks, say, whose heads have to move.  What Linux has in memory costs nothing, as with
any file system; umount and mount make it cold.  A file system in user space (FUSE) that speaks the
kernel's protocol (linux/fuse.h) itself and knows no more than is needed to read: needs root, ends
with `umount MOUNTPOINT`.
"""

import argparse
import ctypes
import errno
import heapq
import os
import select
import stat
import struct
import sys
import time

LOOKUP, FORGET, GETATTR, READ, STATFS, INIT, READDIR, INTERRUPT, BATCH_FORGET = (
    1, 2, 3, 15, 17, 26, 28, 36, 42,
)
ASYNC_READ, PARALLEL_DIROPS, MAX_PAGES = 1 << 0, 1 << 18, 1 << 22
FOR_GOOD = 1 << 30
LARGEST = 1 << 20


class Folder:
    """Answers requests out of a folder."""

    def __init__(self, path):
        self.paths = {1: path}
        self.nodes = {path: 1}

    def node(self, path):
        if path not in self.nodes:
            self.nodes[path] = len(self.nodes) + 1
            self.paths[self.nodes[path]] = path
        return self.nodes[path]

    @staticmethod
    def attributes(seen, node):
        return struct.pack(
            "<6Q10I", node, seen.st_size, seen.st_blocks, int(seen.st_atime), int(seen.st_mtime),
            int(seen.st_ctime), 0, 0, 0, seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_gid, 0,
            4096, 0,
        )

    def lookup(self, node, body):
        path = os.path.join(self.paths[node], os.fsdecode(body.split(b"\0")[0]))
        seen = os.lstat(path)
        node = self.node(path)
        entry = struct.pack("<4Q2I", node, 0, FOR_GOOD, FOR_GOOD, 0, 0)
        return entry + self.attributes(seen, node)

    def getattr(self, node, _body):
        seen = os.lstat(self.paths[node])
        return struct.pack("<Q2I", FOR_GOOD, 0, 0) + self.attributes(seen, node)

    def read(self, node, body):
        _, offset, size = struct.unpack_from("<2QI", body)
        file = os.open(self.paths[node], os.O_RDONLY)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)

    def readdir(self, node, body):
        _, offset, size = struct.unpack_from("<2QI", body)
        entries = b""
        names = sorted(os.listdir(self.paths[node]))
        for at, name in enumerate(names[offset:], offset + 1):
            kind = stat.S_IFMT(os.lstat(os.path.join(self.paths[node], name)).st_mode) >> 12
            name = os.fsencode(name)
            # 0 would mean that the entry is to be left out.
            entry = struct.pack("<2Q2I", at, at, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    @staticmethod
    def statfs(_node, _body):
        return struct.pack("<5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7)

    @staticmethod
    def init(_node, body):
        _, minor, readahead, flags = struct.unpack_from("<4I", body)
        flags &= ASYNC_READ | PARALLEL_DIROPS | MAX_PAGES
        return struct.pack(
            "<4I2H2I2H8I", 7, min(minor, 36), readahead, flags, 1024, 768, 4096, 1, LARGEST // 4096,
            *[0] * 9,
        )


def serve(device, folder, latency, at_once):
    answers = {
        LOOKUP: folder.lookup, GETATTR: folder.getattr, READ: folder.read,
        READDIR: folder.readdir, STATFS: folder.statfs, INIT: folder.init,
    }
    free = [0.0] * at_once  # when each disk will be
    waiting = []  # (when it is to be sent, number, answer)
    count = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable = select.select([device], [], [], timeout)[0]
        while waiting and waiting[0][0] <= time.monotonic():
            send(device, heapq.heappop(waiting)[2])
        if not readable:
            continue
        try:
            request = os.read(device, LARGEST + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                continue
            raise
        _, kind, unique, node = struct.unpack_from("<2I2Q", request)
        if kind in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        try:
            # What isn't known isn't needed: Linux opens files without asking, then.
            answer = answers[kind](node, request[40:]) if kind in answers else None
            code = 0 if answer is not None else -errno.ENOSYS
        except OSError as error:
            answer, code = None, -error.errno
        answer = answer or b""
        answer = struct.pack("<IiQ", 16 + len(answer), code, unique) + answer
        if kind not in (LOOKUP, READ):
            send(device, answer)
            continue
        count += 1
        due = max(time.monotonic(), heapq.heappop(free)) + latency
        heapq.heappush(free, due)
        heapq.heappush(waiting, (due, count, answer))


def send(device, answer):
    try:
        os.write(device, answer)
    except OSError as error:
        # Whoever asked may not wait any more.
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=os.path.abspath)
    parser.add_argument("mountpoint", type=os.path.abspath)
    parser.add_argument("--latency", type=float, default=3.0, metavar="MS")
    parser.add_argument("--at-once", type=int, default=16, metavar="N")
    options = parser.parse_args()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    settings = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    MS_NOSUID, MS_NODEV, MS_RDONLY = 2, 4, 1
    mounted = libc.mount(
        b"slow_disk", os.fsencode(options.mountpoint), b"fuse.slow_disk",
        MS_NOSUID | MS_NODEV | MS_RDONLY, settings.encode(),
    )
    if mounted != 0:
        sys.exit(f"slow_disk.py: could not mount: {os.strerror(ctypes.get_errno())}")
    # In the background, once there is something to see.
    if os.fork() == 0:
        os.setsid()
        serve(device, Folder(options.folder), options.latency / 1000, options.at_once)


if __name__ == "__main__":
    main()
