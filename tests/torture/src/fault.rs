//! The faults: what each does to a run at a random moment, how CALL may end then, and what is true afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntt_mime_integration::cluster::{SUPERUSER, Shutdown};
use ntt_mime_integration::{SOON, Session, session, wait_until};

use crate::caller::Caller;
use crate::ground::{DATABASE, Ground, LEAVES, OTHER};
use crate::isolation::Bind;
use crate::material::Material;
use crate::watch;

/// A version that only its upgrade script knows.
const TORTURE_VERSION: &str = "0.0.0torture";

/// How long a leaf is locked: less than a worker waits for it (`ntt_mime.lock_timeout`).
const LEAF_LOCKED: Duration = Duration::from_millis(300);

/// What a fault has to work with.
pub struct Scene<'g> {
    pub ground: &'g Ground,
    pub material: &'g Material,
    pub rng: fastrand::Rng,
    /// When it strikes, from the start of CALL on.
    pub delay: Duration,
    /// In another database than the run.
    pub admin: Session,
    /// In the run's database.
    pub beside: Session,
    /// What the caller's session runs before CALL.
    pub caller_sql: Vec<String>,
    /// What has to be done once CALL has ended, and is done whatever happens.
    pub afterwards: Vec<Box<dyn FnOnce() + 'g>>,
}

impl Scene<'_> {
    /// Does what has to be done afterwards.
    pub fn mend(&mut self) {
        for mend in self.afterwards.drain(..) {
            mend();
        }
    }

    fn a_worker(&mut self, caller: &mut Caller) -> Option<i32> {
        let data = self.ground.data();
        loop {
            let workers = watch::workers(&data);
            if !workers.is_empty() {
                return Some(workers[self.rng.usize(..workers.len())]);
            }
            if caller.is_finished() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.mend();
    }
}

/// Where a fault needs the run to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Server,
    SmallDisk,
}

/// What a fault leaves of the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    Everything,
    /// The tables, but not the extension with its history.
    Tables,
    Nothing,
}

pub struct Fault {
    pub name: &'static str,
    pub place: Place,
    /// Before CALL.
    pub prepare: fn(&mut Scene<'_>),
    /// At the moment. An error is a violation: what it says should have happened.
    pub strike: fn(&mut Scene<'_>, &mut Caller) -> Result<(), String>,
    /// How CALL may end: `ok`, `lost` or SQLSTATEs.
    pub endings: &'static [&'static str],
    /// What the history may say then.
    pub statuses: &'static [&'static str],
    /// Does it end the run?
    pub ends_run: bool,
    /// How soon after that, or after the run, no worker is left.
    pub gone_within: Duration,
    /// Do processes crash by it?
    pub crashes: bool,
    pub leaves: Leaves,
    /// CALL by a program that can be killed.
    pub by_psql: bool,
    /// Is something mounted for it?
    pub mounts: bool,
}

const USUAL: Fault = Fault {
    name: "",
    place: Place::Server,
    prepare: |_| (),
    strike: |_, _| Ok(()),
    endings: &["ok"],
    statuses: &["succeeded"],
    ends_run: true,
    gone_within: Duration::from_secs(1),
    crashes: false,
    leaves: Leaves::Everything,
    by_psql: false,
    mounts: false,
};

/// The session of the run vanished.
const GONE: Fault = Fault {
    endings: &["ok", "lost"],
    statuses: &["succeeded", "interrupted"],
    ..USUAL
};

const CRASH: Fault = Fault {
    crashes: true,
    ..GONE
};

const CANCEL: Fault = Fault {
    endings: &["ok", "57014"],
    statuses: &["succeeded", "cancelled"],
    ..USUAL
};

const HARMLESS: Fault = Fault {
    ends_run: false,
    ..USUAL
};

