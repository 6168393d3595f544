//! Faults that affect processes of the server, those of a run or others.

use std::path::PathBuf;
use std::time::Duration;

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{SOON, session, wait_until};

use super::{Scene, run};
use crate::caller::Caller;
use crate::ground::OTHER;
use crate::watch;

/// It may be gone already, when the run has just ended. Waits until its parent has seen that it died: before that, the
/// server takes connections that it breaks off a moment later.
pub fn kill(pid: i32) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    wait_until(SOON, "the killed process to be gone", || !process.exists());
}

pub fn on_worker(scene: &mut Scene<'_>, caller: &mut Caller, function: &str) -> Result<(), String> {
    match scene.a_worker(caller) {
        Some(pid) => run(&mut scene.beside, &format!("SELECT {function}({pid})")),
        None => Ok(()),
    }
}

pub fn cancel_backfill(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    let cancel = "SELECT ntt_cancel_backfill(run_id) FROM ntt_mime.run WHERE status = 'running'";
    while !caller.is_finished() {
        match scene.beside.query_opt(cancel, &[]) {
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Ok(Some(_)) => break,
            Err(error) => return Err(session::describe(&error)),
        }
    }
    Ok(())
}

pub fn kill_bystander(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let pids: Vec<i32> = scene
        .admin
        .query(
            "SELECT pid FROM pg_stat_activity
              WHERE backend_type IN ('checkpointer', 'background writer', 'walwriter')
                 OR pid = pg_backend_pid()",
            &[],
        )
        .map_err(|error| session::describe(&error))?
        .iter()
        .map(|row| row.get(0))
        .collect();
    kill(pids[scene.rng.usize(..pids.len())]);
    Ok(())
}

/// Occupies all slots for workers, or all but one, by a run in another database, until the fault "strikes".
pub fn occupy_workers(scene: &mut Scene<'_>) {
    let ground = scene.ground;
    // One slot is the logical replication launcher's.
    let slots = scene
        .admin
        .count("SELECT setting::bigint FROM pg_settings WHERE name = 'max_worker_processes'")
        - 1;
    let taken = slots - scene.rng.i64(0..=1);
    let mut session = ground.cluster.connect(OTHER, SUPERUSER);
    session.exec("SET ntt_mime.batch_delay = '60s'");
    let occupant = session.call_in_background(&format!("1, workers => {taken}, dry_run => true"));
    let data = ground.data();
    wait_until(
        Duration::from_secs(30),
        "another run to have its workers",
        || watch::workers(&data).len() as i64 == taken,
    );
    scene.afterwards.push(Box::new(move || {
        occupant.cancel();
        let _ = occupant.finish();
    }));
}
