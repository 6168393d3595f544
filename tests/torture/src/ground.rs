//! Where faults strike: a server, and a database in it that each round gets anew from a template.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{Cluster, Session, inode};

use crate::isolation::{Bind, SmallDisk};
use crate::material::Material;
use crate::round::{Found, judge};
use crate::watch;

/// Leaves of the target.
pub const LEAVES: usize = 17;

/// Rows a blob.
const COPIES: usize = 3;

/// Small, so that there are many commits to strike between.
pub const BATCH: &str = "100";

/// The database of a round.
pub const DATABASE: &str = "torture";

/// Another one, for runs beside it.
pub const OTHER: &str = "torture_other";

const TEMPLATE: &str = "torture_template";

/// Enough for the databases and the WAL, little to fill up.
const SMALL_DISK_MB: u32 = 500;

const SETTINGS: &[(&str, &str)] = &[
    ("max_worker_processes", "10"),
    ("client_connection_check_interval", "200ms"),
    ("autovacuum", "on"),
    ("autovacuum_naptime", "5s"),
    ("min_wal_size", "32MB"),
    ("max_wal_size", "128MB"),
    ("ntt_mime.workers", "2"),
];

/// Takes down a change of a row, in the transaction that makes it; for a trigger.
pub const AUDIT: &str = "
    CREATE TABLE audit (medium_hash text, ino bigint, old_mime text, new_mime text);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.audit VALUES (NEW.medium_hash, NEW.ino, OLD.mime_type, NEW.mime_type);
            RETURN NULL;
        END $$;";

/// Every change of a row is taken down. `verdict` has a row for each row of the target that is or
/// was, compared with its image from before and with file(1)'s answer.
const VERDICT: &str = "
    CREATE TRIGGER audit AFTER UPDATE ON inode FOR EACH ROW EXECUTE FUNCTION audit();
    CREATE TABLE before AS SELECT tableoid AS leaf, * FROM inode;
    CREATE INDEX ON before (medium_hash, ino);
    DO $$
        DECLARE
            others text := (SELECT string_agg(format('b.%1$I, n.%1$I', attname), ';') FROM pg_attribute
                             WHERE attrelid = 'inode'::regclass AND attnum > 0 AND attname <> 'mime_type');
            differ text := (SELECT string_agg('(' || replace(pair, ', ', ') IS DISTINCT FROM (') || ')', ' OR ')
                              FROM string_to_table(others, ';') pair);
        BEGIN
            EXECUTE format($view$
                CREATE VIEW verdict AS
                    SELECT b.ino IS NULL OR n.ino IS NULL OR b.leaf <> n.tableoid OR %s AS other_columns,
                           b.mime_type IS NULL AND t.mime IS NOT NULL AND n.mime_type IS NULL AS lost,
                           CASE WHEN b.mime_type IS NOT NULL THEN n.mime_type IS DISTINCT FROM b.mime_type
                                ELSE n.mime_type IS NOT NULL AND n.mime_type IS DISTINCT FROM t.mime END AS wrong,
                           b.mime_type IS NULL AND t.mime IS NOT NULL AS to_fill,
                           n.mime_type IS DISTINCT FROM b.mime_type AS changed
                      FROM before b FULL JOIN inode n USING (medium_hash, ino)
                      LEFT JOIN truth t ON t.blobid = b.blobid $view$, differ);
        END $$";

pub struct Ground {
    pub cluster: Cluster,
    pub disk: Option<SmallDisk>,
    /// A second way to the store, where mounting is permitted.
    pub store: Option<Bind>,
    /// How long a run takes that nobody disturbs.
    pub length: Cell<Duration>,
    /// Rows that a run can fill.
    pub to_fill: i64,
}

impl Ground {
    /// A server as usual.
    pub fn new(material: &Material, may_mount: bool) -> io::Result<Ground> {
        let mut ground = Ground::on(None, material);
        if may_mount {
            ground.store = Some(Bind::new(Path::new(material.root))?);
        }
        Ok(ground)
    }

    /// One whose data folder lies on a small disk of its own.
    pub fn small(material: &Material) -> io::Result<Ground> {
        Ok(Ground::on(Some(SmallDisk::new(SMALL_DISK_MB)?), material))
    }

    fn on(disk: Option<SmallDisk>, material: &Material) -> Ground {
        let root = [("ntt_mime.blob_root", material.root)];
        let settings: Vec<_> = SETTINGS.iter().copied().chain(root).collect();
        let cluster = match &disk {
            None => Cluster::start(&settings),
            Some(disk) => {
                let folder = disk.folder.join("cluster");
                fs::create_dir(&folder).expect("a new filesystem");
                Cluster::start_at(folder, &settings)
            }
        };
        let mut ground = Ground {
            cluster,
            disk,
            store: None,
            length: Cell::default(),
            to_fill: 0,
        };
        ground.make_template(material);
        ground.measure();
        ground.check_judge();
        ground.check_watch();
        ground
    }