/// All of them, in the order in which rounds take them.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "worker: pg_terminate_backend",
        strike: |scene, caller| on_worker(scene, caller, "pg_terminate_backend"),
        endings: &["ok", "57P01"],
        statuses: &["succeeded", "failed"],
        ..USUAL
    },
    Fault {
        name: "worker: SIGKILL",
        strike: |scene, caller| {
            if let Some(pid) = scene.a_worker(caller) {
                kill(pid);
            }
            Ok(())
        },
        ..CRASH
    },
    Fault {
        name: "worker: pg_cancel_backend",
        strike: |scene, caller| on_worker(scene, caller, "pg_cancel_backend"),
        ..CANCEL
    },
    Fault {
        name: "leader: query cancel",
        strike: |_, caller| {
            if let Caller::Session(background) = caller {
                background.cancel();
            }
            Ok(())
        },
        ..CANCEL
    },
    Fault {
        name: "ntt_cancel_backfill",
        strike: cancel_backfill,
        ..CANCEL
    },
    Fault {
        name: "leader: pg_terminate_backend",
        strike: |scene, caller| {
            let sql = format!("SELECT pg_terminate_backend({})", caller.leader());
            run(&mut scene.beside, &sql)
        },
        ..GONE
    },
    Fault {
        name: "leader: SIGKILL",
        strike: |_, caller| {
            kill(caller.leader());
            Ok(())
        },
        ..CRASH
    },
    Fault {
        name: "client killed",
        strike: |_, caller| match caller {
            Caller::Psql { program, .. } => program.kill().map_err(|error| error.to_string()),
            Caller::Session(_) => Err("psql was to run CALL".to_owned()),
        },
        by_psql: true,
        ..GONE
    },
    Fault {
        name: "pg_ctl stop -m fast, start",
        strike: |scene, _| {
            scene.ground.cluster.stop(Shutdown::Fast);
            scene.ground.cluster.launch();
            Ok(())
        },
        ..GONE
    },
    Fault {
        name: "pg_ctl stop -m immediate, start",
        strike: |scene, _| {
            scene.ground.cluster.stop(Shutdown::Immediate);
            scene.ground.cluster.launch();
            Ok(())
        },
        ..CRASH
    },
    Fault {
        name: "server process: SIGKILL, start",
        strike: |scene, _| {
            scene.ground.cluster.kill();
            scene.ground.cluster.launch();
            Ok(())
        },
        ..CRASH
    },
    Fault {
        name: "another process of the server: SIGKILL",
        strike: kill_bystander,
        ..CRASH
    },
    Fault {
        name: "disk full",
        place: Place::SmallDisk,
        strike: fill_disk,
        // The error can't be noted in the history where nothing can be written: then it says "interrupted".
        endings: &["ok", "lost", "53100"],
        statuses: &["succeeded", "failed", "interrupted"],
        // A full disk needn't end it: what is on the disk already may be enough.
        ends_run: false,
        crashes: true,
        mounts: true,
        ..USUAL
    },
    Fault {
        name: "store unreadable (chmod 000)",
        strike: |scene, _| {
            let root = Path::new(scene.material.root);
            scene.afterwards.push(Box::new(|| set_mode(root, 0o755)));
            set_mode(root, 0o000);
            Ok(())
        },
        endings: &["ok", "58P01"],
        statuses: &["succeeded", "failed"],
        ends_run: false,
        ..USUAL
    },
    Fault {
        name: "store unmounted",
        prepare: |scene| {
            let at = mounted_store(scene).path().display().to_string();
            scene
                .caller_sql
                .push(format!("SET ntt_mime.blob_root = '{at}'"));
        },
        strike: |scene, caller| {
            // The empty directory below it is a store, too, to a run that finds nothing else when it begins.
            scene.a_worker(caller);
            let store = mounted_store(scene);
            let mount = || store.mount_again().expect("it was mounted before");
            scene.afterwards.push(Box::new(mount));
            store.unmount().map_err(|error| error.to_string())
        },
        endings: &["ok", "58P01"],
        statuses: &["succeeded", "failed"],
        ends_run: false,
        mounts: true,
        ..USUAL
    },
    Fault {
        name: "max_worker_processes exhausted",
        prepare: occupy_workers,
        strike: |scene, _| {
            scene.mend();
            Ok(())
        },
        endings: &["ok", "53400"],
        statuses: &["succeeded", "failed"],
        ..HARMLESS
    },
    Fault {
        name: "statement_timeout",
        prepare: |scene| {
            let ms = scene.delay.as_millis().max(1);
            scene
                .caller_sql
                .push(format!("SET statement_timeout = {ms}"));
        },
        ..CANCEL
    },
    Fault {
        name: "idle_in_transaction_session_timeout 10 ms",
        prepare: |scene| {
            scene.admin.exec(&format!(
                "ALTER DATABASE {DATABASE} SET idle_in_transaction_session_timeout = '10ms'"
            ));
        },
        ..HARMLESS
    },
    Fault {
        name: "lock_timeout 1 ms, and a leaf locked for a while",
        prepare: |scene| scene.caller_sql.push("SET lock_timeout = '1ms'".to_owned()),
        strike: lock_leaf,
        ..HARMLESS
    },
    Fault {
        name: "DROP EXTENSION",
        strike: |scene, _| run(&mut scene.beside, "DROP EXTENSION ntt_mime"),
        // The table, its schema or its function isn't there.
        endings: &["ok", "42P01", "3F000", "42883"],
        statuses: &[],
        // The leader learns of it when it writes down how far it is, once a second, and lets batches end.
        gone_within: Duration::from_millis(2500),
        leaves: Leaves::Tables,
        ..USUAL
    },
    Fault {
        name: "DROP DATABASE, refused",
        strike: |scene, _| match scene
            .admin
            .batch_execute(&format!("DROP DATABASE {DATABASE}"))
        {
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") => Ok(()),
            Err(error) => Err(session::describe(&error)),
            Ok(()) => Err("DROP DATABASE succeeded beside sessions".to_owned()),
        },
        ..HARMLESS
    },
    Fault {
        name: "DROP DATABASE WITH (FORCE)",
        strike: |scene, _| {
            run(
                &mut scene.admin,
                &format!("DROP DATABASE {DATABASE} WITH (FORCE)"),
            )
        },
        leaves: Leaves::Nothing,
        ..GONE
    },
    Fault {
        name: "ALTER EXTENSION UPDATE",
        prepare: |scene| {
            let script = UpgradeScript::write(&mut scene.beside);
            scene.afterwards.push(Box::new(move || drop(script)));
        },
        strike: |scene, _| {
            let sql = format!("ALTER EXTENSION ntt_mime UPDATE TO '{TORTURE_VERSION}'");
            run(&mut scene.beside, &sql)
        },
        ..HARMLESS
    },
];

