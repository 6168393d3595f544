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
cargo_tool deny 0.20.2
cargo_do deny check "$@"
