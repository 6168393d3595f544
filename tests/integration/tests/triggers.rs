//! What triggers, rules and policies turn a run's updates into, and that a run reports the truth about it: a row
//! counts as filled if it has a type afterwards, and what stays pending is counted, named, and tried once in a run.

use ntt_mime_integration::{Outcome, Session, Store, TestDb, assert_error, inode};

/// A function with this body, and what fires it for each row.
fn for_each_row(s: &mut Session, trigger: &str, body: &str) {
    s.exec(&format!(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $${body}$$;
         CREATE {trigger} FOR EACH ROW EXECUTE FUNCTION meddle()"
    ));
}

/// A function that fires before each row of a table, with this body.
fn before_each_row(s: &mut Session, table: &str, body: &str) {
    let trigger = format!("TRIGGER meddler BEFORE UPDATE ON {table}");
    for_each_row(s, &trigger, body);
}

/// Likewise after each row.
fn after_each_row(s: &mut Session, table: &str, body: &str) {
    let trigger = format!("TRIGGER meddler AFTER UPDATE ON {table}");
    for_each_row(s, &trigger, body);
}

/// A plain table `blob` of so many blobs and rows, with a number each.
fn plain(name: &str, rows: usize) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    inode::plain(&mut s, &store.put_synthetic(rows));
    s.exec("SET ntt_mime.target = 'blob'");
    inode::remember(&mut s, "blob");
    (db, store, s)
}

/// What the run says is what the table says: `filled` rows have a type, `kept` are pending. Returns its warnings.
#[track_caller]
fn tells_the_truth(s: &mut Session, outcome: &Outcome, filled: i64, kept: i64) -> Vec<String> {
    assert_eq!(outcome.rows_updated, filled);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_updated, rows_left"),
        format!("succeeded|{filled}|{kept}")
    );
    s.take_warnings()
}

/// The warning of a run.
fn kept_pending(rows: &str, detail: &str) -> Vec<String> {
    vec![format!(
        "{rows} still pending after their update | {detail} | \
         A trigger, a rule or a policy may suppress the update of a row, or set mime_type to null again."
    )]
}

#[test]
fn a_trigger_that_puts_the_null_back() {
    let (_db, _store, mut s) = plain("null_before", 600);
    before_each_row(
        &mut s,
        "blob",
        "BEGIN NEW.mime_type := NULL; RETURN NEW; END",
    );
    for call in ["", "50", "7, workers => 1"] {
        let outcome = s.backfill(call);
        let warnings = tells_the_truth(&mut s, &outcome, 0, 600);
        let detail = "600 rows in leaf \"public.blob\", which has trigger \"meddler\".";
        assert_eq!(warnings, kept_pending("600 rows are", detail));
        assert_eq!(inode::pending(&mut s, "blob"), 600);
        // One look is enough: nobody else has changed them.
        assert_eq!(s.run_counter(outcome.run_id, "rows_scanned"), 600);
        assert_eq!(s.run_counter(outcome.run_id, "rows_retried"), 0);
    }
    // Not even a new version of a row is left of it.
    assert_eq!(
        s.count("SELECT count(*) FROM before b JOIN blob n USING (blobid) WHERE n.xmin::text <> b.version"),
        0
    );
}

#[test]
fn a_trigger_that_puts_some_nulls_back() {
    let (_db, _store, mut s) = plain("some_before", 600);
    before_each_row(
        &mut s,
        "blob",
        "BEGIN IF NEW.size % 3 = 0 THEN NEW.mime_type := NULL; END IF; RETURN NEW; END",
    );
    let outcome = s.backfill("70");
    let warnings = tells_the_truth(&mut s, &outcome, 400, 200);
    let detail = "200 rows in leaf \"public.blob\", which has trigger \"meddler\".";
    assert_eq!(warnings, kept_pending("200 rows are", detail));
    assert_eq!(inode::check_partly_filled(&mut s, "blob"), 400);
}

#[test]
fn a_trigger_that_suppresses_the_update() {
    let (_db, _store, mut s) = plain("suppress_all", 300);
    before_each_row(&mut s, "blob", "BEGIN RETURN NULL; END");
    let outcome = s.backfill("100");
    let warnings = tells_the_truth(&mut s, &outcome, 0, 300);
    let detail = "300 rows in leaf \"public.blob\", which has trigger \"meddler\".";
    assert_eq!(warnings, kept_pending("300 rows are", detail));
    assert_eq!(s.run_counter(outcome.run_id, "rows_scanned"), 300);
}

#[test]
fn a_trigger_that_deletes_the_row_instead() {
    let (_db, _store, mut s) = plain("delete_before", 60);
    before_each_row(
        &mut s,
        "blob",
        "BEGIN
             IF OLD.size < 20 THEN DELETE FROM blob WHERE blobid = OLD.blobid; RETURN NULL; END IF;
             RETURN NEW;
         END",
    );
    let outcome = s.backfill("25");
    let warnings = tells_the_truth(&mut s, &outcome, 40, 0);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(s.count("SELECT count(*) FROM blob"), 40);
}

