//! What a run is asked to do: the arguments of CALL and the settings that matter, checked.

use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use ntt_mime_core::detector::DetectorConfig;
use ntt_mime_core::store::RootIdentity;
use serde::{Deserialize, Serialize};

use super::citus::{Call, quoted};
use crate::errors::Error;
use crate::pg::bgworker::Session;
use crate::pg::lock;
use crate::pg::xids::Horizon;
use crate::settings;

/// Largest batch size. A worker makes its batches smaller if one would take longer than half a second.
const MAX_BATCH_SIZE: i32 = 1_000_000;

/// The procedures that start a run.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Procedure {
    Backfill,
    Verify,
}

impl Procedure {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Procedure::Backfill => "ntt_backfill_mime",
            Procedure::Verify => "ntt_verify_mime",
        }
    }

    /// The name of its variant with one column.
    pub fn name_on_node(self) -> &'static str {
        match self {
            Procedure::Backfill => "ntt_backfill_mime_on_node",
            Procedure::Verify => "ntt_verify_mime_on_node",
        }
    }

    /// Its name for PostgreSQL.
    pub fn c_name(self) -> &'static CStr {
        match self {
            Procedure::Backfill => c"ntt_backfill_mime",
            Procedure::Verify => c"ntt_verify_mime",
        }
    }
}

/// The arguments as given; None is NULL.
pub struct Arguments {
    pub batch_size: Option<i32>,
    pub workers: Option<i32>,
    pub max_blobs: Option<i64>,
    pub target: Option<pgrx::pg_sys::Oid>,
    pub task: TaskArguments,
    /// The schema of the procedure that was called.
    pub schema: pgrx::pg_sys::Oid,
}

/// Arguments that only one of the procedures has.
pub enum TaskArguments {
    Backfill {
        dry_run: Option<bool>,
        retry_failed: Option<bool>,
    },
    Verify {
        sample_percent: Option<f64>,
        correct: Option<bool>,
        /// Each element may be null.
        only_types: Option<Vec<Option<String>>>,
    },
}

/// The checked options of a run, as shown in `ntt_mime.run.options`.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Options {
    /// The maximum number of rows that a transaction updates.
    pub batch_size: u32,
    pub workers: u32,
    pub max_blobs: Option<u64>,
    pub dry_run: bool,
    pub retry_failed: bool,
    /// Only for a verification.
    #[serde(flatten)]
    pub verify: Option<Verify>,
    pub blob_root: String,
    pub head_bytes: usize,
    pub prefilter: bool,
    /// One of this many blobs is audited; 0: none.
    pub audit_interval: u32,
    /// Blobs that a worker reads ahead.
    pub read_ahead: usize,
    /// The niceness of the threads that read and detect blobs.
    pub nice: i32,
    pub cache_bytes: usize,
    pub lock_timeout_ms: u64,
    pub batch_delay_ms: u64,
    pub retry_failures_after_s: u64,
    pub full_scan_after_s: u64,
}

/// What a verification is asked to do.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Verify {
    /// Percentage of the target's blocks: more than 0, up to 100.
    pub sample_percent: f64,
    /// Replace a type that differs by the detected one.
    pub correct: bool,
    /// Check only rows that have one of these types.
    pub only_types: Option<Vec<String>>,
    /// The seed by which blocks are chosen.
    pub sample_seed: u64,
}

impl Verify {
    fn new(
        sample_percent: Option<f64>,
        correct: Option<bool>,
        only_types: Option<Vec<Option<String>>>,
    ) -> Result<Verify, Error> {
        let sample_percent = not_null("sample_percent", sample_percent)?;
        // False for NaN.
        if !(sample_percent > 0.0 && sample_percent <= 100.0) {
            return Err(Error::Argument {
                name: "sample_percent",
                value: sample_percent.to_string(),
                range: "greater than 0 and at most 100".to_owned(),
            });
        }
        let only_types = match only_types {
            None => None,
            Some(types) if types.is_empty() => {
                return Err(Error::Argument {
                    name: "only_types",
                    value: "{}".to_owned(),
                    range: "at least one type, or null for all".to_owned(),
                });
            }
            Some(types) => {
                let all: Option<Vec<String>> = types.into_iter().collect();
                Some(all.ok_or(Error::Argument {
                    name: "only_types",
                    value: "{NULL}".to_owned(),
                    range: "types that are not null".to_owned(),
                })?)
            }
        };
        Ok(Verify {
            sample_percent,
            correct: not_null("correct", correct)?,
            only_types,
            // The keys of the standard library's hash tables are random numbers from the operating system.
            sample_seed: RandomState::new().build_hasher().finish(),
        })
    }
}

impl Arguments {
    /// The procedure to which they belong.
    pub fn procedure(&self) -> Procedure {
        match self.task {
            TaskArguments::Backfill { .. } => Procedure::Backfill,
            TaskArguments::Verify { .. } => Procedure::Verify,
        }
    }

