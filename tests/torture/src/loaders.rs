//! Loaders beside runs over many leaves: each is a session of its own that executes one kind of statement in a loop,
//! on leaves of its own. Their waits are measured with runs going on and without.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{Cluster, Session, Store, inode, judge, session};

use crate::ground::{APART, AUDIT};
use crate::marks;
use crate::material::load_truth;
use crate::options::Options;
use crate::report::{milliseconds, seconds, table};
use crate::sampler::{Sampled, sample_until};

/// As the users call it.
const CALL: &str = "10000";

const DATABASE: &str = "loaded";

/// Rows of each of the big leaves; the others have some tens.
const BIG: usize = 3000;

/// Blobs that the rows point at.
const BLOBS: usize = 3000;

/// A loader's pause between two statements at most, in milliseconds; half of it at least.
const PAUSE_MS: u64 = 300;

/// Leaves that a loader has made and that stay for a while.
const KEPT: usize = 10;

/// What a run may not do: change a row that has a type. Loaders may.
const FORBIDDEN: &str = "
    CREATE TRIGGER audit AFTER UPDATE ON inode FOR EACH ROW
        WHEN (OLD.mime_type IS NOT NULL AND current_setting('application_name') <> 'loader')
        EXECUTE FUNCTION audit()";

/// What a loader does, and the statement that is measured by it.
type Step = fn(&mut Loader);

const KINDS: &[Step] = &[
    create,
    attach,
    detach_concurrently,
    truncate,
    rename,
    set_schema,
    insert,
    update,
    update_blobid,
    make_pending,
    move_rows,
    delete,
    |loader| loader.on_own_leaf("VACUUM", "VACUUM"),
    |loader| loader.on_own_leaf("VACUUM FULL", "VACUUM FULL"),
    |loader| loader.on_own_leaf("ANALYZE", "ANALYZE"),
    |loader| loader.on_own_leaf("REINDEX", "REINDEX TABLE"),
    |loader| loader.on_own_leaf("REINDEX CONCURRENTLY", "REINDEX TABLE CONCURRENTLY"),
];

/// Waits by kind of statement.
pub type Waits = BTreeMap<&'static str, Vec<Duration>>;

/// What the part found.
pub struct Loaded {
    pub leaves: usize,
    /// Leaves that runs have passed over, in all of those on record.
    pub passed_over: i64,
    /// Without a run beside.
    pub alone: Waits,
    /// With runs going on.
    pub beside: Waits,
    pub errors: Vec<String>,
    pub runs: usize,
    pub rows_updated: i64,
    pub deadlocks: i64,
    pub sampled: Sampled,
    pub lost: i64,
    pub wrong: i64,
    pub double: i64,
    pub rows: i64,
}

struct Loader {
    s: Session,
    /// Its place among the loaders, and the number of its big leaf.
    number: usize,
    leaves: usize,
    step: usize,
    /// Steps before this one were another loader's.
    first_step: usize,
    rng: fastrand::Rng,
    waits: Waits,
    errors: Vec<String>,
}

impl Loader {
    /// Runs a statement and takes the time.
    fn timed(&mut self, kind: &'static str, sql: &str) {
        let begun = Instant::now();
        self.run(sql);
        self.waits.entry(kind).or_default().push(begun.elapsed());
    }

    fn run(&mut self, sql: &str) {
        if let Err(error) = self.s.batch_execute(sql) {
            self.errors
                .push(format!("{sql}: {}", session::describe(&error)));
        }
    }

    /// One of its own leaves: the big one half of the time.
    fn own_medium(&mut self) -> String {
        let small = self.rng.usize(1..self.leaves / KINDS.len());
        let factor = if self.rng.bool() { 0 } else { small };
        format!("m{}", self.number + factor * KINDS.len())
    }

    fn on_own_leaf(&mut self, kind: &'static str, command: &str) {
        let medium = self.own_medium();
        self.timed(kind, &format!("{command} inode_{medium}"));
    }

    /// A name for something new.
    fn name(&self, step: usize) -> String {
        format!("l{}_{step}", self.number)
    }

    /// What it named so long ago that it may go.
    fn oldest(&self) -> Option<String> {
        let step = self.step.checked_sub(KEPT)?;
        (step >= self.first_step).then(|| self.name(step))
    }

