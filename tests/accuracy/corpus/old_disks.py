#!/usr/bin/env python3
"""Makes files such as old disks hold, of which what tells them lies far from their start.

    old_disks.py TARGET

Programs with long stubs, help files, resource forks, ROM images, pictures of old computers, images of disks and CDs with
something in front, directories at the end, tags behind tags: each format as far as libmagic's rules look at it, in
several sizes.  The same files every time.
"""

import os
import random
import struct
import sys

RANDOM = random.Random(18)


def zeros(n):
    return bytes(n)


def noise(n):
    return RANDOM.randbytes(n)


def at(n, *marks, fill=b"\0"):
    content = bytearray(fill * n)
    for offset, mark in marks:
        end = offset + len(mark)
        if len(content) < end:
            content.extend(fill * (end - len(content)))
        content[offset:end] = mark
    return bytes(content)


FAR = (600, 9_000, 16_300, 16_384, 20_000, 40_000, 66_000, 200_000)


def programs():
    heads = {
        "pe-i386": b"PE\0\0\x4c\x01" + zeros(18) + b"\x0b\x01" + zeros(66) + b"\x02\0",
        "pe-amd64": b"PE\0\0\x64\x86" + zeros(18) + b"\x0b\x02" + zeros(66) + b"\x03\0",
        "pe-dll": b"PE\0\0\x4c\x01" + zeros(16) + b"\x02\x21\x0b\x01" + zeros(66) + b"\x02\0",
        "ne-windows": b"NE" + zeros(52) + b"\x02" + zeros(20),
        "ne-os2": b"NE" + zeros(52) + b"\x01" + zeros(20),
        "le-vxd": b"LE\0\0" + zeros(6) + b"\x04\0" + zeros(80),
        "lx-os2": b"LX\0\0" + zeros(6) + b"\x01\0" + zeros(80),
    }
    for name, head in heads.items():
        for far in FAR:
            stub = b"MZ" + noise(20) + zeros(2) + b"\x40\0" + zeros(34) + struct.pack("<I", far)
            yield f"programs/{name}.{far}.exe", stub + zeros(max(0, far - 64)) + head + noise(900)
    for far in FAR:
        # A program that goes on behind what its header says: an archive that unpacks itself.
        pages = far // 512 + 1
        stub = b"MZ" + struct.pack("<HHHH", far % 512, pages, 0, 4) + zeros(14) + b"\x1c\0" + zeros(34)
        for name, mark in (("lha", b"\x1e\x5a-lh5-"), ("zip", b"PK\3\4" + noise(30)), ("rar", b"Rar!\x1a\7\0"), ("arj", b"\x60\xea")):
            yield f"programs/sfx-{name}.{far}.exe", stub + noise(max(0, far - len(stub))) + mark + noise(2000)


def help_files():
    for far in FAR:
        for mark in (b"\x3b\x29", noise(2)):
            head = b"\x3f\x5f\x03\0" + struct.pack("<III", far, 0xFFFFFFFF, far + 3000)
            body = noise(max(0, far - len(head)))
            directory = struct.pack("<IIB", 1000, 991, 4) + mark + b"\x02\x04\0\x04" + zeros(40)
            yield f"help/{mark.hex()}.{far}.hlp", head + body + directory + b"|SYSTEM\0" + noise(2000)


def forks():
    for far in FAR:
        for kind in (b"CODE", b"SIZE", b"vers", noise(4)):
            data = 256
            head = struct.pack(">IIII", data, far, far - data, 400)
            names = struct.pack(">IIIIHHHHHH", data, far, far - data, 400, 0, 0, 28, 50, 0, 0)
            body = head + zeros(240) + noise(max(0, far - 256))
            yield f"forks/{kind.hex()}.{far}.rsrc", body + names + kind + zeros(300)


def roms():
    for size in (16_384, 32_768, 65_536, 262_144, 524_288):
        for place in (0x1FF0, 0x3FF0, 0x7FF0):
            if place + 16 <= size:
                rom = at(size, (place, b"TMR SEGA" + noise(7) + b"\x4c"), (0, noise(place)))
                yield f"roms/sms.{size}.{place}.sms", rom
        yield f"roms/megadrive.{size}.bin", at(size, (0, noise(256)), (256, b"SEGA MEGA DRIVE (C)SEGA 1991.APR"))
        yield f"roms/msx.{size}.rom", at(size, (0, noise(100)), (16_384, b"AB\x10\x40" + noise(12)))
        yield f"roms/gameboy.{size}.gb", at(size, (0x104, bytes.fromhex("ceed6666cc0d000b03730083000c000d")), (0x134, b"OLD GAME"))
        yield f"roms/snes.{size}.smc", noise(size)