#[test]
fn a_trigger_that_changes_other_columns() {
    let (_db, _store, mut s) = plain("touch", 600);
    before_each_row(
        &mut s,
        "blob",
        "BEGIN NEW.size := -NEW.size; RETURN NEW; END",
    );
    let outcome = s.backfill("70");
    let warnings = tells_the_truth(&mut s, &outcome, 600, 0);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(s.count("SELECT count(*) FROM blob WHERE size < 0"), 599);
    assert_eq!(
        s.count("SELECT count(*) FROM blob JOIN truth USING (blobid) WHERE mime_type = mime"),
        600
    );
}

/// Sets the type of one row of ten to null again, in a statement of its own.
const PUTS_SOME_BACK: &str = "BEGIN
        IF NEW.mime_type IS NOT NULL AND NEW.size % 10 = 0 THEN
            UPDATE blob SET mime_type = NULL WHERE blobid = NEW.blobid;
        END IF;
        RETURN NULL;
    END";

/// A run over 300 rows beside that.
#[track_caller]
fn one_of_ten_is_kept_pending(s: &mut Session) {
    let outcome = s.backfill("70");
    let warnings = tells_the_truth(s, &outcome, 270, 30);
    let detail = "30 rows in leaf \"public.blob\", which has trigger \"meddler\".";
    assert_eq!(warnings, kept_pending("30 rows are", detail));
    assert_eq!(inode::check_partly_filled(s, "blob"), 270);
}

#[test]
fn a_trigger_that_fires_afterwards_and_puts_nulls_back() {
    let (_db, _store, mut s) = plain("null_after", 300);
    after_each_row(&mut s, "blob", PUTS_SOME_BACK);
    one_of_ten_is_kept_pending(&mut s);
}

#[test]
fn a_trigger_that_fires_at_the_commit_and_puts_nulls_back() {
    let (_db, _store, mut s) = plain("null_deferred", 300);
    let trigger = "CONSTRAINT TRIGGER meddler AFTER UPDATE ON blob DEFERRABLE INITIALLY DEFERRED";
    for_each_row(&mut s, trigger, PUTS_SOME_BACK);
    one_of_ten_is_kept_pending(&mut s);
}

#[test]
fn a_trigger_that_fires_afterwards_and_updates_the_row_again() {
    let (_db, _store, mut s) = plain("again_after", 300);
    after_each_row(
        &mut s,
        "blob",
        "BEGIN
             IF pg_trigger_depth() = 1 THEN UPDATE blob SET size = -size WHERE blobid = NEW.blobid; END IF;
             RETURN NULL;
         END",
    );
    let outcome = s.backfill("70");
    let warnings = tells_the_truth(&mut s, &outcome, 300, 0);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(s.count("SELECT count(*) FROM blob WHERE size < 0"), 299);
}

#[test]
fn a_trigger_that_changes_its_mind() {
    let (_db, _store, mut s) = plain("moody", 400);
    // Not the same rows in another attempt.
    before_each_row(
        &mut s,
        "blob",
        "BEGIN IF random() < 0.5 THEN NEW.mime_type := NULL; END IF; RETURN NEW; END",
    );
    let outcome = s.backfill("50");
    let pending = inode::pending(&mut s, "blob");
    let filled = s.count("SELECT count(*) FROM blob WHERE mime_type IS NOT NULL");
    assert_eq!(outcome.rows_updated, filled);
    assert_eq!(
        s.run_row(outcome.run_id, "status"),
        "succeeded",
        "and it ends"
    );
    // New versions of rows that it leaves pending may be met again in the same pass.
    assert!(s.run_counter(outcome.run_id, "rows_left") >= pending);
}

#[test]
fn rules_that_put_something_else_in_the_place_of_the_update() {
    for (name, rule, filled) in [
        ("nothing", "DO INSTEAD NOTHING", 0),
        ("some", "WHERE OLD.size >= 100 DO INSTEAD NOTHING", 100),
        (
            "other",
            "DO INSTEAD UPDATE blob SET mime_type = NEW.mime_type, size = -1 WHERE blobid = OLD.blobid AND size % 2 = 0",
            -1,
        ),
        ("also", "DO ALSO INSERT INTO seen VALUES (OLD.blobid)", 300),
    ] {
        println!("{name}");
        let (_db, _store, mut s) = plain(&format!("rule_{name}"), 300);
        s.exec("CREATE TABLE seen (blobid text)");
        s.exec(&format!("CREATE RULE instead AS ON UPDATE TO blob {rule}"));
        if filled < 0 {
            // It refers to itself, which PostgreSQL refuses as for any UPDATE.
            assert_error(s.call(""), "42P17", "1 leaf was set aside");
            continue;
        }
        let outcome = s.backfill("70");
        let kept = 300 - filled;
        let warnings = tells_the_truth(&mut s, &outcome, filled, kept);
        let detail = format!("{kept} rows in leaf \"public.blob\", which has rule \"instead\".");
        match kept {
            0 => assert_eq!(warnings, Vec::<String>::new()),
            _ => assert_eq!(warnings, kept_pending(&format!("{kept} rows are"), &detail)),
        }
        assert_eq!(inode::check_partly_filled(&mut s, "blob"), filled);
        s.exec("DROP RULE instead ON blob");
        assert_eq!(s.backfill("").rows_updated, kept);
        inode::check_filled(&mut s, "blob");
    }
}

