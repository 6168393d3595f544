//! The in-flight record of this process (see [`ntt_mime_core::in_flight`]): where it is stored, and its removal when
//! the process exits cleanly.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ntt_mime_core::in_flight::{self, BackendKind, InFlightRecord};
use pgrx::pg_sys;

/// The directory of all in-flight records of this server.
pub fn folder() -> PathBuf {
    // SAFETY: a C string that is set once, before any backend starts, and stays.
    let data = unsafe { std::ffi::CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(data.to_string_lossy().into_owned()).join(in_flight::FOLDER)
}

/// The OID of this database, by which in-flight records identify theirs.
pub fn database() -> u32 {
    // SAFETY: set once at connection start.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The in-flight record of this process. It is created by the first call.
pub fn of_this_process(kind: BackendKind) -> io::Result<Arc<InFlightRecord>> {
    static RECORD: OnceLock<Arc<InFlightRecord>> = OnceLock::new();
    if let Some(in_flight) = RECORD.get() {
        return Ok(Arc::clone(in_flight));
    }
    let in_flight = Arc::new(InFlightRecord::begin(&folder(), database(), kind)?);
    // SAFETY: a callback for the exit of this process, which owns its argument, one reference to the Arc.
    unsafe {
        let argument = pg_sys::Datum::from(Arc::into_raw(Arc::clone(&in_flight)) as usize);
        pg_sys::on_proc_exit(Some(end), argument);
    }
    Ok(Arc::clone(RECORD.get_or_init(|| in_flight)))
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end(_code: std::ffi::c_int, argument: pg_sys::Datum) {
    // SAFETY: the argument that `of_this_process` registered; called once.
    let in_flight =
        unsafe { Arc::from_raw(argument.cast_mut_ptr::<InFlightRecord>().cast_const()) };
    in_flight.end();
}