    /// Rows that are pending, of the same blobs as everybody's.
    fn rows(&self, medium: &str, count: usize) -> String {
        format!(
            "SELECT '{medium}', {first} + n, n, blobid, 'f' FROM source WHERE n % {BLOBS} < {count}",
            first = 1_000_000 + self.step * count
        )
    }
}

fn create(loader: &mut Loader) {
    let medium = loader.name(loader.step);
    loader.timed(
        "CREATE TABLE … PARTITION OF",
        &format!("CREATE TABLE inode_{medium} PARTITION OF inode FOR VALUES IN ('{medium}')"),
    );
    let rows = loader.rows(&medium, 50);
    loader.timed(
        "INSERT into a new leaf, 50 rows",
        &format!("INSERT INTO inode_{medium} (medium_hash, ino, size, blobid, fs_type) {rows}"),
    );
    if let Some(oldest) = loader.oldest() {
        loader.timed(
            "DROP TABLE of a leaf",
            &format!("DROP TABLE inode_{oldest}"),
        );
    }
}

fn attach(loader: &mut Loader) {
    let medium = loader.name(loader.step);
    let rows = loader.rows(&medium, 50);
    loader.run(&format!(
        "CREATE TABLE inode_{medium} (LIKE inode INCLUDING DEFAULTS INCLUDING INDEXES);
         INSERT INTO inode_{medium} (medium_hash, ino, size, blobid, fs_type) {rows}"
    ));
    loader.timed(
        "ATTACH PARTITION",
        &format!("ALTER TABLE inode ATTACH PARTITION inode_{medium} FOR VALUES IN ('{medium}')"),
    );
    if let Some(oldest) = loader.oldest() {
        loader.timed(
            "DETACH PARTITION",
            &format!("ALTER TABLE inode DETACH PARTITION inode_{oldest}"),
        );
        loader.run(&format!("DROP TABLE inode_{oldest}"));
    }
}

fn detach_concurrently(loader: &mut Loader) {
    let medium = loader.own_medium();
    loader.timed(
        "DETACH PARTITION … CONCURRENTLY",
        &format!("ALTER TABLE inode DETACH PARTITION inode_{medium} CONCURRENTLY"),
    );
    loader.timed(
        "ATTACH PARTITION",
        &format!("ALTER TABLE inode ATTACH PARTITION inode_{medium} FOR VALUES IN ('{medium}')"),
    );
}

fn truncate(loader: &mut Loader) {
    let medium = loader.own_medium();
    loader.timed("TRUNCATE of a leaf", &format!("TRUNCATE inode_{medium}"));
    let rows = loader.rows(&medium, 200);
    loader.run(&format!(
        "INSERT INTO inode_{medium} (medium_hash, ino, size, blobid, fs_type) {rows}"
    ));
}

fn rename(loader: &mut Loader) {
    let medium = loader.own_medium();
    let (old, new) = (format!("inode_{medium}"), format!("inode_renamed_{medium}"));
    loader.timed(
        "ALTER TABLE … RENAME",
        &format!("ALTER TABLE {old} RENAME TO {new}"),
    );
    loader.timed(
        "ALTER TABLE … RENAME",
        &format!("ALTER TABLE {new} RENAME TO {old}"),
    );
}

fn set_schema(loader: &mut Loader) {
    let leaf = format!("inode_{}", loader.own_medium());
    for (from, to) in [("public", APART), (APART, "public")] {
        loader.timed(
            "ALTER TABLE … SET SCHEMA",
            &format!("ALTER TABLE {from}.{leaf} SET SCHEMA {to}"),
        );
    }
}

fn insert(loader: &mut Loader) {
    let medium = loader.own_medium();
    let rows = loader.rows(&medium, 20);
    loader.timed(
        "INSERT, 20 rows",
        &format!("INSERT INTO inode (medium_hash, ino, size, blobid, fs_type) {rows}"),
    );
}

fn update(loader: &mut Loader) {
    let medium = loader.own_medium();
    let (step, remainder) = (loader.step, loader.rng.usize(..100));
    loader.timed(
        "UPDATE of other columns",
        &format!(
            "UPDATE inode SET copied_to = '/copy/{step}', claimed_by = 'worker-{step}'
              WHERE medium_hash = '{medium}' AND ino % 100 = {remainder}"
        ),
    );
}

