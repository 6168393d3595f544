#!/usr/bin/env python3
"""Writes the documents that office.sh lets LibreOffice convert, as flat OpenDocument, into the folder given.

How far into a file its type is decided depends on what stands first in it: so there are short and long ones, and ones
with pictures of up to 1.5 MB (noise, which no format can make smaller).
"""

import base64
import os
import random
import struct
import sys
import zlib

FOLDER = sys.argv[1]
CHANCE = random.Random(11)
NAMES = " ".join(f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"' for short, long in (
    ("office", "office"), ("style", "style"), ("text", "text"), ("table", "table"), ("draw", "drawing"),
    ("fo", "xsl-fo-compatible"), ("presentation", "presentation"), ("meta", "meta"), ("svg", "svg-compatible"))) \
    + ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:dc="http://purl.org/dc/elements/1.1/"'
WORDS = "archive record evidence Übergröße harbour écouter letter Ελλάδα engine отчёт bridge signal 日本語 village".split()


def noise_png(size):
    side = max(4, int((size / 3) ** 0.5))
    rows = b"".join(b"\0" + CHANCE.randbytes(3 * side) for _ in range(side))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def sentence():
    return " ".join(CHANCE.choice(WORDS) for _ in range(12)) + "."


def picture(size, anchor):
    return (f'<draw:frame {anchor} svg:width="6cm" svg:height="6cm" svg:x="1cm" svg:y="1cm"><draw:image>'
            f'<office:binary-data>{base64.b64encode(noise_png(size)).decode()}</office:binary-data>'
            '</draw:image></draw:frame>')


def document(name, kind, mime, body, title):
    with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as out:
        out.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<office:document {NAMES} office:version="1.3" '
                  f'office:mimetype="application/vnd.oasis.opendocument.{mime}"><office:meta><dc:title>{title}</dc:title>'
                  f'</office:meta><office:body><office:{kind}>{body}</office:{kind}></office:body></office:document>\n')


def texts():
    for number, (paragraphs, pictures) in enumerate((
            (0, []), (1, []), (3, []), (12, []), (40, []), (90, []), (150, []), (220, []),
            (1, [2_000]), (5, [20_000]), (20, [60_000, 60_000]), (3, [300_000]), (60, [200_000, 90_000]),
            (2, [1_500_000]), (30, [5_000] * 20), (8, [15_000]))):
        body = "".join(f'<text:h text:outline-level="1">{sentence()}</text:h><text:p>{sentence() * 4}</text:p>'
                       for _ in range(paragraphs))
        body += "".join("<text:p>" + picture(size, 'text:anchor-type="as-char"') + "</text:p>" for size in pictures)
        if number % 5 == 3:
            row = f"<table:table-row><table:table-cell><text:p>{sentence()}</text:p></table:table-cell></table:table-row>"
            body += f"<table:table>{row * 30}</table:table>"
        document(f"text{number:02d}.fodt", "text", "text", body or "<text:p/>", f"text {number}")


def sheets():
    for number, (rows, columns, tables, size) in enumerate((
            (1, 1, 1, 0), (5, 3, 1, 0), (20, 5, 1, 0), (100, 6, 2, 0), (400, 8, 3, 0), (1500, 8, 1, 0),
            (30, 4, 12, 0), (3, 200, 1, 0), (10, 4, 1, 20_000), (10, 4, 1, 300_000), (50, 6, 2, 1_200_000),
            (900, 12, 2, 0), (60, 3, 1, 0))):
        body = ""
        for table in range(tables):
            body += f'<table:table table:name="Sheet {table + 1} {WORDS[table % 9]}">'
            if size and table == 0:
                body += f"<table:shapes>{picture(size, '')}</table:shapes>"
            for row in range(rows):
                body += "<table:table-row>" + "".join(
                    f'<table:table-cell office:value-type="float" office:value="{row * column / 3}"/>' if column % 2
                    else f'<table:table-cell office:value-type="string"><text:p>{CHANCE.choice(WORDS)} {row}</text:p>'
                         "</table:table-cell>" for column in range(columns)) + "</table:table-row>"
            body += "</table:table>"
        document(f"sheet{number:02d}.fods", "spreadsheet", "spreadsheet", body, f"sheet {number}")


def slides():
    for kind, mime, count in (("presentation", "presentation", 12), ("drawing", "graphics", 7)):
        for number, (pages, shapes, size) in enumerate((
                (1, 1, 0), (3, 4, 0), (10, 6, 0), (40, 8, 0), (2, 2, 20_000), (5, 3, 300_000), (3, 1, 1_200_000),
                (1, 60, 0), (12, 4, 60_000), (50, 6, 0), (6, 6, 8_000), (25, 3, 150_000))[:count]):
            body = ""
            for page in range(pages):
                body += f'<draw:page draw:name="page{page + 1}">'
                for shape in range(shapes):
                    body += (f'<draw:frame svg:x="{shape % 12 + 1}cm" svg:y="{shape % 9 + 2}cm" svg:width="9cm" '
                             f'svg:height="2cm"><draw:text-box><text:p>{sentence()}</text:p></draw:text-box></draw:frame>')
                if size and page < 3:
                    body += picture(size, "")
                body += "</draw:page>"
            document(f"{'slides' if count == 12 else 'drawing'}{number:02d}.{'fodp' if count == 12 else 'fodg'}",
                     kind, mime, body, f"{kind} {number}")


for make in (texts, sheets, slides):
    make()
