#!/usr/bin/env python3
"""Makes a content-addressed store out of real files of this machine.

    make_store.py STORE [--blobs N] [--total MB] [--largest MB] [--also FOLDER]... [--jobs N]

The store is laid out as the extension reads it, STORE/by-hash/aa/bb/<64 hex digits>, with SHA-256
in place of BLAKE3: only the shape of the name matters.  Beside it lie

    blobs.tsv    blobid, size and extension of each blob, in an arbitrary but fixed order
    odd.tsv      blobid and reason of blobids that can't be detected: nothing there, a file that
                 only root may open, a folder or a symbolic link in the blob's place

Real files, because a detector's cost and its answers depend on what it is shown, and whole files,
because `file` must have the same to look at.  A machine has a few kinds in great number (C headers,
Python) and hundreds of kinds in small number; each kind (by extension) gets an equal share for as
long as it lasts, so that the store resembles an archive more than /usr/include.

Only what every account may read already is taken: world-readable regular files in folders that all
may enter.  The store is readable by all, and nothing must become public by our copying it.
(--also names folders that are public by nature though they lie in a closed one, such as the
sources of published crates.)  Files are copied, never hard-linked: a link shares owner and mode
with the file of the system, and one careless chmod in the store would change that as well.  On file
systems with copy-on-write the copy is a clone and takes no space.

A second run with the same arguments finds the lists and ends at once.  After a run that was killed
half-way the blobs that exist are kept, and only hashed again.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import random
import stat
import sys
import time

FOLDERS = ["/usr", "/etc", "/opt", "/boot", "/srv", "/var/lib", "/var/cache"]

# What is no disk of this machine: generated files, memory, the network.
FOREIGN = {
    "proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "tmpfs", "ramfs", "securityfs",
    "debugfs", "tracefs", "configfs", "bpf", "pstore", "efivarfs", "autofs", "mqueue", "hugetlbfs",
    "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "sshfs", "virtiofs",
}

FICLONE = 0x40049409  # linux/fs.h

MISSING, UNREADABLE, FOLDERS_IN_PLACE, LINKS_IN_PLACE = 4, 3, 1, 1

Candidate = collections.namedtuple("Candidate", "path kind size")


def foreign_devices():
    devices = set()
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            where, kind = line.split()[1:3]
            if kind in FOREIGN or kind.startswith("fuse."):
                with contextlib.suppress(OSError):
                    devices.add(os.lstat(where.encode().decode("unicode_escape")).st_dev)
    devices.discard(os.stat("/").st_dev)  # a virtual machine's own disk may be one of these
    return devices


def extension(name):
    """The kind of a file: its extension in lower case; "lib.so.1.2" is an "so"."""
    parts = name.lower().rsplit("/", 1)[-1].split(".")[1:]
    while len(parts) > 1 and parts[-1].isdigit():
        parts.pop()
    last = parts[-1] if parts else ""
    return last if last.isascii() and last.isalnum() and len(last) <= 10 else ""


def walk(folder, devices, largest, avoid):
    """World-readable regular files below a folder, which itself need not be open to all."""
    pending = [folder]
    while pending:
        current = pending.pop()
        if current == avoid:
            continue
        try:
            entries = list(os.scandir(current))
        except OSError:
            continue
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if info.st_dev in devices:
                continue
            if stat.S_ISDIR(info.st_mode):
                if info.st_mode & 0o005 == 0o005:
                    pending.append(entry.path)
            elif stat.S_ISREG(info.st_mode) and info.st_mode & 0o004 and 0 < info.st_size <= largest:
                yield Candidate(entry.path, extension(entry.name), info.st_size)


def open_to_all(folder):
    while True:
        try:
            if not os.stat(folder).st_mode & 0o001:
                return False
        except OSError:
            return False
        if folder == "/":
            return True
        folder = os.path.dirname(folder)


def candidates(also, largest, avoid):
    """All files that may be taken, each kind in an order that doesn't follow the folders."""
    devices = foreign_devices()
    kinds = collections.defaultdict(list)
    seen = set()
    roots = [os.path.realpath(f) for f in FOLDERS if open_to_all(os.path.realpath(f))]
    roots += [os.path.realpath(f) for f in also if os.path.isdir(f)]
    for root in roots:
        for found in walk(root, devices, largest, avoid):
            if found.path not in seen:
                seen.add(found.path)
                kinds[found.kind].append(found)
    shuffle = random.Random(841)
    for files in kinds.values():
        files.sort()
        shuffle.shuffle(files)
    return kinds


