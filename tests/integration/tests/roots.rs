//! A store with several roots, one of which is unavailable: its blobs are not missing.

use std::fs;
use std::path::{Path, PathBuf};

use ntt_mime_integration::{
    SOON, Session, Store, TestDb, assert_error, errors, inode, scratch, wait_until,
};

/// A table whose blobs lie in two roots, one after the other, and a session with these.
struct TwoRoots {
    db: TestDb<'static>,
    stores: [Store; 2],
    s: Session,
    blobids: Vec<String>,
}

fn two_roots(name: &str, blobs: usize) -> TwoRoots {
    let (db, first, _s) = TestDb::with_store(name);
    let second = Store::new();
    let mut blobids = first.put_synthetic(blobs);
    for (n, blobid) in blobids.iter().enumerate().filter(|(n, _)| n % 2 == 1) {
        second.put_as(blobid, format!("words of number {n}\n").as_bytes());
        first.remove(blobid);
    }
    // What is in neither is missing.
    blobids.push(ntt_mime_integration::store::absent_blobid(1));
    db.set_blob_root(&format!("{}:{}", first.root_str(), second.root_str()));
    let mut s = db.connect();
    inode::plain(&mut s, &blobids);
    s.exec("SET ntt_mime.target = 'blob'");
    TwoRoots {
        db,
        stores: [first, second],
        s,
        blobids,
    }
}

/// Moves what is in a root elsewhere, or back. The root stays the directory that it is.
fn move_content(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a root") {
        let entry = entry.expect("a root");
        fs::rename(entry.path(), to.join(entry.file_name())).expect("both are ours");
    }
}

fn on_record(s: &mut Session) -> Vec<String> {
    s.table("SELECT (SELECT count(*) FROM ntt_mime.run), (SELECT count(*) FROM ntt_mime.failure WHERE reason = 'missing')")
}

#[test]
fn one_that_runs_have_read_from_has_to_be_there_when_a_run_begins() {
    let mut t = two_roots("root_before", 40);
    let s = &mut t.s;
    let first = s.backfill("");
    assert_eq!((first.rows_updated, first.failures), (40, 1));
    let [a, b] = [0, 1].map(|n| t.stores[n].root_str().to_owned());
    assert_eq!(
        s.run_row(
            first.run_id,
            "options->'roots_read', options->'roots_empty'"
        ),
        {
            let mut read = [(a.clone(), 20), (b.clone(), 20)];
            read.sort();
            let [(x, n), (y, m)] = read;
            format!("{{\"{x}\": {n}, \"{y}\": {m}}}|[]")
        }
    );
    // Runs that have nothing to read say nothing of it.
    s.backfill("");
    s.backfill("");
    s.exec("UPDATE blob SET mime_type = NULL");
    let before = on_record(s);
    let aside = scratch::folder("aside");
    for gone in [false, true] {
        let moved = aside.with_extension("moved");
        match gone {
            false => {
                move_content(t.stores[1].root(), &aside);
                // Somebody has left word in the mount point.
                fs::write(t.stores[1].root().join("NOT MOUNTED"), "").expect("ours");
            }
            true => fs::rename(t.stores[1].root(), &moved).expect("ours"),
        }
        for arguments in ["", "dry_run => true", "retry_failed => true"] {
            let error = assert_error(s.call(arguments), "58P01", "ntt_mime.blob_root");
            let words = errors::words(&error);
            let of_run = format!("un {} read", first.run_id);
            assert!(words.contains(&b) && words.contains(&of_run), "{words}");
            assert!(!words.contains(&format!("\"{a}\"")), "{words}");
        }
        assert_eq!(on_record(s), before);
        match gone {
            false => {
                fs::remove_file(t.stores[1].root().join("NOT MOUNTED")).expect("ours");
                move_content(&aside, t.stores[1].root());
            }
            true => fs::rename(&moved, t.stores[1].root()).expect("ours"),
        }
    }
    assert_eq!(s.backfill("").rows_updated, 40);
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.failure"),
        1,
        "the one that is in neither"
    );
}

