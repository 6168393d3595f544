#!/usr/bin/env python3
"""Writes texts and data of many encodings, sizes and shapes, below TARGET/<class>/<origin>/.

    texts.py TARGET [short]

Most of what an archive keeps is text in the widest sense, and text is where a detector that reads only the head of a
file goes wrong: whether something is JSON, CSV or plain text, or in which encoding, can depend on its last byte.  So
each kind comes small, beyond 16 kB, beyond 64 kB and (not with "short") beyond 1 MiB and 7 MiB, where libmagic stops
looking, and with what decides put late.
"""

import csv
import io
import json
import os
import random
import struct
import sys
import zlib

TARGET = sys.argv[1]
SHORT = len(sys.argv) > 2 and sys.argv[2] == "short"
CHANCE = random.Random(7)
SIZES = (300, 5_000, 17_000, 70_000) + (() if SHORT else (400_000, 1_500_000, 7_500_000))
FEW = (1_000, 20_000) + (() if SHORT else (100_000,))

WORDS = ("archive record evidence survey harbour winter letter station engine council report bridge signal "
         "village measure copper witness garden railway minute figure shadow paper window market island").split()
PROSE = {
    "english": "It was the night before the hearing, and the letters had not been found.",
    "german": "Übermäßig große Äpfel fielen früh von den Bäumen; Köln schwieg.",
    "french": "Où sont passés les élèves ? Ça, Noël, l'œuvre déjà achevée à l'hôtel.",
    "polish": "Zażółć gęślą jaźń, powiedział źrebak w Łodzi.",
    "russian": "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία στην Αθήνα.",
    "turkish": "Pijamalı hasta yağız şoföre çabucak güvendi.",
    "hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה.",
    "arabic": "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر.",
    "thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "japanese": "いろはにほへと、散りぬるを。日本語の文章です。カタカナも。",
    "chinese": "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。",
    "taiwanese": "天地玄黃,宇宙洪荒。日月盈昃,辰宿列張。",
    "korean": "다람쥐 헌 쳇바퀴에 타고파. 한국어 문장입니다.",
}
ENCODINGS = {
    "english": "ascii utf-16-le utf-16-be utf-32-le utf-32-be cp037 cp500 cp1140 utf-7",
    "german": "utf-8 latin-1 cp1252 cp437 cp850 iso8859-15 mac-roman utf-16-le utf-16-be utf-32-le utf-32-be cp273",
    "french": "utf-8 cp1252 iso8859-15 cp863 utf-16-le",
    "polish": "utf-8 iso8859-2 cp1250 cp852 mac-latin2",
    "russian": "utf-8 koi8-r cp1251 cp866 iso8859-5 mac-cyrillic utf-16-le utf-16-be utf-32-le",
    "greek": "utf-8 iso8859-7 cp1253 cp737",
    "turkish": "utf-8 iso8859-9 cp1254 cp857",
    "hebrew": "utf-8 iso8859-8 cp1255 cp862",
    "arabic": "utf-8 iso8859-6 cp1256 cp864",
    "thai": "utf-8 tis-620 cp874",
    "japanese": "utf-8 shift_jis euc-jp iso2022-jp cp932 utf-16-le utf-16-be",
    "chinese": "utf-8 gb2312 gbk gb18030 hz",
    "taiwanese": "utf-8 big5 big5hkscs cp950",
    "korean": "utf-8 euc-kr johab iso2022-kr cp949",
}
MARKS = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff",
         "utf-32-le": b"\xff\xfe\0\0", "utf-32-be": b"\0\0\xfe\xff"}


# Of what is over 1 MB only these: some of each sort are enough, and disks are finite.
HUGE = ("array.", "object.", "indented.", "leading-blanks.", "bad-late.", "last-byte-missing.", "nul-late.", "lines.",
        "lines-then-text.", "one-string.", "utf16.", "comma.", "ragged-late.", "open-quote-late.", "tab.", "late.",
        "late-root.", "blanks.", "utf8-at-the-end.", "latin1-at-the-end.", "nul-at-the-end.", "control-at-the-end.",
        "broken-utf8-at-the-end.", "binary-after-text.", "lone-surrogate-at-the-end.", "odd-utf16.", "plain.",
        "head-late.", "late2.", "cr.", "nel.", "long-lines.", "blank-then-html.", "film.", "folder.", "dump.", "file.")


def put(kind, origin, name, content):
    if len(content) > 1_000_000 and not name.startswith(HUGE):
        return
    folder = os.path.join(TARGET, kind, origin)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as out:
        out.write(content.encode() if isinstance(content, str) else content)


