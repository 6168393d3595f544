//! What can be seen of a run from outside: titles, wait events, the server's log, views.

use ntt_mime_integration::server::major_version;
use ntt_mime_integration::{Background, Cluster, SOON, Store, TestDb, inode, wait_for, wait_until};

/// What ps shows of a process.
fn title(pid: &str) -> String {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .unwrap_or_default()
}

/// The target `blob` with 500 pending rows, and a run on it whose worker pauses after its first 50.
fn paused(db: &TestDb, store: &Store) -> Background {
    db.use_store(store);
    let mut caller = db.connect();
    inode::plain(&mut caller, &store.put_synthetic(500));
    caller.exec("LOAD 'ntt_mime'; SET ntt_mime.batch_delay = '1min'");
    caller.call_in_background("50, target => 'blob', workers => 1")
}

#[test]
fn processes_and_log_tell_what_a_run_does() {
    // Of its own, for its log.
    let cluster = Cluster::start(&[]);
    let db = TestDb::on(&cluster, "watching");
    let store = Store::new();
    let running = paused(&db, &store);
    let mut s = db.connect();
    let run_id = wait_for(SOON, "the run to be seen", || {
        s.column("SELECT run_id FROM ntt_mime.progress WHERE rows_updated > 0")
            .pop()
    });

    let worker = "SELECT pid, query, state, wait_event_type, wait_event FROM pg_stat_activity
                   WHERE backend_type = 'ntt_mime worker' AND datname = current_database()";
    let pausing = format!("ntt_mime run {run_id}: pausing between batches");
    let row = wait_for(SOON, "a worker that pauses", || {
        s.table(worker)
            .into_iter()
            .find(|row| row.contains(&pausing))
    });
    let event = match major_version() {
        17.. => "NttMimeDelay",
        _ => "Extension",
    };
    let pid = row.split('|').next().expect("a column").to_owned();
    assert_eq!(row, format!("{pid}|{pausing}|active|Extension|{event}"));
    let shown = title(&pid);
    let expected = format!("ntt_mime worker 1 of run {run_id} pausing between batches");
    assert!(shown.contains(&expected), "{shown}");

    let expected = format!("CALL, ntt_mime run {run_id}: ");
    wait_until(SOON, "the leader's title", || {
        title(&running.pid.to_string()).contains(&expected)
    });
    running.cancel();
    assert!(running.finish().1.is_err());

    let log = cluster.log();
    for line in [
        format!(
            "LOG:  ntt_mime run {run_id} on public.blob started: 1 worker, 1 leaf, batches of up to 50 rows"
        ),
        format!(
            "LOG:  ntt_mime run {run_id} cancelled: 57014: canceling statement due to user request"
        ),
    ] {
        assert!(log.contains(&line), "{line}\n{log}");
    }
    let run_id = s.backfill("target => 'blob'").run_id;
    let line = format!("LOG:  ntt_mime run {run_id} succeeded: ");
    assert!(cluster.log().contains(&line), "{line}");
}

#[test]
fn a_summary_adds_up_what_runs_counted() {
    let (_db, store, mut s) = TestDb::with_store("summary");
    let mut blobids = vec![
        store.put(b"%PDF-1.4\n% one\n"),
        store.put(b"%PDF-1.4\n% two\n"),
        store.put(b"Just words.\n"),
    ];
    inode::plain(&mut s, &blobids);
    s.backfill("target => 'blob', dry_run => true");
    assert_eq!(
        s.table("SELECT * FROM ntt_mime.mime_summary"),
        Vec::<String>::new()
    );
    let first = s.backfill("target => 'blob'").run_id;
    blobids.push(store.put(b"%PDF-1.4\n% three\n"));
    s.exec(&format!("INSERT INTO blob VALUES ('{}', 4)", blobids[3]));
    let second = s.backfill("target => 'blob'").run_id;
    assert_eq!(
        s.table(
            "SELECT target, mime_type, blobs, percent, runs, last_run_id,
                    last_seen = (SELECT finished_at FROM ntt_mime.run r WHERE r.run_id = last_run_id)
               FROM ntt_mime.mime_summary ORDER BY blobs DESC"
        ),
        [
            format!("public.blob|application/pdf|3|75.00|2|{second}|t"),
            format!("public.blob|text/plain|1|25.00|1|{first}|t"),
        ]
    );
}