#[test]
fn one_that_nobody_has_read_from_may_be_empty() {
    let mut t = two_roots("root_new", 20);
    let s = &mut t.s;
    let third = scratch::folder("third");
    s.exec(&format!(
        "SET ntt_mime.blob_root = '{}:{}:{}'",
        t.stores[0].root_str(),
        third.display(),
        t.stores[1].root_str()
    ));
    for _ in 0..2 {
        let outcome = s.backfill("retry_failed => true");
        assert_eq!(outcome.failures, 1);
        assert_eq!(
            s.run_row(outcome.run_id, "options->'roots_empty'->>0"),
            third.to_str().expect("a plain name")
        );
    }
    // Until somebody has.
    let third_store = t.stores[0].path(&t.blobids[0]);
    let place: PathBuf = third.join(third_store.strip_prefix(t.stores[0].root()).expect("below"));
    fs::create_dir_all(place.parent().expect("two folders")).expect("ours");
    fs::rename(&third_store, &place).expect("ours");
    s.exec("UPDATE blob SET mime_type = NULL");
    let read = s.backfill("");
    assert_eq!(read.rows_updated, 20);
    fs::remove_dir_all(&third).expect("ours");
    fs::create_dir(&third).expect("ours");
    s.exec("UPDATE blob SET mime_type = NULL");
    let error = assert_error(s.call(""), "58P01", "holds no blobs");
    assert!(errors::words(&error).contains(&format!("run {} read", read.run_id)));
    // Whoever knows better takes the run off the record, or the root out of the setting.
    s.exec(&format!(
        "DELETE FROM ntt_mime.run WHERE run_id = {}",
        read.run_id
    ));
    assert_eq!(s.backfill("").rows_updated, 19);
}

#[test]
fn what_older_versions_have_recorded_counts() {
    let mut t = two_roots("root_older", 20);
    let s = &mut t.s;
    let [a, b] = [0, 1].map(|n| t.stores[n].root_str().to_owned());
    let aside = scratch::folder("aside");
    move_content(t.stores[1].root(), &aside);
    let record = |s: &mut Session, root: &str, bytes: i32| {
        s.exec(&format!(
            "TRUNCATE ntt_mime.run;
             INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic, bytes_read)
                 VALUES ('x', 'succeeded', 1, 'x', jsonb_build_object('blob_root', '{root}', 'dry_run', false), 1, 'x', {bytes})"
        ));
    };
    record(s, &b, 100);
    assert_error(s.call(""), "58P01", &b);
    // Of several roots nobody knows which one was read, unless all of them are empty now.
    record(s, &format!("{a}:{b}"), 100);
    assert_eq!(s.backfill("dry_run => true").failures, 11);
    record(s, &b, 0);
    assert_eq!(s.backfill("dry_run => true").failures, 11);
    record(s, &format!("{a}:{b}"), 100);
    move_content(t.stores[0].root(), &scratch::folder("aside"));
    assert_error(s.call(""), "58P01", &a);
}

#[test]
fn one_that_goes_away_during_a_run_ends_it() {
    // Another directory comes to light, or what lies in it has gone, or it has gone itself.
    for how in ["exchanged", "emptied", "gone"] {
        let mut t = two_roots("root_during", 200);
        let mut session = t.db.connect();
        session.exec("SET ntt_mime.batch_delay = '100ms'");
        let run = session.call_in_background("5, workers => 1, target => 'blob'");
        wait_until(SOON, "the first rows to be filled", || {
            t.s.count("SELECT count(*) FROM blob WHERE mime_type IS NOT NULL") > 0
        });
        let aside = scratch::folder("aside");
        let root = t.stores[1].root();
        match how {
            "emptied" => move_content(root, &aside),
            _ => fs::rename(root, aside.join("root")).expect("both are ours"),
        }
        if how == "exchanged" {
            fs::create_dir(root).expect("ours");
        }
        let error = assert_error(
            run.finish().1,
            "58P01",
            "blob store is no longer accessible",
        );
        assert!(
            errors::words(&error).contains(t.stores[1].root_str()),
            "{how}"
        );
        assert_eq!(
            t.s.column("SELECT status FROM ntt_mime.run"),
            ["failed"],
            "{how}"
        );
        assert_eq!(
            t.s.count("SELECT count(*) FROM ntt_mime.failure"),
            0,
            "{how}"
        );
    }
}
