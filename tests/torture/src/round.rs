//! One round: a fresh database, a run, a fault at a random moment of it, one more run, and a check of everything.

use std::time::{Duration, Instant};

use ntt_mime_integration::database::{CRASHES, DEFECTS};

use crate::caller::{Caller, Ending};
use crate::fault::{Fault, Leaves, Scene};
use crate::ground::{BATCH, BYSTANDER, Ground};
use crate::marks;
use crate::material::Material;
use crate::verdict::{Before, State, Struck, check_undisturbed, judge};
use crate::watch::{self, Watch};

/// How long this suite waits for workers to go, to say how long it took.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long before its end a run may have looked at a leaf for the last time: what others commit within it need not be
/// in its counts.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// What a round found.
#[derive(Default)]
pub struct Found {
    /// A run was under way and felt the fault.
    pub struck: bool,
    pub lost: i64,
    pub wrong: i64,
    pub double: i64,
    pub other_columns: i64,
    pub quarantined: i64,
    /// Untrue things in the run log.
    pub untrue: usize,
    /// Runs of which `rows_left` was compared with the rows that are pending, and runs that didn't know it.
    pub rows_left_known: usize,
    pub rows_left_null: usize,
    /// Workers, shared memory, locks or in-flight records that stayed.
    pub left_behind: usize,
    /// From the strike (or the end of a run that the strike doesn't end) until no worker was left.
    pub workers_gone: Option<Duration>,
    /// How CALL ended.
    pub ending: String,
    /// When it struck.
    pub delay: Duration,
    /// Everything that isn't as it should be, in words.
    pub violations: Vec<String>,
}

impl Found {
    pub fn violation(&mut self, words: String) {
        self.violations.push(words);
    }

    pub fn untrue(&mut self, words: String) {
        self.untrue += 1;
        self.violation(format!("run log: {words}"));
    }

    fn left(&mut self, words: String) {
        self.left_behind += 1;
        self.violation(format!("left behind: {words}"));
    }
}

/// A round. What goes wrong with the suite itself is a panic.
pub fn round(
    ground: &Ground,
    material: &Material,
    fault: &Fault,
    rng: &mut fastrand::Rng,
) -> Found {
    let mut found = Found::default();
    ground.fresh_database();
    let log_before = ground.cluster.log().len();
    // What an earlier round has left is that round's fault, and was counted there.
    let memory_before = watch::run_memory(&ground.data());
    let mut scene = Scene {
        ground,
        material,
        delay: ground.length.get().mul_f64(rng.f64()),
        rng: rng.fork(),
        admin: ground.admin(),
        beside: ground.connect(),
        caller_sql: Vec::new(),
        afterwards: Vec::new(),
    };
    found.delay = scene.delay;
    scene
        .beside
        .exec(&format!("SET application_name = '{BYSTANDER}'"));
    (fault.prepare)(&mut scene);
    let before = Before::now(&mut scene.beside);
    let watch = Watch::begin(&ground.data());
    let mut caller = call(&mut scene, fault.by_psql);
    let leader = caller.leader();

    let begun = Instant::now();
    while begun.elapsed() < scene.delay && !caller.is_finished() {
        let left = scene.delay.saturating_sub(begun.elapsed());
        std::thread::sleep(left.min(Duration::from_millis(10)));
    }
    let under_way = !caller.is_finished();
    let struck_at = Instant::now();
    if let Err(words) = (fault.strike)(&mut scene, &mut caller) {
        found.violation(words);
    }
    let strike_done = Instant::now();
    let ending = caller.finish();
    let over = strike_done.max(Instant::now());
    scene.undo();
    drop(scene);

    found.ending = ending.word().to_owned();
    found.struck = !ending.is_ok() || under_way && !fault.ends_run;
    if !fault.endings.contains(&ending.word()) {
        found.violation(format!("CALL ended with {ending}"));
    }
    ground.cluster.recover();
    let from = if fault.ends_run { struck_at } else { over };
    let gone = see_workers_go(ground, watch, from, &mut found);
    see_nothing_left(ground, leader, fault, &memory_before, &mut found);
    if fault.leaves != Leaves::Nothing {
        let still = !fault.writes || over.duration_since(strike_done) >= LAST_LOOK;
        go_on(ground, fault, before, &ending, still, &mut found);
    }
    for record in watch::stale_records(&ground.data()) {
        found.left(format!("the in-flight record {}", record.display()));
    }
    read_log(ground, log_before, fault, &mut found);
    if found.struck {
        found.workers_gone = Some(gone);
        if gone > fault.gone_within {
            found.violation(format!("workers were there for {gone:?}"));
        }
    }
    found
}

