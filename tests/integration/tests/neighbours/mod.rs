//! Beside what else a DBA has: real extensions, poolers and replicas, one file a neighbour.
//!
//! scripts/setup.sh installs Debian's packages of them. Where one isn't to be had, as of a release of PostgreSQL for
//! which Debian has none, its tests say so and do nothing.

mod audit;
mod libraries;
mod silent_client;
mod standby;
mod statements;
mod system;

use ntt_mime_integration::server;

/// Is an extension to be had here? Always with PostgreSQL 15, where none of these may be passed by.
fn is_there(extension: &str) -> bool {
    let control = server::sharedir().join(format!("extension/{extension}.control"));
    let there = control.exists();
    assert!(
        there || server::major_version() != 15,
        "there is no {}: see scripts/setup.sh",
        control.display()
    );
    if !there {
        eprintln!("not tried: there is no {}", control.display());
    }
    there
}
