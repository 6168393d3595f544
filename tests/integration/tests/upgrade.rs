//! Older versions: the new library works with their SQL objects, and ALTER EXTENSION turns these into what CREATE
//! EXTENSION creates today.
//!
//! Their scripts are in tests/released; `scripts/test.sh integration` copies them to where CREATE EXTENSION finds
//! them.

use ntt_mime_integration::{
    Cluster, Session, Store, TestDb, assert_error, assert_same_rows, inode,
};

/// Scripts of versions that have been released.
const RELEASED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../released");

/// The version under test.
const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// Earlier versions that have been released, each with a script to install it.
fn earlier() -> Vec<String> {
    let names = std::fs::read_dir(RELEASED).expect("it is there").flatten();
    let mut versions: Vec<String> = names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(
                name.strip_prefix("ntt_mime--")?
                    .strip_suffix(".sql")?
                    .to_owned(),
            )
        })
        .filter(|version| version != CURRENT)
        .collect();
    versions.sort();
    assert!(!versions.is_empty());
    versions
}

/// Everything that belongs to the extension: what it is, whose, who may do what with it, and its comment.
fn objects(s: &mut Session) -> Vec<String> {
    s.column(
        "WITH member AS (
             SELECT d.classid, d.objid
               FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
              WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'ntt_mime'
                -- A table's row type is a member of its own from PostgreSQL 17 on.
                AND d.classid <> 'pg_type'::regclass
         ), part AS (
             SELECT classid, objid, 0 AS objsubid FROM member
             UNION ALL
             SELECT classid, objid, attnum
               FROM member JOIN pg_class c ON c.oid = objid AND relkind IN ('r', 'v')
               JOIN pg_attribute ON attrelid = objid AND attnum > 0 AND NOT attisdropped
              WHERE classid = 'pg_class'::regclass
             UNION ALL
             SELECT 'pg_class'::regclass, indexrelid, 0 FROM member JOIN pg_index ON indrelid = objid
              WHERE classid = 'pg_class'::regclass
             UNION ALL
             SELECT 'pg_constraint'::regclass, c.oid, 0 FROM member JOIN pg_constraint c ON conrelid = objid
              WHERE classid = 'pg_class'::regclass
             UNION ALL
             SELECT 'pg_extension'::regclass, oid, 0 FROM pg_extension WHERE extname = 'ntt_mime'
         )
         SELECT concat_ws(' | ', pg_describe_object(classid, objid, objsubid),
                    CASE classid
                        WHEN 'pg_proc'::regclass THEN
                            (SELECT concat_ws(' | ', pg_get_functiondef(p.oid), proowner::regrole, proacl)
                               FROM pg_proc p WHERE p.oid = objid)
                        WHEN 'pg_constraint'::regclass THEN pg_get_constraintdef(objid)
                        WHEN 'pg_namespace'::regclass THEN
                            (SELECT concat_ws(' | ', nspowner::regrole, nspacl) FROM pg_namespace WHERE oid = objid)
                        WHEN 'pg_extension'::regclass THEN
                            (SELECT concat_ws(' | ', extversion, extconfig::regclass[], extcondition)
                               FROM pg_extension WHERE oid = objid)
                        WHEN 'pg_class'::regclass THEN
                            (SELECT CASE
                                WHEN objsubid > 0 THEN
                                    (SELECT concat_ws(' | ', attnum, format_type(atttypid, atttypmod), attnotnull,
                                                      attidentity, pg_get_expr(d.adbin, d.adrelid), attacl)
                                       FROM pg_attribute a LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
                                      WHERE attrelid = objid AND attnum = objsubid)
                                WHEN relkind = 'i' THEN pg_get_indexdef(objid)
                                ELSE concat_ws(' | ', relkind, reloptions, relowner::regrole, relacl,
                                               CASE WHEN relkind = 'v' THEN pg_get_viewdef(objid) END)
                                END
                               FROM pg_class WHERE oid = objid)
                    END,
                    (SELECT 'comment: ' || description FROM pg_description d
                      WHERE (d.classoid, d.objoid, d.objsubid) = (part.classid, part.objid, part.objsubid)))
           FROM part ORDER BY 1",
    )
}

