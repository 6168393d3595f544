#!/usr/bin/env bash
# Fuzzing of the detector (crates/ntt_mime_core/fuzz), with the files that the self-check knows and some of the
# machine's own to begin with.
#
#   make fuzz              or: scripts/fuzz.sh [SECONDS]
#
# Needs a nightly Rust and cargo-fuzz, which are the owner's to install: rustup toolchain install nightly,
# cargo install cargo-fuzz.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

seconds=${1:-600}
"$REPO/scripts/setup.sh" build
as_builder cargo +nightly fuzz --version >/dev/null 2>&1 ||
    die "cargo-fuzz or a nightly Rust is missing" \
        "Install them: rustup toolchain install nightly, and cargo install cargo-fuzz."

# Small files of many kinds: one of each extension below /usr/share.
seeds=$(mktemp -d)
chmod 0755 "$seeds"
trap 'rm -rf -- "$seeds"' EXIT
find /usr/share -type f -size -40k -name '*.*' -print0 |
    awk -v RS='\0' '{n = split($0, a, "."); e = a[n]; if (e ~ /^[A-Za-z0-9]+$/ && !(e in seen)) {seen[e]; print}}' |
    head -n 400 | while read -r file; do cp -- "$file" "$seeds/$(basename -- "$file")" 2>/dev/null || true; done
chmod -R a+rX "$seeds"

fuzz=crates/ntt_mime_core/fuzz
as_builder mkdir -p "$fuzz/corpus"
as_builder cargo +nightly fuzz run --fuzz-dir "$fuzz" detect "$fuzz/corpus" "$seeds" -- \
    -max_len=100000 -timeout=20 -rss_limit_mb=4096 -max_total_time="$seconds" -print_final_stats=1
