//! Hostile file systems: whatever is in place of a blob, at whatever level, is reported by its kind and never
//! followed, opened or waited for, neither by the functions nor by a run; and roots in every form.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ntt_mime_integration::store::{make_node, set_mode};
use ntt_mime_integration::{
    Cluster, Session, Store, TestDb, assert_error, opens::Opens, scratch, server,
};
use rustix::fs::FileType;

/// A script, so that an answer shows if something was followed after all.
const SCRIPT: &[u8] = b"#!/bin/sh\necho found\n";

/// The blobid of number `n`, in folders of its own.
fn id(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

/// Something in a blob's place or in that of one of its folders.
struct Obstacle {
    what: &'static str,
    blobid: String,
    status: &'static str,
    /// What the detail says.
    word: &'static str,
    /// Must not be opened.
    guarded: Vec<PathBuf>,
}

/// A store full of obstacles, and beside them a few blobs that are well.
struct Course {
    store: Store,
    elsewhere: Store,
    obstacles: Vec<Obstacle>,
    _sockets: Vec<UnixListener>,
}

impl Course {
    fn new() -> Course {
        let mut course = Course {
            store: Store::new(),
            elsewhere: Store::new(),
            obstacles: Vec::new(),
            _sockets: Vec::new(),
        };
        course.links();
        course.kinds();
        course.rights();
        course
    }

    /// Adds an obstacle; its blobid, and the paths of its first folder, its second and itself.
    fn add(
        &mut self,
        what: &'static str,
        status: &'static str,
        word: &'static str,
    ) -> [PathBuf; 3] {
        let blobid = id(u8::try_from(self.obstacles.len() + 1).expect("a few"));
        let blob = self.store.path(&blobid);
        let folder = blob.parent().expect("two folders above").to_owned();
        let upper = folder.parent().expect("one folder above").to_owned();
        self.obstacles.push(Obstacle {
            what,
            blobid,
            status,
            word,
            guarded: Vec::new(),
        });
        [upper, folder, blob]
    }

    fn guard(&mut self, path: &Path) {
        let last = self.obstacles.last_mut().expect("one was added");
        last.guarded.push(path.to_owned());
    }

    fn links(&mut self) {
        const LINK: (&str, &str) = ("not_a_file", "a symbolic link");
        for (level, what) in [
            "a link in place of the first folder",
            "a link in place of the second folder",
            "a link in place of the blob",
        ]
        .into_iter()
        .enumerate()
        {
            let paths = self.add(what, LINK.0, LINK.1);
            let blobid = self.obstacles.last().expect("just added").blobid.clone();
            self.elsewhere.put_as(&blobid, SCRIPT);
            let target = self.elsewhere.path(&blobid);
            let target = target.ancestors().nth(2 - level).expect("as many folders");
            make_folder(paths[level].parent().expect("below the root"));
            symlink(target, &paths[level]).expect("store");
            self.guard(&self.elsewhere.path(&blobid).clone());
        }
        let [_, folder, blob] = self.add("a relative link to a good blob", LINK.0, LINK.1);
        make_folder(&folder);
        let good = id(200);
        symlink(
            format!("../../{}/{}/{good}", &good[0..2], &good[2..4]),
            blob,
        )
        .expect("store");
        let [_, folder, blob] = self.add("a link to itself", LINK.0, LINK.1);
        make_folder(&folder);
        symlink(&blob, &blob).expect("store");
        let [_, folder, blob] = self.add("a link to nowhere", LINK.0, LINK.1);
        make_folder(&folder);
        symlink("/nowhere/at/all", blob).expect("store");
        let [_, folder, blob] = self.add("a link to a file that anybody may read", LINK.0, LINK.1);
        make_folder(&folder);
        symlink("/etc/passwd", blob).expect("store");
        let [upper, folder, _] = self.add("a link that leads to its own folder", LINK.0, LINK.1);
        make_folder(&upper);
        symlink(".", folder).expect("store");
    }

    fn kinds(&mut self) {
        let [_, folder, blob] = self.add("a folder", "not_a_file", "a directory");
        make_folder(&folder);
        fs::create_dir(&blob).expect("store");
        self.guard(&blob);
        let [upper, ..] = self.add(
            "a file in place of the first folder",
            "not_a_file",
            "a file, not a directory",
        );
        fs::write(&upper, SCRIPT).expect("store");
        self.guard(&upper);
        let [upper, folder, _] = self.add(
            "a file in place of the second folder",
            "not_a_file",
            "a file, not a directory",
        );
        make_folder(&upper);
        fs::write(&folder, SCRIPT).expect("store");
        self.guard(&folder);

        let [_, folder, blob] = self.add("a FIFO", "not_a_file", "a FIFO");
        make_folder(&folder);
        make_node(&blob, FileType::Fifo, 0).expect("store");
        self.guard(&blob);
        let [upper, ..] = self.add(
            "a FIFO in place of the first folder",
            "not_a_file",
            "a FIFO, not a directory",
        );
        make_node(&upper, FileType::Fifo, 0).expect("store");
        self.guard(&upper);
        let [_, folder, blob] = self.add("a socket", "not_a_file", "a socket");
        make_folder(&folder);
        // A socket's path must be short: made elsewhere and moved there.
        let short = self.store.root().join("s");
        self._sockets
            .push(UnixListener::bind(&short).expect("store"));
        fs::rename(&short, &blob).expect("store");
        self.guard(&blob);

        // Only root makes devices, and not in every container.
        let (null, tty, disk) = ((1, 3), (5, 0), (7, 0));
        for (what, kind, (major, minor)) in [
            ("the null device", FileType::CharacterDevice, null),
            ("a terminal", FileType::CharacterDevice, tty),
            ("a disk", FileType::BlockDevice, disk),
        ] {
            let device = rustix::fs::makedev(major, minor);
            let probe = scratch::folder("device").join("probe");
            if let Err(e) = make_node(&probe, kind, device) {
                println!("{what}: {e}");
                continue;
            }
            let [_, folder, blob] = self.add(what, "not_a_file", "a device");
            make_folder(&folder);
            make_node(&blob, kind, device).expect("as the probe");
            self.guard(&blob);
        }
    }

    fn rights(&mut self) {
        const DENIED: (&str, &str) = ("unreadable", "Permission denied");
        let secret = scratch::folder("secret").join("shadow");
        fs::write(&secret, SCRIPT).expect("scratch folder");
        let [_, folder, blob] = self.add("a hard link to a file of root's own", DENIED.0, DENIED.1);
        make_folder(&folder);
        fs::hard_link(&secret, &blob).expect("one file system");
        set_mode(&secret, if server::is_root() { 0o600 } else { 0o000 });
        self.guard(&blob);
        let [_, folder, blob] = self.add("a blob without rights", DENIED.0, DENIED.1);
        make_folder(&folder);
        fs::write(&blob, SCRIPT).expect("store");
        set_mode(&blob, 0o000);
        self.guard(&blob);
        for (level, what) in [
            "a first folder that may not be searched",
            "a second folder that may not be searched",
        ]
        .into_iter()
        .enumerate()
        {
            let paths = self.add(what, DENIED.0, DENIED.1);
            make_folder(&paths[1]);
            fs::write(&paths[2], SCRIPT).expect("store");
            self.guard(&paths[2]);
            set_mode(&paths[level], 0o644);
        }
        let [upper, ..] = self.add("a first folder that isn't there", "missing", "no file");
        assert!(!upper.exists());
        let [_, folder, _] = self.add("a blob that isn't there", "missing", "no file");
        make_folder(&folder);
    }

    fn guarded(&self) -> Vec<&PathBuf> {
        // What root may watch and others may not, isn't watched by them.
        self.obstacles
            .iter()
            .flat_map(|o| &o.guarded)
            .filter(|path| server::is_root() || fs::metadata(path).is_ok())
            .collect()
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        // Or they couldn't be removed by anybody but root.
        for obstacle in &self.obstacles {
            if obstacle.what.contains("searched") {
                for folder in self
                    .store
                    .path(&obstacle.blobid)
                    .ancestors()
                    .skip(1)
                    .take(2)
                {
                    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
                }
            }
        }
    }
}

fn make_folder(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    set_mode(path, 0o755);
    let parent = path.parent().expect("not the root of the file system");
    if parent.file_name().is_some_and(|name| name.len() == 2) {
        set_mode(parent, 0o755);
    }
}

/// A session that gives up rather than hang.
fn impatient(db: &TestDb) -> Session {
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'; SET statement_timeout = '20s'");
    s
}

#[test]
fn whatever_lies_in_a_blobs_place_is_told_and_not_touched() {
    let db = TestDb::new("obstacles");
    let course = Course::new();
    db.use_store(&course.store);
    let good: Vec<String> = (200..205).map(id).collect();
    for blobid in &good {
        course.store.put_as(blobid, SCRIPT);
    }
    let mut opens = Opens::watch(course.guarded());
    assert!(opens.counts().len() >= 12, "too little is watched");
    let mut s = impatient(&db);
    for obstacle in &course.obstacles {
        let blobid = &obstacle.blobid;
        let told = s.table(&format!(
            "SELECT status, mime_type, detail FROM ntt_inspect_blob('{blobid}')"
        ));
        assert!(
            told.len() == 1
                && told[0].starts_with(&format!("{}||", obstacle.status))
                && told[0].contains(obstacle.word),
            "{}: {told:?}",
            obstacle.what
        );
        assert_eq!(s.take_warnings(), Vec::<String>::new(), "{}", obstacle.what);
        let detected: Option<String> = s.value(&format!("SELECT ntt_detect_mime('{blobid}')"));
        assert_eq!(detected, None, "{}", obstacle.what);
        let warnings = s.take_warnings();
        // There the detail is a sentence.
        assert!(
            warnings.len() == 1
                && warnings[0]
                    .to_lowercase()
                    .contains(&obstacle.word.to_lowercase()),
            "{}: {warnings:?}",
            obstacle.what
        );
    }

    s.exec("CREATE TABLE blob (blobid text, mime_type text)");
    for blobid in course.obstacles.iter().map(|o| &o.blobid).chain(&good) {
        s.exec(&format!(
            "INSERT INTO blob VALUES ('{blobid}'), ('{blobid}')"
        ));
    }
    let outcome = s.backfill("7, target => 'blob'");
    assert_eq!(outcome.failures as usize, course.obstacles.len());
    assert_eq!(outcome.rows_updated as usize, 2 * good.len());
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        format!("succeeded|{}", 2 * course.obstacles.len())
    );
    for obstacle in &course.obstacles {
        let recorded = s.table(&format!(
            "SELECT reason, detail FROM ntt_mime.failure WHERE blobid = '{}'",
            obstacle.blobid
        ));
        assert!(
            recorded.len() == 1
                && recorded[0].starts_with(&format!("{}|", obstacle.status))
                && recorded[0].contains(obstacle.word),
            "{}: {recorded:?}",
            obstacle.what
        );
    }
    let opened: Vec<_> = opens.counts().iter().filter(|(_, n)| **n > 0).collect();
    assert!(opened.is_empty(), "opened: {opened:?}");
    // The watch works.
    if server::is_root() {
        let last = course.guarded()[0].clone();
        fs::read(&last).expect("of the other store");
        assert_eq!(opens.counts()[&last], 1);
    }
}

