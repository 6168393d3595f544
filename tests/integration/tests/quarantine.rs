//! Blobs that crash the process that examines them, or never release it: each costs at most one crash, or the time
//! limit, once. Then it is in quarantine, and the rest of the store is filled.
//!
//! The library under test is the one with the feature `poison`, in which blobs that the server's environment names do
//! that.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::{Shutdown, poison_path, threads};
use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, assert_error, inode, parallel, wait_for, wait_until,
};

/// Where processes leave in-flight records, below the data folder.
const RECORDS: &str = "pgsql_tmp_ntt_mime";

/// A server with the poisonous library, and a plain target over a store in which some blobs are poison.
struct Poisoned {
    cluster: Cluster,
    store: Store,
    /// Effect and blobid of each.
    poisons: Vec<(&'static str, String)>,
}

fn poisoned(effects: &[&'static str]) -> Poisoned {
    let store = Store::new();
    let poisons: Vec<_> = effects
        .iter()
        .enumerate()
        .map(|(n, effect)| {
            let content = format!("%PDF-1.4\n% {effect} {n}\n");
            (*effect, store.put(content.as_bytes()))
        })
        .collect();
    let named: Vec<String> = poisons
        .iter()
        .map(|(effect, blobid)| format!("{effect}:{blobid}"))
        .collect();
    let cluster = Cluster::start_poisonous(&[("NTT_MIME_POISON", &named.join(","))], &[]);
    Poisoned {
        cluster,
        store,
        poisons,
    }
}

impl Poisoned {
    /// A database with the target `blob`: 300 good blobs, the poisonous ones among them.
    fn database(&self, name: &str) -> TestDb<'_> {
        let mut db = TestDb::on(&self.cluster, name);
        db.expect_crash();
        db.use_store(&self.store);
        let mut blobids = self.store.put_synthetic(300);
        for (n, (_, blobid)) in self.poisons.iter().enumerate() {
            blobids.insert(50 + 60 * n, blobid.clone());
        }
        inode::plain(&mut db.connect(), &blobids);
        db
    }

    fn records(&self) -> Vec<String> {
        files(&self.cluster.data().join(RECORDS))
    }

    /// Crashes of server processes so far, by signal.
    fn crashes(&self) -> BTreeMap<String, usize> {
        let mut crashes = BTreeMap::new();
        for line in self.cluster.log().lines() {
            if let Some((_, signal)) = line.split_once("was terminated by signal ") {
                let number: String = signal.chars().take_while(char::is_ascii_digit).collect();
                *crashes.entry(number).or_default() += 1;
            }
        }
        crashes
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `reason|detail` of each failure on record, by blobid.
fn failures(s: &mut Session) -> BTreeMap<String, String> {
    s.table("SELECT blobid, reason, detail FROM ntt_mime.failure")
        .into_iter()
        .map(|line| {
            line.split_once('|')
                .map(|(id, why)| (id.to_owned(), why.to_owned()))
                .expect("columns")
        })
        .collect()
}

fn pending(s: &mut Session) -> Vec<String> {
    s.column("SELECT blobid FROM blob WHERE mime_type IS NULL ORDER BY blobid COLLATE \"C\"")
}

/// Waits until the server has recovered from its `nth` crash.
fn recovered(cluster: &Cluster, nth: usize) {
    // A client may see that its connection is gone before the server has seen why.
    wait_until(SOON, "the server to see the crash", || {
        cluster.log().matches("reinitializing").count() >= nth
    });
    cluster.recover();
}

/// Waits until a worker is held by a blob: until its detector thread has taken more processor time than for all the others,
/// and much less than after which a blob is given up.
fn wait_until_held(db: &TestDb) -> i32 {
    let mut s = db.connect();
    wait_for(SOON, "a worker to be held by the blob", || {
        let workers = s.column(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker'
                AND datname = current_database() AND query LIKE '%detecting%'",
        );
        let held = |pid: &String| detector_thread_time(pid) > Duration::from_millis(500);
        let worker = workers.into_iter().find(held)?;
        Some(worker.parse().expect("a number"))
    })
}

/// Processor time that a worker's detector thread has taken so far.
fn detector_thread_time(pid: &str) -> Duration {
    let times = threads(pid, "ntt_mime look").filter_map(|thread| {
        // In nanoseconds, before two other numbers.
        let times = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        let time = times.split(' ').next()?.parse().ok()?;
        Some(Duration::from_nanos(time))
    });
    times.max().unwrap_or_default()
}

#[test]
fn two_processes_may_crash_at_one_blob() {
    let poisoned = poisoned(&["crash"]);
    let db = poisoned.database("poison_twice");
    assert!(
        db.connect()
            .call("20, target => 'blob', workers => 1")
            .is_err()
    );
    recovered(&poisoned.cluster, 1);
    // As a second one would have left it, in a parallel query or another session.
    let records = poisoned.cluster.data().join(RECORDS);
    for record in poisoned.records() {
        let (rest, pid) = record.rsplit_once('.').expect("it ends with a process ID");
        let (record, second) = (
            records.join(&record),
            records.join(format!("{rest}.1{pid}")),
        );
        std::fs::copy(&record, &second).expect("a copy");
        let owner = std::fs::metadata(&record).expect("it is there").uid();
        std::os::unix::fs::chown(&second, Some(owner), None)
            .expect("root may, and so may the owner");
    }
    assert!(poisoned.records().len() >= 2);
    let mut s = db.connect();
    let outcome = s.backfill("20, target => 'blob'");
    assert_eq!(outcome.failures, 1);
    assert_eq!(failures(&mut s).len(), 1);
    assert_eq!(pending(&mut s), [poisoned.poisons[0].1.clone()]);
    let warnings = s.take_warnings();
    assert!(
        warnings
            .iter()
            .any(|w| w.starts_with("1 blob has been put into quarantine")),
        "{warnings:#?}"
    );
    drop(s);
    wait_until(SOON, "all records to be removed", || {
        poisoned.records().is_empty()
    });
}

#[test]
fn each_poisonous_blob_takes_the_server_down_once() {
    let effects = [
        ("crash", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("overflow", "SIGSEGV"),
    ];
    let poisoned = poisoned(&effects.map(|(effect, _)| effect));
    let db = poisoned.database("poison");
    let mut calls = 0;
    let mut s = loop {
        calls += 1;
        assert!(calls <= 1 + effects.len(), "a crash without a quarantine");
        // The other blobs are filled as far as each run comes.
        match db.connect().call("20, target => 'blob', workers => 1") {
            Ok(_) => break db.connect(),
            Err(_) => recovered(&poisoned.cluster, calls),
        }
    };
    let crashes = poisoned.crashes();
    assert_eq!(
        crashes.values().sum::<usize>(),
        effects.len(),
        "{crashes:?}"
    );

    // The rest of the store is filled; what the poisonous ones did is told.
    let mut ids: Vec<String> = poisoned.poisons.iter().map(|(_, id)| id.clone()).collect();
    ids.sort();
    assert_eq!(pending(&mut s), ids);
    let failures = failures(&mut s);
    assert_eq!(failures.len(), effects.len());
    for ((_, blobid), (_, signal)) in poisoned.poisons.iter().zip(effects) {
        let why = &failures[blobid];
        assert!(
            why.starts_with("quarantined|") && why.contains(signal),
            "{why}"
        );
    }
    assert_eq!(
        s.column("SELECT status FROM ntt_mime.run ORDER BY run_id"),
        ["interrupted", "interrupted", "interrupted", "succeeded"]
    );

    // Nobody opens them again: no later run, not when asked to retry, not when the failure is old, no function.
    s.exec("UPDATE ntt_mime.failure SET last_seen = now() - interval '1 year'");
    for arguments in [
        "target => 'blob'",
        "target => 'blob', retry_failed => true",
        "target => 'blob', dry_run => true",
    ] {
        let outcome = s.backfill(arguments);
        assert_eq!(
            (outcome.rows_updated, outcome.failures),
            (0, 3),
            "{arguments}"
        );
    }
    s.take_notices();
    for (_, blobid) in &poisoned.poisons {
        let answer: Option<String> = s.value(&format!("SELECT ntt_detect_mime('{blobid}')"));
        assert_eq!(answer, None);
        let warnings = s.take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("is in quarantine"),
            "{warnings:?}"
        );
        let inspected = s.table(&format!(
            "SELECT status, mime_type IS NULL, path LIKE '%{blobid}', detail LIKE '%SIG%' FROM ntt_inspect_blob('{blobid}')"
        ));
        assert_eq!(inspected, ["quarantined|t|t|t"]);
    }
    assert_eq!(poisoned.crashes(), crashes);

    // Until a DBA says so.
    let (_, blobid) = &poisoned.poisons[0];
    s.exec(&format!(
        "DELETE FROM ntt_mime.failure WHERE blobid = '{blobid}'"
    ));
    assert!(s.call("target => 'blob'").is_err());
    recovered(&poisoned.cluster, effects.len() + 1);
    let mut s = db.connect();
    assert_eq!(
        poisoned.crashes().values().sum::<usize>(),
        effects.len() + 1
    );
    let outcome = s.backfill("target => 'blob'");
    assert_eq!((outcome.rows_updated, outcome.failures), (0, 3));
    let mut again = s.take_warnings();
    again.retain(|warning| warning.contains("quarantine"));
    assert_eq!(again.len(), 1, "the caller is told: {again:?}");
    drop(s);
    wait_until(SOON, "the records to go", || poisoned.records().is_empty());
}

#[test]
fn a_crash_in_a_query_counts_too() {
    let poisoned = poisoned(&["crash"]);
    let db = poisoned.database("poison_query");
    let (_, blobid) = &poisoned.poisons[0];
    let query = "SELECT count(ntt_detect_mime(blobid)) FROM blob";
    assert!(db.connect().query(query, &[]).is_err());
    recovered(&poisoned.cluster, 1);
    let mut s = db.connect();
    // Before any run has seen to it, in this and other sessions.
    for _ in 0..2 {
        assert_eq!(s.count(query), 300);
        let warnings = s.take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains(blobid.as_str()),
            "{warnings:?}"
        );
    }
    assert!(failures(&mut s).is_empty());
    parallel::force(&mut s);
    assert_eq!(s.count(query), 300);
    let outcome = s.backfill("target => 'blob'");
    assert_eq!((outcome.rows_updated, outcome.failures), (300, 1));
    assert!(failures(&mut s)[blobid].starts_with("quarantined|"));
    assert_eq!(poisoned.crashes(), [("11".to_owned(), 1)].into());
}

#[test]
fn a_blob_without_end_is_given_up() {
    let poisoned = poisoned(&["hang", "hang"]);
    let db = poisoned.database("poison_hang");
    let mut s = db.connect();
    let outcome = s.backfill("20, target => 'blob', workers => 2");
    assert_eq!((outcome.rows_updated, outcome.failures), (300, 2));
    for (_, blobid) in &poisoned.poisons {
        let why = &failures(&mut s)[blobid];
        assert!(
            why.starts_with("quarantined|libmagic did not finish within 2 s"),
            "{why}"
        );
        // The server's log tells, and what to do about it.
        let log = poisoned.cluster.log();
        let (_, told) = log
            .split_once(&format!("blob \"{blobid}\" has been put into quarantine"))
            .unwrap_or_else(|| panic!("nothing of {blobid} in: {log}"));
        let told: Vec<&str> = told.lines().skip(1).take(2).collect();
        assert!(
            told[0].contains("DETAIL:  libmagic did not finish within 2 s of processor time.")
                && told[1].contains("delete its row from ntt_mime.failure."),
            "{told:#?}"
        );
    }
    assert_eq!(s.column("SELECT status FROM ntt_mime.run"), ["succeeded"]);
    db.wait_for_no_workers(SOON);
    let begun = Instant::now();
    let again = s.backfill("target => 'blob', retry_failed => true");
    assert_eq!((again.rows_updated, again.failures), (0, 2));
    assert!(
        begun.elapsed() < Duration::from_millis(1900),
        "they were looked at again"
    );
    assert!(poisoned.crashes().is_empty());
}

#[test]
fn a_blob_without_end_is_given_up_once_even_without_a_cache() {
    let poisoned = poisoned(&["hang"]);
    let db = poisoned.database("poison_no_cache");
    let mut s = db.connect();
    s.exec(
        "CREATE TABLE many AS SELECT blobid, mime_type FROM generate_series(1, 3), blob;
         SET ntt_mime.cache_size = 0",
    );
    let outcome = s.backfill("20, target => 'many', workers => 1");
    assert_eq!(outcome.rows_updated, 900);
    let (_, blobid) = &poisoned.poisons[0];
    assert_eq!(
        s.table("SELECT blobid, reason, attempts FROM ntt_mime.failure"),
        [format!("{blobid}|quarantined|1")]
    );
}

#[test]
fn a_worker_in_a_blob_without_end_still_stops() {
    let poisoned = poisoned(&["hang"]);
    let db = poisoned.database("poison_stop");
    // OVERDUE is 2 s in this library: each of these comes in between.
    for (what, sqlstate) in [("cancel", "57014"), ("terminate", "57P01")] {
        let running = db
            .connect()
            .call_in_background("20, target => 'blob', workers => 1");
        wait_until_held(&db);
        let begun = Instant::now();
        match what {
            "cancel" => running.cancel(),
            _ => db
                .connect()
                .exec(&format!("SELECT pg_terminate_backend({})", running.pid)),
        }
        match running.finish().1 {
            // The driver may see the end of the connection before the words that come with it.
            Err(error) if what == "terminate" && error.is_closed() => {}
            result => drop(assert_error(result, sqlstate, "")),
        }
        db.wait_for_no_workers(SOON);
        let took = begun.elapsed();
        assert!(
            took < Duration::from_millis(1200),
            "{what}: the worker stopped after {took:?}"
        );
        assert!(failures(&mut db.connect()).is_empty());
    }
    let running = db
        .connect()
        .call_in_background("20, target => 'blob', workers => 1");
    wait_until_held(&db);
    let took = poisoned.cluster.stop(Shutdown::Fast);
    assert!(running.finish().1.is_err());
    assert!(
        took < Duration::from_secs(3),
        "the server stopped after {took:?}"
    );
    poisoned.cluster.launch();
    assert!(poisoned.crashes().is_empty());
    let outcome = db.connect().backfill("20, target => 'blob'");
    assert_eq!(outcome.failures, 1);
    assert!(pending(&mut db.connect()).len() == 1);
}

#[test]
fn a_worker_holds_nothing_while_it_looks_at_a_blob() {
    let poisoned = poisoned(&["hang"]);
    let db = poisoned.database("poison_holds");
    let running = db
        .connect()
        .call_in_background("20, target => 'blob', workers => 1");
    let worker = wait_until_held(&db);
    assert_eq!(
        db.connect().table(&format!(
            "SELECT query LIKE '%: detecting blobs of public.blob', xact_start IS NULL, backend_xid IS NULL,
                    backend_xmin IS NULL, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid)
               FROM pg_stat_activity a WHERE pid = {worker}"
        )),
        ["t|t|t|t|0"]
    );
    running.cancel();
    assert_error(running.finish().1, "57014", "cancel");
}

#[test]
fn who_is_killed_from_outside_makes_a_blob_suspect_only() {
    let poisoned = poisoned(&["hang"]);
    let db = poisoned.database("poison_killed");
    let (_, blobid) = &poisoned.poisons[0];
    let suspects = |poisoned: &Poisoned| {
        let mut records = poisoned.records();
        records.retain(|name| name.ends_with(&format!("suspect.{blobid}")));
        records.len()
    };

    // All processes are ended at once: not the blob's fault.
    let running = db
        .connect()
        .call_in_background("20, target => 'blob', workers => 1");
    wait_until_held(&db);
    poisoned.cluster.stop(Shutdown::Immediate);
    assert!(running.finish().1.is_err());
    poisoned.cluster.launch();
    for kill in 1..=2 {
        // Seen by the leader that begins now.
        let running = db
            .connect()
            .call_in_background("20, target => 'blob', workers => 1");
        let worker = wait_until_held(&db);
        assert_eq!((kill, suspects(&poisoned)), (kill, kill - 1));
        assert!(failures(&mut db.connect()).is_empty());
        let pid = rustix::process::Pid::from_raw(worker).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
        assert!(running.finish().1.is_err());
        recovered(&poisoned.cluster, kill);
    }
    let mut s = db.connect();
    let begun = Instant::now();
    let outcome = s.backfill("20, target => 'blob', workers => 1");
    assert!(
        begun.elapsed() < Duration::from_millis(1900),
        "it was looked at a third time"
    );
    assert_eq!(outcome.failures, 1);
    let why = &failures(&mut s)[blobid];
    assert!(
        why.starts_with("quarantined|") && why.contains("killed"),
        "{why}"
    );
    assert_eq!(suspects(&poisoned), 0);
}

#[test]
fn a_standby_has_its_own_quarantine() {
    let poisoned = poisoned(&["crash"]);
    let db = poisoned.database("poison_standby");
    let (_, blobid) = &poisoned.poisons[0];
    let standby = poisoned.cluster.standby_in(
        &[("NTT_MIME_POISON", &format!("crash:{blobid}"))],
        &[("dynamic_library_path", &poison_path())],
    );
    let query = "SELECT count(ntt_detect_mime(blobid)) FROM blob";
    assert!(
        standby
            .connect(&db.name, "postgres")
            .query(query, &[])
            .is_err()
    );
    recovered(&standby, 1);
    let mut there = standby.connect(&db.name, "postgres");
    assert_eq!(there.count(query), 300);
    assert_eq!(there.take_warnings().len(), 1);
    assert!(poisoned.crashes().is_empty(), "the primary never met it");
}
