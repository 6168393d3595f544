#!/usr/bin/env bash
# What a user does at a shell with file(1): list the pending blobs, show them to it, COPY its answers back, and UPDATE.
#
#   shell_user.sh PSQL DSN ROOT
#
# Prints one line of JSON: rows, failed, seconds and where they went.

set -euo pipefail
export LC_ALL=C.UTF-8
[[ $# -eq 3 ]] || { echo "usage: shell_user.sh PSQL DSN ROOT" >&2 && exit 2; }
root=$3
psql=("$1" -X -A -t -v ON_ERROR_STOP=1 -d "$2")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.3f", b - a}'; }

begun=$(now)
"${psql[@]}" -c "COPY (SELECT DISTINCT blobid FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL) TO STDOUT" \
    >"$work/blobids"
selected=$(now)
sed -E "s#^(..)(..)#$root/\1/\2/\1\2#" "$work/blobids" >"$work/paths"
"${FILE:-/usr/bin/file}" --brief --mime-type --files-from "$work/paths" >"$work/types"
detected=$(now)
paste "$work/blobids" "$work/types" >"$work/answers"
rows=$("${psql[@]}" <<SQL
BEGIN;
CREATE TEMPORARY TABLE answer (blobid text, mime_type text);
\copy answer FROM '$work/answers'
ANALYZE answer;
UPDATE inode SET mime_type = answer.mime_type FROM answer
    WHERE inode.blobid = answer.blobid AND inode.mime_type IS NULL;
COMMIT;
SQL
)
rows=$(sed -n 's/^UPDATE //p' <<<"$rows")
ended=$(now)
printf '{"blobs": %d, "rows": %d, "failed": 0, "seconds": %s, "select": %s, "detect": %s, "update": %s}\n' \
    "$(wc -l <"$work/blobids")" "$rows" "$(since "$begun" "$ended")" "$(since "$begun" "$selected")" \
    "$(since "$selected" "$detected")" "$(since "$detected" "$ended")"
