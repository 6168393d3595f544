//! Dynamic background workers: starting and stopping them (leader), and becoming one (worker).

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;

use pgrx::pg_sys;

use super::report::Report;
use super::{encoding, identity, tx, version};

/// The `backend_type` in pg_stat_activity.
pub const BACKEND_TYPE: &str = "ntt_mime worker";

thread_local! {
    /// The workers of all [`Handle`]s of this process. A process that ends during a run has no other way to find
    /// them.
    static REGISTERED: RefCell<Vec<NonNull<pg_sys::BackgroundWorkerHandle>>> = const { RefCell::new(Vec::new()) };
}

/// A registered worker.
pub struct Handle(NonNull<pg_sys::BackgroundWorkerHandle>);

impl Handle {
    /// Registers a worker that runs `function` of this library with `argument`. None if no worker slot is free.
    pub fn start(name: &str, function: &CStr, argument: pg_sys::Datum) -> Option<Handle> {
        let mut worker = pg_sys::BackgroundWorker {
            bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS
                | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
            bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
            bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
            bgw_main_arg: argument,
            bgw_notify_pid: super::latch::my_pid(),
            ..Default::default()
        };
        copy(&mut worker.bgw_name, name.as_bytes());
        copy(&mut worker.bgw_type, BACKEND_TYPE.as_bytes());
        copy(&mut worker.bgw_library_name, b"ntt_mime");
        copy(&mut worker.bgw_function_name, function.to_bytes());
        let mut handle = std::ptr::null_mut();
        // SAFETY: PostgreSQL copies the struct. The handle is allocated in the current context, TopMemoryContext,
        // which outlives it. It is freed in `drop`.
        unsafe {
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
            pg_sys::MemoryContextSwitchTo(context);
            if !registered {
                return None;
            }
        }
        let handle = NonNull::new(handle)?;
        REGISTERED.with_borrow_mut(|registered| registered.push(handle));
        Some(Handle(handle))
    }

    /// Whether its process has ended, so that its slot is free.
    pub fn has_stopped(&self) -> bool {
        use pg_sys::BgwHandleStatus::{BGWH_NOT_YET_STARTED, BGWH_STARTED};
        let mut pid = 0;
        // SAFETY: a handle is valid until freed.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0.as_ptr(), &mut pid) };
        !matches!(status, BGWH_NOT_YET_STARTED | BGWH_STARTED)
    }

    /// Makes the postmaster send it SIGTERM, or never start it.
    pub fn terminate(&self) {
        // SAFETY: a handle is valid until freed.
        unsafe { pg_sys::TerminateBackgroundWorker(self.0.as_ptr()) };
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        REGISTERED.with_borrow_mut(|registered| registered.retain(|handle| *handle != self.0));
        // SAFETY: allocated by RegisterDynamicBackgroundWorker, freed once.
        unsafe { pg_sys::pfree(self.0.as_ptr().cast()) };
    }
}

/// Makes the postmaster end all workers that this process has registered and not released. A pid would not do: that
/// process may have ended, and another one may have the same pid. The postmaster knows which are still ours.
///
/// Suitable for a process that is exiting: it waits for nothing but the LWLock of the worker list.
pub fn terminate_all() {
    REGISTERED.with(|registered| {
        // It is borrowed only while no PostgreSQL function is called, so it can't be borrowed when the process exits.
        if let Ok(registered) = registered.try_borrow() {
            for handle in registered.iter() {
                // SAFETY: as in `terminate`; freed only after it has been removed from the list.
                unsafe { pg_sys::TerminateBackgroundWorker(handle.as_ptr()) };
            }
        }
    });
}

fn copy(to: &mut [std::ffi::c_char], from: &[u8]) {
    // One byte stays zero, as the end of the string.
    let room = to.len() - 1;
    for (to, from) in to[..room].iter_mut().zip(from) {
        *to = *from as std::ffi::c_char;
    }
}

/// The rights and libraries of the leader's session, which its workers adopt together with its settings.
#[derive(serde::Serialize, serde::Deserialize, Clone, Debug)]
pub struct Session {
    database: u32,
    authenticated_user: u32,
    /// The role of SET ROLE, if one is in force.
    role: Option<String>,
    /// Files of all libraries that it has loaded, by whatever means: extensions that audit or mask have their hooks
    /// there.
    libraries: Vec<CString>,
}

/// The name of our library's file, in whatever directory it is.
const OURS: &[u8] = b"ntt_mime.so";

impl Session {
    /// The current session.
    pub fn current() -> Session {
        let role = identity::current_user();
        Session {
            // SAFETY: set once at connection start.
            database: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            authenticated_user: identity::authenticated_user().to_u32(),
            role: (role != identity::session_user()).then(|| identity::role_name(role)),
            libraries: loaded_libraries(),
        }
    }

