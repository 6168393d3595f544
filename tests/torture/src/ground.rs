//! The environment of the faults: a server, and a database that each round gets anew from a template.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{Cluster, Session, inode};

use crate::isolation::{Bind, SmallDisk};
use crate::material::Material;
use crate::roots::TwoRoots;
use crate::round::Found;
use crate::verdict::judge;
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

/// A schema that leaves can go to.
pub const APART: &str = "apart";

/// A tablespace that leaves can go to.
pub const TABLESPACE: &str = "elsewhere";

/// A role that may run a backfill of the target, and no more than that takes.
pub const ROLE: &str = "torture_archivist";

/// The `application_name` of sessions whose updates aren't a run's.
pub const BYSTANDER: &str = "bystander";

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

/// `verdict` has a row for each row of the target that is or was, compared with its image from before and with
/// file(1)'s answer. A row is known by its `ino`, which no two have: it may be in another leaf than before, and then
/// whoever moved it has said so in `before`. The query is made anew each time, so that columns can change their types.
const VERDICT: &str = "
    CREATE TABLE before AS SELECT tableoid AS leaf, * FROM inode;
    CREATE UNIQUE INDEX ON before (ino);
    CREATE FUNCTION verdict() RETURNS TABLE (other_columns bool, lost bool, wrong bool, to_fill bool, filled bool,
                                             pending bool, changed bool) LANGUAGE plpgsql AS $$
        DECLARE
            others text := (SELECT string_agg(format('(b.%1$I) IS DISTINCT FROM (n.%1$I)', attname), ' OR ')
                              FROM pg_attribute
                             WHERE attrelid = 'inode'::regclass AND attnum > 0 AND attname <> 'mime_type');
        BEGIN
            RETURN QUERY EXECUTE format($query$
                SELECT b.ino IS NULL OR n.ino IS NULL OR b.leaf <> n.tableoid OR %s,
                       b.mime_type IS NULL AND t.mime IS NOT NULL AND n.mime_type IS NULL,
                       CASE WHEN b.mime_type IS NOT NULL THEN n.mime_type IS DISTINCT FROM b.mime_type
                            ELSE n.mime_type IS NOT NULL AND n.mime_type IS DISTINCT FROM t.mime END,
                       b.mime_type IS NULL AND t.mime IS NOT NULL,
                       b.mime_type IS NULL AND n.mime_type IS NOT NULL,
                       n.blobid IS NOT NULL AND n.mime_type IS NULL,
                       n.mime_type IS DISTINCT FROM b.mime_type
                  FROM before b FULL JOIN inode n USING (ino)
                  LEFT JOIN truth t ON t.blobid = b.blobid $query$, others);
        END $$;
    CREATE VIEW verdict AS SELECT * FROM verdict()";

/// Ways to the store that can be taken away.
pub struct Mounts {
    pub store: Bind,
    pub roots: TwoRoots,
}

pub struct Ground {
    pub cluster: Cluster,
    pub disk: Option<SmallDisk>,
    mounts: Option<Mounts>,
    /// How long a run takes that nobody disturbs.
    pub length: Cell<Duration>,
    /// Of each run by which that was measured.
    pub lengths: Vec<Duration>,
    /// Rows that a run can fill.
    pub to_fill: i64,
}

impl Ground {
    /// A server as usual.
    pub fn new(material: &Material, may_mount: bool) -> io::Result<Ground> {
        let mut ground = Ground::on(None, material, COPIES);
        if may_mount {
            ground.mounts = Some(Mounts {
                store: Bind::new(Path::new(material.root))?,
                roots: TwoRoots::new(material)?,
            });
        }
        Ok(ground)
    }

    /// One whose data folder lies on a small disk of its own.
    pub fn small(material: &Material) -> io::Result<Ground> {
        let disk = SmallDisk::new(SMALL_DISK_MB)?;
        Ok(Ground::on(Some(disk), material, COPIES))
    }

    /// One with so many rows a blob.
    pub fn large(material: &Material, copies: usize) -> Ground {
        Ground::on(None, material, copies)
    }

    fn on(disk: Option<SmallDisk>, material: &Material, copies: usize) -> Ground {
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
            mounts: None,
            length: Cell::default(),
            lengths: Vec::new(),
            to_fill: 0,
        };
        ground.make_template(material, copies);
        ground.measure();
        ground.check_judge();
        ground.check_watch();
        ground
    }

    fn make_template(&mut self, material: &Material, copies: usize) {
        let mut admin = self.admin();
        admin.exec("SET allow_in_place_tablespaces = on");
        admin.exec(&format!("CREATE TABLESPACE {TABLESPACE} LOCATION ''"));
        admin.exec(&format!("CREATE ROLE {ROLE} LOGIN"));
        admin.exec(&format!("CREATE DATABASE {TEMPLATE}"));
        let mut s = self.cluster.connect(TEMPLATE, SUPERUSER);
        s.exec("CREATE EXTENSION ntt_mime");
        inode::partitioned(&mut s, LEAVES);
        inode::load_source(&mut s, &material.blobids());
        inode::fill(&mut s, LEAVES, copies);
        if self.disk.is_none() {
            // The first half of each leaf is empty now: after a rewrite all rows are where they weren't before. Not
            // where the disk is to be full: what a run writes would find room in there.
            s.exec("UPDATE inode SET claimed_by = claimed_by");
        }
        material.load_truth(&mut s);
        s.exec(AUDIT);
        s.exec(&format!(
            "CREATE TRIGGER audit AFTER UPDATE ON inode FOR EACH ROW
                 WHEN (current_setting('application_name') <> '{BYSTANDER}') EXECUTE FUNCTION audit()"
        ));
        s.exec(VERDICT);
        s.exec(&format!(
            "CREATE SCHEMA {APART};
             GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON inode TO {ROLE};
             GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {ROLE};
             -- For the triggers, which run as whoever updates.
             GRANT SELECT, UPDATE ON queue_stats TO {ROLE};
             GRANT INSERT ON audit TO {ROLE}"
        ));
        s.exec("ANALYZE");
        self.to_fill = s.count("SELECT count(*) FROM verdict WHERE to_fill");
        let kinds = s.count("SELECT count(*) FROM verdict WHERE wrong OR other_columns OR changed");
        assert_eq!(
            kinds, 0,
            "a table that nobody has touched is judged changed"
        );
        drop(s);
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
        self.lengths = lengths;
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

    /// Where mounting is permitted.
    pub fn mounts(&self) -> &Mounts {
        self.mounts.as_ref().expect("mounting is permitted")
    }

    /// The data folder as /proc names it.
    pub fn data(&self) -> PathBuf {
        fs::canonicalize(self.cluster.data()).expect("the cluster has one")
    }
}
