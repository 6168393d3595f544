//! Faults that affect what a run reads from or writes to: the store, one of its roots, the server's disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::Scene;
use crate::caller::Caller;
use crate::ground::BATCH;
use crate::isolation::Bind;
use crate::roots::TwoRoots;

/// How long a root that comes back is away: less than a run takes.
const AWAY_MS: u64 = 200;

pub fn fill_disk(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let disk = scene.ground.disk.as_ref().expect("a small disk");
    scene
        .afterwards
        .push(Box::new(|| disk.free().expect("it was filled")));
    disk.fill().map_err(|error| error.to_string())
}

pub fn make_unreadable(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    let root = Path::new(scene.material.root);
    scene.afterwards.push(Box::new(|| set_mode(root, 0o755)));
    set_mode(root, 0o000);
    Ok(())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the store is ours");
}

/// Makes the caller read through a second path to the store, which can be taken away.
pub fn use_mounted_store(scene: &mut Scene<'_>) {
    let at = scene.ground.mounts().store.path().display().to_string();
    scene
        .caller_sql
        .push(format!("SET ntt_mime.blob_root = '{at}'"));
}

pub fn unmount_store(scene: &mut Scene<'_>, caller: &mut Caller) -> Result<(), String> {
    // To a run that finds nothing else when it begins, the empty directory below the mount point is also a store.
    scene.a_worker(caller);
    unmount(scene, &scene.ground.mounts().store)
}

/// Makes the caller read from two roots, of which one can be taken away. An earlier run has seen that both contain
/// blobs.
pub fn use_two_roots(scene: &mut Scene<'_>) {
    let sql = format!("SET ntt_mime.blob_root = '{}'", two_roots(scene).setting());
    let mut earlier = scene.ground.connect();
    earlier.exec(&sql);
    earlier.backfill(&format!("{BATCH}, max_blobs => 100"));
    scene.caller_sql.push(sql);
}

pub fn begin_without_a_root(scene: &mut Scene<'_>) {
    use_two_roots(scene);
    unmount(scene, two_roots(scene).mounted()).expect("it is mounted");
}

pub fn unmount_a_root(scene: &mut Scene<'_>, _: &mut Caller) -> Result<(), String> {
    unmount(scene, two_roots(scene).mounted())
}

pub fn unmount_a_root_for_a_moment(
    scene: &mut Scene<'_>,
    caller: &mut Caller,
) -> Result<(), String> {
    unmount_a_root(scene, caller)?;
    std::thread::sleep(Duration::from_millis(scene.rng.u64(..AWAY_MS)));
    scene.undo();
    Ok(())
}

fn two_roots<'g>(scene: &Scene<'g>) -> &'g TwoRoots {
    &scene.ground.mounts().roots
}

fn unmount<'g>(scene: &mut Scene<'g>, mounted: &'g Bind) -> Result<(), String> {
    let mount = || mounted.mount_again().expect("it was mounted before");
    scene.afterwards.push(Box::new(mount));
    mounted.unmount().map_err(|error| error.to_string())
}
