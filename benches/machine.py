"""What the benchmark asks of the machine: what it is, its caches, how busy it was."""

import concurrent.futures
import os
import subprocess

PAGE = os.sysconf("SC_PAGE_SIZE")


def describe():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        model = next((line.split(":", 1)[1].strip() for line in file
                      if line.startswith("model name")), "unknown processor")
    memory = PAGE * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB"


def as_root(*command, **options):
    """Runs it as root, by sudo unless we are root already; it must not ask for a password."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n", "--"]
    return subprocess.run([*sudo, *command], check=True, **options)


def drop_caches():
    """Forgets all files of all programs on this machine, their names and inodes included."""
    os.sync()
    as_root("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")


def halves(names, parts=2):
    return [names[n::parts] for n in range(parts)]


def read_heads(root, blobids, size):
    count = 0
    for blobid in blobids:
        file = os.open(f"{root}/{blobid[0:2]}/{blobid[2:4]}/{blobid}", os.O_RDONLY)
        os.read(file, size)
        os.close(file)
        count += 1
    return count


def warm(root, blobids):
    """Reads all blobs once, so that whoever comes next finds them in memory."""
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        for done in [pool.submit(read_heads, root, part, 65536) for part in halves(blobids)]:
            done.result()


class Busy:
    """Seconds of processor time that the whole machine spent since this was made, by /proc/stat.

    What a contestant can't have spent itself was somebody else's, and its time means less."""

    NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

    def __init__(self):
        self.before = self.look()

    @staticmethod
    def look():
        tick = os.sysconf("SC_CLK_TCK")
        with open("/proc/stat", encoding="ascii") as file:
            return [int(word) / tick for word in file.readline().split()[1:9]]

    def seconds(self):
        spent = dict(zip(self.NAMES, (b - a for a, b in zip(self.before, self.look()))))
        return {"busy": sum(spent.values()) - spent["idle"] - spent["iowait"] - spent["steal"],
                "steal": spent["steal"], "iowait": spent["iowait"]}
