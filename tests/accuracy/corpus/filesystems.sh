#!/usr/bin/env bash
# Images of filesystems and disks, by Debian's own tools, without mounting any. Argument: the folder below which
# <class>/<origin>/ are made.

# shellcheck source=tests/accuracy/corpus/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

MADE=$1
work=$(mktemp -d)
target=$MADE/filesystems
mkdir -p "$target/mkfs" "$target/disks" "$target/iso" "$work/tree/folder"
seq 1 30000 >"$work/tree/numbers.txt"
cp /bin/bash "$work/tree/folder/program"
touch -d 2023-06-10 "$work/tree/"* "$work/tree/folder/"*

# image NAME SIZE COMMAND...: make a sparse file of the size, and run the command with its name at the end.
image() {
    local name=$1 size=$2
    shift 2
    truncate -s "$size" "$target/mkfs/$name"
    attempt "$target/mkfs/$name" "$@" "$target/mkfs/$name"
}

filesystems() {
    local type size
    local fixed=11111111-2222-3333-4444-555555555555
    for size in 4M 16M; do
        for type in ext2 ext3 ext4; do
            image "$size.$type" "$size" mke2fs -q -F -t "$type" -U "$fixed" -d "$work/tree"
        done
    done
    image journal.ext "4M" mke2fs -q -F -O journal_dev
    image 64k.ext4 8M mke2fs -q -F -t ext4 -b 4096 -O ^has_journal -L name
    image a.xfs 320M mkfs.xfs -q -f
    image b.xfs 320M mkfs.xfs -q -f -m crc=0
    image a.btrfs 128M mkfs.btrfs -q --rootdir "$work/tree"
    for type in 12 16 32; do
        image "fat$type" "$([[ $type == 12 ]] && echo 1440k || echo 40M)" mkfs.fat -F "$type" -i 12345678 -n NAME
    done
    cp "$target/mkfs/fat12" "$target/mkfs/fat12-files"
    mcopy -i "$target/mkfs/fat12-files" "$work/tree/numbers.txt" ::/ || not_made "fat12-files (mcopy)"
    image atari.fat 720k mkfs.fat -A
    image a.exfat 16M mkfs.exfat
    image a.ntfs 8M mkfs.ntfs -q -F -f
    image a.minix 2M mkfs.minix -1
    image b.minix 2M mkfs.minix -2
    image c.minix 2M mkfs.minix -3
    image a.bfs 2M mkfs.bfs
    image a.f2fs 64M mkfs.f2fs -q -f
    image a.reiserfs 40M mkreiserfs -q -f
    image a.jfs 20M mkfs.jfs -q
    image a.nilfs2 144M mkfs.nilfs2 -q
    image a.udf 8M mkudffs --media-type=hd
    image cd.udf 8M mkudffs --media-type=cdrw
    image a.swap 1M mkswap -q
    image b.swap 1M mkswap -q -p 65536
    image a.luks1 18M cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 --key-file /etc/hostname
    image a.luks2 18M cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/hostname
    # shellcheck disable=SC2016  # expanded by the shell that it is for
    image a.bcache 2M bash -c 'printf "\306\205\163\366\116\032\105\312\202\145\365\177\110\272\155\201" | dd of="$0" bs=1 seek=4120 conv=notrunc'
    image a.cramfs 1M mkfs.cramfs "$work/tree"
    image big-endian.cramfs 1M mkfs.cramfs -N big "$work/tree"
    attempt "$target/mkfs/a.romfs" genromfs -d "$work/tree" -f "$target/mkfs/a.romfs"
    for type in gzip lzo lz4 xz zstd lzma; do
        attempt "$target/mkfs/$type.squashfs" mksquashfs "$work/tree" "$target/mkfs/$type.squashfs" -comp "$type" -quiet -no-progress -mkfs-time 0
    done
    attempt "$target/mkfs/le.jffs2" mkfs.jffs2 -l -r "$work/tree" -o "$target/mkfs/le.jffs2"
    attempt "$target/mkfs/be.jffs2" mkfs.jffs2 -b -r "$work/tree" -o "$target/mkfs/be.jffs2"
    attempt "$target/mkfs/a.ubifs" mkfs.ubifs -m 2048 -e 126976 -c 100 -r "$work/tree" -o "$target/mkfs/a.ubifs"
    printf '[a]\nmode=ubi\nimage=%s\nvol_id=0\nvol_size=10MiB\nvol_type=dynamic\nvol_name=a\n' "$target/mkfs/a.ubifs" >"$work/ubi.cfg"
    attempt "$target/mkfs/a.ubi" ubinize -m 2048 -p 131072 -o "$target/mkfs/a.ubi" "$work/ubi.cfg"
    attempt "$target/mkfs/a.erofs" mkfs.erofs -T 0 "$target/mkfs/a.erofs" "$work/tree"
    attempt "$target/mkfs/lz4.erofs" mkfs.erofs -T 0 -zlz4 "$target/mkfs/lz4.erofs" "$work/tree"
}