    fn make_template(&mut self, material: &Material) {
        self.admin().exec(&format!("CREATE DATABASE {TEMPLATE}"));
        let mut s = self.cluster.connect(TEMPLATE, SUPERUSER);
        s.exec("CREATE EXTENSION ntt_mime");
        inode::partitioned(&mut s, LEAVES);
        inode::load_source(&mut s, &material.blobids());
        inode::fill(&mut s, LEAVES, COPIES);
        material.load_truth(&mut s);
        s.exec(AUDIT);
        s.exec(VERDICT);
        s.exec("ANALYZE");
        self.to_fill = s.count("SELECT count(*) FROM verdict WHERE to_fill");
        let kinds = s.count("SELECT count(*) FROM verdict WHERE wrong OR other_columns OR changed");
        assert_eq!(
            kinds, 0,
            "a table that nobody has touched is judged changed"
        );
        drop(s);
        let mut admin = self.admin();
        admin.exec(&format!(
            "ALTER DATABASE {TEMPLATE} IS_TEMPLATE true ALLOW_CONNECTIONS false"
        ));
        self.make_database(&mut admin, OTHER);
    }

    /// The median of some runs that nobody disturbs.
    fn measure(&mut self) {
        let mut lengths: Vec<Duration> = (0..3)
            .map(|_| {
                self.fresh_database();
                let mut s = self.connect();
                let begun = Instant::now();
                s.backfill(BATCH);
                begun.elapsed()
            })
            .collect();
        lengths.sort();
        self.length.set(lengths[1]);
    }

    /// A run that nobody disturbed took this long: the machine may be busier than before, or less so.
    pub fn learn_length(&self, took: Duration) {
        self.length.set((self.length.get() + took) / 2);
    }

    /// The judge has to see what it is there for: rows are spoilt in each way, in a transaction that is rolled back.
    fn check_judge(&self) {
        let mut s = self.connect();
        let mut spoil = |sql: &str| {
            let mut found = Found::default();
            s.exec("BEGIN");
            s.exec(sql);
            judge(&mut s, self, &mut found);
            s.exec("ROLLBACK");
            let Found {
                lost,
                wrong,
                double,
                other_columns,
                ..
            } = found;
            [lost, wrong, double, other_columns]
        };
        let one = "(medium_hash, ino) = (SELECT medium_hash, ino FROM audit LIMIT 1)";
        for (change, expected) in [
            ("copied = copied", [0, 0, 1, 0]),
            ("mime_type = NULL", [1, 0, 1, 0]),
            ("mime_type = 'text/x-wrong'", [0, 1, 1, 0]),
            ("size = size + 1", [0, 0, 1, 1]),
        ] {
            let seen = spoil(&format!("UPDATE inode SET {change} WHERE {one}"));
            assert_eq!(seen, expected, "the judge on {change}");
        }
        assert_eq!(spoil("SELECT"), [0; 4], "the judge on rows that are right");
    }

    /// And what a run holds has to be seen while it holds it.
    fn check_watch(&self) {
        self.fresh_database();
        let running = self.connect().call_in_background(BATCH);
        let (mut segment, mut cache) = (false, false);
        while !running.is_finished() {
            for place in watch::run_memory(&self.data()) {
                let of_a_process = place.starts_with("/proc");
                segment |= !of_a_process;
                cache |= of_a_process;
            }
        }
        running.succeed();
        assert!(segment && cache, "of a run's memory: {segment}, {cache}");
    }

    /// Makes the database of a round from the template.
    pub fn fresh_database(&self) {
        let mut admin = self.admin();
        admin.exec(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"));
        self.make_database(&mut admin, DATABASE);
    }

    fn make_database(&self, admin: &mut Session, name: &str) {
        admin.exec(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"));
    }

    /// A session of the superuser in the database of the round.
    pub fn connect(&self) -> Session {
        self.cluster.connect(DATABASE, SUPERUSER)
    }

    /// A session in no database that faults are about.
    pub fn admin(&self) -> Session {
        self.cluster.connect("postgres", SUPERUSER)
    }

    /// The data folder as /proc names it.
    pub fn data(&self) -> PathBuf {
        fs::canonicalize(self.cluster.data()).expect("the cluster has one")
    }
}
