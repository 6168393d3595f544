//! How soon the last worker ends after something that ends a run: a shutdown of the server, the end of its leader in
//! any form, of its client or its database, a timeout, a request; whatever the workers are doing. And never by
//! SIGKILL.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::{SUPERUSER, Shutdown};
use ntt_mime_integration::{
    Cluster, SOON, Session, TestDb, assert_error, corpus, inode, server, wait_for, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

/// "A second or so".
const AT_MOST: Duration = Duration::from_millis(1500);

/// Time in which the workers come into any state.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the workers are at when the run is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading and updating, as fast as they can.
    Busy,
    /// Waiting for rows that another session holds, with a `lock_timeout` of ten seconds.
    ForRows,
    /// Waiting for a table that another session holds.
    ForTable,
    /// In a `batch_delay` of a minute.
    Pausing,
    /// One in a slow statement, the others waiting for it.
    ForEachOther,
}

const STATES: [State; 5] = [
    State::Busy,
    State::ForRows,
    State::ForTable,
    State::Pausing,
    State::ForEachOther,
];

/// What ends the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    LeaderTerminated,
    LeaderCancelled,
    StatementTimeout,
    /// `ntt_cancel_backfill`.
    AskedToStop,
    ClientGone,
    DatabaseDropped,
    FastShutdown,
}

/// A run under way, called by psql, and what its workers are at.
struct Run<'c> {
    cluster: &'c Cluster,
    database: String,
    psql: std::process::Child,
    leader: i32,
    /// When the leader's `statement_timeout` strikes, if it has one.
    timeout: Instant,
    /// Holds what the workers wait for.
    _blocker: Option<Session>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// Workers of runs in `database`, seen from another one: it may be going.
fn workers(s: &mut Session, database: &str) -> i64 {
    s.count(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker' AND datname = '{database}'"
    ))
}

/// Tables over the corpus. A server notices that a client has gone when it writes to it, which a run does every five
/// seconds, or as often as `client_connection_check_interval` says.
fn prepare(db: &TestDb) {
    db.use_store(&corpus().store);
    let mut s = db.connect();
    inode::load_source(&mut s, &corpus().blobids());
    s.exec(&format!(
        "CREATE TABLE big (n int, blobid text, mime_type text);
         INSERT INTO big SELECT n, blobid FROM source, generate_series(1, 20);
         CREATE TABLE small AS SELECT * FROM big WHERE n < 40;
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_catalog.pg_sleep(600); RETURN NULL; END';
         CREATE TABLE slow AS TABLE small;
         CREATE TRIGGER slow AFTER UPDATE ON slow FOR EACH STATEMENT EXECUTE FUNCTION slow();
         ALTER DATABASE {0} SET client_connection_check_interval = '100ms';
         ALTER DATABASE {0} SET ntt_mime.lock_timeout = '10s'",
        db.name
    ));
}

