#!/usr/bin/env bash
# What scripts/test-deb.sh does in the folder: as root, with the package, what older versions installed, and
# README's steps, steps.sh, in /srv/test.
#
#   inside.sh VERSION      of PostgreSQL

set -euo pipefail
version=$1
cd /srv/test

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" && exit 1; }
sql() { runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d copyjob "$@"; }
value() { sql -A -t -c "$1"; }
# expect WHAT FOUND EXPECTED
expect() { if [[ $2 == "$3" ]]; then echo "ok: $1"; else fail "$1: $2, not $3"; fi; }

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -y --no-install-recommends)

# As root in a folder that can't run services: nothing is started by installing it.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
# Nobody is there to be asked.
printf 'APT::Get::Assume-Yes "true";\n' >/etc/apt/apt.conf.d/assume-yes

step "a server, as a user has it"
"${apt[@]}" update
"${apt[@]}" install "postgresql-$version" file sudo >/dev/null
pg_ctlcluster "$version" main start

step "an archive"
runuser -u postgres -- createdb copyjob
roots=(/data/cold/by-hash /data/fast/by-hash)
mkdir -p "${roots[@]}"
mapfile -t -n 3000 paths < <(find /usr/share /usr/bin /etc -xdev -type f -readable -size -1024k)
for path in "${paths[@]}"; do
    hash=$(sha256sum "$path" | cut -d' ' -f1)
    # One root or the other, by chance.
    place=${roots[16#${hash:0:1} % 2]}/${hash:0:2}/${hash:2:2}/$hash
    if [[ ! -e $place ]]; then
        install -D -m 0644 "$path" "$place"
        printf '%s\n' "$hash" >>blobids
        printf '%s\n' "$place" >>places
    fi
done
file --mime-type --brief --files-from places |
    sed 's#^inode/x-empty$#application/x-empty#' | paste blobids - >answers
sql <<'SQL'
CREATE TABLE inode (medium_hash text, blobid text, mime_type varchar(255)) PARTITION BY LIST (medium_hash);
CREATE TABLE inode_m1 PARTITION OF inode FOR VALUES IN ('m1');
CREATE TABLE inode_m2 PARTITION OF inode FOR VALUES IN ('m2');
CREATE TABLE answer (blobid text PRIMARY KEY, mime_type text);
\copy answer FROM /srv/test/answers
INSERT INTO inode SELECT m, blobid FROM answer, unnest(ARRAY['m1', 'm2']) m;
SQL
rows=$(value "SELECT count(*) FROM inode")

expect_all() {
    expect "all of $rows rows as file(1) has it" "$(value "SELECT count(*) FROM inode JOIN answer USING (blobid)
        WHERE inode.mime_type = answer.mime_type")" "$rows"
}

# In a session of its own, as a scheduled one is.
backfill() {
    sql -c "CALL ntt_backfill_mime(10000)"
    expect_all
}

step "from nothing to a scheduled backfill, as README tells"
bash -euxo pipefail steps.sh
dpkg --status "postgresql-$version-ntt-mime" | grep -E '^(Version|Depends)'
dpkg --listfiles "postgresql-$version-ntt-mime" | grep -E 'lib/ntt_mime.so|--|control$|copyright|changelog'
# Under the names that they call each other by.
documents=/usr/share/doc/postgresql-$version-ntt-mime
for file in copyright NOTICES changelog.gz changelog.Debian.gz README.md docs/guide.md; do
    [[ -e $documents/$file ]] || fail "there is no \"$documents/$file\""
done
# It is scheduled for each ten minutes. The first run is to last for more than one, beside another job.
sql -c "SELECT cron.schedule('ntt-mime', '* * * * *', command) FROM cron.job WHERE jobname = 'ntt-mime'" \
    -c "SELECT cron.schedule('tick', '* * * * *', 'SELECT 1')" \
    -c "ALTER DATABASE copyjob SET ntt_mime.batch_delay = '30s'" >/dev/null
job() { value "SELECT $1 FROM cron.job_run_details JOIN cron.job USING (jobid) WHERE jobname = 'ntt-mime' $2"; }
for ((seconds = 0; seconds < 300; seconds++)); do
    [[ $(job "count(*)" "AND status IN ('succeeded', 'failed')") -eq 0 ]] || break
    sleep 1
done
status=$(job status "ORDER BY runid LIMIT 1")
# Those that could have started once the run had, and have ended before it.
ticks=$(value "SELECT count(*) FROM cron.job_run_details d JOIN cron.job USING (jobid), ntt_mime.run r
    WHERE jobname = 'tick' AND d.status = 'succeeded' AND r.run_id = 1
      AND d.start_time > r.started_at + interval '5 s' AND d.end_time < r.finished_at")
sql -c "SELECT cron.unschedule('ntt-mime'), cron.unschedule('tick')" \
    -c "ALTER DATABASE copyjob RESET ntt_mime.batch_delay" \
    -c "SELECT start_time, status, command, return_message FROM cron.job_run_details ORDER BY runid" \
    -c "SELECT run_id, status, blobs, rows_updated, finished_at - started_at AS elapsed FROM ntt_mime.run"
expect "the job has ended well" "$status" succeeded
expect "so has its run" "$(value "SELECT status FROM ntt_mime.run ORDER BY run_id LIMIT 1")" succeeded
if [[ $ticks -eq 0 ]]; then fail "no other job has run beside it"; fi
echo "ok: $ticks of another job's runs beside it"
expect_all
sql -c "DROP EXTENSION ntt_mime" -c "UPDATE inode SET mime_type = NULL"

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
expect "the prefilter is active, and nothing to warn of" \
    "$(value "SELECT prefilter, warnings FROM ntt_mime_version()")" "t|{}"

step "the package's next version, while the server runs"
dpkg-deb --raw-extract postgresql-*.deb next
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