#[test]
fn rows_that_a_policy_shows_and_does_not_let_be_updated() {
    let (db, _store, mut s) = plain("policy", 200);
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "ALTER TABLE blob ENABLE ROW LEVEL SECURITY;
         CREATE POLICY see ON blob FOR SELECT USING (size < 150);
         CREATE POLICY fill ON blob FOR UPDATE USING (size < 100);
         GRANT SELECT, UPDATE ON blob TO {runner}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    let mut session = db.connect_as(&runner);
    let outcome = session.backfill("30, target => 'blob'");
    assert_eq!(outcome.rows_updated, 100);
    assert_eq!(
        session.take_warnings(),
        kept_pending(
            "50 rows are",
            "50 rows in leaf \"public.blob\", which has row-level security."
        )
    );
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left, rows_scanned"),
        "succeeded|50|150"
    );
    assert_eq!(inode::check_partly_filled(&mut s, "blob"), 100);
}

#[test]
fn leaves_are_named_with_what_they_have() {
    let (_db, _store, mut s) = inode::archive("named", 6, 60, 6);
    s.exec("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'");
    let mut kept = Vec::new();
    for leaf in ["inode_m0", "inode_m1", "inode_m2", "inode_m3"] {
        s.exec(&format!(
            "CREATE TRIGGER \"No, no\" BEFORE UPDATE ON {leaf} FOR EACH ROW EXECUTE FUNCTION no()"
        ));
        kept.push((leaf, "trigger \"No, no\""));
    }
    // One of them doesn't fire.
    s.exec(
        "ALTER TABLE inode_m3 DISABLE TRIGGER \"No, no\";
         CREATE RULE not_me AS ON UPDATE TO inode_m4 DO INSTEAD NOTHING",
    );
    kept[3] = ("inode_m4", "rule \"not_me\"");
    let mut kept: Vec<_> = kept
        .into_iter()
        .map(|(leaf, cause)| (inode::pending(&mut s, leaf), leaf, cause))
        .collect();
    // The first leaf has most rows.
    kept.sort_by_key(|(rows, ..)| std::cmp::Reverse(*rows));
    let all = inode::pending(&mut s, "inode");
    let outcome = s.backfill("20");
    let rows: i64 = kept.iter().map(|(rows, ..)| rows).sum();
    let warnings = tells_the_truth(&mut s, &outcome, all - rows, rows);
    let of = |n: usize| {
        let (rows, leaf, cause) = kept[n];
        format!("{rows} rows in leaf \"public.{leaf}\", which has {cause}")
    };
    let detail = format!(
        "{}; {}; {}; the others in 1 more leaf.",
        of(0),
        of(1),
        of(2)
    );
    assert_eq!(warnings, kept_pending(&format!("{rows} rows are"), &detail));
    inode::check_partly_filled(&mut s, "inode");
}

#[test]
fn without_statistics_a_run_still_tells_the_truth() {
    let (_db, _store, mut s) = plain("no_counts", 300);
    after_each_row(
        &mut s,
        "blob",
        "BEGIN
             IF NEW.mime_type IS NOT NULL AND NEW.size % 10 = 0 THEN
                 UPDATE blob SET mime_type = NULL WHERE blobid = NEW.blobid;
             END IF;
             RETURN NULL;
         END",
    );
    s.exec("SET track_counts = off");
    let outcome = s.backfill("70");
    tells_the_truth(&mut s, &outcome, 270, 30);
    assert_eq!(inode::check_partly_filled(&mut s, "blob"), 270);
}

/// Rows that others have changed meanwhile are none that a trigger has kept: another pass fills them.
#[test]
fn a_trigger_is_not_blamed_for_what_others_have_changed() {
    let (db, _store, mut s) = plain("both", 60);
    before_each_row(
        &mut s,
        "blob",
        "BEGIN IF NEW.size = 30 THEN RETURN NULL; END IF; RETURN NEW; END",
    );
    let mut other = db.connect();
    other.exec("BEGIN; UPDATE blob SET size = size + 1000 WHERE size BETWEEN 10 AND 19");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'; SET ntt_mime.target = 'blob'");
    let run = caller.call_in_background("1000, workers => 1");
    db.wait_for_waiting_worker();
    other.exec("COMMIT");
    let (mut caller, outcome) = run.succeed();
    assert_eq!(outcome.rows_updated, 59);
    assert_eq!(inode::pending(&mut s, "blob"), 1);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left, rows_retried"),
        "succeeded|1|10"
    );
    assert_eq!(
        caller.take_warnings(),
        kept_pending(
            "1 row is",
            "1 row in leaf \"public.blob\", which has trigger \"meddler\"."
        )
    );
}
