#!/usr/bin/env python3
"""Zip-based formats whose members stand in unusual order.

    zips.py TARGET [short]

libmagic tells OOXML, OpenDocument, EPUB, jar and apk apart by which members come first, at fixed places or behind the
sizes that member headers give.  Other programs than the usual ones write them in other orders, with larger first members
or with data descriptors instead of sizes.
"""

import io
import os
import random
import sys
import zipfile

FOLDER = sys.argv[1]
CHANCE = random.Random(13)
SIZES = (3_000, 70_000) if "short" in sys.argv[2:] else (50, 3_000, 17_000, 70_000, 300_000)
PARTS = {
    "docx": ("[Content_Types].xml", "_rels/.rels", "docProps/app.xml", "docProps/core.xml", "word/document.xml", "word/styles.xml"),
    "xlsx": ("[Content_Types].xml", "_rels/.rels", "docProps/app.xml", "docProps/core.xml", "xl/workbook.xml", "xl/styles.xml"),
    "pptx": ("[Content_Types].xml", "_rels/.rels", "docProps/app.xml", "docProps/core.xml", "ppt/presentation.xml", "ppt/theme/theme1.xml"),
    "vsdx": ("[Content_Types].xml", "_rels/.rels", "docProps/app.xml", "visio/document.xml", "visio/pages/page1.xml"),
    "xps": ("[Content_Types].xml", "_rels/.rels", "FixedDocSeq.fdseq", "Documents/1/FixedDoc.fdoc"),
    "3mf": ("[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"),
    "jar": ("META-INF/", "META-INF/MANIFEST.MF", "org/", "org/example/", "org/example/A.class"),
    "apk": ("AndroidManifest.xml", "META-INF/MANIFEST.MF", "classes.dex", "resources.arsc", "res/layout/a.xml"),
    "xpi": ("install.rdf", "chrome.manifest", "chrome/a.jar"),
    "odt": ("mimetype", "content.xml", "styles.xml", "meta.xml", "META-INF/manifest.xml"),
    "epub": ("mimetype", "META-INF/container.xml", "OEBPS/content.opf", "OEBPS/a.xhtml"),
    "kmz": ("doc.kml", "files/a.png"),
    "whl": ("a/__init__.py", "a-1.dist-info/METADATA", "a-1.dist-info/RECORD"),
    "zip": ("readme.txt", "word/notes.txt", "xl.txt", "data.bin"),
}
OPENDOCUMENT = ("text text-template text-master text-web spreadsheet spreadsheet-template presentation presentation-template "
                "graphics graphics-template chart formula image database").split()


def content(name, size):
    start = b"<?xml version='1.0' encoding='UTF-8'?>" if name.endswith((".xml", ".rels")) else b"\xca\xfe\xba\xbe" \
        if name.endswith(".class") else b""
    return start + CHANCE.randbytes(max(0, size - len(start)))


def write(path, members, method, streamed):
    class Stream(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation("seek")

        def tell(self):
            raise io.UnsupportedOperation("tell")
    out = Stream() if streamed else io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (2023, 6, 10, 12, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name == "mimetype" else method
            archive.writestr(info, data)
    with open(path, "wb") as stream:
        stream.write(out.getvalue())


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for kind, parts in PARTS.items():
        for size in SIZES:
            orders = {
                "usual": list(parts), "reversed": list(reversed(parts)), "sorted": sorted(parts),
                "second-first": [parts[1], parts[0], *parts[2:]], "last-first": [parts[-1], *parts[:-1]],
                "custom-first": ["customXml/item1.xml", *parts], "many-first": [f"media/image{n}.png" for n in range(40)] + list(parts),
                "first-last": [*parts[1:], parts[0]],
            }
            for name, order in orders.items():
                method = zipfile.ZIP_STORED if (len(name) + size) % 2 else zipfile.ZIP_DEFLATED
                mime = {"odt": "application/vnd.oasis.opendocument.text", "epub": "application/epub+zip"}.get(kind, "").encode()
                # The first member is the large one: what follows it is what has to be found.
                members = [(part, mime if part == "mimetype" else content(part, size if n in (0, 2) else 200))
                           for n, part in enumerate(order)]
                write(os.path.join(FOLDER, f"{name}.{size}.{kind}"), members, method, False)
                if name in ("usual", "sorted", "last-first"):
                    write(os.path.join(FOLDER, f"{name}-streamed.{size}.{kind}"), members, zipfile.ZIP_DEFLATED, True)
    for name in OPENDOCUMENT:
        for size in SIZES:
            mime = f"application/vnd.oasis.opendocument.{name}".encode()
            write(os.path.join(FOLDER, f"{name}.{size}.odf"), [("mimetype", mime), ("content.xml", content("content.xml", size))],
                  zipfile.ZIP_DEFLATED, False)
    for name in ("writer", "calc", "impress", "draw", "math", "writer.global", "base"):
        write(os.path.join(FOLDER, f"{name}.sxw"), [("mimetype", f"application/vnd.sun.xml.{name}".encode()),
                                                    ("content.xml", content("content.xml", 20_000))], zipfile.ZIP_DEFLATED, False)
    for number, name in enumerate(("application/x-krita", "image/openraster", "application/vnd.adobe.indesign-idml-package",
                                   "application/hwp+zip", "application/vnd.recordare.musicxml", "application/x-unknown+zip")):
        write(os.path.join(FOLDER, f"mimetype-{number}.zip"), [("mimetype", name.encode()), ("a.xml", content("a.xml", 20_000))],
              zipfile.ZIP_DEFLATED, False)
    with open(os.path.join(FOLDER, "empty.zip"), "wb") as stream:
        stream.write(b"PK\5\6" + bytes(18))
    for size in SIZES:
        members = [("a.txt", content("a.txt", size))]
        path = os.path.join(FOLDER, f"prefixed.{size}.zip")
        write(path, members, zipfile.ZIP_DEFLATED, False)
        with open(path, "rb") as stream:
            data = stream.read()
        with open(path, "wb") as stream:
            stream.write(b"some bytes before " * (size // 18) + data)


if __name__ == "__main__":
    main()