def in_turn(kinds):
    """One of each kind, again and again: small kinds are used up, large ones share the rest."""
    queues = [files for _, files in sorted(kinds.items())]
    position = 0
    while queues:
        queues = [files for files in queues if position < len(files)]
        for files in queues:
            yield files[position]
        position += 1


def blob_path(store, blobid):
    return os.path.join(store, "by-hash", blobid[0:2], blobid[2:4], blobid)


def write_blob(store, blobid, content, source=None):
    """Puts a blob in its place by a rename, so that a name always stands for the whole content."""
    path = blob_path(store, blobid)
    try:
        if os.lstat(path).st_size == len(content):
            return
    except FileNotFoundError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(store, "tmp", f"{os.getpid()}-{blobid}")
    with open(temporary, "wb") as out:
        if source is None or not clone(source, out, blobid, len(content)):
            out.seek(0)
            out.truncate()
            out.write(content)
        os.fchmod(out.fileno(), 0o644)
    os.rename(temporary, path)


def clone(source, out, blobid, size):
    """A copy-on-write clone, if the file system can and the content is still what we hashed."""
    if not clone.possible:
        return False
    try:
        fcntl.ioctl(out.fileno(), FICLONE, source)
    except OSError:
        clone.possible = False
        return False
    with open(out.name, "rb") as made:
        content = made.read()
    return len(content) == size and hashlib.sha256(content).hexdigest() == blobid


clone.possible = True


def take(arguments):
    """Stores a few files; what can't be read by now is left out."""
    store, largest, files = arguments
    taken = []
    for path, kind, _ in files:
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            info = os.fstat(source)
            if not stat.S_ISREG(info.st_mode) or not info.st_mode & 0o004:
                continue
            with os.fdopen(os.dup(source), "rb") as file:
                content = file.read(largest + 1)
            if not 0 < len(content) <= largest:
                continue
            blobid = hashlib.sha256(content).hexdigest()
            write_blob(store, blobid, content, source)
            taken.append((blobid, len(content), kind))
        except OSError as error:
            if error.filename is None or not error.filename.startswith(store):
                continue
            raise
        finally:
            os.close(source)
    return taken


def pieces(store, chosen, missing):
    """Cuts pieces out of large blobs, where a machine has too few files of its own."""
    cut = random.Random(842)
    sources = sorted(b for b, (size, _) in chosen.items() if size >= 262144)
    if not sources:
        raise SystemExit("error: too few files on this machine, and none to cut pieces from")
    while missing > 0:
        blobid = cut.choice(sources)
        size, kind = chosen[blobid]
        with open(blob_path(store, blobid), "rb") as file:
            file.seek(cut.randrange(size - 65536))
            content = file.read(cut.randrange(512, 65536))
        piece = hashlib.sha256(content).hexdigest()
        if piece not in chosen:
            write_blob(store, piece, content)
            chosen[piece] = (len(content), kind)
            missing -= 1


def batches(files, limits):
    """Cuts the stream of files into pieces of work, passing over what would break a limit.

    Half of the space is for files of more than a megabyte: otherwise a few hundred of them leave
    nothing to the other kinds."""
    batch, batch_size = [], 0
    for file in files:
        if file.size > 1 << 20:
            if limits["large"] < file.size:
                continue
            limits["large"] -= file.size
        elif limits["small"] < file.size:
            continue
        else:
            limits["small"] -= file.size
        batch.append(file)
        batch_size += file.size
        if len(batch) == 256 or batch_size > 16 << 20:
            yield batch
            batch, batch_size = [], 0
    if batch:
        yield batch


def odd_blobs(store):
    """Blobids that a run must record and pass over."""
    def name(what):
        return hashlib.sha256(f"ntt_mime demo: {what}".encode()).hexdigest()

    odd = [(name(f"missing {n}"), "missing") for n in range(MISSING)]
    for n in range(UNREADABLE):
        content = f"ntt_mime demo: unreadable {n}".encode()
        blobid = hashlib.sha256(content).hexdigest()
        write_blob(store, blobid, content)
        os.chmod(blob_path(store, blobid), 0)  # a file that we have just made, never a link
        odd.append((blobid, "unreadable"))
    for n in range(FOLDERS_IN_PLACE):
        odd.append((name(f"folder {n}"), "not_a_file"))
        os.makedirs(blob_path(store, odd[-1][0]), exist_ok=True)
    for n in range(LINKS_IN_PLACE):
        odd.append((name(f"link {n}"), "not_a_file"))
        path = blob_path(store, odd[-1][0])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.islink(path):
            os.symlink("/etc/os-release", path)
    return odd


