# The commands of this project. "make" alone lists them.
#
# Each works on a fresh Debian 12 with a Rust toolchain: it installs what it needs first (scripts/setup.sh), as root or
# with sudo. But for "make fuzz": a nightly Rust and cargo-fuzz are for the owner of the machine to install.
#
# Variables: PG=17 chooses the version of PostgreSQL (default 15), PG_CONFIG=… one that is installed already, by its
# program of that name; scripts/common.sh looks at both. "all", "install" and "installcheck" are what PGXN's client
# calls, with PG_CONFIG.

.DEFAULT_GOAL := help
.PHONY: help all setup build install installcheck deb dist audit demo demo-stop test test-deb test-matrix \
	accuracy accuracy-matrix torture fuzz bench clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install system packages and cargo-pgrx, where they are missing
	@scripts/setup.sh build test bench

build: ## build the extension in release mode
	@scripts/setup.sh build
	@scripts/install.sh --build-only

all: build

install: ## build it and put it into PostgreSQL's directories
	@scripts/setup.sh build
	@scripts/install.sh

installcheck: ## regression tests of what is installed, in a private cluster
	@scripts/setup.sh build
	@scripts/test.sh regress

deb: ## Debian's package of it, in target/deb
	@scripts/deb.sh

dist: ## PGXN's archive of the last commit, in target
	@scripts/dist.sh

demo: ## the whole job on 50,000 of this machine's files, in a private cluster
	@demo/demo.sh

demo-stop: ## stop the demo's cluster; its folder stays
	@bash -c '. scripts/cluster.sh && cluster_stop "$$DEMO_DIR"'

test: ## every test there is
	@scripts/test.sh

test-matrix: ## make test on Debian 12, 13 and 14 (PostgreSQL 15, 17, 18); MATRIX=trixie chooses
	@scripts/matrix.sh

test-deb: ## the package in a clean Debian: install, upgrade, remove; RELEASE=trixie
	@scripts/test-deb.sh $(RELEASE)

accuracy: ## the answers beside those of file(1), on 30,000 files; ACCURACY=--rules compares rules
	@scripts/accuracy.sh $(ACCURACY)

accuracy-matrix: ## the same with the libmagic of Debian 12, 13 and 14; MATRIX=trixie chooses
	@scripts/accuracy.sh --matrix $(ACCURACY)

torture: ## faults at random moments, loaders beside runs, memory: an hour; TORTURE='--seconds 7200 --write'
	@scripts/setup.sh build test
	@scripts/torture.sh $(or $(TORTURE),--seconds 3600)

fuzz: ## fuzz the detector; SECONDS=600
	@scripts/fuzz.sh $(SECONDS)

bench: ## speed beside other methods, growth, cold blobs, WAL, others: 45 minutes; BENCH='contest' is one part
	@benches/bench.sh $(BENCH)

audit: ## dependencies: known vulnerabilities, licences, sources (deny.toml)
	@scripts/audit.sh

clean: ## stop the private clusters, delete what the demo, tests and benchmark made, and target/
	@scripts/clean.sh
