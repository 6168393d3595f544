//! Runs beside other software that a DBA uses: real extensions, poolers and replicas, one file for each.
//!
//! scripts/setup.sh installs their Debian packages. If one isn't available, for example because Debian has none for a
//! release of PostgreSQL, its tests say so and do nothing.

mod audit;
mod copies;
mod event_triggers;
mod libraries;
mod partman;
mod pooler;
mod repack;
mod silent_client;
mod standby;
mod statements;
mod system;

use std::path::Path;

use ntt_mime_integration::server;

/// Is an extension to be had here? Always with PostgreSQL 15, where none of these may be passed by.
fn is_there(extension: &str) -> bool {
    exists(&server::sharedir().join(format!("extension/{extension}.control")))
}

/// The same of what a package installs.
fn exists(file: &Path) -> bool {
    let there = file.exists();
    assert!(
        there || server::major_version() != 15,
        "there is no {}: see scripts/setup.sh",
        file.display()
    );
    if !there {
        eprintln!("not tried: there is no {}", file.display());
    }
    there
}
