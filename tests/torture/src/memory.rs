//! Does a run's memory grow with the number of its batches? A run in batches of one row, watched through /proc.

use std::time::Duration;

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{Cluster, inode, session};

use crate::material::Material;
use crate::options::Options;
use crate::report::table;
use crate::watch::{self, anonymous_memory};

/// Times that each blob comes. All of them have come thrice in the first half of the batches, so that whatever a backend
/// keeps for a leaf or for a kind of file it has then, and what regular expressions find out about the texts they see as
/// well: what grows further is a leak.
const COPIES: usize = 6;

/// Blobs in the short form.
const FEW: usize = 300;

/// Growth that is no growth.
const LIMIT_KB: i64 = 1024;

const EVERY: Duration = Duration::from_millis(50);

/// One process of the run: anonymous memory in kB after half of the batches, and at the last look.
pub struct Grown {
    pub who: &'static str,
    pub early: u64,
    pub late: u64,
}

pub struct Memory {
    pub batches: i64,
    pub processes: Vec<Grown>,
}

/// Runs, and measures.
pub fn run(options: &Options, material: &Material) -> Result<Memory, String> {
    let cluster = Cluster::start(&[("ntt_mime.blob_root", material.root)]);
    let mut s = cluster.connect("postgres", SUPERUSER);
    s.exec("CREATE EXTENSION ntt_mime");
    inode::partitioned(&mut s, 1);
    let mut blobids = material.blobids();
    if options.short {
        blobids.truncate(FEW);
    }
    inode::load_source(&mut s, &blobids);
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid, fs_type)
         SELECT 'm0', row_number() OVER (), blobid, 'f'
           FROM (SELECT blobid FROM generate_series(1, {COPIES}) copy, source ORDER BY copy, n) rows"
    ));
    s.exec("ANALYZE");
    // A batch without a type makes no update.
    let expected = s.count(
        "SELECT count(*) FROM inode, LATERAL ntt_inspect_blob(blobid) i WHERE i.mime_type IS NOT NULL",
    );
    let mut caller = cluster.connect("postgres", SUPERUSER);
    // Nothing is remembered: each batch opens, reads and detects.
    caller.exec("SET ntt_mime.cache_size = 0");
    let running = caller.call_in_background("1, workers => 1");
    let leader = running.pid;
    let mut seen: Vec<(i32, Grown)> = Vec::new();
    while !running.is_finished() {
        std::thread::sleep(EVERY);
        // The trigger counts updates, and so batches.
        let batches = s.count("SELECT statements FROM queue_stats");
        if batches >= expected {
            // What it writes down once, after the last of them, is no growth.
            continue;
        }
        let early = batches * 2 < expected;
        let mut pids = watch::workers(&std::fs::canonicalize(cluster.data()).unwrap_or_default());
        pids.sort_unstable();
        pids.insert(0, leader);
        for pid in pids {
            let Some(now) = anonymous_memory(pid) else {
                continue;
            };
            match seen.iter_mut().find(|(known, _)| *known == pid) {
                Some((_, grown)) if early => (grown.early, grown.late) = (now, now),
                Some((_, grown)) => grown.late = now,
                None => {
                    let grown = Grown {
                        who: if pid == leader { "leader" } else { "worker" },
                        early: now,
                        late: now,
                    };
                    seen.push((pid, grown));
                }
            }
        }
    }
    let (_, result) = running.finish();
    result.map_err(|error| session::describe(&error))?;
    Ok(Memory {
        batches: s.count("SELECT statements FROM queue_stats"),
        processes: seen.into_iter().map(|(_, grown)| grown).collect(),
    })
}

impl Memory {
    pub fn table(&self) -> String {
        let head = [
            "anonymous memory",
            "after half of the batches",
            "at the end",
            "growth",
        ];
        let rows: Vec<Vec<String>> = self
            .processes
            .iter()
            .map(|grown| {
                let (early, late) = (grown.early, grown.late);
                vec![
                    grown.who.to_owned(),
                    format!("{early} kB"),
                    format!("{late} kB"),
                    format!("{} kB", late as i64 - early as i64),
                ]
            })
            .collect();
        table(&head, &rows)
    }

    /// Has no process grown? More than the leader were seen, or it says nothing.
    pub fn goals(&self) -> Vec<(String, bool)> {
        let most = self
            .processes
            .iter()
            .map(|p| p.late as i64 - p.early as i64)
            .max()
            .unwrap_or(0);
        vec![
            (
                format!("only {} processes of a run seen", self.processes.len()),
                self.processes.len() == 2,
            ),
            (
                format!(
                    "memory grew by {most} kB over the last half of {} batches",
                    self.batches
                ),
                most < LIMIT_KB,
            ),
        ]
    }
}
