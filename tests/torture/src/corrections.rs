//! Corrections that are disturbed: rows have a wrong type, `ntt_verify_mime(correct => true)` is disturbed at a
//! random moment, and a second one is not. Then each row has the type that file(1) gives, each was changed once, and
//! what both runs say about it is what happened. A third one, which reads all leaves whatever the others have
//! recorded, finds nothing.

use std::thread;
use std::time::{Duration, Instant};

use ntt_mime_integration::{Session, session};

use crate::fault::processes::kill;
use crate::ground::{BATCH, BYSTANDER, Ground};
use crate::material::Material;
use crate::options::Options;
use crate::report::table;
use crate::watch;

/// How it is struck.
#[derive(Clone, Copy)]
enum Strike {
    WorkerKilled,
    WorkerTerminated,
    LeaderCancelled,
    LeaderTerminated,
    RunCancelled,
    Rewrites,
    RowsLocked,
}

const STRIKES: [(Strike, &str); 7] = [
    (Strike::WorkerKilled, "worker: SIGKILL"),
    (Strike::WorkerTerminated, "worker: pg_terminate_backend"),
    (Strike::LeaderCancelled, "leader: query cancel"),
    (Strike::LeaderTerminated, "leader: pg_terminate_backend"),
    (Strike::RunCancelled, "ntt_cancel_backfill"),
    (Strike::Rewrites, "VACUUM FULL of leaves"),
    (Strike::RowsLocked, "rows locked"),
];

/// Gives rows that a run could fill a type that no file has, and forgets that they were changed.
const SPOIL: &str = "
    UPDATE inode n SET mime_type = 'application/x-wrong' FROM truth t
     WHERE t.blobid = n.blobid AND t.mime IS NOT NULL AND n.mime_type IS NULL;
    TRUNCATE audit";

/// What is wrong after the last run: of rows that have a type and a blob that file(1) knows, those with another type; those
/// that a run has changed not once; rows that are others than before in other columns.
const JUDGE: &str = "
    SELECT (SELECT count(*) FROM inode n JOIN truth t USING (blobid)
             WHERE t.mime IS NOT NULL AND n.mime_type IS DISTINCT FROM t.mime),
           (SELECT count(*) FROM (SELECT FROM audit GROUP BY ino HAVING count(*) > 1) twice),
           (SELECT count(*) FROM verdict WHERE other_columns)";

pub struct Corrections {
    rounds: [usize; STRIKES.len()],
    struck: [usize; STRIKES.len()],
    corrected: i64,
    pub violations: Vec<String>,
}

pub fn run(options: &Options, material: &Material) -> Corrections {
    let ground = Ground::large(material, 3);
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut corrections = Corrections {
        rounds: [0; STRIKES.len()],
        struck: [0; STRIKES.len()],
        corrected: 0,
        violations: Vec::new(),
    };
    let until = Instant::now() + options.time / 20;
    let mut round = 0;
    while round < STRIKES.len() || Instant::now() < until {
        let at = round % STRIKES.len();
        let (strike, name) = STRIKES[at];
        corrections.rounds[at] += 1;
        match one(&ground, strike, &mut rng) {
            Ok((struck, corrected)) => {
                corrections.struck[at] += usize::from(struck);
                corrections.corrected += corrected;
            }
            Err(words) => corrections.violations.push(format!("{name}: {words}")),
        }
        round += 1;
    }
    corrections
}

impl Corrections {
    pub fn goals(&self) -> Vec<(String, bool)> {
        let wrong = self.violations.len();
        vec![(format!("corrections: {wrong} violations"), wrong == 0)]
    }

    pub fn table(&self) -> String {
        let mut rows: Vec<Vec<String>> = STRIKES
            .iter()
            .zip(self.rounds.iter().zip(&self.struck))
            .map(|((_, name), (rounds, struck))| {
                vec![(*name).to_owned(), rounds.to_string(), struck.to_string()]
            })
            .collect();
        rows.push(vec![
            "rows corrected; wrong, changed twice or miscounted".to_owned(),
            self.corrected.to_string(),
            self.violations.len().to_string(),
        ]);
        table(
            &["a correction, struck by", "rounds", "struck a run"],
            &rows,
        )
    }
}

