#!/usr/bin/env python3
"""Chooses the files of the corpus and moves or copies them into place.

    collect.py TARGET SOURCES [--file PROGRAM] [--cap N] [--type-cap N] [--at-least N] [--largest BYTES]

SOURCES is a table, one folder a line, columns separated by blanks:

    HOW ORIGIN LIMIT FOLDER

    all     every file of the folder is kept and moved; below it stands <class>/<origin>/..., where the class
            "any" stands for whatever the file's type says
    move    files are sampled, and moved: the folder is ours and goes away afterwards
    copy    files are sampled, and copied: the folder is not ours
    even    LIMIT files are copied, without a preference for any: what a system has, class "debian-system"
    edge    as "all", but it stands below edge/<class>.<origin>: what was written to be hard, and is not meant to
            look like an archive
    class   as "all", but ORIGIN is the class, and the folder's own subfolders are the origins

ORIGIN is the second folder in the corpus ("-": the name of the folder's own subfolder), LIMIT the
most files that one origin may give.

A general archive is wanted, not a copy of Debian: so no folder, extension, type or class may take
over.  The choice goes in four steps, each deterministic (where one of many is wanted, the hash of
its path decides):

 1. of each folder and extension a few, of each origin and extension some more; larger files are
    preferred, since a detector that reads only the head of a file is right about small ones anyway;
 2. of files of the same content one;
 3. file(1) names the types of what is left; of each type at most so many (so the rare ones all stay);
 4. classes that are still more than a quarter of the whole are thinned, and small files of common types are, until
    half of all files are larger than 16 kB or no more than --at-least are left.

Classes are coarse words that a report can group by.  file(1)'s answer gives them where it is
specific, the extension where it isn't.
"""

import argparse
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter, defaultdict

KIND = [  # (class, pattern of the type); the first that matches
    ("office", r"msword|ms-excel|ms-powerpoint|ms-office|ms-publisher|ms-project|visio|openxmlformats"
               r"|opendocument|sun\.xml|stardivision|wordperfect|lotus|quattro|CDFV2|ms-outlook"
               r"|ms-works|hwp|applixware|kword|kspread|kpresenter|gnumeric|ichitaro|wri$|write"
               r"|onenote|staroffice|stargallery|x-ole-storage"),
    ("documents", r"/pdf|application/postscript|rtf|epub|djvu|dvi|mobipocket|/x-lyx|x-hwp|fictionbook|x-ms-reader"
                  r"|palm|winhelp|ms-htmlhelp|oxps|xps|framemaker|/vnd\.lotus-notes|info$"),
    ("images", r"^image/|illustrator|x-xcf|x-xcursor|metafile"),
    ("fonts", r"font|vnd\.ms-opentype|x-tex-tfm|x-tex-pk|bdf|x-pcf"),
    ("audio", r"^audio/|midi|soundfont|x-sf2"),
    ("video", r"^video/|flash|vnd\.rn-realmedia|ms-asf|x-matroska|mxf"),
    ("filesystems", r"filesystem|iso9660|qemu-disk|vmdk|virtualbox|vhd|raw-disk|luks|disk|floppy"
                    r"|squashfs|romfs|cramfs|dmg"),
    ("archives", r"/zip|x-tar|x-cpio|x-archive|7z|x-rar|arj|lha|lzh|x-zoo|cab-|x-xar|x-ace|jar|java-archive"
                 r"|debian|x-rpm|android\.package|x-stuffit|x-shar$|unix-archive|warc|mac-binhex|x-apple-"
                 r"|gtar|x-lrzip|x-mtree|alz|dact|freearc|sit$|chrome-extension|xpinstall"),
    ("compressed", r"gzip|bzip|x-xz|lzma|lzip|lzop|lz4|zstd|compress|zlib|x-lz|brotli"),
    ("executables", r"executable|sharedlib|x-object|dosexec|x-mach|java-applet|x-dex|wasm|bytecode|coredump"
                    r"|portable-executable|x-elc|x-msdownload|beam|x-pie|efi|ocaml|x-xbase-prg|python-code"),
    ("markup", r"html|xml|x-tex|troff|bibtex|texinfo|css|^text/x-asciidoc|markdown|texmacs|x-setext"),
    ("source", r"^text/x-(?!mail|news|po|ms|info|wiki|bcpl|xmcd|diff)|javascript|x-php|x-ruby|x-perl"),
    ("mail", r"^message/|mbox|x-tnef|outlook|x-news|tnef|vnd\.ms-tnef"),
    ("data", r"json|csv|sqlite|database|dbf|dbase|x-dbm|rrd|hdf|fits|netcdf|dicom|spss|stata|sas|numpy|matlab"
             r"|pcap|calendar|vcard|plist|x-wine|x-bplist|x-r-|maxmind|arrow|parquet|^chemical/|^model/|shapefile"
             r"|esri|gis|pgp|pem|x-x509|pkcs|x-gettext|x-po|timezone|terminfo|berkeley|iccprofile"
             r"|x-git|subversion|bittorrent|mdb|access|tdb|gdbm|x-tokyo|lmdb"),
]
KIND = [(name, re.compile(pattern)) for name, pattern in KIND]

