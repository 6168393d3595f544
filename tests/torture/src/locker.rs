//! A session like those of loaders: it keeps some hundred rows of the target locked, and at times the row that the
//! target's triggers update, at random moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ntt_mime_integration::{Session, session};

use crate::ground::BYSTANDER;

/// Rows that it has locked at once.
pub const ROWS: usize = 500;

/// How long it does what, at most; each time is random.
#[derive(Clone, Copy)]
pub struct Manners {
    pub rows_for: Duration,
    /// Of that time, the trigger's row as well. Nobody can update the target meanwhile.
    pub trigger_for: Duration,
    pub pause: Duration,
}

impl Manners {
    /// So that each of them happens in a run that takes so long.
    pub fn for_runs_of(length: Duration) -> Manners {
        Manners {
            rows_for: length,
            trigger_for: length / 4,
            pause: length / 2,
        }
    }
}

/// For how long it has had what.
#[derive(Clone, Copy, Default)]
pub struct Held {
    pub times: usize,
    pub rows: usize,
    pub rows_for: Duration,
    pub trigger_for: Duration,
    /// Of so much time.
    pub of: Duration,
}

impl Held {
    pub fn add(&mut self, more: Held) {
        self.times += more.times;
        self.rows = self.rows.max(more.rows);
        self.rows_for += more.rows_for;
        self.trigger_for += more.trigger_for;
        self.of += more.of;
    }
}

pub struct Locker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Held, String>>,
}

impl Locker {
    pub fn begin(mut s: Session, manners: Manners, mut rng: fastrand::Rng) -> Locker {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            s.exec(&format!("SET application_name = '{BYSTANDER}'"));
            let begun = Instant::now();
            let mut held = Held::default();
            while !stopped.load(Ordering::SeqCst) {
                std::thread::sleep(manners.pause.mul_f64(rng.f64()));
                let turn = hold(&mut s, manners, &mut rng, &mut held);
                turn.map_err(|error| session::describe(&error))?;
            }
            held.of = begun.elapsed();
            Ok(held)
        });
        Locker { stop, thread }
    }

    /// An error is one of its statements'.
    pub fn end(self) -> Result<Held, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("errors are kept, not raised")
    }
}

/// One transaction. It waits for no row of the target, and so can be in no deadlock.
fn hold(
    s: &mut Session,
    manners: Manners,
    rng: &mut fastrand::Rng,
    held: &mut Held,
) -> Result<(), postgres::Error> {
    s.batch_execute("BEGIN")?;
    let remainder = rng.usize(..5);
    let rows = s.query(
        &format!(
            "SELECT ino FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL AND ino % 5 = {remainder}
              LIMIT {ROWS} FOR UPDATE SKIP LOCKED"
        ),
        &[],
    )?;
    // One that only locks, or one that has written: to those who wait for the row that is not the same.
    if rng.bool() {
        let inos: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        s.execute(
            "UPDATE inode SET claimed_by = claimed_by WHERE ino = ANY ($1)",
            &[&inos],
        )?;
    }
    let locked = Instant::now();
    std::thread::sleep(manners.rows_for.mul_f64(rng.f64()));
    if rng.bool() {
        s.batch_execute("SELECT FROM queue_stats FOR UPDATE")?;
        let locked = Instant::now();
        std::thread::sleep(manners.trigger_for.mul_f64(rng.f64()));
        held.trigger_for += locked.elapsed();
    }
    held.rows_for += locked.elapsed();
    held.rows = held.rows.max(rows.len());
    held.times += 1;
    s.batch_execute(if rng.bool() { "COMMIT" } else { "ROLLBACK" })
}
