# The commands of this project. "make" alone lists them.
#
# Each works on a fresh Debian 12: it installs what it needs first (scripts/setup.sh), as root or
# with sudo. Variables: PG=17 chooses the version of PostgreSQL (default 15, or that of PG_CONFIG).
#
# "all", "install" and "installcheck" are what PGXN's client calls, with PG_CONFIG.

ifdef PG_CONFIG
export PG := $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
endif
export PG ?= 15

.DEFAULT_GOAL := help
.PHONY: help all setup build install installcheck deb audit demo demo-stop test test-deb test-matrix accuracy accuracy-matrix torture fuzz \
	bench clean

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
	@scripts/setup.sh build test
	@scripts/test.sh regress

deb: ## Debian's package of it, in target/deb
	@scripts/deb.sh

demo: ## the whole job on 50,000 of this machine's files, in a private cluster
	@demo/demo.sh

demo-stop: ## stop the demo's cluster; its folder stays
	@bash -c '. scripts/cluster.sh && cluster_stop "$$DEMO_DIR"'

test: ## every test there is
	@scripts/test.sh

test-deb: ## install, upgrade and remove the package in a clean Debian; RELEASE=trixie after "matrix.sh scripts/deb.sh"
	@scripts/test-deb.sh $(RELEASE)

test-matrix: ## the same on Debian 12, 13 and 14 (PostgreSQL 15, 17, 18); MATRIX=trixie chooses
	@scripts/matrix.sh

accuracy: ## the answers beside those of file(1), on 30,000 files; ACCURACY=--rules compares rules
	@scripts/accuracy.sh $(ACCURACY)

accuracy-matrix: ## the same with the libmagic of Debian 12, 13 and 14; MATRIX=trixie chooses
	@scripts/accuracy.sh --make-corpus
	@scripts/matrix.sh --read-only "$${NTT_CORPUS_DIR:-/var/tmp/ntt_mime_corpus}:/var/tmp/ntt_mime_corpus" \
		scripts/accuracy.sh $(ACCURACY)

torture: ## faults at random moments, loaders beside runs, memory: an hour; TORTURE='--seconds 7200 --write'
	@scripts/setup.sh build test
	@scripts/torture.sh $(or $(TORTURE),--seconds 3600)

fuzz: ## fuzz the detector; SECONDS=600
	@scripts/fuzz.sh $(SECONDS)

bench: ## speed beside other methods, growth, cold blobs, WAL, others' sessions: 45 minutes; BENCH='contest' is one part
	@benches/bench.sh $(BENCH)

audit: ## dependencies: known vulnerabilities, licences, sources (deny.toml)
	@scripts/audit.sh

clean: ## stop the private clusters, delete what the demo, tests and benchmark made, and target/
	@scripts/clean.sh
