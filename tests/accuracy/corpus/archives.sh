#!/usr/bin/env bash
# Archives and compressed files of every format that Debian can write, with different first members: what decides may
# stand behind them. Argument: the folder below which <class>/<origin>/ are made.

# shellcheck source=tests/accuracy/corpus/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

MADE=$1
work=$(mktemp -d)
archives=$MADE/archives compressed=$MADE/compressed

# Three sets of members: small texts; a large one that can't be compressed first; many of them.
mkdir -p "$work"/{small,large,many}
printf 'hello\n' >"$work/small/hello.txt"
seq 1 3000 >"$work/small/numbers.txt"
openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c 200000 >"$work/large/aaa.bin" || true
cp "$work/small/"* "$work/large/"
for number in $(seq 1 300); do seq 1 "$number" >"$work/many/member-with-a-rather-long-name-$number.txt"; done
touch -d 2023-06-10 "$work"/*/*
printf '#!/bin/sh\nexit 0\n' >"$work/script"

tars() {
    local set format method
    for set in small large many; do
        cd "$work/$set" || return
        for format in v7 oldgnu gnu ustar posix; do
            attempt "$archives/tar/$set.$format.tar" tar --create --sort=name --owner=0 --group=0 --format="$format" \
                --file "$archives/tar/$set.$format.tar" .
            for method in gzip bzip2 xz lzma lzip lzop zstd 'compress -f'; do
                [[ $format == gnu ]] || continue
                attempt "$compressed/tar/$set.$format.tar.${method%% *}" tar --create --sort=name --use-compress-program="$method" \
                    --file "$compressed/tar/$set.$format.tar.${method%% *}" .
            done
        done
        attempt "$archives/tar/$set.label.tar" tar --create --label="volume" --file "$archives/tar/$set.label.tar" .
        attempt "$archives/tar/$set.sparse.tar" tar --create --sparse --format=gnu --file "$archives/tar/$set.sparse.tar" .
        attempt "$archives/tar/$set.incremental.tar" tar --create --incremental \
            --file "$archives/tar/$set.incremental.tar" .
        for format in bin odc newc crc hpbin hpodc; do
            attempt "$archives/cpio/$set.$format.cpio" bash -c \
                "find . | LC_ALL=C sort | cpio --quiet -o -H '$format' >'$archives/cpio/$set.$format.cpio'"
        done
        for format in pax paxr ustar v7tar gnutar cpio newc odc pwb mtree mtree-classic shar shardump xar warc 7zip zip ar arbsd \
            arsvr4 iso9660 bin; do
            attempt "$archives/bsdtar/$set.$format" bsdtar -c --format "$format" -f "$archives/bsdtar/$set.$format" ./*
        done
        attempt "$archives/ar/$set.a" ar rcD "$archives/ar/$set.a" ./*
        attempt "$archives/ar/$set.thin.a" ar rcTD "$archives/ar/$set.thin.a" ./*
        attempt "$archives/shar/$set.shar" bash -c "shar -q ./* >'$archives/shar/$set.shar'"
        attempt "$archives/shar/$set.uu" bash -c "uuencode hello <'$(find "$PWD" -type f | head -n 1)' >'$archives/shar/$set.uu'"
        attempt "$archives/arj/$set.arj" arj a -r -y "$archives/arj/$set.arj" .
        attempt "$archives/arj/$set.exe" arj a -r -y -je "$archives/arj/$set.exe" .
        attempt "$archives/lrzip/$set.lrz" lrztar -Q -q -o "$archives/lrzip/$set.lrz" .
    done
}

sevenzips() {
    local set name options
    for set in small large many; do
        cd "$work/$set" || return
        while read -r name options; do
            # shellcheck disable=SC2086  # options are words
            attempt "$archives/7z/$set.$name" 7z a -bd $options "$archives/7z/$set.$name" .
        done <<'SEVENZIPS'
lzma2.7z
copy.7z -mx=0
ppmd.7z -m0=PPMd
bzip2.7z -m0=BZip2
encrypted.7z -pabc -mhe=on
sfx.exe -sfx7zCon.sfx
zip.zip -tzip
lzma.zip -tzip -mm=LZMA
bzip2.zip -tzip -mm=BZip2
ppmd.zip -tzip -mm=PPMd
deflate64.zip -tzip -mm=Deflate64
aes.zip -tzip -pabc -mem=AES256
tar.tar -ttar
wim.wim -twim
SEVENZIPS
        cd "$work/$set" || return
        while read -r name options; do
            # shellcheck disable=SC2086
            attempt "$archives/zip/$set.$name" zip -q -X $options "$archives/zip/$set.$name" -r .
        done <<'ZIPS'
deflated.zip
stored.zip -0
bzip2.zip -Z bzip2
zip64.zip -fz
encrypted.zip -P abc
no-folders.zip -D
descriptors.zip -fd
ZIPS
        cp "$archives/zip/$set.deflated.zip" "$work/commented.zip"
        attempt "$archives/zip/$set.comment.zip" bash -c \
            "seq 1 9000 | head -c 30000 | zip -z '$work/commented.zip' && cp '$work/commented.zip' '$archives/zip/$set.comment.zip'"
        attempt "$archives/zip/$set.split.zip" zip -q -s 64k -r "$archives/zip/$set.split.zip" .
        attempt "$archives/zip/$set.streamed.zip" bash -c "zip -q -r - . | cat >'$archives/zip/$set.streamed.zip'"
        attempt "$archives/zip/$set.sfx" bash -c "cat /bin/true '$archives/zip/$set.deflated.zip' >'$archives/zip/$set.sfx'"
        attempt "$archives/zip/$set.script" bash -c "cat '$work/script' '$archives/zip/$set.deflated.zip' >'$archives/zip/$set.script'"
    done
}

compressors() {
    local file name
    seq 1 40000 >"$work/text"
    cp "$work/large/aaa.bin" "$work/noise"
    printf x >"$work/tiny"
    cp /bin/bash "$work/program"
    tar -cf "$work/tape.tar" -C "$work" small
    for file in text noise tiny program tape.tar; do
        while read -r name command; do
            attempt "$compressed/tools/$file.$name" bash -c "$command <'$work/$file' >'$compressed/tools/$file.$name'"
        done <<'COMPRESSORS'
gz gzip -n
1.gz gzip -n -1
name.gz gzip -c
bz2 bzip2
xz xz
none.xz xz --check=none
lzma xz --format=lzma
raw.lz xz --format=raw --lzma2
lz lzip
lzo lzop -c
zst zstd -q
check.zst zstd -q --no-check -19
lz4 lz4 -q
legacy.lz4 lz4 -q -l
block.lz4 lz4 -q -B4 -BD
Z compress -f -c
br brotli -c
bz3 bzip3 -e -c
lrz lrzip -q
b64 base64
uu uuencode x
rz python3 -c "import zlib,sys; c=zlib.compressobj(9,8,-15); sys.stdout.buffer.write(c.compress(sys.stdin.buffer.read())+c.flush())"
1.zlib python3 -c "import zlib,sys; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read(),1))"
9.zlib python3 -c "import zlib,sys; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read(),9))"
gpg gpg --batch --passphrase abc --pinentry-mode loopback -c
asc gpg --batch --passphrase abc --pinentry-mode loopback -a -c
enc openssl enc -aes-256-cbc -pbkdf2 -k abc
COMPRESSORS
    done
}

others() {
    local pack base
    # Keys, certificates, signatures.
    mkdir -p "$MADE/data/keys"
    cd "$MADE/data/keys" || return
    attempt rsa.pem openssl genrsa -out rsa.pem 2048
    attempt ec.pem openssl ecparam -name prime256v1 -genkey -out ec.pem
    attempt dsa.pem openssl dsaparam -genkey -out dsa.pem 1024
    attempt cert.pem openssl req -x509 -key rsa.pem -subj /CN=x -days 9 -out cert.pem
    attempt request.csr openssl req -new -key rsa.pem -subj /CN=x -out request.csr
    attempt cert.der openssl x509 -in cert.pem -outform der -out cert.der
    attempt key.der openssl rsa -in rsa.pem -outform der -out key.der
    attempt public.pem openssl rsa -in rsa.pem -pubout -out public.pem
    attempt store.p12 openssl pkcs12 -export -inkey rsa.pem -in cert.pem -passout pass:x -out store.p12
    attempt certs.p7b openssl crl2pkcs7 -nocrl -certfile cert.pem -out certs.p7b
    attempt signed.p7m openssl smime -sign -in cert.pem -signer cert.pem -inkey rsa.pem -out signed.p7m
    attempt dh.pem openssl dhparam -out dh.pem 512
    for base in rsa ecdsa ed25519; do
        attempt "ssh_$base" ssh-keygen -q -t "$base" -N '' -C x -f "ssh_$base"
        attempt "ssh_$base.pem" bash -c "cp ssh_$base ssh_$base.pem && ssh-keygen -q -p -m PEM -N '' -f ssh_$base.pem"
    done
    export GNUPGHOME=$work/gnupg
    mkdir -m 0700 "$GNUPGHOME"
    attempt public.gpg bash -c "gpg --batch --passphrase '' --quick-generate-key x@example.org default default 1y; gpg --export -o public.gpg"
    attempt public.asc gpg --batch -a --export -o public.asc
    attempt secret.gpg gpg --batch --passphrase '' --pinentry-mode loopback --export-secret-keys -o secret.gpg
    attempt secret.asc gpg --batch --passphrase '' --pinentry-mode loopback -a --export-secret-keys -o secret.asc
    attempt signature.sig gpg --batch -o signature.sig -b cert.pem
    attempt signature.asc gpg --batch -a -o signature.asc -b cert.pem
    attempt clear.asc gpg --batch --clearsign -o clear.asc cert.pem
    attempt signed.gpg gpg --batch -o signed.gpg -s cert.pem
    attempt sealed.gpg gpg --batch --trust-model always -r x@example.org -o sealed.gpg -e cert.pem
    attempt sealed.asc gpg --batch --trust-model always -a -r x@example.org -o sealed.asc -e cert.pem
    attempt stored.gpg gpg --batch -o stored.gpg --store cert.pem
    cp "$GNUPGHOME"/pubring.kbx "$GNUPGHOME"/trustdb.gpg . 2>/dev/null || true
    gpgconf --kill all 2>/dev/null || true

    # Version control.
    mkdir -p "$MADE/data/versions"
    cd "$work/many" || return
    git -c init.defaultBranch=main init -q . && git add . && git -c user.name=x -c user.email=x commit -q -m x
    attempt "$MADE/data/versions/a.bundle" git bundle create -q "$MADE/data/versions/a.bundle" main
    cp .git/index "$MADE/data/versions/index"
    find .git/objects -type f | sort | head -n 30 | while read -r base; do cp "$base" "$MADE/data/versions/object-${base##*/}"; done
    git gc -q
    for pack in .git/objects/pack/*; do cp "$pack" "$MADE/data/versions/pack.${pack##*.}"; done
    rm -rf .git
    svnadmin create "$work/svn"
    attempt "$MADE/data/versions/svn.dump" bash -c "svnadmin dump -q '$work/svn' >'$MADE/data/versions/svn.dump'"

    # Databases.
    mkdir -p "$MADE/data/databases"
    cd "$MADE/data/databases" || return
    local rows
    for rows in 1 2000 30000; do
        attempt "a.$rows.sqlite" sqlite3 "a.$rows.sqlite" "CREATE TABLE t (n, x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < $rows) INSERT INTO t SELECT n, 'row ' || n FROM c"
        attempt "wal.$rows.sqlite" sqlite3 "wal.$rows.sqlite" "PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES ($rows)"
        attempt "app.$rows.sqlite" sqlite3 "app.$rows.sqlite" "PRAGMA application_id=1196444487; PRAGMA user_version=10300; CREATE TABLE t (n); INSERT INTO t VALUES ($rows)"
        attempt "a.$rows.sql" bash -c "sqlite3 a.$rows.sqlite .dump >a.$rows.sql"
        attempt "a.$rows.gdbm" bash -c "seq 1 $rows | head -n 500 | sed 's/.*/store & x&/' | gdbmtool a.$rows.gdbm"
        for base in btree hash recno queue; do
            attempt "$base.$rows.db" bash -c "{ printf 'VERSION=3\nformat=print\ntype=$base\n'; [ $base != queue ] || echo re_len=20; printf 'HEADER=END\n'; seq 1 $rows | head -n 999 | sed 's/^/ /'; [ \$(( ($rows < 999 ? $rows : 999) % 2 )) = 0 ] || { [ $base = recno ] || [ $base = queue ] || echo ' x'; }; echo DATA=END; } | db_load '$base.$rows.db'"
        done
    done
    attempt a.rrd rrdtool create a.rrd --start 1600000000 DS:x:GAUGE:600:0:100 RRA:AVERAGE:0.5:1:3000
    attempt a.xml bash -c 'rrdtool dump a.rrd >a.xml'
    attempt a.tdb bash -c "printf 'create a.tdb\ninsert a b\nquit\n' | tdbtool"

    # Programs of other kinds: objects, cores, .NET, device trees, U-Boot images, messages.
    mkdir -p "$MADE/executables/made"
    cd "$MADE/executables/made" || return
    printf '\t.text\n\t.globl f\nf:\tret\n\t.data\n\t.fill 20000\n' >"$work/a.s"
    printf 'class A { static void Main() { System.Console.WriteLine(1); } }\n' >"$work/a.cs"
    attempt a.o as -o a.o "$work/a.s"
    attempt debug.o as -g -o debug.o "$work/a.s"
    attempt exec ld -e f -o exec a.o
    attempt pie ld -pie -e f -o pie a.o
    attempt lib.so ld -shared -o lib.so a.o
    for base in srec ihex binary verilog symbolsrec elf32-i386 pe-x86-64 pei-x86-64 pe-i386 elf32-x86-64; do
        attempt "a.$base" objcopy -O "$base" a.o "a.$base"
    done
    attempt a.exe mcs -out:a.exe "$work/a.cs"
    attempt a.dll mcs -target:library -out:a.dll "$work/a.cs"
    # shellcheck disable=SC2016  # expanded by the shell that it is for
    attempt core bash -c 'ulimit -c unlimited; cd "$0" && { sh -c "kill -SEGV \$\$" || true; } && mv core* "$1/core"' "$work" "$PWD"
    printf '/dts-v1/;\n/ { model = "x"; compatible = "x"; };\n' >"$work/a.dts"
    attempt a.dtb dtc -q -O dtb -o a.dtb "$work/a.dts"
    for base in kernel ramdisk script firmware filesystem multi; do
        attempt "$base.uimg" mkimage -A arm -T "$base" -C none -n x -d "$work/noise" "$base.uimg"
    done
    mkdir -p "$MADE/mail/tnef" "$MADE/data/gettext"
    printf 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "a"\nmsgstr "b"\n' >"$work/a.po"
    attempt "$MADE/data/gettext/le.mo" msgfmt --endianness=little -o "$MADE/data/gettext/le.mo" "$work/a.po"
    attempt "$MADE/data/gettext/be.mo" msgfmt --endianness=big -o "$MADE/data/gettext/be.mo" "$work/a.po"
    attempt "$MADE/data/gettext/a.qm" msgfmt --qt -o "$MADE/data/gettext/a.qm" "$work/a.po"
}

tars
sevenzips
compressors
others
rm -rf -- "$work"