fn update_blobid(loader: &mut Loader) {
    let medium = loader.own_medium();
    let (blob, ino) = (loader.rng.usize(..BLOBS), loader.rng.usize(1..BIG));
    loader.timed(
        "UPDATE of blobid",
        &format!(
            "UPDATE inode SET blobid = (SELECT blobid FROM source WHERE n = {blob}), mime_type = NULL
              WHERE medium_hash = '{medium}' AND ino = {ino}"
        ),
    );
}

/// Under numbers that no row has there.
fn move_rows(loader: &mut Loader) {
    let (from, to) = (loader.own_medium(), loader.own_medium());
    let remainder = loader.rng.usize(..100);
    loader.timed(
        "UPDATE of the partition key",
        &format!(
            "UPDATE inode SET medium_hash = '{to}', ino = nextval('moved')
              WHERE medium_hash = '{from}' AND ino % 100 = {remainder}"
        ),
    );
}

/// So that runs have something to do all the time.
fn make_pending(loader: &mut Loader) {
    let (medium, remainder) = (loader.rng.usize(..KINDS.len()), loader.rng.usize(..10));
    loader.timed(
        "UPDATE of mime_type to NULL",
        &format!(
            "UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm{medium}' AND ino % 10 = {remainder}"
        ),
    );
}

fn delete(loader: &mut Loader) {
    let medium = loader.own_medium();
    let remainder = loader.rng.usize(..100);
    loader.timed(
        "DELETE",
        &format!("DELETE FROM inode WHERE medium_hash = '{medium}' AND ino % 100 = {remainder}"),
    );
    let rows = loader.rows(&medium, 20);
    loader.run(&format!(
        "INSERT INTO inode (medium_hash, ino, size, blobid, fs_type) {rows}"
    ));
}

/// The part as a whole.
pub fn run(options: &Options) -> Loaded {
    let leaves = if options.short { 120 } else { 841 };
    let time = options.loaders_time();
    let cluster = Cluster::start(&[
        ("max_locks_per_transaction", "256"),
        ("shared_buffers", "256MB"),
        ("ntt_mime.workers", "2"),
    ]);
    let store = Store::new();
    let mut s = make_tables(&cluster, &store, leaves);
    let rows = s.count("SELECT count(*) FROM inode");
    let seed = options.seed;
    let (alone, mut errors) = load(&cluster, leaves, seed, Instant::now() + time / 3, || ());

    let deadlocks = deadlocks(&cluster);
    let done = AtomicBool::new(false);
    let mut caller = connect(&cluster);
    let (mut runs, mut rows_updated, mut failed) = (0, 0, Vec::new());
    let (mut beside, mut sampled) = (Waits::new(), Sampled::default());
    let until = Instant::now() + time;
    let leader = caller.pid;
    std::thread::scope(|scope| {
        let session = connect(&cluster);
        let sampler = scope.spawn(|| sample_until(&done, session, leader));
        let calling = || {
            while Instant::now() < until {
                failed.extend(marks::seem_large(&mut caller).err());
                match caller.call(CALL) {
                    Ok(outcome) => rows_updated += outcome.rows_updated,
                    Err(error) => failed.push(format!("CALL: {}", session::describe(&error))),
                }
                runs += 1;
            }
        };
        let (waits, more) = load(&cluster, leaves, seed + 1, until, calling);
        beside = waits;
        errors.extend(more);
        done.store(true, Ordering::SeqCst);
        sampled = sampler.join().expect("the sampler only reads");
    });
    errors.extend(failed);
    marks::wait_until_published(&mut caller);
    errors.extend(marks::seem_large(&mut caller).err());
    if let Err(error) = caller.call(CALL) {
        errors.push(format!("the last CALL: {}", session::describe(&error)));
    }
    let count = |s: &mut Session, what: &str| {
        s.count(&format!(
            "SELECT count(*) FROM inode LEFT JOIN truth USING (blobid) WHERE {what}"
        ))
    };
    let lost = count(&mut s, "mime IS NOT NULL AND mime_type IS NULL");
    let passed_over = s.count(
        "SELECT coalesce(sum((options->>'leaves_skipped')::bigint), 0)::bigint FROM ntt_mime.run",
    );
    errors.extend(marks::check(&mut caller, CALL));
    drop(caller);
    Loaded {
        leaves,
        passed_over,
        alone,
        beside,
        errors,
        runs,
        rows_updated,
        deadlocks: self::deadlocks(&cluster) - deadlocks,
        sampled,
        lost,
        wrong: count(
            &mut s,
            "mime_type IS NOT NULL AND mime_type IS DISTINCT FROM mime",
        ),
        double: s.count("SELECT count(*) FROM audit"),
        rows,
    }
}

