//! Tests of the harness itself: its checks can fail. They work without the extension; `ntt_inspect_blob` is a
//! stand-in here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ntt_mime_integration::{Cluster, Session, Store, TestDb, corpus, inode, opens::Opens};

/// A filled `inode`, as a run would leave it: every answer is `text/x-judged`, unless the blob's first digit is 0.
fn filled(name: &str) -> (TestDb<'static>, Session) {
    let db = TestDb::empty(Cluster::shared(), name);
    let mut s = db.connect();
    s.exec(
        "CREATE FUNCTION ntt_inspect_blob(blobid text, OUT mime_type text, OUT status text) LANGUAGE sql AS
             $$ SELECT CASE WHEN blobid NOT LIKE '0%' THEN 'text/x-judged' END, 'ok' $$",
    );
    inode::partitioned(&mut s, 4);
    let blobids: Vec<String> = (0..200)
        .map(ntt_mime_integration::store::absent_blobid)
        .collect();
    inode::load_source(&mut s, &blobids);
    inode::fill(&mut s, 4, 3);
    inode::remember(&mut s, "inode");
    let expected = inode::expected(&mut s);
    assert!(
        expected.rows > 400 && expected.rows_left > 0 && expected.failures > 0,
        "{expected:?}"
    );
    s.exec("UPDATE inode SET mime_type = 'text/x-judged' WHERE mime_type IS NULL AND blobid NOT LIKE '0%'");
    (db, s)
}

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn a_right_table_passes() {
    let (_db, mut s) = filled("h_right");
    inode::check_filled(&mut s, "inode");
    let expected = inode::expected(&mut s);
    assert_eq!(inode::check_partly_filled(&mut s, "inode"), expected.rows);
    assert_eq!(inode::pending(&mut s, "inode"), expected.rows_left);
    let leaves = s.table("SELECT tableoid::regclass, count(*) FROM inode GROUP BY 1 ORDER BY 1");
    assert_eq!(leaves.len(), 4, "every leaf has rows: {leaves:?}");
    assert!(
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE mime_type = '{}'",
            inode::KEPT
        )) > 0
    );
    assert!(s.count("SELECT count(*) FROM inode WHERE blobid IS NULL") > 0);
    assert!(s.count("SELECT count(*) FROM path") > 0);
}

#[test]
fn each_kind_of_damage_is_noticed() {
    let (_db, mut s) = filled("h_wrong");
    // What is damaged, and whether an unfinished run may leave the table like that.
    for (damage, allowed_in_part) in [
        (
            "UPDATE inode SET mime_type = 'text/x-wrong' WHERE ino < 30 AND mime_type = 'text/x-judged'",
            false,
        ),
        (
            "UPDATE inode SET mime_type = NULL WHERE ino < 30 AND mime_type = 'text/x-judged'",
            true,
        ),
        (
            "UPDATE inode SET mime_type = 'text/x-judged' WHERE mime_type IS NULL AND blobid LIKE '0%'",
            false,
        ),
        ("UPDATE inode SET copied = NOT copied WHERE ino = 20", false),
        (
            "UPDATE inode SET mime_type = mime_type WHERE mime_type = 'application/x-kept' AND ino = 26",
            false,
        ),
        (
            "UPDATE inode SET mime_type = 'text/x-judged' WHERE blobid IS NULL AND ino = 23",
            false,
        ),
        ("DELETE FROM inode WHERE ino = 21", false),
        (
            "INSERT INTO inode (medium_hash, ino) VALUES ('m1', 999999)",
            false,
        ),
    ] {
        s.exec("BEGIN");
        let changed = s.execute(damage, &[]).expect("damages");
        assert!(changed > 0, "nothing was damaged by {damage}");
        assert!(
            fails(|| inode::check_filled(&mut s, "inode")),
            "not noticed: {damage}"
        );
        let in_part = fails(|| {
            inode::check_partly_filled(&mut s, "inode");
        });
        assert_eq!(in_part, !allowed_in_part, "{damage}");
        s.exec("ROLLBACK");
    }
    inode::check_filled(&mut s, "inode");
}

#[test]
fn messages_that_are_not_well_put_are_noticed() {
    let mut s = Cluster::shared().connect("postgres", "postgres");
    let mut warn = |words: &str| {
        s.exec(&format!("DO $$ BEGIN RAISE WARNING {words}; END $$"));
        s.take_warnings()
    };
    assert_eq!(
        warn("'well put' USING DETAIL = 'A sentence.', HINT = 'Another one.'"),
        ["well put | A sentence. | Another one."]
    );
    for words in [
        "'with a full stop.'",
        "'Capitalized'",
        "'x' USING DETAIL = 'No full stop'",
        "'x' USING HINT = 'in lower case.'",
    ] {
        assert!(fails(|| drop(warn(words))), "not noticed: {words}");
    }
}

#[test]
fn openings_are_counted() {
    let store = Store::new();
    let [once, never] = [b"once", b"neve"].map(|content| store.path(&store.put(content)));
    let mut opens = Opens::watch([&once, &never]);
    std::fs::read(&once).expect("there");
    assert_eq!((opens.counts()[&once], opens.counts()[&never]), (1, 0));
    std::fs::metadata(&never).expect("there");
    std::fs::read(&once).expect("there");
    assert_eq!((opens.counts()[&once], opens.counts()[&never]), (2, 0));
}

#[test]
fn the_corpus_is_varied_and_readable_to_the_server() {
    let db = TestDb::empty(Cluster::shared(), "h_corpus");
    let mut s = db.connect();
    assert_eq!(corpus().blobs.len(), 2001);
    let types: std::collections::BTreeSet<&str> = corpus()
        .blobs
        .iter()
        // What this machine has beside is more still; this much is there on any.
        .filter(|b| b.made || b.origin == std::path::Path::new("/dev/null"))
        .map(|b| b.file_mime.as_str())
        .collect();
    println!("{} types", types.len());
    assert!(
        types.contains("application/x-empty") && types.len() >= 40,
        "{types:?}"
    );
    let large = corpus()
        .blobs
        .iter()
        .filter(|b| std::fs::metadata(&b.path).expect("there").len() > 64 * 1024)
        .count();
    assert!(large >= 100, "only {large} blobs are longer than a head");
    for blob in corpus().blobs.iter().step_by(50) {
        let size: i64 = s.value(&format!(
            "SELECT length(pg_read_binary_file('{}'))::bigint",
            blob.path.display()
        ));
        assert_eq!(
            u64::try_from(size).expect("a size"),
            std::fs::metadata(&blob.path).expect("there").len()
        );
    }
}

#[test]
fn a_standby_follows_and_servers_stop() {
    use ntt_mime_integration::cluster::Shutdown;
    let primary = Cluster::start(&[]);
    primary
        .connect("postgres", "postgres")
        .exec("CREATE TABLE t AS SELECT 7 AS x");
    let standby = primary.standby(&[]);
    assert_eq!(
        standby
            .connect("postgres", "postgres")
            .column("SELECT x FROM t"),
        ["7"]
    );
    standby.stop(Shutdown::Immediate);
    primary.restart();
    assert_eq!(
        primary
            .connect("postgres", "postgres")
            .column("SELECT x FROM t"),
        ["7"]
    );
}