EXTENSION = {}
for _name, _words in {
    "source": "c h cc cpp cxx hpp hxx py pl pm rb php js ts go rs java cs sh el scm lisp ml mli hs lua tcl"
              " awk sql phpt r m4 am ac cmake mk inc s asm f f90 vb bas pas erl hrl swift kt d y l",
    "markup": "html htm xml xsl xsd dtd tex sty cls bib md rst css sgml man texi pod xhtml svg fodt ui",
    "text": "txt text readme log news changelog po pot copying authors nfo asc",
    "data": "csv tsv json dat db dbf yaml yml ini conf cfg nc h5 mo dic aff ics vcf slk dif bin",
    "fonts": "ttf otf pfb afm tfm pk bdf pcf vf fd enc map",
    "system": "service rules hwdb ko fw modules pkla policy desktop list conffiles md5sums postinst"
              " postrm prerm preinst cache gz pyc",
    "images": "png jpg gif tif tiff psd xcf ico cur ppm pgm pbm tga pcx dds icns jp2 j2k",
    "audio": "wav mp3 ogg aac flac mod xm s3m it mid",
    "office": "doc xls ppt docx xlsx pptx odt ods odp wpd wk1 123 wb2 pub vsd hwp",
    "executables": "exe dll so o a class elc beam sys com",
    "mail": "eml mbox msg",
}.items():
    for _word in _words.split():
        EXTENSION[_word] = _name

VAGUE = re.compile(r"^(text/plain|application/octet-stream|inode/.*|cannot .*|.* .*)$")


def class_of(mime, path):
    for name, pattern in KIND:
        if pattern.search(mime):
            return name
    known = EXTENSION.get(extension(path))
    if known:
        return known
    if mime.startswith("text/"):
        return "text"
    if re.search(r"/(etc|lib|boot|systemd|udev|firmware|modules|terminfo|zoneinfo|dpkg|apt)/", path):
        return "system"
    return "data"


def extension(path):
    word = os.path.basename(path).lower()
    # libtool's and Debian's habits: libc.so.6, changelog.gz, foo.1.gz
    parts = word.split(".")
    if len(parts) == 1:
        return ""
    last = parts[-1]
    if last.isdigit() and len(parts) > 2:
        last = parts[-2] + "." + "n"
    return last[:12]


def order(path):
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()


class Found:
    __slots__ = ("path", "size", "how", "origin", "kind", "mime", "digest", "name")

    def __init__(self, path, size, how, origin, kind, name):
        self.path, self.size, self.how, self.origin, self.kind, self.name = \
            path, size, how, origin, kind, name
        self.mime = self.digest = None


