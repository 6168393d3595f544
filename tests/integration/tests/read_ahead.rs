//! Reading ahead: it only affects speed, and its threads end with their worker.
//!
//! The library under test is the one with the feature `poison`, in which every store counts as slow.

use std::path::Path;
use std::time::Duration;

use ntt_mime_integration::cluster::threads;
use ntt_mime_integration::store::{absent_blobid, make_node};
use ntt_mime_integration::{Cluster, SOON, Session, Store, TestDb, corpus, inode, wait_until};
use rustix::fs::FileType;

/// What threads that read ahead are called.
const READER: &str = "ntt_mime read";

/// The thread that judges.
const LOOKER: &str = "ntt_mime look";

/// What a run from scratch finds and counts.
fn results(s: &mut Session, read_ahead: u32) -> Vec<String> {
    s.exec(&format!(
        "UPDATE blob SET mime_type = NULL; TRUNCATE ntt_mime.failure; LOAD 'ntt_mime';
         SET ntt_mime.read_ahead = {read_ahead}"
    ));
    inode::remember(s, "blob");
    let run = s.backfill("200, target => 'blob', workers => 2").run_id;
    inode::check_filled(s, "blob");
    let mut results =
        s.table("SELECT blobid, reason, detail FROM ntt_mime.failure ORDER BY blobid");
    results.extend(s.table(&format!(
        "SELECT status, blobs, detections, rows_updated, rows_left, failures, bytes_read, mime_counts
           FROM ntt_mime.run WHERE run_id = {run} AND (options ->> 'read_ahead')::int = {read_ahead}"
    )));
    results
}

/// A plain target: real files, and blobids that have none, or something else in its place.
fn fill(s: &mut Session, store: &Store) {
    let mut blobids = corpus().blobids();
    blobids.truncate(1000);
    for blobid in &blobids {
        let content = std::fs::read(corpus().store.path(blobid)).expect("the corpus is there");
        store.put_as(blobid, &content);
    }
    let (folder, link, fifo) = (absent_blobid(1), absent_blobid(2), absent_blobid(3));
    std::fs::create_dir(store.place(&folder)).expect("a folder");
    std::os::unix::fs::symlink("/etc/passwd", store.place(&link)).expect("a link");
    make_node(&store.place(&fifo), FileType::Fifo, 0).expect("a FIFO");
    blobids.extend((0..5).map(absent_blobid));
    inode::plain(s, &blobids);
}

#[test]
fn the_results_are_the_same_without_and_with_much_of_it() {
    let cluster = Cluster::start_poisonous(&[], &[]);
    let (_db, store, mut s) = TestDb::with_store_on(&cluster, "read_ahead");
    fill(&mut s, &store);
    let without = results(&mut s, 0);
    assert_eq!(without.len(), 6, "{without:#?}");
    for read_ahead in [1, 16, 128] {
        assert_eq!(results(&mut s, read_ahead), without, "{read_ahead}");
    }
}

#[test]
fn a_server_with_few_descriptors_is_left_enough() {
    let cluster = Cluster::start_poisonous(&[], &[("max_files_per_process", "80")]);
    let (_db, _store, mut s) = inode::archive_on(&cluster, "few_files", 100, 500, 4);
    s.exec("LOAD 'ntt_mime'; SET ntt_mime.read_ahead = 128");
    let outcome = s.backfill("100");
    inode::check_filled(&mut s, "inode");
    assert_eq!(outcome.failures, inode::expected(&mut s).failures);
}

/// Threads that read ahead, by worker.
fn readers(s: &mut Session) -> Vec<usize> {
    let workers = s.column(
        "SELECT pid FROM pg_stat_activity
          WHERE backend_type = 'ntt_mime worker' AND datname = current_database()",
    );
    let count = |pid: &String| threads(pid, READER).count();
    workers.iter().map(count).collect()
}

/// The nice value of a thread, by its folder below `/proc`: the 17th field behind its name (proc(5)).
fn nice(thread: &Path) -> i64 {
    let stat = std::fs::read_to_string(thread.join("stat")).expect("it lives");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let field = fields.split(' ').nth(16).expect("so many fields");
    field.parse().expect("a number")
}

#[test]
fn those_who_look_at_blobs_are_nice_and_their_worker_is_not() {
    let cluster = Cluster::start_poisonous(&[], &[]);
    let (db, store, mut s) = TestDb::with_store_on(&cluster, "nice");
    inode::plain(&mut s, &store.put_synthetic(2000));
    for given in [0, 3, 19] {
        let mut caller = db.connect();
        caller.exec(&format!(
            "UPDATE blob SET mime_type = NULL; LOAD 'ntt_mime'; SET ntt_mime.batch_delay = '1min';
             SET ntt_mime.read_ahead = 2; SET ntt_mime.nice = {given}"
        ));
        let running = caller.call_in_background("50, target => 'blob', workers => 1");
        wait_until(SOON, "all threads to run", || readers(&mut s) == [2]);
        let worker: i32 = s.value(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker' AND datname = current_database()",
        );
        let server = nice(Path::new(&format!("/proc/{}", running.pid)));
        let worker = worker.to_string();
        assert_eq!(
            nice(Path::new(&format!("/proc/{worker}/task/{worker}"))),
            server
        );
        let mut threads: Vec<_> = threads(&worker, READER).collect();
        threads.extend(ntt_mime_integration::cluster::threads(&worker, LOOKER));
        let found: Vec<i64> = threads.iter().map(|thread| nice(thread)).collect();
        assert_eq!(
            found,
            [(server + given).min(19); 3],
            "{given} beside {server}"
        );
        running.cancel();
        assert!(running.finish().1.is_err());
        db.wait_for_no_workers(Duration::from_secs(2));
    }
}

#[test]
fn there_are_as_many_threads_as_set_and_they_go_with_the_worker() {
    let cluster = Cluster::start_poisonous(&[], &[]);
    let (db, store, mut s) = TestDb::with_store_on(&cluster, "readers");
    inode::plain(&mut s, &store.put_synthetic(2000));
    for (read_ahead, cancel) in [(0, true), (3, true), (16, false)] {
        let mut caller = db.connect();
        caller.exec(&format!(
            "UPDATE blob SET mime_type = NULL; LOAD 'ntt_mime'; SET ntt_mime.batch_delay = '1min';
             SET ntt_mime.read_ahead = {read_ahead}"
        ));
        let running = caller.call_in_background("50, target => 'blob', workers => 1");
        wait_until(SOON, "the first batch to be done", || {
            s.count("SELECT count(*) FROM blob WHERE mime_type IS NOT NULL") > 0
        });
        // A thread has its name once it runs.
        wait_until(SOON, "all threads to run", || {
            readers(&mut s).iter().sum::<usize>() >= read_ahead
        });
        assert_eq!(readers(&mut s), [read_ahead]);
        match cancel {
            true => running.cancel(),
            false => s.exec(&format!("SELECT pg_terminate_backend({})", running.pid)),
        }
        assert!(running.finish().1.is_err());
        db.wait_for_no_workers(Duration::from_secs(2));
    }
}
