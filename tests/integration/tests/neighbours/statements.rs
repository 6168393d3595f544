//! Extensions that collect statement statistics: they have two rows for a run, however many leaves it has.

use ntt_mime_integration::{Cluster, Session, inode};

use super::is_there;

/// The lines of pg_stat_statements for a run's statements on leaves.
const LINES: &str = "
    FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND query LIKE '/* ntt_mime: %'";

fn server(more: &[(&str, &str)]) -> Cluster {
    let libraries = match is_there("pg_stat_kcache") {
        true => "pg_stat_statements, pg_stat_kcache",
        false => "pg_stat_statements",
    };
    let mut settings = vec![("shared_preload_libraries", libraries)];
    settings.extend(more);
    Cluster::start(&settings)
}

/// How the statements of this database begin, except for the ones that watch.
fn beginnings(s: &mut Session) -> Vec<String> {
    s.column(
        "SELECT left(query, 60) FROM pg_stat_statements
          WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND query NOT LIKE '%pg_stat_statements%' ORDER BY 1",
    )
}

fn reset(s: &mut Session) {
    s.exec("SELECT pg_stat_statements_reset(); UPDATE queue_stats SET statements = 0");
}

#[test]
fn all_updates_of_a_run_are_one_line() {
    let cluster = server(&[("pg_stat_statements.track_planning", "on")]);
    let (_db, _store, mut s) = inode::archive_on(&cluster, "statements", 50, 400, 3);
    s.exec("CREATE EXTENSION pg_stat_statements");
    for (track, compute) in [("top", "auto"), ("all", "on"), ("top", "off")] {
        s.exec(&format!(
            "SET pg_stat_statements.track = '{track}'; SET compute_query_id = '{compute}';
             UPDATE inode SET mime_type = NULL WHERE mime_type <> '{}'",
            inode::KEPT
        ));
        reset(&mut s);
        let outcome = s.backfill("10");
        inode::check_filled(&mut s, "inode");
        let how = format!("track = {track}, compute_query_id = {compute}");
        if compute == "off" {
            assert_eq!(beginnings(&mut s), [""; 0], "{how}");
            continue;
        }
        let naming = s.column(
            "SELECT query FROM pg_stat_statements WHERE query LIKE '%inode\\_m%' AND query NOT LIKE '%pg_stat%'",
        );
        assert!(naming.is_empty(), "{how}: a leaf's own: {naming:#?}");
        // The leaves' triggers count the statements by which they were fired.
        let statements: i64 = s.count("SELECT statements FROM queue_stats");
        assert!(statements >= 50, "{how}: {statements} statements");
        assert_eq!(
            s.table(&format!("SELECT calls, rows, toplevel, query LIKE '%UPDATE ONLY leaf SET mime_type%' {LINES}")),
            [format!("{statements}|{}|t|t", outcome.rows_updated)],
            "{how}"
        );
        // Its time is a part of what the run took for its updates, and not a small one.
        let (counted, taken): (f64, f64) = (
            s.value(&format!("SELECT total_exec_time {LINES}")),
            s.value(&format!(
                "SELECT update_ms FROM ntt_mime.run WHERE run_id = {}",
                outcome.run_id
            )),
        );
        assert!(
            counted > taken / 20.0 && counted < taken,
            "{how}: {counted} of {taken} ms"
        );
        // What else there is is the run's bookkeeping and its caller's, a line each, and no more for more leaves.
        let mut all = beginnings(&mut s);
        // From PostgreSQL 16 on, the same statement on transition tables is another one for each table: that of the
        // leaves' triggers, as in any other UPDATE of them.
        all.retain(|query| !query.contains("old_rows"));
        assert!(all.len() < 30, "{how}: {all:#?}");
    }
}

#[test]
fn all_reads_by_statements_are_one_line() {
    let cluster = server(&[]);
    let (db, _store, mut s) = inode::archive_on(&cluster, "reads", 1, 20, 2);
    let role = db.role("archivist", "LOGIN");
    s.exec(&format!(
        "CREATE EXTENSION pg_stat_statements;
         GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {role}; GRANT USAGE ON SCHEMA public TO {role}"
    ));
    // Where row security applies, rows are read by a statement.
    let targets = ["one", "two", "three"];
    for target in targets {
        s.exec(&format!(
            "CREATE TABLE {target} AS SELECT blobid, mime_type FROM inode WHERE blobid IS NOT NULL;
             ALTER TABLE {target} ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON {target} USING (true);
             GRANT SELECT, UPDATE ON {target} TO {role}"
        ));
    }
    s.exec("SELECT pg_stat_statements_reset()");
    let mut archivist = db.connect_as(&role);
    let filled: i64 = targets
        .map(|target| {
            archivist
                .backfill(&format!("target => '{target}'"))
                .rows_updated
        })
        .iter()
        .sum();
    assert!(filled > 0);
    // A row may be read more than once, but is updated once.
    let counts = format!("SELECT calls >= 3, rows >= {filled} {LINES} AND query LIKE");
    assert_eq!(s.table(&format!("{counts} '%SELECT ctid%'")), ["t|t"]);
    let updates = format!("SELECT calls >= 3, rows {LINES} AND query LIKE '%UPDATE ONLY%'");
    assert_eq!(s.table(&updates), [format!("t|{filled}")]);
}

#[test]
fn other_statistics_by_query_id_have_two_lines_as_well() {
    if !is_there("pg_stat_kcache") {
        return;
    }
    let cluster = server(&[]);
    let (_db, _store, mut s) = inode::archive_on(&cluster, "kcache", 20, 200, 3);
    s.exec("CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pg_stat_kcache");
    s.exec("SELECT pg_stat_statements_reset(), pg_stat_kcache_reset()");
    s.backfill("10");
    assert_eq!(
        s.table(
            "SELECT count(*) FROM pg_stat_kcache_detail WHERE query LIKE '%UPDATE ONLY%' AND datname = current_database()"
        ),
        ["1"]
    );
}
#[test]
fn predicates_are_counted_as_those_of_two_statements() {
    if !is_there("pg_qualstats") {
        return;
    }
    let leaves = 20;
    let cluster = Cluster::start(&[
        (
            "shared_preload_libraries",
            "pg_stat_statements, pg_qualstats",
        ),
        ("pg_qualstats.sample_rate", "1"),
        ("pg_qualstats.track_constants", "off"),
    ]);
    let (_db, _store, mut s) = inode::archive_on(&cluster, "qualstats", leaves, 200, 3);
    s.exec("CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pg_qualstats");
    s.exec("SELECT pg_qualstats_reset()");
    s.backfill("10");
    let kept = s.count("SELECT count(*) FROM pg_qualstats()");
    assert!((1..leaves as i64).contains(&kept), "{kept} rows");
}