    /// The call that asks for the same on a node that may have nothing to do.
    pub fn call(&self) -> Call {
        let yes = |given: Option<bool>| given.filter(|yes| *yes).map(|yes| yes.to_string());
        let mut given = vec![
            ("batch_size", self.batch_size.map(|n| n.to_string())),
            ("workers", self.workers.map(|n| n.to_string())),
            ("max_blobs", self.max_blobs.map(|n| n.to_string())),
        ];
        match &self.task {
            TaskArguments::Backfill {
                dry_run,
                retry_failed,
            } => given.extend([
                ("dry_run", yes(*dry_run)),
                ("retry_failed", yes(*retry_failed)),
            ]),
            TaskArguments::Verify {
                sample_percent,
                correct,
                only_types,
            } => {
                let percent = sample_percent.filter(|percent| *percent < 100.0);
                let types = only_types.as_ref().map(|types| {
                    let types = types.iter().flatten().map(|text| quoted(text));
                    format!("ARRAY[{}]", types.collect::<Vec<String>>().join(", "))
                });
                given.extend([
                    ("sample_percent", percent.map(|n| n.to_string())),
                    ("correct", yes(*correct)),
                    ("only_types", types),
                ]);
            }
        }
        let given = given.into_iter().filter_map(|(name, value)| {
            let value = value?;
            Some(format!("{name} => {value}"))
        });
        Call {
            procedure: lock::qualify(self.schema, self.procedure().name_on_node()),
            arguments: given.collect(),
        }
    }
}

impl Options {
    /// Checks the arguments and adds the settings.
    pub fn new(arguments: &Arguments) -> Result<Options, Error> {
        let batch_size = not_null("batch_size", arguments.batch_size)?;
        let batch_size = within("batch_size", batch_size, MAX_BATCH_SIZE, "")?;
        let workers = match arguments.workers {
            None => settings::workers(),
            Some(workers) => within(
                "workers",
                workers,
                settings::MAX_WORKERS,
                ", or null for ntt_mime.workers",
            )?,
        };
        if let Some(max) = arguments.max_blobs.filter(|max| *max < 1) {
            return Err(Error::Argument {
                name: "max_blobs",
                value: max.to_string(),
                range: "at least 1, or null for all".to_owned(),
            });
        }
        let (dry_run, retry_failed, verify) = match &arguments.task {
            TaskArguments::Backfill {
                dry_run,
                retry_failed,
            } => (
                not_null("dry_run", *dry_run)?,
                not_null("retry_failed", *retry_failed)?,
                None,
            ),
            TaskArguments::Verify {
                sample_percent,
                correct,
                only_types,
            } => {
                let verify = Verify::new(*sample_percent, *correct, only_types.clone())?;
                (false, false, Some(verify))
            }
        };
        let detector = settings::detector();
        Ok(Options {
            batch_size: batch_size as u32,
            workers: workers as u32,
            max_blobs: arguments.max_blobs.map(|max| max as u64),
            dry_run,
            retry_failed,
            verify,
            blob_root: settings::blob_root(),
            head_bytes: detector.head_bytes,
            prefilter: detector.prefilter,
            audit_interval: settings::audit_interval(),
            read_ahead: settings::read_ahead(),
            nice: settings::nice(),
            cache_bytes: settings::cache_bytes(),
            lock_timeout_ms: settings::lock_timeout().as_millis() as u64,
            batch_delay_ms: settings::batch_delay().as_millis() as u64,
            retry_failures_after_s: settings::retry_failures_after().as_secs(),
            full_scan_after_s: settings::full_scan_after().as_secs(),
        })
    }

    /// Whether rows of the target are to be updated.
    pub fn updates(&self) -> bool {
        match &self.verify {
            Some(verify) => verify.correct,
            None => !self.dry_run,
        }
    }

    /// Whether the privilege to update the target is required. A dry run requires it too, since it shows what a run
    /// would do.
    pub fn asks_for_update(&self) -> bool {
        self.verify.as_ref().is_none_or(|verify| verify.correct)
    }

    /// How the workers' detectors read.
    pub fn detector(&self) -> DetectorConfig {
        DetectorConfig {
            head_bytes: self.head_bytes,
            prefilter: self.prefilter,
        }
    }

    /// The time to wait for a lock.
    pub fn lock_timeout(&self) -> Duration {
        Duration::from_millis(self.lock_timeout_ms)
    }

    /// Pause between two batches of a worker.
    pub fn batch_delay(&self) -> Duration {
        Duration::from_millis(self.batch_delay_ms)
    }
}

/// `also` says what is allowed besides a number.
fn within(name: &'static str, value: i32, max: i32, also: &str) -> Result<i32, Error> {
    match (1..=max).contains(&value) {
        true => Ok(value),
        false => Err(Error::Argument {
            name,
            value: value.to_string(),
            range: format!("between 1 and {max}{also}"),
        }),
    }
}

fn not_null<T>(name: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::NullArgument { name })
}

/// Everything that a worker needs to know; passed through shared memory as JSON.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Job {
    pub run_id: i64,
    pub options: Options,
    /// OID of the target.
    pub target: u32,
    /// Whether the target is partitioned. If not, it is its own only leaf.
    pub partitioned: bool,
    /// Whether policies of the target apply to the role; only if it isn't partitioned.
    pub row_security: bool,
    /// The role whose privileges count: the caller's at the time of the CALL, whatever a trigger does to a worker's
    /// session.
    pub role: u32,
    /// The maximum length of `mime_type` in characters, if it is bounded.
    pub mime_type_limit: Option<usize>,
    /// Identifies the store's roots, in case something else is mounted in their place when a worker opens them.
    pub roots: Vec<RootIdentity>,
    /// Whether any failure was recorded when the run began. If not, nobody needs to look.
    pub failures_on_record: bool,
    /// Identifies the leader's detector ([`crate::detect::identity`]), if leaves are to be marked as verified by it.
    pub detector: Option<i64>,
    /// When a verification began; None in a backfill.
    pub horizon: Option<Horizon>,
    pub session: Session,
}

impl Job {
    /// Whether a type fits into the column.
    pub fn has_room_for(&self, mime_type: &str) -> bool {
        let limit = self.mime_type_limit;
        limit.is_none_or(|limit| mime_type.chars().count() <= limit)
    }
}
