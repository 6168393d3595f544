//! Causes faults of every kind at random moments of runs, many times each, and counts what that did to the rows.
//!
//!     ntt_mime_torture [--seconds N] [--each N] [--short] [--only NAME]... [--seed N] [--write] [--log FILE]
//!
//! Five parts: faults (rounds that take turns through `fault::FAULTS`), loaders beside runs over 841 leaves, memory
//! over ten thousand batches, a session that keeps rows locked, and corrections of wrong types that are disturbed.
//! `--seconds` is the time for all of it, `--each` the minimum number of rounds of each fault; it goes on until both
//! are reached. `--only` takes part of the name of a fault, `loaders`, `memory`, `locks` or `corrections`. `--write`
//! puts the tables into docs/reliability.md. Violations are printed, written to the file of `--log`, and counted;
//! they end nothing, but the exit code is 1.
//!
//! Needs the extension installed, and root for the faults that need something mounted.

mod caller;
mod corrections;
mod fault;
mod faults;
mod ground;
mod isolation;
mod loaders;
mod locker;
mod locks;
mod marks;
mod material;
mod memory;
mod options;
mod report;
mod roots;
mod round;
mod sampler;
mod verdict;
mod watch;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use material::Material;
use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{Cluster, judge, server};
use options::Options;
use report::Log;

/// Blobs of the short form: runs are shorter, and so are its rounds.
const SHORT_BLOBS: usize = 600;

fn main() -> ExitCode {
    let options = match Options::from_command_line() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let mounting = isolation::begin();
    if let Err(error) = &mounting {
        println!(
            "no mounting here ({error}): shared memory can't be told from that of other servers, either"
        );
    }
    println!("seed {}", options.seed);
    let mut log = match Log::create(&options.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: \"{}\": {error}", options.log.display());
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let mut count = Count::default();
    let mut parts = Vec::new();
    let material = material(&options, &mut count, &mut log);
    if options.wants("loaders") {
        let result = catch_unwind(AssertUnwindSafe(|| loaders::run(&options)));
        match result {
            Ok(loaded) => {
                loaded
                    .errors
                    .iter()
                    .for_each(|error| log.violation(&format!("loaders: {error}")));
                count.goals(loaded.goals(options.short), &mut log);
                parts.push(loaded.waits_table());
                parts.push(loaded.held_table());
            }
            Err(panic) => count.broken("loaders", &*panic, &mut log),
        }
    }
    if options.wants("memory") {
        let result = catch_unwind(AssertUnwindSafe(|| memory::run(&options, &material)));
        match result {
            Ok(Ok(memory)) => {
                count.goals(memory.goals(), &mut log);
                parts.push(format!(
                    "{} batches of one row:\n\n{}",
                    memory.batches,
                    memory.table()
                ));
            }
            Ok(Err(error)) => count.goals(vec![(format!("memory: {error}"), false)], &mut log),
            Err(panic) => count.broken("memory", &*panic, &mut log),
        }
    }
    if options.wants("locks") {
        let result = catch_unwind(AssertUnwindSafe(|| locks::run(&options, &material)));
        match result {
            Ok(locks) => {
                let wrong = locks.violations.iter();
                wrong.for_each(|words| log.violation(&format!("locks: {words}")));
                count.goals(locks.goals(), &mut log);
                parts.push(locks.table());
            }
            Err(panic) => count.broken("locks", &*panic, &mut log),
        }
    }
    if options.wants("corrections") {
        let result = catch_unwind(AssertUnwindSafe(|| corrections::run(&options, &material)));
        match result {
            Ok(corrections) => {
                let wrong = corrections.violations.iter();
                wrong.for_each(|words| log.violation(&format!("corrections: {words}")));
                count.goals(corrections.goals(), &mut log);
                parts.push(corrections.table());
            }
            Err(panic) => count.broken("corrections", &*panic, &mut log),
        }
    }
    parts.iter().for_each(|part| println!("\n{part}"));
    let until = begun + options.time;
    let tallies = faults::run(&options, &material, mounting.is_ok(), until, &mut log);
    if !tallies.is_empty() {
        for (_, tally) in &tallies {
            count.passed += tally.rounds - tally.failed_rounds;
            count.failed += tally.failed_rounds;
        }
        parts.insert(0, report::faults(&tallies));
        println!("\n{}", parts[0]);
    }
    let facts = format!(
        "PostgreSQL {}, libmagic {}, {} s, seed {}.\n",
        server::major_version(),
        judge::libmagic_release(),
        begun.elapsed().as_secs(),
        options.seed
    );
    println!("{facts}");
    if options.write {
        parts.insert(0, facts);
        if let Err(error) = report::write(&parts.join("\n")) {
            log.violation(&format!("the tables could not be written: {error}"));
            count.failed += 1;
        }
    }
    // Once more, since the tables stand between.
    for violation in &log.violations {
        println!("VIOLATION: {violation}");
    }
    if !log.violations.is_empty() {
        println!("also in {}", log.path.display());
    }
    println!("torture: {} passed, {} failed", count.passed, count.failed);
    match count.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Rounds and goals.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn goals(&mut self, goals: Vec<(String, bool)>, log: &mut Log) {
        for (missed, reached) in goals {
            if reached {
                self.passed += 1;
            } else {
                self.failed += 1;
                log.violation(&missed);
            }
        }
    }

    fn broken(&mut self, part: &str, panic: &(dyn Any + Send), log: &mut Log) {
        self.failed += 1;
        log.violation(&format!("{part} broke off: {}", faults::words_of(panic)));
    }
}

fn material(options: &Options, count: &mut Count, log: &mut Log) -> Material {
    let mut material = Material::new(options.short.then_some(SHORT_BLOBS));
    let cluster = Cluster::start(&[("ntt_mime.blob_root", material.root)]);
    let mut s = cluster.connect("postgres", SUPERUSER);
    s.exec("CREATE EXTENSION ntt_mime");
    let differ = material.keep_agreed(&mut s);
    println!("{} blobs", material.blobs.len());
    if differ > 0 {
        println!("{differ} left out: the detector itself differs from file(1) there");
    }
    let few = differ * 1000 <= material.blobs.len();
    count.goals(
        vec![(
            format!("the detector differs from file(1) on {differ} files"),
            few,
        )],
        log,
    );
    material
}