    /// Loads the libraries, as a parallel worker does. A library that can no longer be loaded is an error. Must be
    /// called inside a transaction.
    fn load_libraries(&self) {
        let mut state: Vec<u8> = Vec::new();
        for library in &self.libraries {
            state.extend(library.to_bytes_with_nul());
        }
        state.push(0);
        // SAFETY: the format of SerializeLibraryState.
        unsafe { pg_sys::RestoreLibraryState(state.as_mut_ptr().cast()) };
    }
}

/// Without our own: a worker has loaded it already, perhaps from another file, because the file has been replaced.
fn loaded_libraries() -> Vec<CString> {
    // SAFETY: the buffer is as large as PostgreSQL estimated.
    let state = unsafe {
        let size = pg_sys::EstimateLibraryStateSpace();
        let mut state = vec![0u8; size];
        pg_sys::SerializeLibraryState(size, state.as_mut_ptr().cast());
        state
    };
    // Each file name ends with a zero byte, and the list with another one.
    let files = state
        .split(|byte| *byte == 0)
        .filter(|file| !file.is_empty());
    files
        .filter(|file| file.rsplit(|byte| *byte == b'/').next() != Some(OURS))
        .filter_map(|file| CString::new(file).ok())
        .collect()
}

/// All settings of this session, in PostgreSQL's own format for parallel workers.
pub fn serialize_settings() -> Vec<u8> {
    // SAFETY: the buffer is as large as PostgreSQL estimated.
    unsafe {
        let size = pg_sys::EstimateGUCStateSpace();
        let mut state = vec![0u8; size];
        pg_sys::SerializeGUCState(size, state.as_mut_ptr().cast());
        state
    }
}

/// The first step of a worker: installs the signal handlers of a regular backend, so that SIGTERM also interrupts a
/// running statement.
pub fn become_interruptible() {
    version::die_of_sigterm();
    version::mark_clean_exit_at_sigquit();
    // SAFETY: called once, at the start of a worker.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

/// Connects a worker to the leader's database with the leader's rights, libraries and settings.
pub fn restore_session_state(session: &Session, settings: &mut [u8]) -> Result<(), Report> {
    // SAFETY: called once, as the first step of a worker registered with a database connection.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(session.database),
            pg_sys::Oid::from(session.authenticated_user),
            0,
        );
    }
    // They include settings of the transaction itself, which can't be set after a snapshot.
    tx::transaction_without_snapshot(|| {
        // First, because libraries define settings.
        session.load_libraries();
        // SAFETY: the state was written by SerializeGUCState of the same server, and is restored inside a
        // transaction, as ParallelWorkerMain in access/transam/parallel.c does.
        unsafe { pg_sys::RestoreGUCState(settings.as_mut_ptr().cast()) };
        if let Some(role) = &session.role {
            // Checked again: the role may have been revoked from the caller meanwhile.
            let role = encoding::to_server(role);
            identity::set_option(c"role", &role, pg_sys::GucAction::GUC_ACTION_SET);
        }
    })
}

/// Shows what this background worker is doing in pg_stat_activity and in ps.
pub fn report_activity(run_id: i64, activity: &str) {
    let query = title(format!("ntt_mime run {run_id}: {activity}"));
    // SAFETY: PostgreSQL copies the string.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, query.as_ptr());
    }
    // The title begins with the worker's name, which contains the run.
    report_title(activity);
}

/// Shows what this process is doing in ps, after the beginning of its title.
pub fn report_title(activity: &str) {
    let activity = title(activity.to_owned());
    // SAFETY: PostgreSQL copies the string.
    unsafe { pg_sys::set_ps_display(activity.as_ptr()) };
}

/// For people to read. It isn't converted, because PostgreSQL can't do that outside a transaction.
fn title(text: String) -> std::ffi::CString {
    std::ffi::CString::new(encoding::readable(text)).unwrap_or_default()
}

/// Discards all cached catalog entries if they take more memory than that.
pub fn limit_catalog_caches(bytes: usize) {
    // SAFETY: a context that lives as long as the process; nothing in it is in use outside a transaction.
    unsafe {
        if pg_sys::MemoryContextMemAllocated(pg_sys::CacheMemoryContext, true) > bytes {
            pg_sys::InvalidateSystemCaches();
        }
    }
}

/// Memory that PostgreSQL has allocated for this process: without shared memory, and without libmagic's.
pub fn memory_bytes() -> usize {
    // SAFETY: a context that lives as long as the process.
    unsafe { pg_sys::MemoryContextMemAllocated(pg_sys::TopMemoryContext, true) }
}