#[test]
fn a_hard_link_is_a_file_like_any_other() {
    let db = TestDb::new("hard_link");
    let store = Store::new();
    db.use_store(&store);
    let elsewhere = scratch::folder("elsewhere").join("script");
    fs::write(&elsewhere, SCRIPT).expect("scratch folder");
    set_mode(&elsewhere, 0o644);
    fs::hard_link(&elsewhere, store.place(&id(1))).expect("one file system");
    let mut s = impatient(&db);
    assert_eq!(
        s.column(&format!("SELECT ntt_detect_mime('{}')", id(1))),
        ["text/x-shellscript"]
    );
}

#[test]
fn neighbours_with_names_that_are_no_text_do_no_harm() {
    let db = TestDb::new("neighbours");
    let store = Store::new();
    db.use_store(&store);
    store.put_as(&id(1), SCRIPT);
    let folder = store.path(&id(1)).parent().expect("folders").to_owned();
    for level in folder.ancestors().take(3) {
        let odd = level.join(OsStr::from_bytes(b"\xff\xfe\n\"'"));
        fs::create_dir(&odd).expect("a Linux file system");
        make_node(
            &level.join(OsStr::from_bytes(b"\xc3\x28")),
            FileType::Fifo,
            0,
        )
        .expect("store");
        symlink(&odd, level.join(OsStr::from_bytes(b"\x80"))).expect("store");
    }
    let mut s = impatient(&db);
    assert_eq!(
        s.column(&format!("SELECT ntt_detect_mime('{}')", id(1))),
        ["text/x-shellscript"]
    );
    s.exec(&format!(
        "CREATE TABLE blob AS SELECT '{}' AS blobid, NULL::text AS mime_type",
        id(1)
    ));
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 1);
}

