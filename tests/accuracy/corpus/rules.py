#!/usr/bin/env python3
"""Writes files that meet libmagic's own rules: for types of which no example can be had.

    rules.py MAGIC_FOLDER TARGET

MAGIC_FOLDER is magic/Magdir of file's source package.  For each rule that names a MIME type the bytes are set that it and
the rules above it ask for, as far as that can be read off (direct offsets, numbers, strings); the rest is zeros, noise or
text, in three sizes.  What file(1) then calls the file is another matter: all the better if several rules compete for it.
"""

import os
import random
import re
import sys

NUMBER = re.compile(r"^(u?)(be|le|me)?(byte|short|long|quad|date|qdate|ldate|id3|float|double)((?:[&%/*+^|~-].*)?)$")
WIDTH = {"byte": 1, "short": 2, "long": 4, "quad": 8, "date": 4, "ldate": 4, "qdate": 8, "id3": 4, "float": 4, "double": 8}
LINE = re.compile(r"^(>*)([^\s]+)\s+([^\s]+)\s+((?:\\.|[^\s\\])+)")
ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.S)
PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"a": b"\a"}


def unescape(text):
    def one(match):
        word = match.group(1)
        if word[:1] == b"x" and len(word) > 1:
            return bytes((int(word[1:], 16),))
        if word[:1] in b"01234567":
            return bytes((int(word, 8) & 255,))
        return PLAIN.get(word, word)
    return ESCAPE.sub(one, text.encode("latin-1"))


def integer(text):
    text = text.rstrip("LlUu")
    if re.fullmatch(r"-?0[0-7]+", text):
        return int(text, 8)
    return int(text, 0)


class Bytes:
    """What has been asked for so far, and where the last of it ended."""

    def __init__(self):
        self.known, self.end = {}, 0

    def put(self, offset, data):
        if offset < 0 or offset > 70_000:
            raise ValueError(offset)
        for n, value in enumerate(data):
            self.known[offset + n] = value
        self.end = offset + len(data)


def meet(out, offset, kind, test):
    """Sets what this line asks for. ValueError: can't be read off."""
    if offset.startswith("&") and not offset.startswith("&("):
        place = out.end + integer(offset[1:].lstrip("+"))
    elif "(" in offset or offset.startswith("-"):
        raise ValueError(offset)
    else:
        place = integer(offset)
    base = kind.split("/")[0]
    if base in ("string", "search", "pstring", "ustring", "lestring16", "bestring16"):
        if test in ("x", ">\\0", ">0", "!\\0"):
            out.put(place, b"A")
            return
        if test[0] == "!":
            return
        data = unescape(test[1:] if test[0] in "=><" else test)
        if base == "pstring":
            data = bytes((len(data),)) + data
        elif base == "lestring16":
            data = data.decode("latin-1").encode("utf-16-le")
        elif base == "bestring16":
            data = data.decode("latin-1").encode("utf-16-be")
        out.put(place, data)
        return
    if base == "regex":
        data = re.sub(r"[\^$]|\\\\?[.^$]", "", test.lstrip("="))
        if re.search(r"[\[\](){}*+?|\\.]", data):
            raise ValueError(test)
        out.put(place, data.encode("latin-1"))
        return
    if base in ("default", "clear", "name", "use", "indirect", "offset", "der", "guid"):
        if base in ("default", "clear", "offset"):
            return
        raise ValueError(kind)
    match = NUMBER.match(kind)
    if not match:
        raise ValueError(kind)
    if test == "x":
        return
    width, mask = WIDTH[match[3]], (1 << 64) - 1
    if match[4].startswith("&"):
        mask = integer(match[4][1:].split("/")[0])
    elif match[4]:
        raise ValueError(kind)
    operator = test[0] if test[0] in "=!<>&^~" else "="
    value = integer(test[1:].strip() if test[0] in "=!<>&^~" else test)
    value = {"=": value, "&": value, ">": value + 1, "<": value - 1, "!": value ^ 1, "^": 0, "~": ~value}[operator]
    order = "big" if match[2] == "be" else "little"
    value &= mask & ((1 << 8 * width) - 1)
    if mask != (1 << 64) - 1:
        # Only some bits are asked for: the others stay.
        before = bytes(out.known.get(place + n, 0) for n in range(width))
        value |= int.from_bytes(before, order) & ~mask
    out.put(place, value.to_bytes(width, order))


def rules(folder):
    """(MIME type, lines from the top rule to the one that names it)."""
    for name in sorted(os.listdir(folder)):
        above = []
        with open(os.path.join(folder, name), encoding="latin-1") as lines:
            for line in lines:
                if line.startswith("!:mime") and above:
                    yield line.split(None, 1)[1].strip().split()[0], list(above)
                elif not line.startswith(("#", "!:")) and line.strip():
                    match = LINE.match(line.rstrip("\n"))
                    if match:
                        level = len(match[1])
                        above = above[:level] + [(match[2], match[3], match[4])]


def main():
    folder, target = sys.argv[1:]
    chance = random.Random(17)
    done = {}
    text = b"".join(b"line %d of some text\n" % n for n in range(4000))
    for mime, lines in rules(folder):
        out = Bytes()
        try:
            for line in lines:
                meet(out, *line)
        except ValueError:
            continue
        number = done[mime] = done.get(mime, 0) + 1
        if number > 4 or not out.known:
            continue
        length = max(out.known) + 1
        printable = all(value in b"\t\n\r\f" or 32 <= value < 127 or value > 160 for value in out.known.values())
        stem = re.sub(r"[^A-Za-z0-9.+-]", "_", mime)
        os.makedirs(os.path.join(target, "any", "rules"), exist_ok=True)
        for size, fill in ((max(length + 40, 300), "zeros"), (20_000, "noise"), (70_000, "zeros"), (20_000, "text")):
            if (fill == "text") != printable and size != 70_000:
                continue
            size = max(size, length + 16)
            data = bytearray({"zeros": bytes(size), "noise": chance.randbytes(size), "text": text[:size].ljust(size)}[fill])
            if printable and fill != "text":
                data = bytearray(text[:size].ljust(size))
            for place, value in out.known.items():
                data[place] = value
            with open(os.path.join(target, "any", "rules", f"{stem}.{number}.{size}.{fill}"), "wb") as stream:
                stream.write(data)


if __name__ == "__main__":
    main()
