"""Makes files of many kinds in the folder given, by Python's own writers of these formats.

A minimal Debian has few kinds of file. With these the corpus is varied on every machine; file(1)
remains the judge of what each of them is.
"""

import bz2
import csv
import email.message
import gzip
import io
import json
import lzma
import marshal
import plistlib
import py_compile
import sqlite3
import struct
import sys
import tarfile
import wave
import zipfile
import zlib
from pathlib import Path

FOLDER = Path(sys.argv[1])
PROSE = "".join(f"Line {n}: the quick brown fox jumps over the lazy dog.\n" for n in range(800))


def put(name, content):
    (FOLDER / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def archive(name, members, mimetype=None):
    with zipfile.ZipFile(FOLDER / name, "w") as out:
        if mimetype:
            out.writestr(zipfile.ZipInfo("mimetype"), mimetype)
        for member in members:
            out.writestr(member, f"<?xml version='1.0'?><part name='{member}'/>",
                         zipfile.ZIP_DEFLATED)


def png(size):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(3 * size)) for y in range(size))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def bmp(size):
    data = bytes(3 * size * size)
    return (b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, size, size, 1, 24, 0, len(data), 2835, 2835, 0, 0) + data)


def tiff():
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, 8), (278, 3, 1, 1), (279, 4, 1, 1)]
    return (b"II*\0" + struct.pack("<I", 12) + b"\x7f\0\0\0" + struct.pack("<H", len(tags))
            + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4))


def containers():
    archive("a.zip", ["readme.txt", "data.bin"])
    archive("a.jar", ["META-INF/MANIFEST.MF", "A.class"])
    for name, folder in (("docx", "word"), ("xlsx", "xl"), ("pptx", "ppt")):
        archive(f"a.{name}", ["[Content_Types].xml", "_rels/.rels", "docProps/core.xml",
                              f"{folder}/document.xml"])
    for name, kind in (("odt", "text"), ("ods", "spreadsheet"), ("odp", "presentation"),
                       ("odg", "graphics")):
        archive(f"a.{name}", ["content.xml"], f"application/vnd.oasis.opendocument.{kind}")
    archive("a.epub", ["META-INF/container.xml"], "application/epub+zip")
    with tarfile.open(FOLDER / "a.tar", "w") as out:
        info = tarfile.TarInfo("prose.txt")
        info.size = len(PROSE)
        out.addfile(info, io.BytesIO(PROSE.encode()))
    put("a.gz", gzip.compress(PROSE.encode(), mtime=0))
    put("a.bz2", bz2.compress(PROSE.encode()))
    put("a.xz", lzma.compress(PROSE.encode()))
    put("a.lzma", lzma.compress(PROSE.encode(), format=lzma.FORMAT_ALONE))
    put("a.zlib", zlib.compress(PROSE.encode()))
    put("a.ar", "!<arch>\n" + "prose.txt/".ljust(16) + "0".ljust(12) + "0".ljust(6) * 2
        + "100644".ljust(8) + "4".ljust(10) + "`\nabc\n")
    put("a.cpio", "070701" + "00000000" * 13 + "TRAILER!!!\0\0\0\0")