def pictures():
    for name, mode, size in (("pi1", 0, 32_034), ("pi2", 1, 32_034), ("pi3", 2, 32_034), ("pi1", 0, 32_066)):
        palette = struct.pack(">16H", *[RANDOM.randrange(0x778) & 0x777 for _ in range(16)])
        yield f"pictures/degas.{size}.{name}", struct.pack(">H", mode) + palette + noise(size - 34)
        yield f"pictures/even.{size}.{name}", at(size, (0, struct.pack(">H", mode)), (2, palette), fill=b"\x55")
    for size in (20_000, 38_500, 60_000):
        yield f"pictures/fax.{size}.g3", b"\0\x80" + noise(size)


def images():
    descriptor = b"\1CD001\1\0" + b"LINUX".ljust(32) + b"OLD DISK".ljust(32)
    fronts = {"": zeros(32_768), ".mbr": at(32_768, (510, b"\x55\xaa")), ".apple": at(32_768, (0, b"ER\x02\0"), (512, b"PM\0\0")),
              ".noise": noise(32_768), ".boot": at(32_768, (0, b"\xeb\x3c\x90MSDOS5.0"), (510, b"\x55\xaa"))}
    for name, front in fronts.items():
        for size in (40_000, 300_000, 700_000):
            yield f"images/cd{name}.{size}.iso", at(size, (0, front), (32_768, descriptor), (34_816, b"\xffCD001\1"))
    yield "images/raw.bin", at(200_000, (0, b"\0" + b"\xff" * 10 + b"\0\0\2\0\1"), (37_632 + 16, descriptor))
    yield "images/nero.nrg", at(500_000, (339_968, b"\1CD001"))
    for offset, mark in ((1080, b"\x53\xef"), (0x10034, b"ReIsErFs"), (0x8000, b"JFS1"), (65_600, b"_BHRfS_M"),
                         (4086, b"SWAPSPACE2"), (16_374, b"SWAPSPACE2"), (65_526, b"SWAPSPACE2"), (1024, b"H+\0\4"), (1024, b"BD")):
        yield f"images/fs.{offset}.img", at(200_000, (offset, mark))
        yield f"images/fs.{offset}.noisy.img", at(200_000, (0, noise(512)), (offset, mark))


def archives():
    for far in FAR:
        yield f"archives/quake.{far}.pak", b"PACK" + struct.pack("<II", far, 640) + noise(max(0, far - 12)) + b"maps/start.bsp".ljust(56, b"\0") + noise(700)
        yield f"archives/doom.{far}.wad", b"PWAD" + struct.pack("<II", 10, far) + noise(max(0, far - 12)) + b"\0" * 8 + b"E1M1\0\0\0\0" + zeros(200)
        cabinet = b"MSCF\0\0\0\0" + struct.pack("<IIIIBBHHHH", far + 300, 0, far, 0, 3, 1, 1, 1, 0, 7)
        yield f"archives/cabinet.{far}.cab", cabinet + zeros(max(0, far - len(cabinet))) + struct.pack("<IIHHHH", 100, 0, 0, 1, 1, 32) + b"read.me\0" + noise(400)
        frame = b"\x50\x2a\x4d\x18" + struct.pack("<I", far) + noise(far)
        yield f"archives/skippable.{far}.zst", frame + b"\x28\xb5\x2f\xfd\x24" + noise(300)
        yield f"archives/skippable.{far}.lz4", frame + b"\x04\x22\x4d\x18\x64" + noise(300)
        collection = b"ttcf\0\1\0\0" + struct.pack(">II", 1, far)
        for font in (b"\0\1\0\0\0\x0c", b"OTTO\0\x0c"):
            yield f"fonts/{font.hex()}.{far}.ttc", collection + zeros(max(0, far - 16)) + font + noise(800)


def sounds():
    def tag(n):
        return b"ID3\3\0\0" + bytes((n >> shift) & 0x7F for shift in (21, 14, 7, 0)) + zeros(n)

    after = {"mp3": b"\xff\xfb\x90\x64" + noise(3000), "flac": b"fLaC\0\0\0\x22" + noise(2000), "noise": noise(2000),
             "aac": b"\xff\xf1\x50\x80" + noise(2000), "ogg": b"OggS\0\2" + noise(2000), "riff": b"RIFF\0\1\0\0WAVEfmt " + noise(300)}
    for far in FAR:
        for name, sound in after.items():
            yield f"sounds/{name}.{far}.mp3", tag(far) + sound
        yield f"sounds/two-tags.{far}.mp3", tag(300) + tag(far) + after["mp3"]
        yield f"sounds/tag-and-tag.{far}.mp3", tag(far) + tag(300) + after["mp3"]


def main():
    target = sys.argv[1]
    for maker in (programs, help_files, forks, roms, pictures, images, archives, sounds):
        for name, content in maker():
            path = os.path.join(target, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)


main()
