//! pg_repack beside a run: it copies a leaf, and then replaces its file by the copy's in one step.

use ntt_mime_integration::{Session, TestDb, inode};

use super::is_there;

/// Has pg_repack rewrite a table.
fn repack(db: &TestDb, table: &str) {
    let output = db
        .cluster
        .client("pg_repack", &db.name)
        .args(["--table", table, "--no-kill-backend"])
        .output()
        .expect("pg_repack starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("repacking"), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
}

/// Rows that aren't what [`inode::remember`] has kept, or don't have their types. Their places are others.
fn wrong(s: &mut Session) -> Vec<String> {
    s.table(
        "SELECT b.rest, n.mime_type, t.mime
           FROM before b FULL JOIN inode n ON to_jsonb(n) - 'mime_type' = b.rest LEFT JOIN truth t ON t.blobid = b.blobid
          WHERE b.rest IS NULL OR n.tableoid IS NULL
             OR n.mime_type IS DISTINCT FROM coalesce(b.mime_type, t.mime) LIMIT 10",
    )
}

#[test]
fn leaves_are_repacked_while_a_run_goes_on() {
    if !is_there("pg_repack") {
        return;
    }
    let (db, _store, mut s) = inode::archive("repack", 3, 500, 6);
    s.exec("CREATE EXTENSION pg_repack");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '200ms'");
    let running = caller.call_in_background("50");
    let run_id = s.wait_for_run();
    let mut repacked = 0;
    for leaf in ["inode_m0", "inode_m1", "inode_m2"].iter().cycle() {
        if running.is_finished() {
            break;
        }
        repack(&db, leaf);
        repacked += 1;
    }
    let (mut caller, outcome) = running.succeed();
    assert!(repacked > 1, "a run too short to be disturbed");
    assert_eq!(wrong(&mut s), [""; 0]);
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    // To see that nothing is left takes a look from end to end in one file. If there was none, that is told.
    let rows_left = s.run_row(run_id, "status, rows_left");
    match caller.take_warnings().as_slice() {
        [] => assert_eq!(rows_left, "succeeded|0"),
        _ => assert_eq!(rows_left, "succeeded|"),
    }
    let next = caller.backfill("");
    assert_eq!(
        s.run_row(next.run_id, "status, rows_updated, rows_left"),
        "succeeded|0|0"
    );
}