/// One round: was a run struck, and how many rows have been corrected?
fn one(ground: &Ground, strike: Strike, rng: &mut fastrand::Rng) -> Result<(bool, i64), String> {
    ground.fresh_database();
    let mut beside = ground.connect();
    beside.exec(&format!("SET application_name = '{BYSTANDER}'"));
    beside.exec(SPOIL);
    let mut caller = ground.connect();
    if matches!(strike, Strike::RowsLocked) {
        caller.exec("SET ntt_mime.lock_timeout = '100ms'");
    }
    let leader = caller.count("SELECT pg_backend_pid()::bigint") as i32;
    let running = thread::spawn(move || call(&mut caller));
    thread::sleep(ground.length.get().mul_f64(rng.f64()));
    let under_way = !running.is_finished();
    hit(ground, &mut beside, strike, leader, rng, &|| {
        running.is_finished()
    });
    let first = running
        .join()
        .map_err(|_| "the caller panicked".to_owned())?;
    ground.cluster.recover();
    let gone = Instant::now();
    while !watch::workers(&ground.data()).is_empty() {
        if gone.elapsed() > Duration::from_secs(10) {
            return Err("workers are there ten seconds after".to_owned());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut s = ground.connect();
    let done = s.count("SELECT count(*) FROM audit");
    if let Ok(first) = &first
        && first.corrected != done
    {
        return Err(format!(
            "{} said to be corrected, {done} are",
            first.corrected
        ));
    }
    let second = call(&mut s)?;
    let all = s.count("SELECT count(*) FROM audit");
    if second.corrected != all - done || second.different != second.corrected {
        return Err(format!(
            "{done} and then {} corrected; it said {second:?}",
            all - done
        ));
    }
    let rows = s.count(
        "SELECT count(*) FROM inode JOIN truth t USING (blobid) WHERE mime_type IS NOT NULL AND t.mime IS NOT NULL",
    );
    if second.checked > rows {
        return Err(format!("{} rows checked of {rows}", second.checked));
    }
    // What the first one has left of leaves that it had finished has spared the second one these, and is true.
    s.exec("SET ntt_mime.full_scan_after = 0");
    let third = call(&mut s)?;
    if third.checked != rows || third.different != 0 {
        return Err(format!("of {rows} rows a third one said {third:?}"));
    }
    let row = s
        .query_one(JUDGE, &[])
        .map_err(|error| session::describe(&error))?;
    let [wrong, twice, other] = std::array::from_fn(|i| row.get::<_, i64>(i));
    match (wrong, twice, other) {
        (0, 0, 0) => Ok((under_way, all)),
        _ => Err(format!(
            "{wrong} rows wrong, {twice} changed twice, {other} changed otherwise"
        )),
    }
}

#[derive(Debug)]
struct Said {
    checked: i64,
    different: i64,
    corrected: i64,
}

fn call(s: &mut Session) -> Result<Said, String> {
    let arguments = format!("{BATCH}, correct => true");
    let row = s.call_row("ntt_verify_mime", &arguments);
    let row = row.map_err(|error| session::describe(&error))?;
    let number = |name| {
        row.get(name)
            .and_then(|text| text.parse().ok())
            .ok_or("no number")
    };
    Ok(Said {
        checked: number("rows_checked")?,
        different: number("rows_different")?,
        corrected: number("rows_corrected")?,
    })
}

fn hit(
    ground: &Ground,
    beside: &mut Session,
    strike: Strike,
    leader: i32,
    rng: &mut fastrand::Rng,
    over: &dyn Fn() -> bool,
) {
    let worker = || watch::workers(&ground.data()).first().copied();
    match strike {
        Strike::WorkerKilled => {
            if let Some(pid) = worker() {
                kill(pid);
            }
        }
        Strike::WorkerTerminated => {
            if let Some(pid) = worker() {
                beside.exec(&format!("SELECT pg_terminate_backend({pid})"));
            }
        }
        Strike::LeaderCancelled => beside.exec(&format!("SELECT pg_cancel_backend({leader})")),
        Strike::LeaderTerminated => beside.exec(&format!("SELECT pg_terminate_backend({leader})")),
        Strike::RunCancelled => {
            beside.exec(
                "SELECT ntt_cancel_backfill(run_id) FROM ntt_mime.run WHERE status = 'running'",
            );
        }
        Strike::Rewrites => {
            let leaves = beside
                .column("SELECT oid::regclass FROM pg_class WHERE relname ~ '^inode_m[0-9]+$'");
            while !over() {
                beside.exec(&format!(
                    "VACUUM FULL {}",
                    leaves[rng.usize(..leaves.len())]
                ));
            }
        }
        Strike::RowsLocked => {
            beside.exec("BEGIN");
            beside.exec("SELECT FROM inode WHERE ino % 10 = 0 FOR UPDATE");
            while !over() {
                thread::sleep(Duration::from_millis(10));
            }
            beside.exec("ROLLBACK");
        }
    }
}