/// The statements of a script: pgrx writes their groups in any order, and with the numbers of lines of the source.
fn lines(script: &str) -> Vec<String> {
    let script = std::fs::read_to_string(script).expect("the script can be read");
    let is_comment = |line: &&str| line.starts_with("-- src/") || line.starts_with("/*");
    let mut lines: Vec<String> = script
        .lines()
        .filter(|line| !is_comment(line))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// Whoever has installed a version that is released would have something else.
#[test]
fn what_is_installed_is_what_was_released() {
    let script = format!("ntt_mime--{CURRENT}.sql");
    let released = format!("{RELEASED}/{script}");
    if !std::fs::exists(&released).expect("the folder can be read") {
        return;
    }
    let db = TestDb::new("upgrade_released");
    let mut s = db.connect();
    let folder: String = s.value("SELECT setting FROM pg_config WHERE name = 'SHAREDIR'");
    let installed = format!("{folder}/extension/{script}");
    assert_same_rows(&lines(&installed), &lines(&released), &script);
}

#[test]
fn an_upgrade_gives_what_a_new_installation_has() {
    let fresh = TestDb::new("upgrade_fresh");
    let expected = objects(&mut fresh.connect());
    assert!(expected.len() > 60, "{expected:#?}");
    for version in earlier() {
        let db = TestDb::empty(Cluster::shared(), "upgrade");
        let mut s = db.connect();
        s.exec(&format!("CREATE EXTENSION ntt_mime VERSION '{version}'"));
        assert_ne!(objects(&mut s), expected, "{version}");
        s.exec("ALTER EXTENSION ntt_mime UPDATE");
        assert_same_rows(&objects(&mut s), &expected, &version);
    }
}

#[test]
fn the_library_works_with_older_sql_before_the_upgrade_and_after() {
    for version in earlier() {
        let db = TestDb::empty(Cluster::shared(), "older");
        let store = Store::new();
        let mut s = db.connect();
        s.exec(&format!("CREATE EXTENSION ntt_mime VERSION '{version}'"));
        db.use_store(&store);
        let mut s = db.connect();
        inode::partitioned(&mut s, 4);
        inode::load_source(&mut s, &store.put_synthetic(100));
        inode::fill(&mut s, 4, 5);
        inode::remember(&mut s, "inode");
        let outcome = s.backfill("100, max_blobs => 50");
        assert_eq!(outcome.blobs, 50);
        // Of runs that find nothing to do, the last one is kept.
        s.exec("CREATE TABLE nothing (blobid text, mime_type text)");
        for _ in 0..2 {
            s.backfill("target => 'nothing'");
            let kept = "SELECT count(*) FROM ntt_mime.run WHERE target = 'public.nothing'";
            assert_eq!(s.count(kept), 1);
        }
        let run =
            "SELECT run_id, status, rows_updated, mime_counts FROM ntt_mime.run ORDER BY run_id";
        // A leaf that refuses the update, and no table to name it.
        s.exec(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'closed'; END$$;
             CREATE TRIGGER refuse BEFORE UPDATE ON inode_m1 FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        let error = assert_error(s.call("100"), "P0001", "closed");
        assert_eq!(
            error.detail(),
            Some("1 leaf was set aside because of an error of its own.")
        );
        s.exec("DROP TRIGGER refuse ON inode_m1");
        let before = s.table(run);
        s.exec("ALTER EXTENSION ntt_mime UPDATE");
        assert_eq!(s.table(run), before);
        s.backfill("100");
        inode::check_filled(&mut s, "inode");
        assert_eq!(
            s.count("SELECT sum(blobs)::bigint FROM ntt_mime.mime_summary"),
            s.count("SELECT sum(blobs)::bigint FROM ntt_mime.run")
        );
    }
}

#[test]
fn everything_has_a_comment() {
    let db = TestDb::new("comments");
    let without: Vec<String> = objects(&mut db.connect())
        .into_iter()
        .filter(|object| !object.contains(" | comment: "))
        // From PostgreSQL 18 on NOT NULL is a constraint, too.
        .filter(|object| !object.contains("_not_null on table"))
        .collect();
    assert_eq!(without, Vec::<String>::new());
}

#[test]
fn every_setting_has_a_long_description() {
    let db = TestDb::new("descriptions");
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'");
    let settings = "FROM pg_settings WHERE name LIKE 'ntt_mime.%'";
    let without = s.column(&format!(
        "SELECT name {settings} AND (coalesce(short_desc, '') = '' OR length(coalesce(extra_desc, '')) < 20)"
    ));
    assert_eq!(without, Vec::<String>::new());
    assert!(s.count(&format!("SELECT count(*) {settings}")) >= 11);
}