fn call(scene: &mut Scene<'_>, by_psql: bool) -> Caller {
    if by_psql {
        return Caller::psql(scene.ground, &mut scene.beside, BATCH);
    }
    let mut session = scene.ground.connect();
    for sql in &scene.caller_sql {
        session.exec(sql);
    }
    Caller::session(session, BATCH)
}

/// Waits until no worker is left; returns how long after `from` the last one was seen.
fn see_workers_go(ground: &Ground, watch: Watch, from: Instant, found: &mut Found) -> Duration {
    let data = ground.data();
    let begun = Instant::now();
    while !watch::workers(&data).is_empty() {
        if begun.elapsed() > PATIENCE {
            found.left(format!("workers {:?}", watch::workers(&data)));
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let last = watch.end();
    last.map_or(Duration::ZERO, |last| last.saturating_duration_since(from))
}

/// Of a run that is over no lock and no shared memory is left.
fn see_nothing_left(
    ground: &Ground,
    leader: i32,
    fault: &Fault,
    memory_before: &[String],
    found: &mut Found,
) {
    let mut s = ground.admin();
    if fault.endings.contains(&"lost") {
        // A client that is gone is noticed a moment later, and the leader ends after its workers.
        let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {leader}");
        if !holds(|| s.count(&alive) == 0 || found.ending == "ok") {
            found.left(format!("the leader {leader}"));
        }
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    if !holds(|| s.count(locks) == 0) {
        found.left("an advisory lock".to_owned());
    }
    let ours = || -> Vec<String> {
        let mut memory = watch::run_memory(&ground.data());
        memory.retain(|one| !memory_before.contains(one));
        memory
    };
    if !holds(|| ours().is_empty()) {
        let left = ours();
        found.left(format!("shared memory {left:?}"));
    }
}

/// Does it hold, now or soon?
fn holds(mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One more run, and what is true after it.
fn go_on(
    ground: &Ground,
    fault: &Fault,
    before: Before,
    ending: &Ending,
    still: bool,
    found: &mut Found,
) {
    let mut s = ground.connect();
    let after = State::now(&mut s);
    if fault.leaves == Leaves::Tables {
        s.exec("DROP EXTENSION IF EXISTS ntt_mime; CREATE EXTENSION ntt_mime");
    }
    marks::wait_until_published(&mut s);
    if let Err(words) = marks::seem_large(&mut s) {
        found.violation(format!("marks: {words}"));
    }
    let second = match s.call(BATCH) {
        Ok(outcome) => outcome,
        Err(error) => {
            let words = ntt_mime_integration::session::describe(&error);
            found.violation(format!("the next run failed: {words}"));
            return judge(&mut s, ground, found);
        }
    };
    check_undisturbed(&mut s, &second, after, found);
    if fault.leaves == Leaves::Everything {
        let struck = Struck {
            before,
            second: second.run_id,
            after,
            still,
            fault,
            ending,
        };
        struck.check(&mut s, ground, found);
    }
    judge(&mut s, ground, found);
    for words in marks::check(&mut s, BATCH) {
        found.violation(words);
    }
}

fn read_log(ground: &Ground, from: usize, fault: &Fault, found: &mut Found) {
    let log = ground.cluster.log();
    let crashes: &[&str] = if fault.crashes { &[] } else { CRASHES };
    let alarms = log.get(from..).unwrap_or_default().lines().filter(|line| {
        DEFECTS
            .iter()
            .chain(crashes)
            .any(|alarm| line.contains(alarm))
    });
    for line in alarms {
        found.violation(format!("in the server's log: {line}"));
    }
}
