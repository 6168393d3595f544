//! All settings (`ntt_mime.*`), each with its default, unit and range, and typed getters.
//!
//! Nothing else reads the settings. The getters work only on the main thread of a backend, where PostgreSQL keeps
//! them.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::pg::encoding;
use ntt_mime_core::detector::DetectorConfig;
use ntt_mime_core::detector_thread::NICEST;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

/// The maximum of `ntt_mime.workers` and of the argument `workers`.
pub const MAX_WORKERS: i32 = 1024;

/// Limits the default. More workers than this rarely help: the index pages that they write become the bottleneck.
const DEFAULT_WORKERS_LIMIT: usize = 8;

static BLOB_ROOT: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"/data/cold/by-hash"));
static TARGET: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"inode"));
/// 0 means "not set": the number of CPUs isn't known when the library is compiled.
static WORKERS: GucSetting<i32> = GucSetting::<i32>::new(0);
static HEAD_BYTES: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static READ_AHEAD: GucSetting<i32> = GucSetting::<i32>::new(16);
static CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);
static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static RETRY_FAILURES_AFTER: GucSetting<i32> = GucSetting::<i32>::new(24 * 60 * 60);
static FULL_SCAN_AFTER: GucSetting<i32> = GucSetting::<i32>::new(24 * 60 * 60);
static BATCH_DELAY: GucSetting<i32> = GucSetting::<i32>::new(0);
static NICE: GucSetting<i32> = GucSetting::<i32>::new(5);
static PREFILTER: GucSetting<bool> = GucSetting::<bool>::new(true);
static AUDIT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(1000);
static RUN_HISTORY: GucSetting<i32> = GucSetting::<i32>::new(90 * 24 * 60 * 60);

