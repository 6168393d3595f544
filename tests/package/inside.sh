#!/usr/bin/env bash
# What scripts/test-deb.sh does in the folder: as root, with the package in /srv/test.
#
#   inside.sh VERSION      of PostgreSQL

set -euo pipefail
version=$1
cd /srv/test

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" && exit 1; }
sql() { runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d archive "$@"; }
value() { sql -A -t -c "$1"; }
# expect WHAT FOUND EXPECTED
expect() { if [[ $2 == "$3" ]]; then echo "ok: $1"; else fail "$1: $2, not $3"; fi; }

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -y --no-install-recommends)

# As root in a folder that can't run services: nothing is started by installing it.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d

step "install"
"${apt[@]}" update
"${apt[@]}" install ./ntt_mime.deb file >/dev/null
dpkg --status "postgresql-$version-ntt-mime" | grep -E '^(Version|Depends)'
dpkg --listfiles "postgresql-$version-ntt-mime" | grep -E 'lib/ntt_mime.so|--|control$|copyright|changelog'
for file in /usr/share/doc/"postgresql-$version-ntt-mime"/{copyright,NOTICES*,changelog.gz,changelog.Debian.gz,README.md*}; do
    [[ -e $file ]] || fail "$file isn't there"
done
pg_ctlcluster "$version" main start

step "an archive"
runuser -u postgres -- createdb archive
mkdir -p /srv/store
mapfile -t -n 3000 paths < <(find /usr/share /usr/bin /etc -xdev -type f -readable -size -1024k)
for path in "${paths[@]}"; do
    hash=$(sha256sum "$path" | cut -d' ' -f1)
    place=/srv/store/${hash:0:2}/${hash:2:2}/$hash
    if [[ ! -e $place ]]; then
        install -D -m 0644 "$path" "$place"
        printf '%s\n' "$hash"
    fi
done >blobids
file --mime-type --brief --files-from <(sed -E 's#^(..)(..)(.*)#/srv/store/\1/\2/\1\2\3#' blobids) |
    sed 's#^inode/x-empty$#application/x-empty#' | paste blobids - >answers
sql <<'SQL'
CREATE TABLE inode (medium_hash text, blobid text, mime_type varchar(255)) PARTITION BY LIST (medium_hash);
CREATE TABLE inode_m1 PARTITION OF inode FOR VALUES IN ('m1');
CREATE TABLE inode_m2 PARTITION OF inode FOR VALUES IN ('m2');
CREATE TABLE answer (blobid text PRIMARY KEY, mime_type text);
\copy answer FROM /srv/test/answers
INSERT INTO inode SELECT m, blobid FROM answer, unnest(ARRAY['m1', 'm2']) m;
SQL
sql -c "ALTER DATABASE archive SET ntt_mime.blob_root = '/srv/store'"
rows=$(value "SELECT count(*) FROM inode")

# In a session of its own, as a scheduled one is.
backfill() {
    sql -c "CALL ntt_backfill_mime(10000)"
    expect "all of $rows rows as file(1) has it" "$(value "SELECT count(*) FROM inode JOIN answer USING (blobid)
        WHERE inode.mime_type = answer.mime_type")" "$rows"
}

for script in ntt_mime--*.sql; do
    old=${script#ntt_mime--} old=${old%.sql}
    step "version $old of the extension, and its upgrade"
    install -m 0644 "$script" "/usr/share/postgresql/$version/extension"
    sql -c "CREATE EXTENSION ntt_mime VERSION '$old'"
    backfill
    sql -c "ALTER EXTENSION ntt_mime UPDATE" -c "UPDATE inode SET mime_type = NULL"
    backfill
    sql -c "DROP EXTENSION ntt_mime" -c "UPDATE inode SET mime_type = NULL"
    rm "/usr/share/postgresql/$version/extension/$script"
done

step "the extension"
sql -c "CREATE EXTENSION ntt_mime"
backfill
sql -x -c "SELECT * FROM ntt_mime_version()"

step "the package's next version, while the server runs"
dpkg-deb --raw-extract ntt_mime.deb next
sed -i '/^Version:/s/$/+next/' next/DEBIAN/control
dpkg-deb --root-owner-group --build next next.deb >/dev/null
sql -c "UPDATE inode SET mime_type = NULL"
"${apt[@]}" install ./next.deb >/dev/null
dpkg --status "postgresql-$version-ntt-mime" | grep '^Version: .*+next$'
backfill

step "remove"
"${apt[@]}" purge "postgresql-$version-ntt-mime" >/dev/null
expect "files left behind" "$(find /usr /etc /var/lib/dpkg/info -name '*ntt[_-]mime*' | sort | tr '\n' ' ')" ""
if sql -c "SELECT ntt_detect_mime('x'::bytea)" 2>error; then fail "it works without its library"; fi
grep -q "could not access file" error || fail "$(cat error)"
sql -c "DROP EXTENSION ntt_mime"
expect "types that stay" "$(value "SELECT count(*) FROM inode WHERE mime_type IS NOT NULL")" "$rows"
pg_ctlcluster "$version" main stop
printf '\nthe package is good\n'
