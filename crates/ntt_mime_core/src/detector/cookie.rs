//! libmagic's C interface: all that is unsafe about detection.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use magic_sys as ffi;

/// Limits of libmagic, set to its own defaults so that no environment or later release changes our
/// answers unawares. They bound the work that hostile content can cause:
const LIMITS: [(c_int, usize); 6] = [
    // nested `indirect` rules,
    (ffi::MAGIC_PARAM_INDIR_MAX, 50),
    // uses of named rules,
    (ffi::MAGIC_PARAM_NAME_MAX, 100),
    // ELF program headers, section headers and notes,
    (ffi::MAGIC_PARAM_ELF_PHNUM_MAX, 2048),
    (ffi::MAGIC_PARAM_ELF_SHNUM_MAX, 32768),
    (ffi::MAGIC_PARAM_ELF_NOTES_MAX, 256),
    // bytes that a regular expression looks at.
    (ffi::MAGIC_PARAM_REGEX_MAX, 8192),
];

/// Only the MIME type. MAGIC_ERROR makes a failure an error instead of an answer that tells of it.
/// Never MAGIC_COMPRESS: it would run programs on untrusted content.
const FLAGS: c_int = ffi::MAGIC_MIME_TYPE | ffi::MAGIC_ERROR;

/// An open libmagic with its database loaded.
pub struct Cookie {
    cookie: NonNull<ffi::magic_set>,
    /// The BYTES_MAX in force.
    limit: usize,
}

impl Cookie {
    /// Opens libmagic and loads the database that it would load for file(1).
    pub fn open() -> Result<Cookie, String> {
        // SAFETY: magic_open has no preconditions; NULL means that memory or flags are wrong.
        let cookie = NonNull::new(unsafe { ffi::magic_open(FLAGS) })
            .ok_or_else(|| "out of memory".to_owned())?;
        let mut cookie = Cookie { cookie, limit: 0 };
        for (parameter, value) in LIMITS {
            cookie.set_parameter(parameter, value)?;
        }
        // SAFETY: an open cookie; NULL asks for the default database.
        if unsafe { ffi::magic_load(cookie.cookie.as_ptr(), std::ptr::null()) } != 0 {
            let path = database_path().unwrap_or_default();
            return Err(format!("\"{path}\": {}", cookie.error()));
        }
        Ok(cookie)
    }

    /// The type of an open file, of which libmagic reads `limit` bytes and whatever else its readers
    /// of OLE and ELF seek. The descriptor's position is the file's start, before and after.
    pub fn descriptor(&mut self, file: BorrowedFd<'_>, limit: usize) -> Result<String, String> {
        if limit != self.limit {
            self.set_parameter(ffi::MAGIC_PARAM_BYTES_MAX, limit)?;
            self.limit = limit;
        }
        // libmagic restores the position, but does not promise to when it fails.
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))
            .map_err(|error| error.to_string())?;
        // SAFETY: an open cookie with a database, and a descriptor that stays open during the call;
        // libmagic doesn't close it. The answer lives until the next call with this cookie, so it is
        // copied here.
        unsafe {
            let answer = ffi::magic_descriptor(self.cookie.as_ptr(), file.as_raw_fd());
            match answer.is_null() {
                true => Err(self.error()),
                false => Ok(CStr::from_ptr(answer).to_string_lossy().into_owned()),
            }
        }
    }

    fn set_parameter(&mut self, parameter: c_int, value: usize) -> Result<(), String> {
        // SAFETY: libmagic reads a size_t through the pointer, for all parameters (apprentice.c).
        let failed = unsafe {
            let value = (&raw const value).cast::<c_void>();
            ffi::magic_setparam(self.cookie.as_ptr(), parameter, value)
        };
        match failed {
            0 => Ok(()),
            _ => Err(format!("libmagic refused parameter {parameter}")),
        }
    }

    fn error(&self) -> String {
        // SAFETY: an open cookie; the text is NULL or lives until the next call.
        unsafe {
            let text = ffi::magic_error(self.cookie.as_ptr());
            match text.is_null() {
                true => "unknown error".to_owned(),
                false => CStr::from_ptr(text).to_string_lossy().trim().to_owned(),
            }
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once.
        unsafe { ffi::magic_close(self.cookie.as_ptr()) };
    }
}

/// libmagic's release as a number, 544 for 5.44.
pub fn version() -> i32 {
    // SAFETY: no preconditions.
    unsafe { ffi::magic_version() }
}

/// Where libmagic finds its database: a path, or several with ':' between.
pub fn database_path() -> Option<String> {
    // SAFETY: NULL asks for the default; the result is static or kept by libmagic, NULL if none.
    unsafe {
        let path = ffi::magic_getpath(std::ptr::null(), ffi::FILE_LOAD);
        (!path.is_null()).then(|| CStr::from_ptr(path).to_string_lossy().into_owned())
    }
}