fn connect(cluster: &Cluster) -> Session {
    cluster.connect(DATABASE, SUPERUSER)
}

fn make_tables(cluster: &Cluster, store: &Store, leaves: usize) -> Session {
    let mut admin = cluster.connect("postgres", SUPERUSER);
    admin.exec(&format!("CREATE DATABASE {DATABASE}"));
    admin.exec(&format!(
        "ALTER DATABASE {DATABASE} SET ntt_mime.blob_root = '{}'",
        store.root_str()
    ));
    let mut s = connect(cluster);
    s.exec("CREATE EXTENSION ntt_mime");
    s.exec(&format!(
        "CREATE SCHEMA {APART}; CREATE SEQUENCE moved START 1000000000000"
    ));
    inode::partitioned(&mut s, leaves);
    // A leaf that a foreign key points at can be neither truncated nor dropped.
    s.exec("DROP TABLE path");
    let blobids = store.put_synthetic(BLOBS);
    inode::load_source(&mut s, &blobids);
    s.exec("CREATE UNIQUE INDEX ON source (n)");
    let paths: Vec<_> = blobids.iter().map(|blobid| store.path(blobid)).collect();
    let answers = judge::file_mime(&paths);
    load_truth(
        &mut s,
        blobids
            .iter()
            .zip(&paths)
            .map(|(b, path)| (b.as_str(), Some(answers[path].as_str()))),
    );
    let kinds = KINDS.len();
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, size, blobid, copied, fs_type)
         SELECT 'm' || leaf, ino, ino, blobid, ino % 3 = 0, 'f'
           FROM generate_series(0, {leaves} - 1) leaf CROSS JOIN
                LATERAL generate_series(1, CASE WHEN leaf < {kinds} THEN {BIG} ELSE 5 + leaf * 37 % 40 END) ino
           JOIN source ON n = (ino * 7919 + leaf * 31) % {BLOBS}"
    ));
    s.exec(AUDIT);
    s.exec(FORBIDDEN);
    s.exec("VACUUM ANALYZE");
    s
}

/// Lets the loaders go until a time, and does `meanwhile` beside them.
fn load(
    cluster: &Cluster,
    leaves: usize,
    seed: u64,
    until: Instant,
    meanwhile: impl FnOnce(),
) -> (Waits, Vec<String>) {
    let (mut waits, mut errors) = (Waits::new(), Vec::new());
    // The loaders of the next seed use other names.
    let first_step = (seed as usize % 2) * 100_000;
    std::thread::scope(|scope| {
        let threads: Vec<_> = KINDS
            .iter()
            .enumerate()
            .map(|(number, step)| {
                let mut loader = Loader {
                    s: connect(cluster),
                    number,
                    leaves,
                    step: first_step,
                    first_step,
                    rng: fastrand::Rng::with_seed(seed.wrapping_add(number as u64)),
                    waits: Waits::new(),
                    errors: Vec::new(),
                };
                scope.spawn(move || {
                    loader.s.exec("SET application_name = 'loader'");
                    while Instant::now() < until {
                        step(&mut loader);
                        loader.step += 1;
                        let pause = loader.rng.u64(PAUSE_MS / 2..PAUSE_MS);
                        std::thread::sleep(Duration::from_millis(pause));
                    }
                    (loader.waits, loader.errors)
                })
            })
            .collect();
        meanwhile();
        for thread in threads {
            let (of_one, failed) = thread.join().expect("errors are kept, not raised");
            for (kind, times) in of_one {
                waits.entry(kind).or_insert_with(Vec::new).extend(times);
            }
            errors.extend(failed);
        }
    });
    (waits, errors)
}

/// Deadlocks so far; sessions tell of theirs at their end at the latest.
fn deadlocks(cluster: &Cluster) -> i64 {
    cluster.connect("postgres", SUPERUSER).count(&format!(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = '{DATABASE}'"
    ))
}