/// A root in the setting, quoted.
fn set_root(s: &mut Session, root: &str) {
    s.exec(&format!(
        "SET ntt_mime.blob_root = '{}'",
        root.replace('\'', "''")
    ));
}

#[test]
fn roots_may_be_written_in_many_ways() {
    let db = TestDb::new("root_forms");
    let base = scratch::folder("roots");
    let path = |name: &str| base.join(name);
    let store = Store::new();
    store.put_as(&id(1), SCRIPT);
    let root = store.root_str();
    symlink(root, path("link")).expect("scratch folder");
    symlink("link", path("link-to-link")).expect("scratch folder");
    symlink(&base, path("up")).expect("scratch folder");
    // The store under names that want quoting somewhere; a colon is all that can't be in one.
    let odd = [
        "with blank ",
        "quote ' and \"",
        "back\\slash",
        "new\nline",
        "größe 文件",
        "%s %n",
        "-rf",
        "...",
    ];
    for name in odd {
        symlink(root, path(name)).expect("scratch folder");
    }
    let base = base.to_str().expect("plain");
    let name = store
        .root()
        .file_name()
        .and_then(OsStr::to_str)
        .expect("plain");
    let mut roots: Vec<String> = vec![
        format!("{root}/"),
        format!("{root}//"),
        format!("/{root}"),
        root.replace('/', "//"),
        format!("{root}/."),
        format!("{root}/./../{name}/{}/..", &id(1)[..2]),
        format!("/../../..{root}"),
        format!("{base}/link"),
        format!("{base}/link/"),
        format!("{base}/link-to-link"),
        format!("{base}/up/up/link"),
        // One that has nothing, before and after.
        format!("{base}:{root}"),
        format!("{root}:{base}"),
        format!("{root}:{root}"),
    ];
    roots.extend(odd.map(|name| format!("{base}/{name}")));
    let mut s = impatient(&db);
    s.exec(&format!(
        "CREATE TABLE blob AS SELECT '{}' AS blobid, NULL::text AS mime_type",
        id(1)
    ));
    for root in roots {
        set_root(&mut s, &root);
        let told = s.table(&format!(
            "SELECT ntt_detect_mime('{0}'), status, path FROM ntt_inspect_blob('{0}')",
            id(1)
        ));
        assert!(
            told.len() == 1 && told[0].starts_with("text/x-shellscript|ok|/"),
            "{root:?}: {told:?}"
        );
        let shown = told[0].splitn(3, '|').nth(2).expect("a path");
        assert!(
            fs::read(shown).is_ok_and(|content| content == SCRIPT),
            "{root:?}: the path is shown as {shown:?}"
        );
        let filled = s.backfill("target => 'blob'").rows_updated;
        assert_eq!(filled, 1, "{root:?}");
        s.exec("UPDATE blob SET mime_type = NULL");
    }
    assert_eq!(s.take_warnings(), Vec::<String>::new());
}

