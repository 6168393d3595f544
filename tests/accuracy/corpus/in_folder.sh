#!/usr/bin/env bash
# Makes the corpus of level "full": runs as root in the Debian folder, started by make.sh.
#
# Its arguments are the folder for the corpus and a file for what could not be made. Downloads stay in the
# Debian folder, so that a second run needs none; everything else is made anew.

# shellcheck source=tests/accuracy/corpus/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

TARGET=$1
export NOT_MADE=$2
WORK=$TARGET/.work     # on the same file system as the corpus: files are moved, not copied
MADE=$WORK/made        # below it: <class>/<origin>/..., all of which is kept
EDGE=$WORK/edge        # the same, for what is written to be hard
STORE=/srv/packages
mkdir -p "$WORK/unpacked" "$MADE" "$EDGE" "$STORE"

export DEBIAN_FRONTEND=noninteractive
ln -sf /proc/self/mounts /etc/mtab

install_tools() {
    sed 's/^deb /deb-src /' /etc/apt/sources.list >/etc/apt/sources.list.d/sources.list
    # Nothing here has to survive a power failure.
    echo 'Dpkg::Options {"--force-unsafe-io";};' >/etc/apt/apt.conf.d/91corpus
    apt-get -qq update
    local -a names
    mapfile -t names < <(packages tool | cut -d' ' -f1)
    dpkg-query -W -f '${Package} ${Status}\n' "${names[@]}" 2>/dev/null |
        grep -c ' installed$' >/tmp/installed || true
    if [[ $(cat /tmp/installed) -lt ${#names[@]} ]] &&
        ! apt-get -y -qq install --no-install-recommends "${names[@]}" >/tmp/install.log 2>&1; then
        # One package that is gone must not cost all the others.
        local name
        for name in "${names[@]}"; do
            apt-get -y -qq install --no-install-recommends "$name" >>/tmp/install.log 2>&1 ||
                not_made "tool $name"
        done
        apt-get clean
    fi
}

stage "tools installed" install_tools
# LibreOffice takes one of two processors about as long as all the others take the other.
stage "office documents made" bash "$HERE/office.sh" "$MADE" &
stage "packages unpacked" fetch_packages "$STORE" "$WORK/unpacked" short deb
stage "test data of sources unpacked" fetch_sources "$STORE" "$WORK/unpacked"
stage "archives made" bash "$HERE/archives.sh" "$MADE"
stage "filesystems made" bash "$HERE/filesystems.sh" "$MADE"
stage "texts and data made" python3 "$HERE/texts.py" "$EDGE"
stage "files after libmagic's rules made" python3 "$HERE/rules.py" "$WORK/unpacked/file/magic/Magdir" "$EDGE"
stage "zip-based files made" python3 "$HERE/zips.py" "$EDGE/archives/zip-order"
stage "files of old disks made" python3 "$HERE/old_disks.py" "$WORK/old-disks"
stage "pictures, sound and film made" bash "$HERE/media.sh" "$MADE"
wait
stage "simple files made" make_simple "$EDGE"

sources() {
    local name limit
    echo "even system 8000 /usr"
    while read -r name limit; do
        echo "move ${name//[*]/} $limit $WORK/unpacked/${name//[*]/}"
    done < <(packages short; packages deb; packages source)
    echo "all - 0 $MADE"
    echo "edge - 0 $EDGE"
    echo "class old-disks 0 $WORK/old-disks"
    echo "copy debian 6000 /usr"
    echo "copy debian-etc 300 /etc"
    echo "copy debian-var 300 /var/lib"
}
sources >/tmp/sources
stage "files chosen" python3 "$HERE/collect.py" "$TARGET" /tmp/sources
stage "damaged files made" python3 "$HERE/damaged.py" "$TARGET/files"