/// Starts a run whose workers come into `state` before `event` ends it, and waits until they are there.
fn start<'c>(db: &TestDb<'c>, state: State, event: Event) -> Run<'c> {
    let mut s = db.connect();
    let (arguments, delay) = match state {
        // It outlasts the timeout.
        State::Busy => ("2, target => 'big'", "0"),
        State::Pausing => ("20, target => 'big'", "60s"),
        State::ForRows | State::ForTable => ("1000, target => 'small'", "0"),
        State::ForEachOther => ("1000, target => 'slow'", "0"),
    };
    s.exec("UPDATE big SET mime_type = NULL WHERE mime_type IS NOT NULL");
    s.exec("UPDATE small SET mime_type = NULL WHERE mime_type IS NOT NULL");
    let lock = match state {
        State::ForRows => Some("SELECT count(*) FROM (SELECT 1 FROM small FOR UPDATE) locked"),
        State::ForTable => Some("LOCK TABLE small IN ACCESS EXCLUSIVE MODE"),
        _ => None,
    };
    let blocker = lock.map(|lock| {
        let mut blocker = db.connect();
        blocker.exec(&format!("BEGIN; {lock}"));
        blocker
    });
    let timeout = match event {
        Event::StatementTimeout => STATEMENT_TIMEOUT.as_millis(),
        _ => 0,
    };
    let psql = db
        .cluster
        .client("psql", &db.name)
        .args(["--no-psqlrc", "--quiet", "--command"])
        .arg(format!(
            "SET ntt_mime.batch_delay = '{delay}'; SET statement_timeout = {timeout}"
        ))
        .arg("--command")
        .arg(format!("CALL ntt_backfill_mime({arguments})"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql starts");
    let mut run = Run {
        cluster: db.cluster,
        database: db.name.clone(),
        psql,
        leader: 0,
        timeout: Instant::now(),
        _blocker: blocker,
    };
    let there = match state {
        State::Busy => {
            "query LIKE '%updating%' OR query LIKE '%detecting%' OR query LIKE '%reading%'"
        }
        State::ForRows => "wait_event_type = 'Lock' AND wait_event IN ('tuple', 'transactionid')",
        State::ForTable => "wait_event_type = 'Lock' AND wait_event = 'relation'",
        State::Pausing => "query LIKE '%pausing%'",
        State::ForEachOther => "wait_event = 'PgSleep'",
    };
    wait_until(SOON, &format!("a worker to be {state:?}"), || {
        if let Some(status) = run.psql.try_wait().expect("our child") {
            panic!("the run ended before it was ended: {status}");
        }
        let row = s
            .query_one(
                &format!(
                    "SELECT count(*), count(*) FILTER (WHERE {there}), (SELECT max(pid) FROM ntt_mime.progress),
                            (SELECT extract(epoch FROM clock_timestamp() - query_start)::float8
                               FROM pg_stat_activity JOIN ntt_mime.progress USING (pid))
                       FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker' AND datname = current_database()"
                ),
                &[],
            )
            .expect("reads");
        let (all, there): (i64, i64) = (row.get(0), row.get(1));
        run.leader = row.get::<_, Option<i32>>(2).unwrap_or(0);
        let age = Duration::from_secs_f64(row.get::<_, Option<f64>>(3).unwrap_or(0.0));
        run.timeout = Instant::now() + STATEMENT_TIMEOUT.saturating_sub(age);
        run.leader != 0 && all == 2 && there > 0
    });
    run
}

/// Ends the run; how long it took until no worker was left.
fn end(mut run: Run, event: Event) -> Duration {
    let mut s = run.cluster.connect("postgres", SUPERUSER);
    let mut inside = match event {
        Event::AskedToStop => Some(run.cluster.connect(&run.database, SUPERUSER)),
        _ => None,
    };
    let mut started = Instant::now();
    match event {
        Event::LeaderTerminated => {
            s.exec(&format!("SELECT pg_terminate_backend({})", run.leader));
        }
        Event::LeaderCancelled => s.exec(&format!("SELECT pg_cancel_backend({})", run.leader)),
        Event::StatementTimeout => started = run.timeout,
        Event::AskedToStop => {
            let s = inside.as_mut().expect("just connected");
            assert!(s.value::<bool>("SELECT ntt_cancel_backfill(run_id) FROM ntt_mime.progress"));
        }
        Event::ClientGone => run.psql.kill().expect("our child"),
        Event::DatabaseDropped => {
            s.exec(&format!("DROP DATABASE {} WITH (FORCE)", run.database));
        }
        Event::FastShutdown => {
            drop(s);
            return run.cluster.stop(Shutdown::Fast);
        }
    }
    wait_until(SOON, "the workers to be gone", || {
        workers(&mut s, &run.database) == 0
    });
    started.elapsed()
}

fn in_every_state(event: Event, cluster: &Cluster) {
    in_states(&STATES, event, cluster);
}

/// Ends a run by `event` in each of the states.
fn in_states(states: &[State], event: Event, cluster: &Cluster) {
    let log_at_start = cluster.log().len();
    let mut kept: Option<TestDb> = None;
    let mut slow = Vec::new();
    for state in states {
        let db = kept.take().unwrap_or_else(|| {
            let db = TestDb::on(cluster, "stop");
            prepare(&db);
            db
        });
        let took = end(start(&db, *state, event), event);
        println!("{event:?}, {state:?}: {took:?}");
        if took > AT_MOST {
            slow.push((state, took));
        }
        match event {
            // An empty one in its place, for the harness to drop.
            Event::DatabaseDropped => cluster
                .connect("postgres", SUPERUSER)
                .exec(&format!("CREATE DATABASE {}", db.name)),
            Event::FastShutdown => cluster.launch(),
            _ => {}
        }
        if event != Event::DatabaseDropped {
            kept = Some(db);
        }
    }
    assert!(
        slow.is_empty(),
        "{event:?} took more than {AT_MOST:?}: {slow:?}"
    );
    let log = cluster.log();
    let killed: Vec<&str> = log[log_at_start..]
        .lines()
        .filter(|line| line.contains("SIGKILL") || line.contains("terminated by signal"))
        .collect();
    assert!(killed.is_empty(), "{killed:#?}");
}

#[test]
fn after_the_leader_was_terminated() {
    in_every_state(Event::LeaderTerminated, Cluster::shared());
}

#[test]
fn after_the_leader_was_cancelled() {
    in_every_state(Event::LeaderCancelled, Cluster::shared());
}

#[test]
fn after_a_statement_timeout() {
    in_every_state(Event::StatementTimeout, Cluster::shared());
}

#[test]
fn after_it_was_asked_to_stop() {
    // It finishes its batches first: states in which a batch waits or takes long are left out.
    let states = [State::Busy, State::Pausing];
    in_states(&states, Event::AskedToStop, Cluster::shared());
}

#[test]
fn after_its_client_has_gone() {
    in_every_state(Event::ClientGone, Cluster::shared());
}

#[test]
fn after_the_database_was_dropped() {
    in_every_state(Event::DatabaseDropped, Cluster::shared());
}

#[test]
fn after_a_fast_shutdown() {
    in_every_state(Event::FastShutdown, &Cluster::start(&[]));
}

/// A process of the servers' account that has a certain pid and lives as long as its input is open. None where this system
/// doesn't let us say which pid comes next, or others are always quicker.
fn take_pid(wanted: i32) -> Option<Child> {
    for _ in 0..200 {
        // Not a setting of the system's: what was given last in this namespace of pids.
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).ok()?;
        let mut command = server::command_of(Path::new("cat"), &[]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = server::spawn(command).expect("cat starts");
        if child.id() == wanted as u32 {
            return Some(child);
        }
        child.kill().expect("our child");
        child.wait().expect("our child");
    }
    None
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("it lives");
}

#[test]
fn a_process_that_has_the_pid_of_a_dead_worker_gets_no_signal() {
    let (db, store, mut s) = TestDb::with_store("stale_pid");
    inode::plain(&mut s, &store.put_synthetic(20));
    let mut session = db.connect();
    session.exec("SET ntt_mime.batch_delay = '60s'");
    let run = session.call_in_background("1, workers => 1, target => 'blob'");
    let worker = wait_for(SOON, "the worker", || {
        let pids = s.column(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                AND backend_type = 'ntt_mime worker' AND query LIKE '%pausing%'",
        );
        pids.first().map(|pid| pid.parse::<i32>().expect("a pid"))
    });
    // So that the leader doesn't see what happens until it has.
    signal(run.pid, Signal::STOP);
    s.exec(&format!("SELECT pg_terminate_backend({worker})"));
    wait_until(SOON, "the worker to be gone", || {
        !Path::new(&format!("/proc/{worker}")).exists()
    });
    let other = take_pid(worker);
    signal(run.pid, Signal::CONT);
    assert_error(run.finish().1, "57P01", "terminated");
    let Some(mut other) = other else {
        println!("skipped: no process could be made that has the pid of the worker");
        return;
    };
    drop(other.stdin.take());
    let status = other.wait().expect("our child");
    assert!(status.success(), "{status}");
}