#[test]
fn roots_that_are_no_folders_are_refused_at_once() {
    let db = TestDb::new("root_kinds");
    let base = scratch::folder("root_kinds");
    let store = Store::new();
    let good = store.root_str();
    let path = |name: &str| base.join(name);
    make_node(&path("fifo"), FileType::Fifo, 0).expect("scratch folder");
    let _socket = UnixListener::bind(path("socket"));
    symlink("loop", path("loop")).expect("scratch folder");
    symlink("/nowhere", path("nowhere")).expect("scratch folder");
    symlink("fifo", path("link-to-fifo")).expect("scratch folder");
    fs::create_dir(path("closed")).expect("scratch folder");
    set_mode(&path("closed"), 0o644);
    fs::create_dir(path("private")).expect("scratch folder");
    set_mode(&path("private"), 0o700);
    let base_text = base.to_str().expect("plain");
    let mut roots: Vec<String> = [
        "fifo",
        "socket",
        "loop",
        "nowhere",
        "link-to-fifo",
        "closed",
    ]
    .map(|name| format!("{base_text}/{name}"))
    .into();
    roots.extend(
        [
            "/dev/null",
            "/dev/tty",
            "/etc/passwd",
            ".",
            "..",
            "~",
            "data",
            "./",
            "",
            " ",
            ":",
            "::",
        ]
        .map(str::to_owned),
    );
    // One's own account may enter it.
    if server::is_root() {
        roots.push(format!("{base_text}/private"));
    }
    roots.push(format!("{good}:"));
    roots.push(format!("{good}:/nowhere"));
    roots.push(format!("/nowhere:{good}"));
    roots.push(format!(" {good}"));
    roots.push(format!("/{}", "n".repeat(300)));
    roots.push("/x".repeat(3000));
    let mut s = impatient(&db);
    s.exec(&format!(
        "CREATE TABLE blob AS SELECT '{}' AS blobid, NULL::text AS mime_type",
        id(1)
    ));
    for root in &roots {
        set_root(&mut s, root);
        let start: String = root.chars().take(60).collect();
        let bad = root.split(':').find(|root| *root != good);
        let told = match root.trim() {
            "" => "no directory is named".to_owned(),
            _ => format!("\"{}\"", bad.expect("one of them")),
        };
        assert_error(s.call("target => 'blob'"), "58P01", &told);
        assert_error(s.call("target => 'blob', dry_run => true"), "58P01", &told);
        let detected: Option<String> = s.value(&format!("SELECT ntt_detect_mime('{}')", id(1)));
        assert_eq!(detected, None, "{start:?}");
        let warnings = s.take_warnings();
        assert_eq!(warnings.len(), 1, "{start:?}: {warnings:?}");
        // Nobody can say of a store that can't be searched that a blob is missing in it.
        assert_eq!(
            s.column(&format!("SELECT status FROM ntt_inspect_blob('{}')", id(1))),
            ["unreadable"],
            "{start:?}"
        );
    }
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.failure"), 0);
    // Nothing that was refused keeps the target.
    store.put_as(&id(1), SCRIPT);
    set_root(&mut s, good);
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 1);
    set_mode(&path("closed"), 0o755);
}