def walk(folder):
    """Regular files below the folder, not through links, in order."""
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(here, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size


def larger_first(files, seed=order):
    """All of them, in an order in which three of four are larger than 16 kB as long as there are."""
    large = sorted((f for f in files if f.size > 16384), key=lambda f: seed(f.path))
    small = sorted((f for f in files if f.size <= 16384), key=lambda f: seed(f.path))
    out = []
    while large or small:
        out += large[:3] + small[:1]
        large, small = large[3:], small[1:]
    return out


def candidates(sources, largest):
    kept = []
    for how, origin, limit, folder in sources:
        if not os.path.isdir(folder):
            continue
        if how == "even":
            found = (Found(path, size, how, origin, "debian-system", os.path.relpath(path, folder).replace(os.sep, "_"))
                     for path, size in walk(folder) if 0 < size <= largest)
            kept += sorted(found, key=lambda f: order(f.path))[:limit]
            continue
        if how in ("all", "edge"):
            for path, size in walk(folder):
                parts = os.path.relpath(path, folder).split(os.sep)
                kept.append(Found(path, size, how, parts[1] if len(parts) > 2 else parts[0], parts[0],
                                  "_".join(parts[2:]) if len(parts) > 2 else parts[-1]))
            continue
        if how == "class":
            for path, size in walk(folder):
                parts = os.path.relpath(path, folder).split(os.sep)
                kept.append(Found(path, size, how, parts[0], origin, "_".join(parts[1:])))
            continue
        groups = defaultdict(list)
        for path, size in walk(folder):
            if not 0 < size <= largest:
                continue
            below = os.path.relpath(path, folder)
            name = below.split(os.sep)[0] if origin == "-" else origin
            if origin == "-":
                below = below.split(os.sep, 1)[-1]
            groups[name].append(Found(path, size, how, name, None, below.replace(os.sep, "_")))
        for _, files in sorted(groups.items()):
            nearby = defaultdict(list)
            for f in files:
                nearby[os.path.dirname(f.path), extension(f.path)].append(f)
            # Large folders of one kind give more than small ones, but not in proportion.
            few = []
            for group in nearby.values():
                few += larger_first(group)[:max(5, limit // 150) + int(len(group) ** 0.6)]
            kinds = defaultdict(list)
            for f in few:
                kinds[extension(f.path)].append(f)
            most = max(20, limit // 8)
            some = []
            for group in kinds.values():
                some += larger_first(group)[:most]
            # Rare extensions first, so that the limit cuts only what there is much of.
            some.sort(key=lambda f: (len(kinds[extension(f.path)]) > 12, order(f.path)))
            kept += some[:limit]
    return kept


def deduplicate(files):
    seen, out = set(), []
    for f in files:
        digest = hashlib.sha256()
        try:
            with open(f.path, "rb") as stream:
                for piece in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(piece)
        except OSError:
            continue
        f.digest = digest.digest()
        if f.digest not in seen:
            seen.add(f.digest)
            out.append(f)
    return out


def name_types(files, program):
    """Asks file(1), in two processes, since it takes a millisecond or more a file."""
    plain = [f for f in files if "\n" not in f.path]
    halves = [plain[0::2], plain[1::2]]
    running = []
    for number, half in enumerate(halves):
        names = b"".join(os.fsencode(f.path) + b"\n" for f in half)
        listing = f"/tmp/collect.{os.getpid()}.{number}"
        with open(listing, "wb") as out:
            out.write(names)
        running.append((half, listing, subprocess.Popen(
            [program, "--mime-type", "--brief", "--no-pad", "--no-buffer", "--files-from", listing],
            stdout=open(listing + ".out", "wb"), stderr=subprocess.DEVNULL)))
    for half, listing, process in running:
        process.wait()
        with open(listing + ".out", "rb") as answers:
            lines = answers.read().decode("utf-8", "replace").split("\n")
        os.unlink(listing)
        os.unlink(listing + ".out")
        if len(lines) - 1 != len(half):
            sys.exit(f"file(1) named {len(lines) - 1} of {len(half)} files")
        for f, line in zip(half, lines):
            f.mime = line
    return plain


def spread(files, cap):
    """At most cap of them, from each origin in turn; what was made is kept first."""
    if len(files) <= cap:
        return files
    by_origin = defaultdict(list)
    for f in files:
        by_origin[f.how != "all", f.origin].append(f)
    queues = [larger_first(by_origin[key]) for key in sorted(by_origin)]
    out = []
    while len(out) < cap:
        for queue in queues:
            if queue and len(out) < cap:
                out.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return out


def choose(files, cap, type_cap):
    kept = [f for f in files if f.how in ("all", "even", "edge", "class")]
    made = [f for f in kept if f.how == "all"]
    for f in kept:
        if f.kind == "any":
            f.kind = class_of(f.mime, f.path)
        if f.how == "edge":
            f.origin, f.kind = f"{f.kind}.{f.origin}", "edge"
    by_type = defaultdict(list)
    for f in files:
        if f.how in ("move", "copy"):
            f.kind = class_of(f.mime, f.path)
            by_type[f.mime].append(f)
    sampled = []
    for mime, group in sorted(by_type.items()):
        most = type_cap * 3 if VAGUE.match(mime) else type_cap
        if VAGUE.match(mime):
            # These are many kinds in truth: the class says more than the type.
            kinds = defaultdict(list)
            for f in group:
                kinds[f.kind].append(f)
            for kind in sorted(kinds):
                sampled += spread(kinds[kind], most // 3)
        else:
            sampled += spread(group, most)
    room = max(0, cap - len(made))
    by_class = defaultdict(list)
    for f in sampled:
        by_class[f.kind].append(f)
    share = max(room // 4, 1)
    while sum(min(len(group), share) for group in by_class.values()) > room and share > 1:
        share -= max(1, share // 50)
    out = list(kept)
    for _, group in sorted(by_class.items()):
        # Thin the commonest types of the class, not the rare ones.
        counts = Counter(f.mime for f in group)
        rank, turn = {}, Counter()
        for f in larger_first(group):
            turn[f.mime] += 1
            rank[f.path] = turn[f.mime]
        group.sort(key=lambda f: (rank[f.path] > 40 and counts[f.mime] > 40, rank[f.path], order(f.path)))
        out += group[:share]
    return out


def balance(files, at_least):
    """Without so many small files of common types that half of those sampled are large."""
    sampled = [f for f in files if f.how not in ("even", "edge", "class")]
    large = sum(f.size > 16384 for f in sampled)
    counts = Counter((f.kind, f.mime) for f in sampled)
    drop = min(len(sampled) - 2 * large, len(sampled) - at_least)
    dropped = set()
    for f in sorted(files, key=lambda f: order(f.path)):
        if len(dropped) >= drop:
            break
        if f.how in ("move", "copy") and f.size <= 16384 and counts[f.kind, f.mime] > 60:
            counts[f.kind, f.mime] -= 1
            dropped.add(f.path)
    return [f for f in files if f.path not in dropped]


def plain_name(name):
    name = re.sub(r"[^A-Za-z0-9._+,=@-]", "_", name).lstrip("-.") or "unnamed"
    return name if len(name) <= 120 else name[-120:].lstrip("-.")


def place(files, target):
    taken = set()
    for f in sorted(files, key=lambda f: (f.kind, f.origin, f.name, f.path)):
        folder = os.path.join(target, "files", plain_name(f.kind), plain_name(f.origin))
        base = name = plain_name(f.name)
        number = 1
        while (folder, name) in taken:
            number += 1
            stem, dot, last = base.partition(".")
            name = f"{stem}~{number}{dot}{last}"
        taken.add((folder, name))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name)
        if f.how in ("copy", "even"):
            shutil.copyfile(f.path, path)
        else:
            os.rename(f.path, path)
        os.chmod(path, 0o644)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        f.path = path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("sources")
    parser.add_argument("--file", default="file")
    parser.add_argument("--cap", type=int, default=36_000)
    parser.add_argument("--type-cap", type=int, default=800)
    parser.add_argument("--at-least", type=int, default=22_000)
    parser.add_argument("--largest", type=int, default=24 << 20)
    given = parser.parse_args()
    with open(given.sources) as table:
        sources = [(how, origin, int(limit), folder) for how, origin, limit, folder
                   in (line.split() for line in table if line.strip())]
    files = candidates(sources, given.largest)
    count = len(files)
    files = deduplicate(files)
    print(f"{count} candidates, {len(files)} distinct", flush=True)
    files = name_types(files, given.file)
    print(f"{len({f.mime for f in files})} types among them", flush=True)
    place(balance(choose(files, given.cap, given.type_cap), given.at_least), given.target)


if __name__ == "__main__":
    main()