def media():
    put("a.png", png(64))
    put("a.gif", b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;")
    put("a.bmp", bmp(32))
    put("a.tiff", tiff())
    put("a.pgm", b"P5\n16 16\n255\n" + bytes(range(256)))
    put("a.svg", "<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg' width='9'/>\n")
    put("a.xpm", '/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #000000",\n"a"};\n')
    with wave.open(str(FOLDER / "a.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(40_000))
    put("a.mid", b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0")
    put("a.au", b".snd" + struct.pack(">IIIII", 24, 1000, 1, 8000, 1) + bytes(1000))
    put("a.ogg", b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis" + bytes(23))
    put("a.flac", b"fLaC\x80\0\0\x22" + struct.pack(">HH", 4096, 4096) + bytes(30))
    put("a.pdf", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj\ntrailer<<>>\n%%EOF\n")
    put("a.ps", "%!PS-Adobe-3.0\n%%Pages: 1\nshowpage\n")
    put("a.rtf", "{\\rtf1\\ansi Hello, \\b world\\b0 .}\n")


def data():
    with sqlite3.connect(FOLDER / "a.sqlite") as database:
        database.execute("CREATE TABLE t (n int, prose text)")
        database.executemany("INSERT INTO t VALUES (?, ?)", enumerate(PROSE.split("\n")))
    database.close()
    put("a.json", json.dumps([{"n": n, "text": "x" * 20} for n in range(4000)]))
    put("small.json", json.dumps({"a": [1, 2.5, None, True]}))
    put("lines.ndjson", "".join(json.dumps({"n": n}) + "\n" for n in range(50)))
    put("a.plist", plistlib.dumps({"a": 1}, fmt=plistlib.FMT_BINARY))
    put("b.plist", plistlib.dumps({"a": 1}))
    out = io.StringIO()
    csv.writer(out).writerows([n, n * n, f"name {n}"] for n in range(200))
    put("a.csv", out.getvalue())
    put("a.marshal", marshal.dumps(list(range(100))))
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", "Hello"
    message.set_content(PROSE[:500])
    put("a.eml", message.as_bytes())
    put("a.mbox", b"From a@example.org Sun Jan  1 00:00:00 2023\n" + message.as_bytes())
    put("a.vcf", "BEGIN:VCARD\nVERSION:3.0\nFN:A B\nEND:VCARD\n")
    put("a.ics", "BEGIN:VCALENDAR\nVERSION:2.0\nEND:VCALENDAR\n")


def texts():
    put("ascii.txt", PROSE)
    put("utf8.txt", "Grüße, naïve café, ελληνικά\n" * 50)
    put("bom.txt", "\ufeffwith a byte order mark\n")
    put("utf16.txt", ("UTF-16 text, Grüße\r\n" * 50).encode("utf-16"))
    put("latin1.txt", ("Grüße aus Köln\n" * 50).encode("latin-1"))
    put("sjis.txt", ("日本語の文章です。\n" * 50).encode("shift-jis"))
    put("a.html", "<!DOCTYPE html>\n<html><head><title>t</title></head><body>b</body></html>\n")
    put("a.xml", "<?xml version='1.0' encoding='UTF-8'?>\n<a><b/></a>\n")
    put("a.c", "#include <stdio.h>\n\nint main(void)\n{\n\tputs(\"x\");\n\treturn 0;\n}\n")
    put("a.diff", "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n")
    put("a.tex", "\\documentclass{article}\n\\begin{document}\nHello\n\\end{document}\n")
    put("a.1", ".TH A 1\n.SH NAME\na \\- does nothing\n")
    put("a.po", 'msgid ""\nmsgstr ""\n"Content-Type: text/plain"\n\nmsgid "a"\nmsgstr "b"\n')
    put("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n")
    put("a.m3u", "#EXTM3U\n#EXTINF:1,a\na.mp3\n")
    for program in ("sh", "perl", "python3", "ruby", "awk", "tclsh", "lua", "node", "php", "wish"):
        put(f"script.{program}", f"#!/usr/bin/{program}\n# a script\n")
    source = FOLDER / "a.py"
    source.write_text("import os\n\n\ndef f(x):\n    return os.path.join(x, 'a')\n")
    py_compile.compile(str(source), str(FOLDER / "a.pyc"), doraise=True)


def programs():
    put("a.elf", b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400078, 64,
                                                            0, 0, 64, 56, 1, 64, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 128, 128, 4096) + bytes(16))
    put("a.exe", b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0"
        + struct.pack("<HHIIIHH", 0x8664, 0, 0, 0, 0, 240, 0x22) + struct.pack("<H", 0x20B) + bytes(300))
    put("a.class", b"\xca\xfe\xba\xbe\0\0\0\x34\0\x10" + bytes(60))
    put("a.wasm", b"\0asm\1\0\0\0")
    put("a.noise", bytes((n * n * 31 + n // 7) % 251 for n in range(100_000)))


for make in (containers, media, data, texts, programs):
    make()