def prose(size, language="english", line_end="\n"):
    """Lines that differ, so that files of one language and different sizes aren't each other's copies in the main."""
    if size > 200_000:
        return prose(100_000, language, line_end) * (size // 100_000)
    sentence = PROSE[language]
    lines, length, n = [], 0, 0
    while length < size:
        n += 1
        if language == "english":
            line = f"{n} " + " ".join(CHANCE.choice(WORDS) for _ in range(9)) + ". " + sentence[:n % 40]
        else:
            line = f"{n}. {sentence[n % 7:]}{sentence}"
        lines.append(line)
        length += len(line) + 1
    return line_end.join(lines) + line_end


def encodings():
    for language, names in ENCODINGS.items():
        for name in names.split():
            for size in SIZES[:3] if SHORT else SIZES[:4]:
                text = prose(size // (4 if "32" in name else 2 if "16" in name else 1), language)
                content = text.encode(name, "replace")
                put("text", "encodings", f"{language}.{name}.{size}.txt", content)
                if name in MARKS:
                    put("text", "encodings", f"{language}.{name}-bom.{size}.txt", MARKS[name] + content)
    for size in SIZES:
        # The only byte that isn't ASCII comes last.
        text = prose(size).encode()
        put("text", "late", f"utf8-at-the-end.{size}.txt", text + "é\n".encode())
        put("text", "late", f"latin1-at-the-end.{size}.txt", text + b"caf\xe9\n")
        put("text", "late", f"nul-at-the-end.{size}.txt", text + b"\0")
        put("text", "late", f"ctrl-z-at-the-end.{size}.txt", text + b"\x1a")
        put("text", "late", f"escape-at-the-end.{size}.txt", text + b"\x1b[0m\n")
        put("text", "late", f"control-at-the-end.{size}.txt", text + b"\x01\x02\n")
        put("text", "late", f"broken-utf8-at-the-end.{size}.txt", prose(size, "german").encode() + b"\xc3")
        put("text", "late", f"broken-utf8-then-more.{size}.txt",
            prose(size, "german").encode() + b"\xff\xfe\n" + prose(300).encode())
        put("text", "late", f"binary-after-text.{size}.bin", text + bytes(CHANCE.randrange(256) for _ in range(2000)))
        put("text", "late", f"lone-surrogate-at-the-end.{size}.txt",
            b"\xff\xfe" + text[:size // 2].decode().encode("utf-16-le") + b"\x00\xd8\x41\x00")
        put("text", "late", f"odd-utf16.{size}.txt", b"\xff\xfe" + text[:size // 2].decode().encode("utf-16-le") + b"A")


def lines():
    ends = {"lf": "\n", "cr": "\r", "crlf": "\r\n", "nel": "\x85", "lfcr": "\n\r", "vt": "\v", "ff": "\f"}
    for size in SIZES:
        for name, end in ends.items():
            put("text", "lines", f"{name}.{size}.txt", prose(size, line_end=end).encode("latin-1"))
        put("text", "lines", f"mixed.{size}.txt", prose(size // 2, line_end="\r\n") + prose(size // 2))
        put("text", "lines", f"no-line-end.{size}.txt", prose(size, line_end=" "))
        put("text", "lines", f"long-lines.{size}.txt", prose(size, line_end=" ").replace(" 100 ", "\n"))
        put("text", "lines", f"overstriking.{size}.txt",
            "".join(f"_\b{c}" if c.isalpha() else c for c in prose(size // 3)))
        put("text", "lines", f"colours.{size}.log", prose(size).replace(" the ", " \x1b[31mthe\x1b[0m "))
        put("text", "lines", f"blanks.{size}.txt", " \t\n" * (size // 3) + "end\n")
        put("text", "lines", f"blank-then-html.{size}.txt", "\n" * size + "<html><body>late</body></html>\n")
        put("text", "lines", f"digits.{size}.txt", "".join(f"{n * n}\n" for n in range(size // 8)))
        put("text", "lines", f"hexdump.{size}.txt", "".join(
            f"{n * 16:08x}  " + " ".join(f"{(n * 7 + k) % 256:02x}" for k in range(16)) + "  |................|\n"
            for n in range(size // 79 + 1)))
        put("text", "lines", f"syslog.{size}.log", "".join(
            f"Jun {n % 28 + 1:2d} 0{n % 10}:{n % 60:02d}:12 host{n % 3} daemon[{n}]: {CHANCE.choice(WORDS)} failed\n"
            for n in range(size // 48 + 1)))
        put("text", "lines", f"access.{size}.log", "".join(
            f'10.0.{n % 255}.{n % 99} - - [12/Jun/2023:10:{n % 60:02d}:00 +0200] "GET /{n}.html HTTP/1.1" 200 {n * 7}\n'
            for n in range(size // 82 + 1)))


def record(n):
    return {"id": n, "name": CHANCE.choice(WORDS), "tags": [CHANCE.choice(WORDS) for _ in range(n % 4)],
            "score": n / 7, "open": n % 2 == 0, "note": None if n % 3 else "Grüße, \"quoted\" \\ \u20ac",
            "at": {"lat": n % 90, "lon": -n % 180}}


def json_files():
    for size in SIZES:
        rows = [record(n) for n in range(max(1, size // 130))]
        for name, text in {
            "array": json.dumps(rows),
            "object": json.dumps({"rows": rows, "count": len(rows)}),
            "indented": json.dumps({"rows": rows}, indent=2),
            "unicode": json.dumps(rows, ensure_ascii=False),
            "string-array": json.dumps([CHANCE.choice(WORDS) for _ in range(size // 9)]),
            "number-array": json.dumps([n * 1.5 for n in range(size // 9)]),
            "one-string": json.dumps({"text": "x" * size}),
            "one-key": json.dumps({CHANCE.choice(WORDS) * (size // 8): 1}),
            "leading-blanks": "\n" * (size // 2) + json.dumps(rows[:len(rows) // 2 + 1]),
            "trailing-blanks": json.dumps(rows[:len(rows) // 2 + 1]) + " " * (size // 2),
            "geojson": json.dumps({"type": "FeatureCollection", "features": [
                {"type": "Feature", "geometry": {"type": "Point", "coordinates": [n % 180, n % 90]},
                 "properties": {"name": str(n)}} for n in range(size // 110 + 1)]}),
        }.items():
            put("data", "json", f"{name}.{size}.json", text)
        whole = json.dumps(rows)
        lined = "".join(json.dumps(row) + "\n" for row in rows)
        for name, text in {
            "cut": whole[:len(whole) * 2 // 3],
            "last-byte-missing": whole[:-1],
            "extra-bracket": whole + "]",
            "extra-comma": whole[:-1] + ",]",
            "text-after": whole + "\nand more\n",
            "bad-late": whole[:-1] + ", nope]",
            "single-quotes": whole.replace('"', "'"),
            "python-dict": repr(rows),
            "comment-first": "/* settings */\n" + whole,
            "comment-late": whole + "\n// end\n",
            "nul-late": whole[:-1] + " \0]",
            "bom": "\ufeff" + whole,
            "javascript": "[" + ", ".join(f"function f{n}() {{ return {n}; }}" for n in range(size // 40 + 1)) + "]",
            "css": "".join(f"{{}} .c{n} {{ color: #{n % 4096:03x}; }}\n" for n in range(size // 26 + 1)),
            "json5": "{" + ",".join(f"key{n}: {n}" for n in range(size // 12 + 1)) + "}",
            "ini": "".join(f"[section {n}]\nkey = {n}\n\n" for n in range(size // 25 + 1)),
            "ini-word": "".join(f"[{WORDS[n % 9]}]\nkey = {n}\n" for n in range(size // 18 + 1)),
            "wiki": "".join(f"[[Page {n}]] {{{{template|{n}}}}} text\n" for n in range(size // 32 + 1)),
            "lisp-vector": "[" + " ".join(f":k{n} {n}" for n in range(size // 9 + 1)) + "]",
            "toml": "".join(f"[[item]]\nname = \"{n}\"\nvalues = [1, 2, {n}]\n\n" for n in range(size // 42 + 1)),
            "braces": "{" * 200 + prose(size) + "}" * 200,
            "log-lines": "".join(f"[{n}] {CHANCE.choice(WORDS)}\n" for n in range(size // 14 + 1)),
            "minus": "- " + whole,
            "octal": "[" + ", ".join("0123" for _ in range(size // 6 + 1)) + "]",
            "control-in-string": whole[:-1] + ', "a\tb"]',
            "bad-escape": whole[:-1] + ', "\\q"]',
        }.items():
            put("data", "almost-json", f"{name}.{size}.json", text)
        put("data", "json", f"utf16.{size}.json", whole[:size // 2].encode("utf-16"))
        for name, text in {
            "lines": lined,
            "lines-blank-between": lined.replace("\n", "\n\n"),
            "lines-no-last-end": lined[:-1],
            "lines-cut": lined[:-20],
            "lines-arrays": "".join(f"[{n}, {n + 1}]\n" for n in range(size // 12 + 1)),
            "lines-then-text": lined + "not any more\n",
            "lines-numbers": "".join(f"{n}\n" for n in range(size // 5 + 1)),
            "lines-crlf": lined.replace("\n", "\r\n"),
        }.items():
            put("data", "ndjson", f"{name}.{size}.ndjson", text)
    for depth in (10, 18, 19, 20, 21, 22, 100, 500, 501, 1000, 100_000):
        put("data", "json", f"deep.{depth}.json", "[" * depth + "]" * depth)
        put("data", "json", f"deep-object.{depth}.json", '{"a":' * depth + "1" + "}" * depth)
    for n, text in enumerate(('1', '"a"', "true", "null", "[]", "{}", "[1]", '{"a":1}', "-1.5e9", "[ ]", "{ }", "[[]]",
                              '[""]', "[,]", "{,}", "[1,]", '{"a"}', "nul", "tru", "[1 2]", "0", "01", "[nan]",
                              '{"a":1}\n{"a":2}\n', "[]\n[]\n", "[1]\n[2]", '"a" "b"', '{"a":{}}', "\n[1]\n",
                              "\ufeff[1]", "[1]\0", "[0x1]", "[.5]", "[1.]", "[1e]", "[+1]", '["\\u12"]', "[true]",
                              '{"a":1,"a":2}', "[1]]", "{]", "[}")):
        put("data", "json-tiny", f"{n:02d}.json", text)


def csv_files():
    def table(rows, columns, separator=",", end="\n", quote=csv.QUOTE_MINIMAL, text=False):
        out = io.StringIO()
        writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quote)
        writer.writerow([f"column{c}" for c in range(columns)])
        for n in range(rows):
            writer.writerow([n * c if c % 2 else (f"{CHANCE.choice(WORDS)}, {n}\nnext" if text and c == 2
                                                  else CHANCE.choice(WORDS)) for c in range(columns)])
        return out.getvalue()

    for size in SIZES:
        rows = max(2, size // 40)
        good = table(rows, 6)
        split = good.splitlines(True)
        for name, text in {
            "comma": good, "crlf": table(rows, 6, end="\r\n"), "tab": table(rows, 6, "\t"),
            "semicolon": table(rows, 6, ";"), "pipe": table(rows, 6, "|"),
            "all-quoted": table(rows, 6, quote=csv.QUOTE_ALL), "multi-line": table(rows, 6, text=True),
            "two-columns": table(rows * 2, 2), "one-column": table(rows * 4, 1), "wide": table(max(2, rows // 40), 240),
            "ragged-late": good + "1,2\n", "ragged-early": "title\n" + good,
            "ragged-line-10": "".join(split[:9]) + "a,b\n" + "".join(split[9:]),
            "ragged-line-11": "".join(split[:10]) + "a,b\n" + "".join(split[10:]),
            "ragged-line-12": "".join(split[:11]) + "a,b\n" + "".join(split[11:]),
            "no-last-end": good[:-1], "open-quote-late": good + '"open,1,2,3,4,5\n',
            "open-quote-early": '"' + good, "blank-line-late": good + "\n", "umlaut": good + "ä,1,2,3,4,5\n",
            "latin1": (good + "ä,1,2,3,4,5\n").encode("latin-1"), "bom": "\ufeff" + good,
            "long-first-line": ",".join(str(n) for n in range(size // 7)) + "\n1,2\n",
            "long-first-cell": '"' + "x" * size + '",2\n' + "1,2\n" * 20,
            "comma-prose": "".join(f"Dear {CHANCE.choice(WORDS)}, {CHANCE.choice(WORDS)}\n" for _ in range(size // 20)),
        }.items():
            put("data", "csv", f"{name}.{size}.csv", text)
    for rows in range(1, 13):
        put("data", "csv-short", f"{rows}-lines.csv", "".join(f"{n},{n + 1},x\n" for n in range(rows)))


def markup():
    for size in SIZES:
        filler = "<!-- " + prose(size).replace("-", " ") + " -->\n"
        body = "".join(f"<p>Paragraph {n} {CHANCE.choice(WORDS)} <b>x</b></p>\n" for n in range(size // 40 + 1))
        items = "".join(f"<item><title>{CHANCE.choice(WORDS)} {n}</title><link>http://example.org/{n}</link></item>\n"
                        for n in range(size // 75 + 1))
        page = f"<html><head><title>t{size}</title></head><body>\n{body}</body></html>\n"
        declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
        for name, text in {
            "plain.html": page, "doctype.html": "<!DOCTYPE html>\n" + page, "upper.html": page.upper(),
            "doctype4.html": '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN">\n' + page,
            "late.html": filler + page, "late-doctype.html": filler + "<!DOCTYPE html>\n" + page,
            "blanks.html": " " * size + page, "body-only.html": body, "fragment.html": "<div>\n" + body + "</div>\n",
            "head-late.html": prose(size) + page, "xhtml.html": declaration + page, "bom.html": "\ufeff" + page,
            "script.html": "<script>\n" + prose(size) + "</script>\n", "table.html": "<table><tr><td>" + body,
            "latin1.html": (page + "é").encode("latin-1"), "utf16.html": page[:size // 2].encode("utf-16"),
            "plain.xml": declaration + f"<root>{items}</root>\n", "no-declaration.xml": f"<root>{items}</root>\n",
            "late-root.xml": declaration + filler + f"<root>{items}</root>\n", "bom.xml": "\ufeff" + declaration + "<r/>",
            "utf16.xml": (declaration.replace("UTF-8", "UTF-16") + f"<root>{items}</root>")[:size // 2].encode("utf-16"),
            "blanks.xml": "\n" * size + declaration + "<r/>",
            "single.xml": declaration.replace('"', "'") + f"<root>{items}</root>\n",
            "feed.rss": declaration + f"<rss version=\"2.0\"><channel>{items}</channel></rss>\n",
            "feed.atom": declaration + f"<feed xmlns=\"http://www.w3.org/2005/Atom\">{items}</feed>\n",
            "late.rss": declaration + filler + f"<rss version=\"2.0\"><channel>{items}</channel></rss>\n",
            "map.kml": declaration + f"<kml xmlns=\"http://www.opengis.net/kml/2.2\"><Document>{items}</Document></kml>",
            "track.gpx": declaration + f"<gpx version=\"1.1\" creator=\"x\">{items}</gpx>",
            "book.fb2": declaration + f"<FictionBook>{items}</FictionBook>", "sheet.xsl": declaration
            + f'<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">{items}</xsl:stylesheet>',
            "picture.svg": declaration + f'<svg xmlns="http://www.w3.org/2000/svg"><desc>{items}</desc></svg>\n',
            "bare.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><desc>{items}</desc></svg>\n',
            "late.svg": declaration + filler + f'<svg xmlns="http://www.w3.org/2000/svg">{items}</svg>\n',
            "entities.svg": declaration + "<!DOCTYPE svg [\n" + "".join(
                f'<!ENTITY e{n} "{n}">\n' for n in range(size // 20)) + ']>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n',
            "list.plist": declaration + '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "x">\n<plist version="1.0">'
            + f"<dict>{items}</dict></plist>", "map.sitemap.xml": declaration
            + f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{items}</urlset>',
            "math.mml": declaration + f"<math xmlns='http://www.w3.org/1998/Math/MathML'>{items}</math>",
            "x3d.x3d": declaration + f"<X3D profile='Full'>{items}</X3D>", "collada.dae": declaration
            + f"<COLLADA xmlns='x'>{items}</COLLADA>", "smil.smil": f"<smil><body>{items}</body></smil>",
            "playlist.xspf": declaration + f'<playlist version="1" xmlns="http://xspf.org/ns/0/">{items}</playlist>',
            "word.xml": declaration + '<?mso-application progid="Word.Document"?>\n<w:wordDocument>' + items
            + "</w:wordDocument>", "paper.tex": "\\documentclass{article}\n\\begin{document}\n" + prose(size)
            + "\\end{document}\n", "late.tex": "".join(f"% {line}\n" for line in prose(size).split("\n"))
            + "\\documentclass{article}\n\\begin{document}\nx\\end{document}\n",
            "page.1": ".TH X 1\n.SH NAME\n" + prose(size), "late.1": "".join(f".\\\" {line}\n" for line
                                                                             in prose(size).split("\n")) + ".TH X 1\n",
            "notes.md": "# Title\n\n" + prose(size).replace("\n", "\n\n* "), "notes.rst": "Title\n=====\n\n" + prose(size),
            "info.texi": "\\input texinfo\n@setfilename x.info\n" + prose(size), "old.rtf": "{\\rtf1\\ansi\n" + prose(size)
            + "}", "style.css": "".join(f".c{n} {{ color: #{n % 4096:03x}; }}\n" for n in range(size // 24 + 1)),
            "refs.bib": "".join(f"@article{{k{n},\n  title={{{CHANCE.choice(WORDS)}}},\n  year={{{n % 100 + 1900}}}\n}}\n\n"
                                for n in range(size // 52 + 1)),
        }.items():
            stem, dot, last = name.partition(".")
            put("markup", "made", f"{stem}.{size}.{last}", text)


def scripts():
    names = ("sh bash dash ksh zsh csh tcsh perl python python2 python3 ruby awk gawk mawk nawk tclsh wish lua node php "
             "expect guile osascript Rscript sed make stap escript ocaml runhaskell fish rc es groovy scala julia "
             "octave gnuplot bc m4 pike newlisp racket swift kotlin deno bun crystal nim texlua luajit").split()
    for name in names:
        for number, line in enumerate((f"#!/usr/bin/{name}", f"#!/usr/bin/env {name}", f"#! /usr/local/bin/{name} -w",
                                       f"#!/bin/{name}")):
            size = FEW[number % len(FEW)]
            put("source", "scripts", f"{name}.{number}", line + "\n# a script\n" + prose(size).replace("\n", "\n# "))
    starts = {
        "c": "#include <stdio.h>\n\nint main(void)\n{\n\treturn 0;\n}\n",
        "cc": "#include <iostream>\n\nclass A {\npublic:\n  virtual ~A();\n};\nusing namespace std;\n",
        "java": "package org.example;\n\nimport java.util.List;\n\npublic class A {\n}\n",
        "py": "import os\nfrom sys import argv\n\n\ndef f(x):\n    return x\n\n\nclass A:\n    pass\n",
        "pl": "package A;\nuse strict;\nmy $x = 1;\nsub f { return $x }\n1;\n",
        "rb": "require 'set'\n\nmodule A\n  class B\n    def f\n    end\n  end\nend\n",
        "php": "<?php\nnamespace A;\nclass B { }\n", "js": "'use strict';\nconst x = require('x');\nfunction f() {}\n",
        "ts": "import { x } from 'x';\nexport interface A { b: string }\n", "go": "package main\n\nimport \"fmt\"\n",
        "rs": "use std::fs;\n\npub fn main() {}\n", "cs": "using System;\nnamespace A { class B { } }\n",
        "f90": "      program a\n      implicit none\n      end\n", "pas": "program a;\nbegin\nend.\n",
        "lisp": "(defun f (x) (list x))\n(defvar *x* 1)\n", "el": ";;; a.el --- x\n(defun f () nil)\n",
        "scm": "(define (f x) x)\n", "hs": "module Main where\nimport Data.List\n", "ml": "let f x = x\n",
        "asm": "\t.text\n\t.globl main\nmain:\n\tret\n", "sql": "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n",
        "m4": "divert(-1)\ndnl x\ndefine(`a', `b')\ndivert\n", "bat": "@echo off\r\nrem x\r\n", "vbs": "Dim x\r\nSub f\r\n",
        "mk": "CC = gcc\nall: a.o\n\t$(CC) -o a a.o\n", "makefile": ".PHONY: all\nall:\n\techo x\n", "tcl": "proc f {x} {}\n",
        "awk": "BEGIN { x = 1 }\n", "lua": "local x = require 'x'\nfunction f() end\n", "ps1": "Param($x)\r\n",
        "d": "module a;\nimport std.stdio;\n", "v": "module a(input b);\nendmodule\n", "vhd": "entity a is\nend a;\n",
        "cmake": "cmake_minimum_required(VERSION 3.1)\nproject(a)\n", "dockerfile": "FROM debian\nRUN true\n",
        "yaml": "---\na: 1\nb:\n  - c\n", "spec": "Name: a\nVersion: 1\n%description\nx\n", "idl": "interface A { };\n",
        "proto": "syntax = \"proto3\";\nmessage A { }\n", "y": "%token A\n%%\na: A ;\n%%\n", "l": "%%\n[a-z]+ ;\n%%\n",
        "xs": "#include \"XSUB.h\"\nMODULE = A\n", "m": "#import <Foundation/Foundation.h>\n@interface A\n@end\n",
        "swift": "import Foundation\nstruct A { }\n", "kt": "package a\nfun main() { }\n", "clj": "(ns a.b)\n(defn f [x] x)\n",
        "erl": "-module(a).\n-export([f/0]).\n", "ex": "defmodule A do\nend\n", "r": "f <- function(x) x\n",
        "diff": "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "patch": "--- a/x\t2020\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
        "cdiff": "*** a/x\t2020\n--- b/x\t2020\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b\n",
        "ed": "1c\nb\n.\n", "po": "msgid \"\"\nmsgstr \"\"\n\"Content-Type: text/plain; charset=UTF-8\\n\"\n\nmsgid \"a\"\nmsgstr \"b\"\n",
        "reg": "Windows Registry Editor Version 5.00\r\n\r\n[HKEY_X]\r\n", "inf": "[Version]\r\nSignature=\"$CHICAGO$\"\r\n",
        "url": "[InternetShortcut]\r\nURL=http://example.org/\r\n", "torrent": "d8:announce3:abc4:infod6:lengthi1eee",
        "desktop": "[Desktop Entry]\nName=x\nType=Application\n", "bcpl": "get \"LIBHDR\"\n",
    }
    comment = {"c": "// ", "cc": "// ", "java": "// ", "py": "# ", "pl": "# ", "rb": "# ", "js": "// ", "rs": "// ",
               "go": "// ", "php": "// ", "lisp": "; ", "el": "; ", "sql": "-- ", "bat": "rem ", "mk": "# ", "tcl": "# ",
               "f90": "! ", "m4": "dnl ", "asm": "# ", "lua": "-- ", "ts": "// ", "cs": "// ", "hs": "-- ", "swift": "// "}
    for name, text in starts.items():
        for size in FEW:
            put("source", "languages", f"first.{size}.{name}", text + prose(size))
            mark = comment.get(name, "")
            late = "".join(f"{mark}{line}\n" for line in prose(size).split("\n"))
            put("source", "languages", f"late.{size}.{name}", late + text)
        put("source", "languages", f"bare.{name}", text)
        put("source", "languages", f"repeated.{name}", text * (30_000 // len(text)))


def mail():
    header = ("From: a@example.org\nTo: b@example.org\nSubject: {}\nDate: Mon, 12 Jun 2023 10:00:00 +0200\n"
              "Message-ID: <{}@example.org>\nMIME-Version: 1.0\n")
    for size in SIZES:
        text = prose(size)
        plain = header.format("letter", size) + "Content-Type: text/plain\n\n" + text
        many = "".join(f"Received: from host{n} by host{n + 1}; Mon, 12 Jun 2023 10:00:00 +0200\n"
                       for n in range(size // 70 + 1)) + plain
        attached = (header.format("attached", size) + "Content-Type: multipart/mixed; boundary=x\n\n--x\n\ntext\n--x\n"
                    "Content-Transfer-Encoding: base64\nContent-Type: application/pdf\n\n" + "QUJD" * (size // 4) + "\n--x--\n")
        for name, content in {
            "plain.eml": plain, "attached.eml": attached, "received.eml": many, "crlf.eml": plain.replace("\n", "\r\n"),
            "return-path.eml": "Return-Path: <a@example.org>\n" + plain, "delivered.eml": "Delivered-To: b@x\n" + plain,
            "folder.mbox": "".join(f"From a@example.org Mon Jun 12 10:0{n}:00 2023\n{plain}\n" for n in range(2)),
            "news.txt": "Path: a!b!c\nNewsgroups: a.b\n" + plain, "xref.txt": "Xref: a b:1\n" + plain,
            "relay.txt": "Relay-Version: x\n" + plain, "article.txt": "Article 1 of x:\n" + plain,
            "subject.eml": "Subject: x\n" + plain, "to.eml": "To: x\n" + plain, "mime.eml": "MIME-Version: 1.0\n" + plain,
            "content.eml": "Content-Type: text/plain\n\n" + text, "forward.txt": "Forward to x\n" + text,
            "x-mailer.eml": "X-Mailer: x\n" + plain, "message-id.eml": "Message-Id: <x@y>\n" + plain,
            "cards.vcf": "".join(f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:{n}\r\nEND:VCARD\r\n" for n in range(size // 45 + 1)),
            "cal.ics": "BEGIN:VCALENDAR\r\nVERSION:2.0\r\n" + "".join(
                f"BEGIN:VEVENT\r\nUID:{n}\r\nSUMMARY:x\r\nEND:VEVENT\r\n" for n in range(size // 48 + 1))
            + "END:VCALENDAR\r\n", "old.vcs": "BEGIN:VCALENDAR\r\nVERSION:1.0\r\nEND:VCALENDAR\r\n" * (size // 45 + 1),
        }.items():
            stem, dot, last = name.partition(".")
            put("mail", "made", f"{stem}.{size}.{last}", content)
        for name, content in {
            "film.srt": "".join(f"{n}\n00:0{n % 10}:00,000 --> 00:0{n % 10}:01,000\nx\n\n" for n in range(1, size // 38 + 2)),
            "film.vtt": "WEBVTT\n\n" + "".join(f"00:0{n % 10}.000 --> 00:0{n % 10}.900\nx\n\n" for n in range(size // 28 + 1)),
            "film.ass": "[Script Info]\nTitle: x\n" + prose(size), "film.sub": "{0}{25}x\n" * (size // 9 + 1),
            "list.m3u": "#EXTM3U\n" + "".join(f"#EXTINF:{n},x\n{n}.mp3\n" for n in range(size // 20 + 1)),
            "list.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n" + "".join(f"#EXTINF:9,\n{n}.ts\n" for n in range(size // 16 + 1)),
            "list.pls": "[playlist]\n" + "".join(f"File{n}={n}.mp3\n" for n in range(size // 14 + 1)),
            "list.cue": "FILE \"a.wav\" WAVE\n" + prose(size), "list.asx": "<asx version=\"3.0\">\n" + prose(size),
            "key.pem": "-----BEGIN CERTIFICATE-----\n" + ("A" * 64 + "\n") * (size // 65 + 1) + "-----END CERTIFICATE-----\n",
            "private.pem": "-----BEGIN RSA PRIVATE KEY-----\n" + ("B" * 64 + "\n") * (size // 65 + 1),
            "openssh.key": "-----BEGIN OPENSSH PRIVATE KEY-----\n" + ("b" * 70 + "\n") * (size // 71 + 1),
            "message.asc": "-----BEGIN PGP MESSAGE-----\n\n" + ("C" * 64 + "\n") * (size // 65 + 1) + "-----END PGP MESSAGE-----\n",
            "signed.asc": "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + prose(size)
            + "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n",
            "public.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + ("D" * 64 + "\n") * (size // 65 + 1),
            "signature.asc": "-----BEGIN PGP SIGNATURE-----\n\n" + ("E" * 64 + "\n") * (size // 65 + 1),
            "file.uu": "begin 644 x\n" + ("M" + "A" * 60 + "\n") * (size // 62 + 1) + "`\nend\n",
            "file.hqx": "(This file must be converted with BinHex 4.0)\n\n:" + ("a" * 64 + "\n") * (size // 65 + 1),
            "file.b64": ("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=" * 2 + "\n") * (size // 73 + 1),
            "file.ldif": "version: 1\ndn: cn=x\n" + prose(size), "file.hex": (":10010000" + "21" * 16 + "40\r\n") * (size // 45 + 1),
            "file.srec": ("S1130000" + "28" * 16 + "2A\n") * (size // 43 + 1), "file.xpm": "/* XPM */\nstatic char *x[] = {\n"
            + '"1 1 1 1",\n' * (size // 11 + 1) + "};\n", "file.xbm": "#define a_width 8\n#define a_height 8\nstatic char a_bits[] = {\n"
            + "0x00, " * (size // 6 + 1) + "};\n", "plain.pgm": "P2\n16 16\n255\n" + "0 1 2 3\n" * (size // 8 + 1),
            "plain.pbm": "P1\n16 16\n" + "0 1 0 1\n" * (size // 8 + 1), "plain.ppm": "P3\n# x\n16 16\n255\n" + "0 1 2\n" * (size // 6 + 1),
            "book.slk": "ID;PWXL;N;E\n" + "C;Y1;X1;K1\n" * (size // 11 + 1), "book.dif": "TABLE\n0,1\n\"x\"\n" + prose(size),
            "font.bdf": "STARTFONT 2.1\n" + prose(size), "font.afm": "StartFontMetrics 2.0\n" + prose(size),
            "dump.sql": "-- PostgreSQL database dump\n\n" + prose(size), "lite.sql": "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n",
            "drawing.fig": "#FIG 3.2\nLandscape\n" + prose(size), "drawing.dxf": "  0\nSECTION\n  2\nHEADER\n" + "  9\n$A\n" * (size // 7),
            "world.wrl": "#VRML V2.0 utf8\n" + prose(size), "solid.stl": "solid x\n" + "facet normal 0 0 1\n" * (size // 19 + 1),
            "mesh.obj": "# x\no Cube\n" + "v 1.0 2.0 3.0\n" * (size // 14), "mesh.ply": "ply\nformat ascii 1.0\n" + prose(size),
            "mesh.off": "OFF\n8 6 12\n" + "0 0 0\n" * (size // 6), "genes.fasta": ">x\n" + ("ACGT" * 15 + "\n") * (size // 61 + 1),
            "genes.gb": "LOCUS       X 10 bp DNA\n" + prose(size), "genes.vcf": "##fileformat=VCFv4.2\n" + prose(size),
            "molecule.pdb": "HEADER    X\n" + prose(size), "spice.cir": "* x\n" + prose(size), "crash.crash": "ProblemType: Crash\n" + prose(size),
            "cookies.txt": "# Netscape HTTP Cookie File\n" + prose(size), "hosts.ppd": "*PPD-Adobe: \"4.3\"\n" + prose(size),
            "icon.theme": "[Icon Theme]\nName=x\n" + prose(size), "wiki.t2t": "%!target: x\n" + prose(size),
            "setup.iss": "[Setup]\nAppName=x\n" + prose(size), "a.warc": "WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n" * (size // 60 + 1),
            "a.arc": "filedesc://x.arc 0.0.0.0 20230101000000 text/plain 76\n1 0 x\n" + prose(size),
            "a.mtree": "#mtree\n" + ". type=dir\n" * (size // 11 + 1), "a.shar": "#!/bin/sh\n# This is a shell archive (produced by x)\n" + prose(size),
            "a.dot": "digraph a {\n" + "a -> b;\n" * (size // 8 + 1) + "}\n", "a.gcode": "G21\nG90\n" + "G1 X1 Y2\n" * (size // 9 + 1),
            "a.mid.txt": "MThd is not at the start\n" + prose(size), "a.lyx": "#LyX 2.3 created this file.\n" + prose(size),
            "a.ps": "%!PS-Adobe-3.0\n" + prose(size), "late.ps": "\x04%!PS-Adobe-3.0\n" + prose(size), "a.eps":
            "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + prose(size), "job.pjl": "\x1b%-12345X@PJL\n" + prose(size),
            "late.pdf": "x" * min(size, 900) + "\n%PDF-1.4\n" + prose(size), "late2.pdf": "\n" * size + "%PDF-1.4\n", "a.fdf": "%FDF-1.2\n" + prose(size),
            "a.pdf": "%PDF-1.7\n" + prose(size), "a.gnumeric.xml": "<?xml version=\"1.0\"?>\n<gmr:Workbook xmlns:gmr=\"http://www.gnumeric.org/v10.dtd\">\n",
        }.items():
            stem, dot, last = name.partition(".")
            put("text", "forms", f"{stem}.{size}.{last}", content)


def tiny():
    put("data", "tiny", "empty", b"")
    for n in range(256):
        put("data", "tiny", f"byte-{n:02x}", bytes((n,)))
    for _ in range(64):
        first, second = CHANCE.randrange(256), CHANCE.randrange(256)
        put("data", "tiny", f"two-{first:02x}{second:02x}", bytes((first, second)))
    for text in (b"\n\n", b"a\n", b"\r\n", b"PK", b"MZ", b"BM", b"#!", b"%!", b"\x1f\x8b", b"\xff\xd8", b"\xff\xfe", b"{}", b"[]",
                 b"\xef\xbb\xbf", b"\0\0", b"a\0", b"\0a"):
        put("data", "tiny", "bytes-" + text.hex(), text)
    for size in (3, 4, 7, 8, 15, 16, 100, 511, 512, 513, 4095, 4096, 4097, 16383, 16384, 16385, 32768, 65535, 65536, 65537):
        put("data", "sizes", f"zeros.{size}", bytes(size))
        put("data", "sizes", f"ones.{size}", b"\xff" * size)
        put("text", "sizes", f"text.{size}.txt", prose(size)[:size])
        put("text", "sizes", f"utf8.{size}.txt", prose(size, "german").encode()[:size])
        put("data", "sizes", f"random.{size}", CHANCE.randbytes(size))
        put("data", "sizes", f"spaces.{size}", b" " * size)
    for number in range(60 if SHORT else 300):
        put("data", "noise", f"{number:03d}", CHANCE.randbytes(CHANCE.choice((600, 20_000, 90_000))))
    for number in range(20 if SHORT else 150):
        # What an unlucky read of a disk gives: blocks of this and that.
        blocks = [CHANCE.choice((bytes(512), CHANCE.randbytes(512), prose(512)[:512].encode())) for _ in range(CHANCE.choice((8, 64, 200)))]
        put("data", "blocks", f"{number:03d}.dd", b"".join(blocks))
    if not SHORT:
        for name, size, start in (("sparse-8M", 8 << 20, b""), ("sparse-1G", 1 << 30, b""), ("sparse-300M", 300 << 20, b"MZ"),
                                  ("sparse-text-9M", 9 << 20, b"some text\n" * 9000), ("sparse-png", 40 << 20, b"\x89PNG\r\n\x1a\n")):
            put("data", "sparse", name, start)
            os.truncate(os.path.join(TARGET, "data", "sparse", name), size)


def little_binaries():
    """Formats that are quickly written: databases, captures, tables."""
    for size in FEW:
        fields = [(b"NAME", b"C", 20), (b"NUM", b"N", 10)]
        for version in (0x03, 0x83, 0xF5, 0x30, 0x8B, 0x02, 0x43, 0xFB):
            head = bytes((version, 99, 6, 12)) + struct.pack("<IHH", size // 31 + 1, 32 + 32 * len(fields) + 1, 31) + bytes(20)
            for name, kind, width in fields:
                head += name.ljust(11, b"\0") + kind + bytes(4) + bytes((width, 0)) + bytes(14)
            put("data", "dbf", f"v{version:02x}.{size}.dbf", head + b"\r" + b" " + b"x" * 20 + b"0000000001" * 1
                + (b" " + b"y" * 20 + b"0000000002") * (size // 31) + b"\x1a")
        for name, head in (("le", struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)), ("be", struct.pack(">IHHIIII",
                           0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)), ("ns", struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))):
            put("data", "captures", f"{name}.{size}.pcap", head + b"".join(
                struct.pack("<IIII", n, 0, 60, 60) + CHANCE.randbytes(60) for n in range(size // 76)))
        block = struct.pack("<IIIHHq", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1) + struct.pack("<I", 28)
        put("data", "captures", f"a.{size}.pcapng", block + CHANCE.randbytes(size))
        put("data", "captures", f"a.{size}.snoop", b"snoop\0\0\0" + struct.pack(">II", 2, 4) + CHANCE.randbytes(size))
        shape = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({size // 8},), }}".ljust(117) + "\n"
        put("data", "arrays", f"a.{size}.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", 118) + shape.encode() + CHANCE.randbytes(size))
        cards = "".join(card.ljust(80) for card in ("SIMPLE  =                    T", "BITPIX  =                   16",
                        "NAXIS   =                    2", "NAXIS1  =                  100", "NAXIS2  =                  100", "END"))
        put("data", "arrays", f"a.{size}.fits", cards.ljust(2880).encode() + bytes(size))
        put("data", "arrays", f"a.{size}.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\1IM"
            + struct.pack("<II", 15, size) + zlib.compress(CHANCE.randbytes(size)))
        put("data", "arrays", f"a.{size}.h5", b"\x89HDF\r\n\x1a\n" + CHANCE.randbytes(size))
        put("data", "arrays", f"late.{size}.h5", bytes(512) + b"\x89HDF\r\n\x1a\n" + CHANCE.randbytes(size))
        put("data", "arrays", f"a.{size}.parquet", b"PAR1" + CHANCE.randbytes(size) + b"PAR1")
        put("data", "arrays", f"a.{size}.dcm", bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 0) + CHANCE.randbytes(size))
        put("data", "arrays", f"a.{size}.sav", b"$FL2@(#) SPSS DATA FILE".ljust(64) + struct.pack("<IIIII", 2, 3, 1, 0, 9) + CHANCE.randbytes(size))
        put("data", "arrays", f"a.{size}.nes", b"NES\x1a\2\1" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a.{size}.zip64", b"PK\3\4" + struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 1, 20)
            + b"a" + struct.pack("<HHQQ", 1, 16, size, size) + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"end-only.{size}.zip", b"PK\5\6" + bytes(18) + b"")
        put("archives", "made-by-hand", f"a.{size}.rar", b"Rar!\x1a\7\0" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a5.{size}.rar", b"Rar!\x1a\7\1\0" + CHANCE.randbytes(size))
        for method in range(8):
            put("archives", "made-by-hand", f"lh{method}.{size}.lzh", bytes((40, 99)) + b"-lh%d-" % method
                + struct.pack("<III", size, size, 0) + b"\x20\1\5a.txt" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a.{size}.zoo", b"ZOO 2.10 Archive.\x1a\0\0\xdc\xa7\xc4\xfd" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a.{size}.ace", CHANCE.randbytes(7) + b"**ACE**\x14\x14" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a.{size}.sit", b"SIT!\0\1" + bytes(4) + b"rLau" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a5.{size}.sit", b"StuffIt (c)1997-2002 Aladdin Systems, Inc., http://www.aladdinsys.com/StuffIt/\r\n" + CHANCE.randbytes(size))
        put("archives", "made-by-hand", f"a.{size}.cab", b"MSCF\0\0\0\0" + struct.pack("<IIIIBBHHHHH", size + 100, 0, 44, 0, 3, 1, 1, 1, 0, 0, 0) + CHANCE.randbytes(size))


for make in (encodings, lines, json_files, csv_files, markup, scripts, mail, tiny, little_binaries):
    make()
