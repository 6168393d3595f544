#!/usr/bin/env bash
# Private PostgreSQL clusters: one folder each, owned by the account postgres, with the data, the
# socket and the log in it.  Demo, benchmark and tests use them, so that no server that is on the
# machine already is touched.
#
#   scripts/cluster.sh start DIRECTORY [SETTING=VALUE]...   an empty cluster, running
#   scripts/cluster.sh resume DIRECTORY [SETTING=VALUE]...  the one that was stopped, or an empty one
#   scripts/cluster.sh stop DIRECTORY
#   scripts/cluster.sh psql DIRECTORY [ARGUMENT]...         psql as its superuser
#   scripts/cluster.sh fsync DIRECTORY off|on               whether writes wait for the disk
#   scripts/cluster.sh remove DIRECTORY                     stop it and delete its data
#
# Can also be read with "source", for the functions.
#
# "start" always begins with an empty cluster: making one takes two seconds, and whatever an
# earlier run left, running, stopped or killed half-way, can't matter then.  Other things in the
# folder, such as a store of blobs, stay.  "resume" is for data that take long to make; a server with
# a hundred thousand files may take minutes to stop or start: CLUSTER_PATIENCE is in seconds.
#
# Only the accounts root, postgres and the caller's get in (peer authentication on the socket); on
# 127.0.0.1 it listens too, for clients that need that, but asks for a password that nobody has
# been given.  CLUSTER_AUTH=trust lets any account be any role, for tests of privileges; then the
# socket is the only way in and its folder is closed to other accounts.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# The folder, made if need be.  It may lie in a place where everybody can write, such as /var/tmp:
# one that is somebody else's is refused, since root is going to write there.
cluster_folder() {
    local dir=$1
    [[ $dir == /* ]] || die "\"$dir\" is not an absolute path" "Give the folder's path from / on."
    # A socket's path must fit into 108 bytes.
    [[ ${#dir} -le 80 ]] || die "\"$dir\" is too long for a socket below it" "Choose a path of at most 80 characters."
    if [[ ! -e $dir && ! -L $dir ]]; then
        as_root install -d -m 0755 -o postgres -g postgres "$dir"
    fi
    local owner
    owner=$(stat -c %U "$dir")
    [[ -d $dir && ! -L $dir && $owner == postgres ]] ||
        die "\"$dir\" is not a folder of the account postgres" "Remove it, or choose another."
    as_postgres test -x "$dir" || die "the account postgres cannot enter \"$dir\"" \
        "Open the folders above it to others (chmod o+x), or choose another."
}

# By the process itself: the file may be left by a server that was killed, and its number may be
# another process's by now.
cluster_running() {
    local pid
    pid=$(as_root head -n 1 "$1/data/postmaster.pid" 2>/dev/null) || return 1
    [[ $(as_root readlink "/proc/$pid/cwd") == "$(realpath "$1")/data" ]]
}

cluster_stop() {
    local mode
    for mode in fast immediate; do
        cluster_running "$1" || return 0
        as_postgres "$(bindir)/pg_ctl" stop -s -w -m "$mode" -t "${CLUSTER_PATIENCE:-30}" -D "$1/data" || true
    done
    if cluster_running "$1"; then
        die "could not stop the server in \"$1\"" "Its log is \"$1/log\"; CLUSTER_PATIENCE=600 waits longer."
    fi
}

cluster_remove() {
    [[ -d $1 ]] || return 0
    cluster_folder "$1"
    cluster_stop "$1"
    as_root rm -rf -- "$1/data" "$1/run" "$1/log" "$1/port"
}

# cluster_unmount DIRECTORY: stops the one in it, and takes down the file system that the benchmark made for it.
cluster_unmount() {
    cluster_stop "$1" && as_root umount --detach-loop "$1"
}

cluster_start() {
    local dir=$1
    shift
    cluster_folder "$dir"
    cluster_remove "$dir"

    local mode=0755
    [[ ${CLUSTER_AUTH:-peer} == trust ]] && mode=0700
    as_root install -d -m "$mode" -o postgres -g postgres "$dir/run"
    as_postgres "$(bindir)/initdb" -D "$dir/data" -U postgres -E UTF8 --locale=C.UTF-8 \
        --auth-local=peer --auth-host=scram-sha-256 --no-sync >/dev/null
    cluster_access | as_root tee "$dir/data/pg_hba.conf" >/dev/null
    cluster_accounts | as_root tee "$dir/data/pg_ident.conf" >/dev/null
    as_root tee -a "$dir/data/postgresql.conf" >/dev/null <<<"include = 'ntt_mime.conf'"
    cluster_launch "$dir" "$@"
}

# A cluster of another version of PostgreSQL is no use.
cluster_resume() {
    local dir=$1
    cluster_folder "$dir"
    if [[ $(as_root cat "$dir/data/PG_VERSION" 2>/dev/null) != "$PG" ]]; then
        cluster_start "$@"
        return
    fi
    cluster_stop "$dir"
    as_root rm -f "$dir/port" "$dir/log"
    # What was set for a moment when an earlier run was killed.
    as_root truncate --size 0 "$dir/data/postgresql.auto.conf"
    cluster_launch "$@"
}

cluster_launch() {
    local dir=$1
    shift
    # Ports are tried in turn: one that is taken between our look and the server's start shows as
    # a failed start, too.
    local port try
    for ((port = 54300 + PG, try = 0; try < 50; port++, try++)); do
        if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
        cluster_settings "$dir" "$port" "$@" | as_root tee "$dir/data/ntt_mime.conf" >/dev/null
        if as_postgres "$(bindir)/pg_ctl" start -s -w -t "${CLUSTER_PATIENCE:-60}" -D "$dir/data" -l "$dir/log" \
            </dev/null >/dev/null 2>&1 9<&-; then
            as_root tee "$dir/port" >/dev/null <<<"$port"
            return
        fi
        as_postgres grep -qsi "could not bind\|address already in use" "$dir/log" || break
        as_root rm -f "$dir/log"
    done
    as_root tail -n 20 "$dir/log" >&2 || true
    die "could not start the server in \"$dir\"" "Its log is \"$dir/log\"."
}

cluster_access() {
    if [[ ${CLUSTER_AUTH:-peer} == trust ]]; then
        say "local all all trust"
    else
        say "local all all peer map=ntt_mime"
        say "host all all 127.0.0.1/32 scram-sha-256"
    fi
}

cluster_accounts() {
    local account
    printf '%s\n' root postgres "$(id -un)" "${SUDO_USER:-root}" | sort -u |
        while read -r account; do say "ntt_mime \"$account\" postgres"; done
}

# cluster_settings DIRECTORY PORT [SETTING=VALUE]...
# max_locks_per_transaction is for making 841 leaves with eleven indexes in one transaction and
# for the benchmark's updates through the parent table.
cluster_settings() {
    local dir=$1 port=$2 addresses=127.0.0.1 setting
    shift 2
    [[ ${CLUSTER_AUTH:-peer} == trust ]] && addresses=
    cat <<EOT
port = $port
listen_addresses = '$addresses'
unix_socket_directories = '$dir/run'
shared_buffers = $(shared_buffers 524288)
max_wal_size = 4GB
max_worker_processes = 16
max_locks_per_transaction = 256
EOT
    for setting in "$@"; do say "${setting%%=*} = '${setting#*=}'"; done
}

# shared_buffers KILOBYTES: so much, or an eighth of the memory of a small machine.
shared_buffers() {
    local eighth most=$1
    eighth=$(awk '/^MemTotal:/ {print int($2 / 8)}' /proc/meminfo)
    say "$((eighth < most ? eighth : most))kB"
}

# The folder of the version's programs, by what pg_config says.
bindir() { "$PG_CONFIG" --bindir; }

# cluster_psql DIRECTORY [ARGUMENT]...: as the cluster's superuser; the first error ends it.
cluster_psql() {
    local dir=$1
    shift
    "$(bindir)/psql" -X -v ON_ERROR_STOP=1 \
        -h "$dir/run" -p "$(cat "$dir/port")" -U postgres "$@"
}

# cluster_fsync DIRECTORY off|on: whether writes wait for the disk; "on" puts back what the cluster
# was started with, and brings what was written meanwhile to the disk.
cluster_fsync() {
    if [[ $2 == off ]]; then
        cluster_psql "$1" -q -c "ALTER SYSTEM SET fsync = off" -c "SELECT pg_reload_conf()" >/dev/null
    else
        cluster_psql "$1" -q -c "CHECKPOINT" >/dev/null
        sync --file-system "$1"
        cluster_psql "$1" -q -c "ALTER SYSTEM RESET fsync" -c "SELECT pg_reload_conf()" >/dev/null
    fi
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    [[ $# -ge 2 ]] || die "usage: scripts/cluster.sh start|resume|stop|psql|fsync|remove DIRECTORY ..."
    action=$1 dir=$2
    shift 2
    case $action in
        start) cluster_start "$dir" "$@" ;;
        resume) cluster_resume "$dir" "$@" ;;
        stop) cluster_stop "$dir" ;;
        psql) cluster_psql "$dir" "$@" ;;
        fsync) cluster_fsync "$dir" "$@" ;;
        remove) cluster_remove "$dir" ;;
        *) die "unrecognized action \"$action\"" "Known are: start, resume, stop, psql, fsync, remove." ;;
    esac
fi