#[test]
fn a_root_that_is_no_text_is_refused() {
    // Only a database without an encoding lets such a setting in.
    let cluster = Cluster::shared();
    let db = TestDb::empty(cluster, "no_text");
    cluster
        .connect("postgres", "postgres")
        .exec(&format!("DROP DATABASE {}", db.name));
    cluster.connect("postgres", "postgres").exec(&format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
        db.name
    ));
    db.connect().exec("CREATE EXTENSION ntt_mime");
    let store = Store::new();
    store.put_as(&id(1), SCRIPT);
    let base = scratch::folder("no_text");
    symlink(store.root(), base.join(OsStr::from_bytes(b"caf\xe9"))).expect("a Linux file system");
    let mut s = impatient(&db);
    s.exec(&format!(
        r"SET ntt_mime.blob_root = E'{}/caf\xe9'; CREATE TABLE blob (blobid text, mime_type text);
          INSERT INTO blob VALUES ('{}', NULL)",
        base.display(),
        id(1)
    ));
    let detected: Option<String> = s.value(&format!("SELECT ntt_detect_mime('{}')", id(1)));
    assert_eq!(detected, None);
    assert_eq!(s.take_warnings().len(), 1);
    assert_error(s.call("target => 'blob'"), "58P01", "blob_root");
}