#[test]
fn progress_fits_into_80_columns() {
    let db = TestDb::new("columns");
    let store = Store::new();
    let running = paused(&db, &store);
    let mut s = db.connect();
    wait_until(SOON, "the run to be seen", || {
        s.count("SELECT count(*) FROM ntt_mime.progress WHERE rows_updated > 0") > 0
    });
    let psql = db
        .cluster
        .client("psql", &db.name)
        .args(["--no-psqlrc", "--pset=columns=80", "--pset=expanded=auto"])
        .args(["--command", "SELECT * FROM ntt_mime.progress"])
        .output()
        .expect("psql starts");
    running.cancel();
    assert!(running.finish().1.is_err());
    let shown = String::from_utf8(psql.stdout).expect("UTF-8");
    assert!(shown.contains("rows_updated     | 50"), "{shown}");
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}\n{shown}");
    }
}

#[test]
fn percent_never_falls() {
    let (db, _store, mut s) = inode::archive("percent", 3, 100, 12);
    s.exec("DROP TABLE path");
    // Never analyzed, so that nothing is known of their sizes but what their files tell.
    s.exec("CREATE TABLE sizes AS SELECT pg_relation_size(c.oid) / 8192 AS blocks FROM pg_class c WHERE relname ~ '^inode_m.$'");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '80ms'; SET client_min_messages = notice");
    let running = caller.call_in_background("10, workers => 1");
    let mut percents: Vec<f64> = Vec::new();
    let mut rewritten = false;
    while !running.is_finished() {
        let seen: Option<f64> = s
            .query_opt(
                "SELECT percent::float8, leaves_total FROM ntt_mime.progress",
                &[],
            )
            .expect("the view can be read")
            .filter(|row| row.get::<_, i64>(1) > 0)
            .map(|row| row.get(0));
        percents.extend(seen);
        // Half way through it all has to be done anew, and there is more.
        if !rewritten && percents.last().is_some_and(|percent| *percent > 60.0) {
            s.exec("INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm0', 1000000 + n, blobid FROM source");
            s.exec("VACUUM FULL inode");
            rewritten = true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let told = running.notices();
    let (_, outcome) = running.succeed();
    assert!(rewritten, "too short a run: {percents:?}");
    assert!(percents.is_sorted(), "{percents:?}");
    let told: Vec<f64> = told
        .iter()
        .filter_map(|notice| notice.message.split_once("% done")?.0.parse().ok())
        .collect();
    assert!(!told.is_empty() && told.is_sorted(), "{told:?}");
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    // In the end it is what it was: more blocks than the leaves have, and all of them done.
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "blocks_done = blocks_total, blocks_total > (SELECT sum(blocks) FROM sizes)"
        ),
        "t|t"
    );
}

#[test]
fn a_leaf_that_a_run_was_in_when_it_ended_is_not_done() {
    let (db, store) = (TestDb::new("in_the_midst"), Store::new());
    let running = paused(&db, &store);
    let mut s = db.connect();
    let run_id = s.wait_for_run();
    wait_until(SOON, "the first rows to be filled", || {
        s.run_counter(run_id, "rows_updated") > 0
    });
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    running.succeed();
    let columns = "status, leaves_total, leaves_done, blocks_done < blocks_total";
    assert_eq!(s.run_row(run_id, columns), "cancelled|1|0|t");
    let limited = s.backfill("50, target => 'blob', workers => 1, max_blobs => 60");
    let columns = "status, leaves_total, leaves_done";
    assert_eq!(s.run_row(limited.run_id, columns), "succeeded|1|0");
    s.backfill("target => 'blob'");
    assert_eq!(inode::pending(&mut s, "blob"), 0);
}
