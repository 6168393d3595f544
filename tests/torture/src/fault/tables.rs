//! Faults that affect tables: what owners and loaders of the target do to its leaves, and to the extension.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntt_mime_integration::{Session, session};

use super::{Scene, run};
use crate::caller::Caller;
use crate::ground::{APART, DATABASE, LEAVES, ROLE, TABLESPACE};
use crate::locker::{Locker, Manners};

/// A version that only its upgrade script knows.
const TORTURE_VERSION: &str = "0.0.0torture";

/// How long a leaf is locked: less than a worker waits for it (`ntt_mime.lock_timeout`).
const LEAF_LOCKED: Duration = Duration::from_millis(300);

/// Maximum number of repetitions in a run, so that the run ends.
const MOST: usize = 8;

/// What takes long is repeated less often; and rows are moved less often, so that the run goes on for a while
/// afterwards and can report correctly what it leaves.
const FEW: usize = 3;

/// Rows that move at once.
const MOVED: usize = 100;

/// The run is slow, so that more of its leaves are half done when the fault strikes, and it goes on afterwards.
pub fn unhurried(scene: &mut Scene<'_>) {
    let sql = "SET ntt_mime.batch_delay = '20ms'";
    scene.caller_sql.push(sql.to_owned());
}

/// Repeats it at random moments of the rest of the run.
fn repeatedly(
    scene: &mut Scene<'_>,
    caller: &mut Caller,
    most: usize,
    mut act: impl FnMut(&mut Scene<'_>) -> Result<(), String>,
) -> Result<(), String> {
    for _ in 0..most {
        act(scene)?;
        let pause = scene.ground.length.get().mul_f64(scene.rng.f64() / 4.0);
        std::thread::sleep(pause);
        if caller.is_finished() {
            break;
        }
    }
    Ok(())
}

/// A leaf, more likely one with many rows: according to how rows are spread over leaves.
fn a_leaf(scene: &mut Scene<'_>) -> usize {
    (LEAVES as f64 * scene.rng.f64().powi(2)) as usize
}

/// A statement about leaves, which `sql` makes of the number of each.
pub fn on_leaves(
    scene: &mut Scene<'_>,
    caller: &mut Caller,
    sql: fn(usize) -> String,
) -> Result<(), String> {
    repeatedly(scene, caller, MOST, |scene| {
        let leaf = a_leaf(scene);
        run(&mut scene.beside, &sql(leaf))
    })
}

/// All leaves are rewritten at once.
pub fn alter_type(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    repeatedly(scene, caller, FEW, |scene| {
        run(
            &mut scene.beside,
            "ALTER TABLE inode ALTER COLUMN size TYPE bigint USING size + 0",
        )
    })
}

/// There and back.
pub fn set_tablespace(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    let mut there = [false; LEAVES];
    repeatedly(scene, caller, MOST, |scene| {
        let leaf = a_leaf(scene);
        there[leaf] = !there[leaf];
        let tablespace = if there[leaf] {
            TABLESPACE
        } else {
            "pg_default"
        };
        let sql = format!("ALTER TABLE inode_m{leaf} SET TABLESPACE {tablespace}");
        run(&mut scene.beside, &sql)
    })
}

/// There and back.
pub fn set_schema(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    let mut there = [false; LEAVES];
    repeatedly(scene, caller, MOST, |scene| {
        let leaf = a_leaf(scene);
        there[leaf] = !there[leaf];
        let (from, to) = if there[leaf] {
            ("public", APART)
        } else {
            (APART, "public")
        };
        let sql = format!("ALTER TABLE {from}.inode_m{leaf} SET SCHEMA {to}");
        run(&mut scene.beside, &sql)
    })
}

/// Pending rows move to other leaves, together with the record of where they are. Rows to which the table `path`
/// refers can't move.
pub fn move_rows(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    repeatedly(scene, caller, FEW, |scene| {
        let from = a_leaf(scene);
        let to = (from + scene.rng.usize(1..LEAVES)) % LEAVES;
        let sql = format!(
            "WITH chosen AS MATERIALIZED (
                 SELECT ino FROM inode WHERE medium_hash = 'm{from}' AND blobid IS NOT NULL AND mime_type IS NULL
                    AND ino % 2 = 1 LIMIT {MOVED}),
                  moved AS (
                 UPDATE inode SET medium_hash = 'm{to}' FROM chosen
                  WHERE medium_hash = 'm{from}' AND inode.ino = chosen.ino RETURNING inode.ino)
             UPDATE before SET medium_hash = 'm{to}', leaf = 'inode_m{to}'::regclass FROM moved
              WHERE before.ino = moved.ino"
        );
        run(&mut scene.beside, &sql)
    })
}

/// Half of the leaves are in a schema of their own, and the caller is a role that may do no more than it has to.
pub fn call_as_role(scene: &mut Scene<'_>) {
    for leaf in (0..LEAVES).step_by(2) {
        scene
            .beside
            .exec(&format!("ALTER TABLE inode_m{leaf} SET SCHEMA {APART}"));
    }
    scene
        .beside
        .exec(&format!("GRANT USAGE ON SCHEMA {APART} TO {ROLE}"));
    scene
        .caller_sql
        .push(format!("SET SESSION AUTHORIZATION {ROLE}"));
}

pub fn revoke_usage(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    run(
        &mut scene.beside,
        &format!("REVOKE USAGE ON SCHEMA {APART} FROM {ROLE}"),
    )
}

/// Until the run is over.
pub fn refuse_updates(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let (ground, leaf) = (scene.ground, a_leaf(scene));
    scene.afterwards.push(Box::new(move || {
        let sql = format!("DROP TRIGGER IF EXISTS refuse ON inode_m{leaf}");
        ground.connect().exec(&sql);
    }));
    run(
        &mut scene.beside,
        &format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN RAISE EXCEPTION 'no update here'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON inode_m{leaf} FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
    )
}

pub fn lock_leaf(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let leaf = scene.rng.usize(..LEAVES);
    run(
        &mut scene.beside,
        &format!("BEGIN; LOCK TABLE ONLY inode_m{leaf} IN ACCESS EXCLUSIVE MODE"),
    )?;
    std::thread::sleep(LEAF_LOCKED);
    run(&mut scene.beside, "COMMIT")
}

/// Until the run is over.
pub fn lock_rows(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    let manners = Manners::for_runs_of(scene.ground.length.get());
    let locker = Locker::begin(scene.ground.connect(), manners, scene.rng.fork());
    while !caller.is_finished() {
        std::thread::sleep(Duration::from_millis(10));
    }
    locker.end().map(|_| ())
}

/// `DROP DATABASE` has to be refused beside sessions.
pub fn drop_database(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let sql = format!("DROP DATABASE {DATABASE}");
    match scene.admin.batch_execute(&sql) {
        Err(error) if error.code().is_some_and(|code| code.code() == "55006") => Ok(()),
        Err(error) => Err(session::describe(&error)),
        Ok(()) => Err("DROP DATABASE succeeded beside sessions".to_owned()),
    }
}

pub fn prepare_upgrade(scene: &mut Scene<'_>) {
    let script = UpgradeScript::write(&mut scene.beside);
    scene.afterwards.push(Box::new(move || drop(script)));
}

pub fn upgrade(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let sql = format!("ALTER EXTENSION ntt_mime UPDATE TO '{TORTURE_VERSION}'");
    run(&mut scene.beside, &sql)
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