fn run(s: &mut Session, sql: &str) -> Result<(), String> {
    s.batch_execute(sql)
        .map_err(|error| format!("{sql}: {}", session::describe(&error)))
}

/// It may be gone already, when the run has just ended. Waits until its parent has seen that it died: before that, the
/// server takes connections that it breaks off a moment later.
fn kill(pid: i32) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    wait_until(SOON, "the killed process to be gone", || !process.exists());
}

fn on_worker(scene: &mut Scene<'_>, caller: &mut Caller, function: &str) -> Result<(), String> {
    match scene.a_worker(caller) {
        Some(pid) => run(&mut scene.beside, &format!("SELECT {function}({pid})")),
        None => Ok(()),
    }
}

fn cancel_backfill(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
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

fn kill_bystander(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
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

fn fill_disk(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let disk = scene.ground.disk.as_ref().expect("a small disk");
    scene
        .afterwards
        .push(Box::new(|| disk.free().expect("it was filled")));
    disk.fill().map_err(|error| error.to_string())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the store is ours");
}

/// Another way to the store, one that can be taken away.
fn mounted_store<'g>(scene: &Scene<'g>) -> &'g Bind {
    scene.ground.store.as_ref().expect("mounting is permitted")
}

/// Occupies all slots for workers, or all but one, by a run in another database, until the fault "strikes".
fn occupy_workers(scene: &mut Scene<'_>) {
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

fn lock_leaf(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let leaf = scene.rng.usize(..LEAVES);
    run(
        &mut scene.beside,
        &format!("BEGIN; LOCK TABLE ONLY inode_m{leaf} IN ACCESS EXCLUSIVE MODE"),
    )?;
    std::thread::sleep(LEAF_LOCKED);
    run(&mut scene.beside, "COMMIT")
}

/// An upgrade script in the server's folder of extensions, removed with this.
struct UpgradeScript(PathBuf);

impl UpgradeScript {
    fn write(s: &mut Session) -> UpgradeScript {
        let folder: String = s.value("SELECT setting FROM pg_config WHERE name = 'SHAREDIR'");
        let version: String =
            s.value("SELECT default_version FROM pg_available_extensions WHERE name = 'ntt_mime'");
        let name = format!("ntt_mime--{version}--{TORTURE_VERSION}.sql");
        let path = Path::new(&folder).join("extension").join(name);
        let sql = "ALTER TABLE ntt_mime.run ADD COLUMN torture int;
                   ALTER TABLE ntt_mime.run DROP COLUMN torture;";
        fs::write(&path, sql).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        UpgradeScript(path)
    }
}

impl Drop for UpgradeScript {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
