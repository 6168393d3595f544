#!/usr/bin/env bash
# Asks cargo-deny about the crates that we build with; deny.toml has the rules.
#
#   make audit         or: scripts/audit.sh [OPTION|CHECK]...     see "cargo deny check --help"
#
# Not part of "make test": what is found out about others' code is no fault of a change of ours, and the list of what
# is known comes from the network.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

"$REPO/scripts/setup.sh" build
if ! cargo_do deny --version >/dev/null 2>&1; then
    say "installing cargo-deny (some minutes)"
    cargo_do install cargo-deny --locked --quiet || die "cargo-deny could not be installed"
fi
cargo_do deny check "$@"