/// Defines the settings. Called once, from `_PG_init`.
pub fn define() {
    GucRegistry::define_string_guc(
        c"ntt_mime.blob_root",
        c"Sets the directories of the blob store.",
        c"One or more absolute directories, separated by \":\" and tried in order. A blob lies at \
          ROOT/aa/bb/<blobid>.",
        &BLOB_ROOT,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"ntt_mime.target",
        c"Sets the table that a run fills or checks when its argument target is null.",
        c"A plain or partitioned table with the columns blobid and mime_type; its name may be \
          qualified with its schema.",
        &TARGET,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: `_PG_init` runs on the main thread, before anybody reads the setting. PostgreSQL takes a setting's
    // default from its variable.
    unsafe { *WORKERS.as_ptr() = default_workers() };
    GucRegistry::define_int_guc(
        c"ntt_mime.workers",
        c"Sets the number of background workers of a run.",
        c"They are taken from max_worker_processes. The default is the number of CPUs, but at most 8.",
        &WORKERS,
        1,
        MAX_WORKERS,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.head_bytes",
        c"Sets how much of a blob is read first.",
        c"More is read only where the answer needs it.",
        &HEAD_BYTES,
        512,
        7 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.read_ahead",
        c"Sets how many blobs each worker reads ahead on a slow store.",
        c"Each blob takes a thread of the worker while it is read. A store that is in memory is not read ahead. \
          0 disables reading ahead.",
        &READ_AHEAD,
        0,
        128,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.cache_size",
        c"Sets the shared memory of a run for blobs that it has detected.",
        c"Each distinct blob takes 24 bytes. A blob that has no room is read again in each batch. \
          0 disables the cache: every blob is read again in each batch.",
        &CACHE_SIZE,
        0,
        64 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.lock_timeout",
        c"Sets how long a worker waits for a lock before it does other work and comes back.",
        c"Applies to leaves that are locked by DDL and to rows that are locked by other transactions.",
        &LOCK_TIMEOUT,
        1,
        10_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.retry_failures_after",
        c"Sets the age at which a recorded failure is tried again.",
        c"Runs pass over younger failures without opening the file. 0 tries all of them in each run.",
        &RETRY_FAILURES_AFTER,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.full_scan_after",
        c"Sets the age at which a leaf that seems unchanged is read nevertheless.",
        c"Each leaf is read again after a time of its own, between half of this age and all of it. 0 reads all leaves in each run.",
        &FULL_SCAN_AFTER,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.batch_delay",
        c"Sets the pause between the batches of a worker.",
        c"A pause makes a run slower and easier on a busy server. 0 means no pause.",
        &BATCH_DELAY,
        0,
        60_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.nice",
        c"Sets how far a run gives way to other work, by what is added to the nice value of the threads that read and detect blobs.",
        c"Other work on the machine goes first, as with nice(1); their reads come later, too, if the disk's scheduler respects that. \
          The workers themselves keep their priority, because others may wait for what they have locked, but between two batches \
          workers rest while other sessions need the processors. 0 turns both off.",
        &NICE,
        0,
        NICEST,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"ntt_mime.prefilter",
        c"Rules out magic rules that cannot match before libmagic is called.",
        c"Changes the cost of an answer, never the answer. ntt_mime_version() shows whether the \
          prefilter is active.",
        &PREFILTER,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.audit_interval",
        c"Sets that one in this many blobs is detected again, from the whole file and with all of libmagic's rules.",
        c"The blobs are chosen by their blobids. If the answers differ, the run stores libmagic's, logs a warning, \
          and goes on without its prefilter. 0 disables audits.",
        &AUDIT_INTERVAL,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ntt_mime.run_history",
        c"Sets the age at which rows of ntt_mime.run are removed by the next run.",
        c"0 keeps only the runs that are still going on.",
        &RUN_HISTORY,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    // SAFETY: a C string. From now on a misspelled ntt_mime.* is an error, not a new setting.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"ntt_mime".as_ptr()) };
}

fn default_workers() -> i32 {
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    cpus.min(DEFAULT_WORKERS_LIMIT) as i32
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting
        .get()
        .map(|value| encoding::from_server(value.to_bytes()).into_owned())
        .unwrap_or_default()
}

/// `ntt_mime.blob_root`, as given.
pub fn blob_root() -> String {
    text(&BLOB_ROOT)
}

/// `ntt_mime.target`, as given.
pub fn target() -> String {
    text(&TARGET)
}

/// `ntt_mime.workers`, 1 to [`MAX_WORKERS`].
pub fn workers() -> i32 {
    WORKERS.get()
}

/// `ntt_mime.head_bytes` and `ntt_mime.prefilter`.
pub fn detector() -> DetectorConfig {
    DetectorConfig {
        head_bytes: HEAD_BYTES.get() as usize,
        prefilter: PREFILTER.get(),
    }
}

/// `ntt_mime.audit_interval`: one of this many blobs is audited; 0: none.
pub fn audit_interval() -> u32 {
    AUDIT_INTERVAL.get() as u32
}

/// `ntt_mime.read_ahead`, 0 to 128 blobs.
pub fn read_ahead() -> usize {
    READ_AHEAD.get() as usize
}

/// `ntt_mime.cache_size` in bytes.
pub fn cache_bytes() -> usize {
    CACHE_SIZE.get() as usize * 1024
}

/// `ntt_mime.lock_timeout`.
pub fn lock_timeout() -> Duration {
    Duration::from_millis(LOCK_TIMEOUT.get() as u64)
}

/// `ntt_mime.retry_failures_after`.
pub fn retry_failures_after() -> Duration {
    Duration::from_secs(RETRY_FAILURES_AFTER.get() as u64)
}

/// `ntt_mime.full_scan_after`.
pub fn full_scan_after() -> Duration {
    Duration::from_secs(FULL_SCAN_AFTER.get() as u64)
}

/// `ntt_mime.batch_delay`.
pub fn batch_delay() -> Duration {
    Duration::from_millis(BATCH_DELAY.get() as u64)
}

/// `ntt_mime.nice`, 0 to [`NICEST`].
pub fn nice() -> i32 {
    NICE.get()
}

/// `ntt_mime.run_history`.
pub fn run_history() -> Duration {
    Duration::from_secs(RUN_HISTORY.get() as u64)
}
