//! The faults: what each does to a run at a random moment, how CALL may end then, and what must be true afterwards.

pub mod processes;
mod stores;
mod tables;

use std::time::Duration;

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::{Session, session};

use crate::caller::Caller;
use crate::ground::{DATABASE, Ground};
use crate::material::Material;
use crate::watch;

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
    pub fn undo(&mut self) {
        for undo in self.afterwards.drain(..) {
            undo();
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
        self.undo();
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
    /// The tables, but not the extension with its run log.
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
    /// What the run log may say then.
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
    /// Does it change which rows of a leaf are pending?
    pub writes: bool,
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
    writes: false,
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

const STORE_GONE: Fault = Fault {
    endings: &["ok", "58P01"],
    statuses: &["succeeded", "failed"],
    ends_run: false,
    ..USUAL
};

/// All of them, in the order in which rounds take them.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "worker: pg_terminate_backend",
        strike: |scene, caller| processes::on_worker(scene, caller, "pg_terminate_backend"),
        endings: &["ok", "57P01"],
        statuses: &["succeeded", "failed"],
        ..USUAL
    },
    Fault {
        name: "worker: SIGKILL",
        strike: |scene, caller| {
            if let Some(pid) = scene.a_worker(caller) {
                processes::kill(pid);
            }
            Ok(())
        },
        ..CRASH
    },
    Fault {
        name: "worker: pg_cancel_backend",
        strike: |scene, caller| processes::on_worker(scene, caller, "pg_cancel_backend"),
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
        strike: processes::cancel_backfill,
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
            processes::kill(caller.leader());
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
        strike: processes::kill_bystander,
        ..CRASH
    },
    Fault {
        name: "disk full",
        place: Place::SmallDisk,
        // Filling it takes a while, too.
        prepare: tables::unhurried,
        strike: stores::fill_disk,
        // The error can't be recorded where nothing can be written: then it says "interrupted".
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
        strike: stores::make_unreadable,
        ..STORE_GONE
    },
    Fault {
        name: "store unmounted",
        prepare: stores::use_mounted_store,
        strike: stores::unmount_store,
        mounts: true,
        ..STORE_GONE
    },
    Fault {
        name: "one of two roots unmounted before the run",
        prepare: stores::begin_without_a_root,
        endings: &["58P01"],
        mounts: true,
        ..STORE_GONE
    },
    Fault {
        name: "one of two roots unmounted",
        prepare: stores::use_two_roots,
        strike: stores::unmount_a_root,
        mounts: true,
        ..STORE_GONE
    },
    Fault {
        name: "one of two roots unmounted, and mounted again",
        prepare: stores::use_two_roots,
        strike: stores::unmount_a_root_for_a_moment,
        mounts: true,
        ..STORE_GONE
    },
    Fault {
        name: "max_worker_processes exhausted",
        prepare: processes::occupy_workers,
        strike: |scene, _| {
            scene.undo();
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
        strike: tables::lock_leaf,
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
        strike: tables::drop_database,
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
        prepare: tables::prepare_upgrade,
        strike: tables::upgrade,
        ..HARMLESS
    },
    Fault {
        name: "VACUUM FULL of leaves",
        prepare: tables::unhurried,
        strike: |scene, caller| {
            tables::on_leaves(scene, caller, |leaf| format!("VACUUM FULL inode_m{leaf}"))
        },
        ..HARMLESS
    },
    Fault {
        name: "CLUSTER of leaves",
        prepare: tables::unhurried,
        strike: |scene, caller| {
            tables::on_leaves(scene, caller, |leaf| {
                format!("CLUSTER inode_m{leaf} USING inode_m{leaf}_mime_type_idx")
            })
        },
        ..HARMLESS
    },
    Fault {
        name: "ALTER COLUMN … TYPE",
        prepare: tables::unhurried,
        strike: tables::alter_type,
        ..HARMLESS
    },
    Fault {
        name: "SET TABLESPACE of leaves",
        prepare: tables::unhurried,
        strike: tables::set_tablespace,
        ..HARMLESS
    },
    Fault {
        name: "rows moved to other leaves",
        prepare: tables::unhurried,
        strike: tables::move_rows,
        writes: true,
        ..HARMLESS
    },
    Fault {
        name: "SET SCHEMA of leaves",
        strike: tables::set_schema,
        ..HARMLESS
    },
    Fault {
        name: "USAGE on leaves' schema revoked",
        prepare: tables::call_as_role,
        strike: tables::revoke_usage,
        ..HARMLESS
    },
    Fault {
        name: "a leaf refuses the update",
        strike: tables::refuse_updates,
        endings: &["ok", "P0001"],
        statuses: &["succeeded", "failed"],
        ..HARMLESS
    },
    Fault {
        name: "500 rows and the trigger's row locked",
        strike: tables::lock_rows,
        ..HARMLESS
    },
];

fn run(s: &mut Session, sql: &str) -> Result<(), String> {
    s.batch_execute(sql)
        .map_err(|error| format!("{sql}: {}", session::describe(&error)))
}
