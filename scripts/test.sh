#!/usr/bin/env bash
# The whole test suite, in phases from the quickest to the slowest; the first that fails ends it.
#
#   make test          or: scripts/test.sh [PHASE]...
#
# With names of phases, only these run (and "setup" is up to the caller). FILTER, names or parts of names, chooses among
# the integration tests: one topic, with what it needs, is
#
#   FILTER=sessions:: scripts/test.sh install integration
#
# The phases share one target directory and as few builds as can be: the lint checks without
# generating code, everything that runs is built once in the dev profile, and the release build is
# the one that regression and integration tests have installed, since that is what users run.
#
# Installs the extension into PostgreSQL's directories, and leaves the release build there.

# shellcheck source=scripts/cluster.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/cluster.sh"

mapfile -t features < <(pg_features)

phase_setup() {
    local folder
    for folder in "$REPO" "${TEST_DIR%/*}" "${TMPDIR:-/tmp}"; do need_room "$folder" 6; done
    "$REPO/scripts/setup.sh" build test bench
}

# What has been released is never edited: whoever has it installed would have something else.
check_released() {
    local sum file edited
    while read -r sum file; do
        [[ $(sha256sum <"$REPO/$file") == "$sum "* ]] ||
            die "released script \"$file\" is not what tests/released/SHA256SUMS says"
    done <"$REPO/tests/released/SHA256SUMS"
    # Nor may both have been changed: a line that is there stays. A shallow clone doesn't know.
    edited=$(cd "$REPO" && git -c safe.directory="$REPO" log -p --format= -- tests/released/SHA256SUMS 2>/dev/null |
        grep '^-[0-9a-f]') || true
    [[ -z $edited ]] || die "a line of tests/released/SHA256SUMS has been changed by a later commit" "$edited"
}

# What PGXN asks of META.json (PGXN Meta Spec 1.0.0), and that all who name the version name the same.
check_meta() {
    (cd "$REPO" && "$PYTHON" - "$(our_version Cargo.toml)" "$(package_version)") <<'PY'
import json, os, re, sys
ours, package = sys.argv[1:]
with open("META.json", encoding="utf-8") as file:
    meta = json.load(file)
required = {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}
problems = [f"META.json lacks {key}" for key in sorted(required - meta.keys())]
versions = {"META.json": meta.get("version"), "debian/changelog": package.rpartition("-")[0]}
for name, provided in meta.get("provides", {}).items():
    problems += [f"META.json: {name} lacks {key}" for key in sorted({"file", "version"} - provided.keys())]
    problems += [f"META.json: {name}: there is no {provided[key]}"
                 for key in ("file", "docfile") if key in provided and not os.path.isfile(provided[key])]
    versions[f"META.json, {name}"] = provided.get("version")
with open("CHANGELOG.md", encoding="utf-8") as file:
    top = re.search(r"^## (\S+)", file.read(), re.MULTILINE)
versions["CHANGELOG.md"] = top and top[1]
problems += [f"{where} is of version {version}, Cargo.toml of {ours}"
             for where, version in versions.items() if version != ours]
sys.exit("".join(f"error: {problem}\n" for problem in problems).rstrip() or None)
PY
}

