//! The note of this process (see [`ntt_mime_core::note`]): where it lies, and that it goes when the
//! process goes in an orderly way.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ntt_mime_core::note::{self, Keeper, Note};
use pgrx::pg_sys;

/// Where all notes of this server lie.
pub fn folder() -> PathBuf {
    // SAFETY: set once, before any backend starts; a C string that stays.
    let data = unsafe { std::ffi::CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(data.to_string_lossy().into_owned()).join(note::FOLDER)
}

/// The oid of this database, as notes tell theirs.
pub fn database() -> u32 {
    // SAFETY: set once at connection start.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The note of this process; it is begun at the first call.
pub fn of_this_process(keeper: Keeper) -> io::Result<Arc<Note>> {
    static NOTE: OnceLock<Arc<Note>> = OnceLock::new();
    if let Some(note) = NOTE.get() {
        return Ok(Arc::clone(note));
    }
    let note = Arc::new(Note::begin(&folder(), database(), keeper)?);
    // SAFETY: a callback for the end of this process, which owns what it is given: a count of the Arc.
    unsafe {
        let argument = pg_sys::Datum::from(Arc::into_raw(Arc::clone(&note)) as usize);
        pg_sys::on_proc_exit(Some(end), argument);
    }
    Ok(Arc::clone(NOTE.get_or_init(|| note)))
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end(_code: std::ffi::c_int, argument: pg_sys::Datum) {
    // SAFETY: what `of_this_process` registered; called once.
    let note = unsafe { Arc::from_raw(argument.cast_mut_ptr::<Note>().cast_const()) };
    note.end();
}
