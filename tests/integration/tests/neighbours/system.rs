//! A system that denies the server something, as containers and hardened services do: if there is another way, it is
//! used, and errors name what was denied.

use std::fs;

use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, inode, scratch, server};

/// Runs a command to which the kernel refuses a system call: `-c` and this, the call, the command.
const WITHOUT_CALL: &str = include_str!("../../src/without_call.py");

/// A server to which a system call is forbidden.
fn without(call: &str) -> Cluster {
    Cluster::start_by(&["/usr/bin/python3", "-c", WITHOUT_CALL, call], &[])
}

/// A server that finds something else mounted than the others do; None where this isn't permitted.
fn with_mounted(mount: &str, launcher: &[&str]) -> Option<Cluster> {
    if !server::is_root() {
        eprintln!("not tried: only root may mount");
        return None;
    }
    let script = format!("{mount} && exec \"$@\"");
    let mut words = vec!["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    words.extend([script.as_str(), "sh"]);
    words.extend(launcher);
    Some(Cluster::start_by(&words, &[]))
}

/// Runs and functions do all that they do elsewhere, without a warning; the cache of a run is where `reason` says.
#[track_caller]
fn check_all_works(cluster: &Cluster, name: &str, reason: &str) {
    let (db, _store, mut s) = inode::archive_on(cluster, name, 4, 150, 4);
    let outcome = s.backfill("50");
    let expected = inode::expected(&mut s);
    assert_eq!(outcome.rows_updated, expected.rows);
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        s.run_row(outcome.run_id, "detections"),
        expected.blobs.to_string(),
        "each blob is read once, so the cache works"
    );
    let log = cluster.log();
    assert!(
        log.contains("run cache is in dynamic shared memory"),
        "{log}"
    );
    assert!(log.contains(reason), "{reason} is not in {log}");
    // The same answers for bytes in hand.
    let others = s.table(
        "SELECT i.path, i.mime_type, ntt_detect_mime(pg_read_binary_file(i.path))
           FROM (SELECT DISTINCT blobid FROM inode WHERE blobid IS NOT NULL) b, ntt_inspect_blob(b.blobid) i
          WHERE i.mime_type IS DISTINCT FROM ntt_detect_mime(pg_read_binary_file(i.path))",
    );
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(s.column("SELECT warnings FROM ntt_mime_version()"), ["{}"]);
    assert_eq!(s.take_warnings(), [""; 0]);
    drop(db);
}

#[test]
fn without_files_in_memory_all_works() {
    let cluster = without("memfd_create");
    check_all_works(
        &cluster,
        "no_memfd",
        "Could not call memfd_create: Operation not permitted.",
    );
}

#[test]
fn without_proc_all_works() {
    if let Some(cluster) = with_mounted("mount -t tmpfs none /proc", &[]) {
        check_all_works(&cluster, "no_proc", "Could not open \"/proc/");
    }
}

#[test]
fn the_error_names_what_was_refused() {
    let small = "mount -t tmpfs -o size=16m,mode=1777 none /dev/shm";
    let launcher = ["/usr/bin/python3", "-c", WITHOUT_CALL, "memfd_create"];
    let Some(cluster) = with_mounted(small, &launcher) else {
        return;
    };
    let (db, _store, mut s) = inode::archive_on(&cluster, "no_memory", 2, 30, 2);
    let error = assert_error(
        s.call(""),
        "53200",
        "could not resize shared memory segment",
    );
    assert_eq!(
        error.detail(),
        Some("Could not call memfd_create: Operation not permitted.")
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("/dev/shm")));
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    // What the hint says helps.
    s.exec("SET ntt_mime.cache_size = '1MB'");
    s.backfill("");
    inode::check_filled(&mut s, "inode");
    drop(db);
}

#[test]
fn calls_that_cannot_be_done_without_are_named() {
    for (call, sqlstate, words) in [
        (
            "eventfd2",
            "58000",
            "could not call eventfd: Operation not permitted",
        ),
        (
            "flock",
            "58030",
            "could not call flock: Operation not permitted",
        ),
    ] {
        let cluster = without(call);
        let (db, _store, mut s) = inode::archive_on(&cluster, call, 2, 20, 2);
        assert_error(s.call(""), sqlstate, words);
        assert_eq!(s.column("SELECT status FROM ntt_mime.run"), ["failed"]);
        drop(db);
    }
}

/// What a session is told when it is asked for bytes.
fn ask_for_bytes(s: &mut Session) -> Result<(), postgres::Error> {
    s.batch_execute("SELECT ntt_detect_mime('\\x255044462d'::bytea)")
}

#[test]
fn bytes_that_no_file_can_be_made_of() {
    let cluster = without("memfd_create");
    let db = TestDb::on(&cluster, "no_file");
    // Nor can one be made on disk.
    fs::write(cluster.data().join("pgsql_tmp_ntt_mime"), "").expect("ours");
    let mut s = db.connect();
    let error = assert_error(ask_for_bytes(&mut s), "38000", "memfd_create");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("pgsql_tmp_ntt_mime"))
    );
    let warnings = s.take_warnings().join("\n");
    assert!(warnings.contains("cannot check libmagic"), "{warnings}");
    assert!(
        !warnings.contains("gives wrong types for known files"),
        "{warnings}"
    );
    // Once that is resolved, all is well without a restart.
    fs::remove_file(cluster.data().join("pgsql_tmp_ntt_mime")).expect("ours");
    assert!(ask_for_bytes(&mut s).is_ok());
    let mut s = db.connect();
    assert_eq!(s.column("SELECT warnings FROM ntt_mime_version()"), ["{}"]);
}

/// Archives spread their shards over disks. A folder that is mounted is one like others; a link could lead anywhere.
#[test]
fn shard_folders_may_be_mounted_but_are_no_links() {
    let store = Store::new();
    let blobids = store.put_synthetic(40);
    let shard = |blobid: &str| store.root().join(&blobid[..2]);
    let (mounted, linked) = (&blobids[0], &blobids[1]);
    assert_ne!(shard(mounted), shard(linked));
    let elsewhere = scratch::folder("disks");
    let disks = [mounted, linked].map(|blobid| {
        let disk = elsewhere.join(&blobid[..2]);
        fs::rename(shard(blobid), &disk).expect("ours");
        disk
    });
    fs::create_dir(shard(mounted)).expect("ours");
    std::os::unix::fs::symlink(&disks[1], shard(linked)).expect("ours");
    let mount = format!(
        "mount --bind {} {}",
        disks[0].display(),
        shard(mounted).display()
    );
    let Some(cluster) = with_mounted(&mount, &[]) else {
        return;
    };
    let db = TestDb::on(&cluster, "shards");
    db.use_store(&store);
    let mut s = db.connect();
    let status = |s: &mut Session, blobid: &str| -> String {
        s.value(&format!("SELECT status FROM ntt_inspect_blob('{blobid}')"))
    };
    assert_eq!(status(&mut s, mounted), "ok");
    assert_eq!(status(&mut s, linked), "not_a_file");
    inode::plain(&mut s, &blobids);
    inode::remember(&mut s, "blob");
    let outcome = s.backfill("target => 'blob'");
    inode::check_filled(&mut s, "blob");
    assert_eq!(outcome.failures, inode::expected(&mut s).failures);
    assert!(outcome.failures > 0);
}
