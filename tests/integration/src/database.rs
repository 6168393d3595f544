//! A database a test, with the extension in it and roles of its own, dropped at the end.
//!
//! When it is dropped it also looks into the server's log: no test may leave a crash or a leaked resource behind,
//! even if its own assertions held.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::NoTls;

use crate::cluster::{Cluster, SUPERUSER};
use crate::wait::{SOON, wait_until};
use crate::{Session, Store};

/// Lines of the log that mean a crash of the server.
pub const CRASHES: &[&str] = &[
    "PANIC:",
    "was terminated by signal",
    "server process exited with exit code 2",
];

/// Lines of the log that mean a defect, whatever a test expected and whatever it has crashed.
pub const DEFECTS: &[&str] = &[
    "TRAP:",
    "refcount leak",
    "reference leak",
    "snapshot reference",
    "leaked",
    "transaction left non-empty",
    "you don't own a lock",
    "panicked at",
];

/// A database of one test.
pub struct TestDb<'c> {
    pub cluster: &'c Cluster,
    pub name: String,
    roles: Mutex<Vec<String>>,
    log_at_start: usize,
    crash_expected: bool,
}

impl TestDb<'static> {
    /// A database in the shared cluster, with the extension.
    pub fn new(name: &str) -> TestDb<'static> {
        TestDb::on(Cluster::shared(), name)
    }

    /// The same over a store of its own, and a session in it.
    pub fn with_store(name: &str) -> (TestDb<'static>, Store, Session) {
        TestDb::with_store_on(Cluster::shared(), name)
    }
}

impl<'c> TestDb<'c> {
    /// A database in `cluster`, with the extension and two workers a run.
    pub fn on(cluster: &'c Cluster, name: &str) -> TestDb<'c> {
        let db = TestDb::empty(cluster, name);
        let mut session = db.connect();
        session.exec("CREATE EXTENSION ntt_mime");
        session.exec(&format!(
            "ALTER DATABASE {} SET ntt_mime.workers = 2",
            db.name
        ));
        db
    }

    /// The same over a store of its own, and a session in it.
    pub fn with_store_on(cluster: &'c Cluster, name: &str) -> (TestDb<'c>, Store, Session) {
        let db = TestDb::on(cluster, name);
        let store = Store::new();
        db.use_store(&store);
        let session = db.connect();
        (db, store, session)
    }

    /// A database without the extension.
    pub fn empty(cluster: &'c Cluster, name: &str) -> TestDb<'c> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t_{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        TestDb::named(cluster, &name)
    }

    /// The same under a name of the caller's, as the databases of several nodes have it.
    pub fn named(cluster: &'c Cluster, name: &str) -> TestDb<'c> {
        let name = name.to_owned();
        let log_at_start = cluster.log().len();
        cluster
            .connect("postgres", SUPERUSER)
            .exec(&format!("CREATE DATABASE {name}"));
        TestDb {
            cluster,
            name,
            roles: Mutex::new(Vec::new()),
            log_at_start,
            crash_expected: false,
        }
    }

    /// A session of the superuser.
    pub fn connect(&self) -> Session {
        self.connect_as(SUPERUSER)
    }

    pub fn connect_as(&self, role: &str) -> Session {
        self.cluster.connect(&self.name, role)
    }

    /// Makes `root` the `ntt_mime.blob_root` of sessions to come.
    pub fn set_blob_root(&self, root: &str) {
        let root = root.replace('\'', "''");
        self.connect().exec(&format!(
            "ALTER DATABASE {} SET ntt_mime.blob_root = '{root}'",
            self.name
        ));
    }

    /// Makes `store` the root of sessions to come.
    pub fn use_store(&self, store: &Store) {
        self.set_blob_root(store.root_str());
    }

    /// A role for this test, made with `options` (`LOGIN`, say); its full name.
    pub fn role(&self, name: &str, options: &str) -> String {
        let role = format!("{}_{name}", self.name);
        self.connect()
            .exec(&format!("CREATE ROLE {role} {options}"));
        self.roles.lock().expect("roles").push(role.clone());
        role
    }

    /// How many workers of runs in this database live.
    pub fn workers(&self, session: &mut Session) -> i64 {
        session.count(
            "SELECT count(*) FROM pg_stat_activity
             WHERE backend_type = 'ntt_mime worker' AND datname = current_database()",
        )
    }

    /// Waits until no worker of this database lives any more.
    #[track_caller]
    pub fn wait_for_no_workers(&self, timeout: Duration) {
        let mut session = self.connect();
        wait_until(timeout, "the workers to be gone", || {
            self.workers(&mut session) == 0
        });
    }

    /// Waits until a worker of this database waits for a lock that another session holds.
    #[track_caller]
    pub fn wait_for_waiting_worker(&self) {
        let mut session = self.connect();
        wait_until(SOON, "a worker to wait for a lock", || {
            session.count(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker'
                    AND datname = current_database() AND wait_event_type = 'Lock'",
            ) > 0
        });
    }

    fn alarms(&self) -> Vec<String> {
        let log = self.cluster.log();
        let ours = format!("<{}>", self.name);
        log.get(self.log_at_start..)
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains(&ours) || line.contains("<>"))
            .filter(|line| {
                let mut alarms = CRASHES.iter().chain(DEFECTS);
                alarms.any(|alarm| line.contains(alarm))
            })
            .map(str::to_owned)
            .collect()
    }

    /// Says that this test crashes its server on purpose.
    pub fn expect_crash(&mut self) {
        self.crash_expected = true;
    }

    fn remove(&self) -> Result<(), postgres::Error> {
        let roles = self.roles.lock().expect("roles");
        if !roles.is_empty() {
            let mut client = self.cluster.config(&self.name, SUPERUSER).connect(NoTls)?;
            for role in roles.iter() {
                client.batch_execute(&format!("DROP OWNED BY {role} CASCADE"))?;
            }
        }
        let mut client = self.cluster.config("postgres", SUPERUSER).connect(NoTls)?;
        client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))?;
        for role in roles.iter() {
            client.batch_execute(&format!("DROP ROLE {role}"))?;
        }
        Ok(())
    }
}

impl Drop for TestDb<'_> {
    fn drop(&mut self) {
        let alarms = if self.crash_expected {
            Vec::new()
        } else {
            self.alarms()
        };
        let removed = self.remove();
        if std::thread::panicking() {
            alarms
                .iter()
                .for_each(|line| eprintln!("in the server's log: {line}"));
            return;
        }
        assert!(alarms.is_empty(), "in the server's log: {alarms:#?}");
        if let Err(e) = removed {
            panic!(
                "the database can't be dropped: {}",
                crate::session::describe(&e)
            );
        }
    }
}