phase_scripts() {
    local ruff
    check_released
    check_meta
    # PGXN's archive is without .ci.
    (cd "$REPO" && shopt -s nullglob && shellcheck -x scripts/*.sh demo/*.sh benches/*.sh tests/accuracy/corpus/*.sh \
        tests/package/*.sh .ci/ru[n])
    # Whatever the linter says: it is for a newer Python, too.
    (cd "$REPO" && find benches demo scripts tests -name '*.py' -exec \
        "$PYTHON" -c 'import sys; [compile(open(name).read(), name, "exec") for name in sys.argv[1:]]' {} +)
    if ruff=$("$REPO/scripts/ruff.sh"); then
        (cd "$REPO" && "$ruff" check --no-cache .)
    else
        say "skipped: the linter of Python"
    fi
}

phase_format() { cargo_do fmt --all --check; }

phase_lint() {
    cargo_do clippy --workspace --all-targets "${features[@]}" -- -D warnings
    cargo_do clippy --workspace --all-targets "${features[@]}" --features poison -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo_do doc --quiet --workspace --no-deps "${features[@]}"
}

# The lints for the other releases of PostgreSQL, none of which has to be installed, and what no other phase compiles.
phase_others() {
    local feature
    local -a others=()
    # pgrx's bindings are of this architecture.
    if [[ $(uname -sm) == "Linux x86_64" ]]; then
        mapfile -t others < <(sed -n 's/^\(pg[0-9]*\) = .*/\1/p' "$REPO/Cargo.toml" | grep -vx "pg$PG")
    fi
    for feature in "${others[@]}"; do
        say "$feature"
        DOCS_RS=1 RUSTC_WRAPPER=$REPO/scripts/rustc-with-bindings.sh cargo_do clippy --workspace --all-targets \
            --no-default-features --features "$feature" -- -D warnings
    done
    # The library that it names is one for linking, which isn't done.
    CUSTOM_LIBFUZZER_PATH=/usr/lib/libfuzzer.a cargo_do clippy --locked --target-dir "$(target_directory)" \
        --manifest-path crates/ntt_mime_core/fuzz/Cargo.toml -- -D warnings
}

phase_core() {
    cargo_do test -p ntt_mime_core
    # The prefilter beside the oldest libmagic that it knows, too.
    local old
    if old=$("$REPO/scripts/libmagic.sh"); then
        LD_LIBRARY_PATH=$old MAGIC=$old/magic.mgc cargo_do test -p ntt_mime_core --lib -- prefilter:: probes::
    else
        say "skipped: the prefilter's tests beside libmagic 5.41"
    fi
    # With it every store is slow, too.
    cargo_do test -p ntt_mime_core --features poison --test poison --test detector_thread
}

# The detector beside file(1), on some thousands of files of this machine and of small packages. "make
# accuracy" is the whole of it.
phase_corpus() { NTT_CORPUS_DIR=$SHORT_CORPUS_DIR "$REPO/tests/accuracy/corpus/make.sh" short; }

phase_accuracy() { cargo_do run --quiet -p ntt_mime_accuracy -- "$SHORT_CORPUS_DIR/files"; }

# Functions, each in a transaction that is rolled back: the extension's own #[pg_test]s. They run
# in a cluster that pgrx makes and removes.
phase_pg_test() {
    local real
    real=$(command -v sudo)
    as_root rm -rf "$TEST_DIR/pgrx" "$TEST_DIR/replacing"
    as_root install -d -o postgres -g postgres "$TEST_DIR/pgrx"
    as_root install -d "$TEST_DIR/replacing"
    # cargo-pgrx installs the test build by "sudo cp FILE PLACE". Servers of this machine may have the library open, or
    # be about to open it, so each file comes into its place in one step.
    as_root tee "$TEST_DIR/replacing/sudo" >/dev/null <<EOT
#!/bin/sh
[ "\$1" = cp ] || exec "$real" "\$@"
"$real" cp -- "\$2" "\$3.new" && exec "$real" mv -f -- "\$3.new" "\$3"
EOT
    as_root chmod 0755 "$TEST_DIR/replacing/sudo"
    # Its way with linkers that drop the schema, which none here does, would have all crates compiled a second time.
    CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 PATH=$TEST_DIR/replacing:$PATH \
        cargo_do pgrx test "pg$PG" --runas postgres --pgdata "$TEST_DIR/pgrx" "${features[@]}"
}

phase_install() { "$REPO/scripts/install.sh"; }

# The SQL surface: tests/pg_regress, laid out for "cargo pgrx regress". That starts its server as
# the account which runs it, and so not as root; PostgreSQL's own pg_regress does the same with a
# cluster of ours. It works on a copy, since the account postgres may not be able to read the
# repository: differences can be read in the copy, results of good tests can be copied back.
phase_regress() {
    local work=$TEST_DIR/regress
    local -a tests
    mapfile -t tests < <(cd "$REPO/tests/pg_regress/sql" 2>/dev/null &&
        find . -name '*.sql' -printf '%f\n' | sed 's/\.sql$//' | grep -vx setup | sort)
    if [[ ${#tests[@]} -eq 0 ]]; then
        say "there are no tests in tests/pg_regress/sql"
        return
    fi
    # pgrx runs this one first.
    if [[ -e $REPO/tests/pg_regress/sql/setup.sql ]]; then tests=(setup "${tests[@]}"); fi

    CLUSTER_AUTH=trust cluster_start "$TEST_DIR" fsync=off
    as_root rm -rf "$work"
    as_root cp -R --no-preserve=ownership "$REPO/tests/pg_regress" "$work"
    # pgrx sets the verbosity likewise, lest line numbers become part of what is expected.
    as_root tee "$work/launcher" >/dev/null <<<$'#!/bin/sh\nexec "$@" -v VERBOSITY=terse'
    as_root chmod 0755 "$work/launcher"
    as_root chown -R postgres:postgres "$work"

    local status=0
    as_postgres "$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress" \
        --bindir="$(bindir)" --host="$TEST_DIR/run" --port="$(cat "$TEST_DIR/port")" \
        --user=postgres --dbname=ntt_mime_regress --launcher="$work/launcher" \
        --inputdir="$work" --outputdir="$work" "${tests[@]}" || status=$?
    cluster_stop "$TEST_DIR"
    if [[ $status -ne 0 && -e $work/regression.diffs ]]; then cat "$work/regression.diffs"; fi
    return "$status"
}

# README and docs/ do what they say.
phase_docs() {
    local store=$TEST_DIR/docs status=0
    "$PYTHON" -B "$REPO/benches/chart.py" --check
    cluster_start "$TEST_DIR" fsync=off shared_preload_libraries=pg_cron cron.database_name=copyjob
    as_root rm -rf "$store"
    as_root install -d -o "$(id -un)" "$store"
    env PATH="$(bindir):$PATH" PGHOST="$TEST_DIR/run" PGPORT="$(cat "$TEST_DIR/port")" PGUSER=postgres \
        "$PYTHON" -B "$REPO/tests/docs/run.py" "$store" || status=$?
    cluster_stop "$TEST_DIR"
    return "$status"
}

# The library with blobs that crash or stop whoever looks at them: crates/ntt_mime_core/src/poison.rs.
# Tests of what comes after load it in place of the installed one.
build_poison() {
    cargo_do build --quiet -p ntt_mime --lib "${features[@]}" --features poison
    as_builder install -D -m 0644 "$(target_directory)/debug/libntt_mime.so" "$REPO/target/poison/ntt_mime.so"
}

# Real sessions, workers and commits, in clusters that the tests start themselves.
phase_integration() {
    build_poison
    # Users who upgrade have older versions' scripts executed already; a test of that needs them.
    local folder status=0
    local -a earlier filter
    find_earlier_scripts
    read -ra filter <<<"${FILTER:-}"
    folder=$("$PG_CONFIG" --sharedir)/extension
    as_root install -m 0644 -t "$folder" "${earlier[@]}"
    NTT_POISON_LIBRARY=$REPO/target/poison/ntt_mime.so \
        cargo_do test -p ntt_mime_integration -- "${filter[@]}" || status=$?
    earlier=("${earlier[@]##*/}")
    as_root rm -f -- "${earlier[@]/#/$folder/}"
    return "$status"
}

# Each fault once, loaders and memory for a moment: "make torture" is the whole of it.
phase_torture() { "$REPO/scripts/torture.sh" --short; }

all=(scripts format lint others core corpus accuracy pg_test install regress docs integration torture)
passed=()

run_phase() {
    local begin=$SECONDS
    printf '\n== %s\n' "$1"
    # Not "if phase", which would switch off errexit within it.
    current=$1
    "phase_$1"
    current=
    passed+=("$1")
    printf -- '-- %s: %d s\n' "$1" $((SECONDS - begin))
}

finish() {
    local status=$?
    if [[ -d $TEST_DIR ]]; then cluster_stop "$TEST_DIR" || true; fi
    if [[ $status -ne 0 && -n ${current:-} ]]; then
        printf '\n-- %s FAILED after %d s in all\n' "$current" "$SECONDS"
        printf 'phases: %d passed, 1 failed\n' "${#passed[@]}"
    fi
    exit "$status"
}

SECONDS=0
current=
trap finish EXIT
if [[ $# -eq 0 ]]; then run_phase setup; fi
cluster_folder "$TEST_DIR"
lock "$TEST_DIR" "make test"
for phase in "${@:-${all[@]}}"; do
    declare -F "phase_$phase" >/dev/null || die "unrecognized phase \"$phase\"" "Known are: ${all[*]}."
    run_phase "$phase"
done
cluster_remove "$TEST_DIR"
printf '\nall phases in %d s\n' "$SECONDS"
printf 'phases: %d passed, 0 failed\n' "${#passed[@]}"