discs() {
    local name options
    while read -r name options; do
        # shellcheck disable=SC2086  # options are words
        attempt "$target/iso/$name.iso" genisoimage -quiet $options -o "$target/iso/$name.iso" "$work/tree"
    done <<'DISCS'
plain
rock -R
joliet -J
both -R -J -V NAME
udf -udf -R -J
level4 -iso-level 4
hfs -hfs
DISCS
    for name in plain rock udf; do
        [[ -e $target/iso/$name.iso ]] || continue
        attempt "$target/iso/$name.cso" bash -c "head -c 60000 '$target/iso/$name.iso' >'$target/iso/$name.cso'"
    done
    attempt "$target/iso/xorriso.iso" xorriso -as mkisofs -quiet -R -o "$target/iso/xorriso.iso" "$work/tree"
    attempt "$target/iso/hybrid.iso" xorriso -as mkisofs -quiet -R -hfsplus -o "$target/iso/hybrid.iso" "$work/tree"
    attempt "$target/iso/gpt.iso" xorriso -as mkisofs -quiet -R -append_partition 2 0xef "$target/mkfs/fat12" -appended_part_as_gpt \
        -o "$target/iso/gpt.iso" "$work/tree"
    attempt "$target/iso/mbr.iso" xorriso -as mkisofs -quiet -R -partition_offset 16 -o "$target/iso/mbr.iso" "$work/tree"
    # Raw sectors, as a program that copies discs writes them.
    attempt "$target/iso/raw.bin" python3 -c '
import sys
data = open(sys.argv[1], "rb").read()
with open(sys.argv[2], "wb") as out:
    for n in range(0, len(data), 2048):
        m = n // 2048 + 150
        bcd = lambda x: x // 10 * 16 + x % 10
        out.write(b"\0" + b"\xff" * 10 + b"\0" + bytes((bcd(m // 4500), bcd(m // 75 % 60), bcd(m % 75), 1)) + data[n:n + 2048] + bytes(288))
' "$target/iso/plain.iso" "$target/iso/raw.bin"
}

disks() {
    local format table
    for format in qcow2 qcow qed vmdk vdi vhdx vpc parallels; do
        for table in 4M.ext4 fat12; do
            attempt "$target/disks/$table.$format" qemu-img convert -f raw -O "$format" "$target/mkfs/$table" "$target/disks/$table.$format"
        done
        attempt "$target/disks/empty.$format" qemu-img create -q -f "$format" "$target/disks/empty.$format" 64M
    done
    for format in monolithicFlat streamOptimized twoGbMaxExtentSparse; do
        attempt "$target/disks/$format.vmdk" qemu-img convert -O vmdk -o "subformat=$format" "$target/mkfs/4M.ext4" "$target/disks/$format.vmdk"
    done
    attempt "$target/disks/v2.qcow2" qemu-img create -q -f qcow2 -o compat=0.10 "$target/disks/v2.qcow2" 64M
    attempt "$target/disks/compressed.qcow2" qemu-img convert -c -O qcow2 "$target/mkfs/16M.ext4" "$target/disks/compressed.qcow2"
    attempt "$target/disks/fixed.vpc" qemu-img convert -O vpc -o subformat=fixed "$target/mkfs/fat12" "$target/disks/fixed.vpc"
    for table in dos gpt sun sgi; do
        truncate -s 32M "$target/disks/$table.img"
        attempt "$target/disks/$table.img" bash -c "printf 'label: $table\n,8M\n,8M\n' | sfdisk -q '$target/disks/$table.img'"
    done
    # A partition table with a filesystem behind it, and one in front of which somebody wrote.
    cp --sparse=always "$target/disks/dos.img" "$target/disks/dos-ext4.img"
    dd if="$target/mkfs/4M.ext4" of="$target/disks/dos-ext4.img" bs=512 seek=2048 conv=notrunc,sparse status=none
    cp --sparse=always "$target/disks/gpt.img" "$target/disks/gpt-fat.img"
    dd if="$target/mkfs/fat12" of="$target/disks/gpt-fat.img" bs=512 seek=2048 conv=notrunc,sparse status=none
}

filesystems
discs
disks
rm -rf -- "$work"