impl Loaded {
    /// What loaders waited for.
    pub fn waits_table(&self) -> String {
        let head = [
            "statement",
            "beside runs",
            "median",
            "longest",
            "without runs",
            "median",
            "longest",
        ];
        let rows: Vec<Vec<String>> = self
            .beside
            .iter()
            .map(|(kind, times)| {
                let alone = self.alone.get(kind).map(Vec::as_slice).unwrap_or_default();
                let mut cells = vec![(*kind).to_owned()];
                for times in [times, alone] {
                    let (median, longest) = median_and_longest(times);
                    cells.push(times.len().to_string());
                    cells.push(milliseconds(median));
                    cells.push(milliseconds(longest));
                }
                cells
            })
            .collect();
        table(&head, &rows)
    }

    /// What the backends of the runs held, and what became of the rows.
    pub fn held_table(&self) -> String {
        let sampled = &self.sampled;
        let modes = |modes: &BTreeMap<String, usize>| {
            let modes: Vec<&str> = modes.keys().map(String::as_str).collect();
            if modes.is_empty() {
                "none".to_owned()
            } else {
                modes.join(", ")
            }
        };
        let rows = [
            (
                "leaves, rows at the start",
                format!("{}, {}", self.leaves, self.rows),
            ),
            (
                "runs, rows filled",
                format!("{}, {}", self.runs, self.rows_updated),
            ),
            (
                "leaves passed over, in all runs together",
                self.passed_over.to_string(),
            ),
            (
                "samples, those of a backend that was updating a leaf",
                format!("{}, {}", sampled.samples, sampled.writing),
            ),
            ("oldest transaction", seconds(sampled.oldest_transaction)),
            (
                "xmin horizon held by one transaction, longest",
                seconds(sampled.oldest_xmin),
            ),
            (
                "leaves locked by one transaction, most",
                sampled.most_leaves.to_string(),
            ),
            ("modes of locks on leaves", modes(&sampled.leaf_modes)),
            (
                "samples with a lock on the parent while a leaf was updated, in how many batches",
                format!(
                    "{}, {}",
                    sampled.parent_while_writing,
                    sampled.parent_while_writing_in.len()
                ),
            ),
            (
                "samples with a lock on the parent otherwise, modes",
                format!(
                    "{}, {}",
                    sampled.parent_modes.values().sum::<usize>() - sampled.parent_while_writing,
                    modes(&sampled.parent_modes)
                ),
            ),
            ("deadlocks", self.deadlocks.to_string()),
            ("errors of any session", self.errors.len().to_string()),
            ("rows lost", self.lost.to_string()),
            ("rows wrong", self.wrong.to_string()),
            ("rows with a type changed by a run", self.double.to_string()),
        ];
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(what, value)| vec![what.to_owned(), value])
            .collect();
        table(&["beside loaders", "measured"], &rows)
    }

    /// What was to be reached, and whether it was. In the short form without the median, for which the few statements of
    /// a few seconds, on a machine that may be compiling beside, are too little.
    pub fn goals(&self, short: bool) -> Vec<(String, bool)> {
        let created = self.beside.get("CREATE TABLE … PARTITION OF");
        let (median, longest) = median_and_longest(created.map(Vec::as_slice).unwrap_or_default());
        let sampled = &self.sampled;
        let none = |what: &str, count: i64| (format!("{what}: {count}, not 0"), count == 0);
        vec![
            (
                format!(
                    "CREATE TABLE … PARTITION OF in the median: {}, not below 100 ms",
                    milliseconds(median)
                ),
                created.is_some() && (short || median < Duration::from_millis(100)),
            ),
            (
                format!(
                    "CREATE TABLE … PARTITION OF, longest: {}, not below 1 s",
                    milliseconds(longest)
                ),
                created.is_some() && longest < Duration::from_secs(1),
            ),
            (
                format!(
                    "the oldest transaction: {}, not below 10 s",
                    seconds(sampled.oldest_transaction)
                ),
                sampled.oldest_transaction < Duration::from_secs(10),
            ),
            (
                format!(
                    "only {} samples of a backend that was updating",
                    sampled.writing
                ),
                sampled.writing >= 20,
            ),
            none(
                "locks on the parent while a leaf is updated",
                sampled.parent_while_writing as i64,
            ),
            ("no leaf was passed over".to_owned(), self.passed_over > 0),
            none("deadlocks", self.deadlocks),
            none("errors", self.errors.len() as i64),
            none("rows lost", self.lost),
            none("rows wrong", self.wrong),
            none("rows with a type changed by a run", self.double),
        ]
    }
}

fn median_and_longest(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}