def read_list(path):
    try:
        with open(path, encoding="ascii") as file:
            return [line.rstrip("\n").split("\t") for line in file]
    except FileNotFoundError:
        return None


def write_list(path, rows):
    with open(path + ".new", "w", encoding="ascii") as file:
        file.writelines("\t".join(map(str, row)) + "\n" for row in rows)
    os.rename(path + ".new", path)


def still_good(store, wanted):
    """The lists are written last: if they are there, so was the store.  A sample shows whether
    somebody has cleared it since."""
    blobs, odd = read_list(f"{store}/blobs.tsv"), read_list(f"{store}/odd.tsv")
    if blobs is None or odd is None or len(blobs) < wanted:
        return None
    for blobid, size, _ in random.sample(blobs, min(500, len(blobs))):
        try:
            info = os.lstat(blob_path(store, blobid))
        except OSError:
            return None
        if info.st_size != int(size) or not info.st_mode & 0o004:
            return None
    for blobid, reason in odd:
        if os.path.lexists(blob_path(store, blobid)) != (reason != "missing"):
            return None
    return blobs


def main():
    parser = argparse.ArgumentParser(description="Makes a store of blobs out of real files.")
    parser.add_argument("store")
    parser.add_argument("--blobs", type=int, default=50000)
    parser.add_argument("--total", type=int, default=2000, metavar="MB")
    parser.add_argument("--largest", type=int, default=64, metavar="MB")
    parser.add_argument("--also", action="append", default=[], metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    store = os.path.realpath(options.store)
    started = time.monotonic()

    blobs = still_good(store, options.blobs)
    if blobs is not None:
        size = sum(int(row[1]) for row in blobs)
        print(f"store: {len(blobs):,} blobs, {size / 1e6:,.0f} MB, from an earlier run")
        return

    os.makedirs(f"{store}/tmp", exist_ok=True)
    for name in os.listdir(f"{store}/tmp"):
        os.unlink(f"{store}/tmp/{name}")
    os.chmod(store, 0o755)

    # Space that the store has taken already counts as free: an earlier run may have been killed.
    disk = os.statvfs(store)
    total = options.total * 10**6
    if disk.f_bavail * disk.f_frsize < total + 2 * 10**9:
        total = min(total, disk.f_bavail * disk.f_frsize // 4)
        print(f"store: little space on this disk, so at most {total / 1e6:,.0f} MB")
    largest = min(options.largest * 10**6, total // 10)

    kinds = candidates(options.also, largest, store)
    chosen = {hashlib.sha256(b"").hexdigest(): (0, "")}
    write_blob(store, next(iter(chosen)), b"")
    limits = {"large": total // 2, "small": total - total // 2}
    work = batches(in_turn(kinds), limits)
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        running = set()
        while True:
            while len(running) < 2 * options.jobs and len(chosen) < options.blobs:
                batch = next(work, None)
                if batch is None:
                    break
                running.add(pool.submit(take, (store, largest, batch)))
            if not running:
                break
            done, running = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED)
            for finished in done:
                for blobid, size, kind in finished.result():
                    chosen.setdefault(blobid, (size, kind))

    whole = len(chosen)
    if whole < options.blobs:
        pieces(store, chosen, options.blobs - whole)
    odd = odd_blobs(store)
    rows = [(blobid, size, kind or "-") for blobid, (size, kind) in sorted(chosen.items())]
    random.Random(843).shuffle(rows)
    write_list(f"{store}/odd.tsv", odd)
    write_list(f"{store}/blobs.tsv", rows)

    kind_count = len({row[2] for row in rows})
    size = sum(row[1] for row in rows)
    cut = f" and {len(rows) - whole:,} pieces cut from them" if len(rows) > whole else ""
    print(f"store: {whole:,} files{cut}, {size / 1e6:,.0f} MB, {kind_count:,} kinds by extension, "
          f"made in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
