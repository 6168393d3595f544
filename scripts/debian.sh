#!/usr/bin/env bash
# Other releases of Debian, each in a folder: for tests beside another PostgreSQL and another libmagic
# than this machine's, and for work with packages that nobody wants on the machine itself.
#
#   scripts/debian.sh make NAME SUITE          a minimal Debian, unless it is there already
#   scripts/debian.sh run NAME [--bind DIRECTORY[:PLACE]] [--read-only DIRECTORY[:PLACE]]
#                         [--env NAME=VALUE]... [--no-network] COMMAND...
#   scripts/debian.sh remove NAME|--all        --all: whatever is beside the folders, too
#
# Can also be read with "source", for the functions.
#
# The folder holds files and nothing else: a command runs in namespaces of its own (mounts, processes
# and shared memory), which the kernel takes down with it, servers that it started included. So nothing
# stays mounted and nothing stays running, however it ended, and the folder can be deleted at any time.
# --no-network gives it a network of its own too, of nothing but 127.0.0.1: its servers can't take a
# port that one outside has, and what it says that it needs from elsewhere shows.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

DEBIAN_DIR=${NTT_DEBIAN_DIR:-/var/tmp/ntt_mime_debian}

# The releases that we know, the oldest first, the version of PostgreSQL that each has, and where scripts/matrix.sh puts
# the repository in it.
# shellcheck disable=SC2034  # used by those who source this
{
    RELEASES=(bookworm trixie forky)
    declare -A POSTGRES=([bookworm]=15 [trixie]=17 [forky]=18)
    SOURCE=/srv/ntt_mime
}

# known_release NAME: ends the script unless it is one of them.
known_release() {
    [[ -n ${POSTGRES[$1]:-} ]] || die "unrecognized release \"$1\"" "Known are: ${RELEASES[*]}."
}

# DEBIAN_MIRROR, or where this machine has its own packages from.
debian_mirror() {
    local mirror=${DEBIAN_MIRROR:-}
    if [[ -z $mirror ]]; then
        # shellcheck disable=SC2016  # apt-get's own variables
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
            grep -m 1 '/debian/*$') || die "this machine's package sources name no mirror of Debian" \
            "Set DEBIAN_MIRROR to one."
    fi
    say "$mirror"
}

debian_folder() {
    [[ $1 =~ ^[a-z][a-z0-9_-]*$ ]] ||
        die "invalid name \"$1\"" "A name has small letters, digits, _ and -, and begins with a letter."
    say "$DEBIAN_DIR/$1"
}

# debian_make NAME SUITE
debian_make() {
    local folder mirror suite=$2
    folder=$(debian_folder "$1")
    if [[ -e $folder/.complete ]]; then return; fi
    # By its path: /usr/sbin isn't in everybody's PATH.
    if [[ ! -x /usr/sbin/debootstrap || ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]] ||
        ! command -v ip >/dev/null; then
        local -a tools=(debootstrap debian-archive-keyring iproute2)
        say "installing packages: ${tools[*]}"
        apt_update
        apt_get install "${tools[@]}" || die "could not install packages"
    fi

    mirror=$(debian_mirror)
    say "making a Debian $suite in $folder (some minutes)"
    debian_remove "$1"
    as_root install -d -m 0755 "$DEBIAN_DIR" "$folder"
    # A debootstrap older than the suite has no script of that name. That of the development suite
    # is the newest that it has.
    local script=/usr/share/debootstrap/scripts/$suite
    if [[ ! -e $script ]]; then script=/usr/share/debootstrap/scripts/sid; fi
    quietly as_root /usr/sbin/debootstrap --variant=minbase --include=ca-certificates "$suite" "$folder" \
        "$mirror" "$script" || die "could not make a Debian $suite in \"$folder\""
    # The ways to the mirror that this machine's administrator has set.
    apt-config dump --format '%F "%v";%n' Acquire::http Acquire::https Acquire::Retries 2>/dev/null |
        grep -v ' "";' | as_root tee "$folder/etc/apt/apt.conf.d/90machine" >/dev/null || true
    # The development suite's lists are valid for a week. A mirror that is behind is good enough for
    # tests: the lists are signed all the same.
    as_root tee "$folder/etc/apt/apt.conf.d/91folder" >/dev/null <<<'Acquire::Check-Valid-Until "false";'
    as_root touch "$folder/.complete"
}

debian_remove() {
    local folder=$DEBIAN_DIR
    if [[ $1 != --all ]]; then folder=$(debian_folder "$1"); fi
    as_root rm -rf --one-file-system -- "$folder"
}

# debian_run NAME [OPTION]... COMMAND...: as root in the folder, from /.
debian_run() {
    local folder
    folder=$(debian_folder "$1")
    [[ -e $folder/.complete ]] || die "there is no Debian in \"$folder\"" "Make it: scripts/debian.sh make $1 SUITE"
    shift
    local -a environment=(HOME=/root LC_ALL=C.UTF-8 TERM="${TERM:-dumb}"
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    local name
    for name in http_proxy https_proxy no_proxy CI; do
        if [[ -n ${!name:-} ]]; then environment+=("$name=${!name}"); fi
    done
    local network=
    local -a mounts=() namespaces=(--mount --propagation private --pid --fork --kill-child --ipc)
    while [[ ${1:-} == --* ]]; do
        case $1 in
            --bind | --read-only) mounts+=("${1#--}" "${2%%:*}" "${2#*:}") && shift ;;
            --env) environment+=("$2") && shift ;;
            --no-network) namespaces+=(--net) && network=none ;;
            *) die "unrecognized option \"$1\"" "Known are: --bind, --read-only, --env, --no-network." ;;
        esac
        shift
    done
    as_root cp -L /etc/resolv.conf "$folder/etc/resolv.conf"
    # shellcheck disable=SC2016  # expanded by the shell that it is for
    # It ends with us, and what runs in it ends with it: the shell below is the first process of its
    # namespace, where signals are only what it has a handler for.
    as_root setpriv --pdeathsig KILL unshare "${namespaces[@]}" \
        bash -c '
            set -euo pipefail
            folder=$1 network=$2 count=$3
            shift 3
            if [[ $network == none ]]; then ip link set lo up; fi
            # The root of what runs in it is a mount then, so that it can make namespaces of its own.
            mount --bind "$folder" "$folder"
            mount --types proc proc "$folder/proc"
            mount --rbind /sys "$folder/sys"
            mount --rbind /dev "$folder/dev"
            mount --types tmpfs tmpfs "$folder/dev/shm"
            while ((count > 0)); do
                mkdir -p "$folder$3"
                mount --rbind "$2" "$folder$3"
                if [[ $1 == read-only ]]; then mount -o remount,bind,ro "$folder$3"; fi
                shift 3
                count=$((count - 3))
            done
            trap "exit 130" INT TERM
            chroot "$folder" env --ignore-environment "$@" <&0 &
            wait $!
        ' debian_run "$folder" "$network" "${#mounts[@]}" "${mounts[@]}" "${environment[@]}" "$@"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    [[ $# -ge 2 ]] || die "usage: scripts/debian.sh make|run|remove NAME ..."
    action=$1
    shift
    case $action in
        make) debian_make "$@" ;;
        run) debian_run "$@" ;;
        remove) debian_remove "$@" ;;
        *) die "unrecognized action \"$action\"" "Known are: make, run, remove." ;;
    esac
fi
