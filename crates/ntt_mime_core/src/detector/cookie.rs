//! libmagic's C interface: everything about detection that is unsafe.
//!
//! A [`Cookie`] is an open libmagic with its database loaded, which takes milliseconds and megabytes, so it is kept.
//! It contains a raw pointer, and is neither Send nor Sync: libmagic's state belongs to one caller at a time.
//!
//! libmagic compares strings with isspace(3), tolower(3) and the like (`file_strncmp` in softmagic.c), which depend
//! on the caller's LC_CTYPE, and a server process has that of its database. In Turkish the lower case of `I` isn't
//! `i`, so `<TITLE>` would not be HTML. So each call is made in the C locale, and only for the calling thread
//! ([`InCLocale`]).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

use magic_sys as ffi;
use rustix::io::Errno;

use super::release::{self, Limit};

/// Only the MIME type. MAGIC_ERROR makes it an error when a file can't be read, instead of an answer that says so. In
/// releases 5.44 to 5.48 that only concerns file names (fsmagic.c), while a descriptor that can't be read is always
/// an error, so it is a precaution. Never MAGIC_COMPRESS: it would unpack untrusted content, if necessary with other
/// programs.
const FLAGS: c_int = ffi::MAGIC_MIME_TYPE | ffi::MAGIC_ERROR;

/// An open libmagic with its database loaded and its [limits](release::limits) set.
pub struct Cookie {
    cookie: NonNull<ffi::magic_set>,
    /// The current BYTES_MAX, if it has been set.
    limit: Option<usize>,
    /// The tests that it leaves out.
    without: Tests,
}

/// Tests that libmagic makes besides its rules (`file_buffer` in funcs.c), each with the flag that leaves it out. A
/// test that fails has no further effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tests(c_int);

impl Tests {
    pub const NONE: Tests = Tests(0);
    /// Whether it is text, as far as other tests and rules for binary content depend on that.
    pub const ENCODING: Tests = Tests(ffi::MAGIC_NO_CHECK_ENCODING);
    pub const TAR: Tests = Tests(ffi::MAGIC_NO_CHECK_TAR);
    pub const JSON: Tests = Tests(ffi::MAGIC_NO_CHECK_JSON);
    pub const CSV: Tests = Tests(ffi::MAGIC_NO_CHECK_CSV);
    pub const OLE: Tests = Tests(ffi::MAGIC_NO_CHECK_CDF);
    /// MAGIC_NO_CHECK_SIMH, from 5.45 on. magic-sys defines it only for users that require 5.45.
    pub const TAPES: Tests = Tests(0x0080_0000);
    /// Text by its encoding, including the rules for text.
    pub const TEXT: Tests = Tests(ffi::MAGIC_NO_CHECK_TEXT);

    pub const fn and(self, others: Tests) -> Tests {
        Tests(self.0 | others.0)
    }

    pub const fn but(self, others: Tests) -> Tests {
        Tests(self.0 & !others.0)
    }
}

/// While it lives, the thread that created it is in the C locale: uselocale(3).
struct InCLocale {
    before: libc::locale_t,
}

impl InCLocale {
    fn enter() -> InCLocale {
        /// Created once, and kept; as a number, since a pointer isn't Sync.
        static C: OnceLock<usize> = OnceLock::new();
        let c = *C.get_or_init(|| {
            // SAFETY: a C string; no base, so that all of it is the C locale. It is never freed.
            let made =
                unsafe { libc::newlocale(libc::LC_ALL_MASK, c"C".as_ptr(), std::ptr::null_mut()) };
            made as usize
        });
        // SAFETY: a locale that is never freed, or null if memory was short, which changes nothing.
        let before = unsafe { libc::uselocale(c as libc::locale_t) };
        InCLocale { before }
    }
}

impl Drop for InCLocale {
    fn drop(&mut self) {
        // SAFETY: the result of uselocale for this thread: `InCLocale` contains a pointer, so it isn't sent to
        // another thread.
        unsafe { libc::uselocale(self.before) };
    }
}

/// libmagic's error message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MagicError {
    text: String,
    errno: Option<Errno>,
}

impl MagicError {
    fn new(text: impl Into<String>) -> MagicError {
        MagicError {
            text: text.into(),
            errno: None,
        }
    }

    /// The system's error if the file couldn't be read, as from a disk or a network. libmagic also passes on errors
    /// that hostile content causes, such as EINVAL from a seek to an invalid position.
    pub fn reading(&self) -> Option<Errno> {
        self.errno.filter(|errno| {
            matches!(
                *errno,
                Errno::IO
                    | Errno::STALE
                    | Errno::TIMEDOUT
                    | Errno::NODATA
                    | Errno::BADMSG
                    | Errno::UCLEAN
                    | Errno::REMOTEIO
                    | Errno::NXIO
                    | Errno::NODEV
                    | Errno::NOLINK
                    | Errno::HOSTDOWN
                    | Errno::ACCESS
                    | Errno::PERM
            )
        })
    }
}

impl fmt::Display for MagicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cookie {
    /// Opens libmagic and loads the database that it would load for file(1).
    pub fn open() -> Result<Cookie, MagicError> {
        let cookie = Cookie::empty()?;
        let _locale = InCLocale::enter();
        // SAFETY: an open cookie; NULL asks for the default database.
        if unsafe { ffi::magic_load(cookie.cookie.as_ptr(), std::ptr::null()) } != 0 {
            let MagicError { text, errno } = cookie.error();
            let path = database_path().unwrap_or_default();
            return Err(MagicError {
                text: format!("\"{path}\": {text}"),
                errno,
            });
        }
        Ok(cookie)
    }

    /// Opens libmagic with compiled databases in memory, in their order.
    ///
    /// # Safety
    ///
    /// The buffers must stay where they are as long as the cookie lives, and must satisfy what `check_buffer`
    /// (src/apprentice.c) assumes: whole entries of the version that libmagic reads, as many as their headers say.
    /// They may be written to while no call with this cookie is in progress.
    pub unsafe fn with_buffers(
        buffers: &mut [NonNull<c_void>],
        sizes: &mut [usize],
    ) -> Result<Cookie, MagicError> {
        assert_eq!(buffers.len(), sizes.len());
        let cookie = Cookie::empty()?;
        let _locale = InCLocale::enter();
        // SAFETY: an open cookie; two arrays with as many pointers and sizes, which are read during the call. A
        // NonNull has the layout of a pointer.
        let loaded = unsafe {
            ffi::magic_load_buffers(
                cookie.cookie.as_ptr(),
                buffers.as_mut_ptr().cast(),
                sizes.as_mut_ptr(),
                buffers.len(),
            )
        };
        if loaded != 0 {
            return Err(cookie.error());
        }
        Ok(cookie)
    }

    /// An open libmagic without a database.
    fn empty() -> Result<Cookie, MagicError> {
        // SAFETY: magic_open has no preconditions; NULL means that memory is short.
        let cookie = NonNull::new(unsafe { ffi::magic_open(FLAGS) })
            .ok_or_else(|| MagicError::new("out of memory"))?;
        let cookie = Cookie {
            cookie,
            limit: None,
            without: Tests::NONE,
        };
        for Limit { parameter, value } in release::limits(version()) {
            // A limit that this release doesn't know doesn't exist in it.
            let _ = cookie.set(parameter, value);
        }
        Ok(cookie)
    }

    /// Makes it leave out these tests from now on.
    pub fn leave_out(&mut self, tests: Tests) {
        if self.without != tests {
            // SAFETY: an open cookie. It fails only for MAGIC_PRESERVE_ATIME, which isn't among these flags.
            let set = unsafe { ffi::magic_setflags(self.cookie.as_ptr(), FLAGS | tests.0) };
            debug_assert_eq!(set, 0);
            self.without = tests;
        }
    }

    /// The type of an open file, of which libmagic reads `limit` bytes, and whatever its code for OLE and ELF reads
    /// elsewhere. The file is judged from its start, whatever its position is.
    pub fn descriptor(&mut self, file: BorrowedFd<'_>, limit: usize) -> Result<String, MagicError> {
        if self.limit != Some(limit) {
            self.set(ffi::MAGIC_PARAM_BYTES_MAX, limit)?;
            self.limit = Some(limit);
        }
        // libmagic reads from the current position, and restores it afterwards if it can.
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).map_err(|errno| MagicError {
            text: crate::store::in_words(errno),
            errno: Some(errno),
        })?;
        let _locale = InCLocale::enter();
        // SAFETY: an open cookie with a database, and a descriptor that stays open during the call and that libmagic
        // doesn't close.
        let answer = unsafe { ffi::magic_descriptor(self.cookie.as_ptr(), file.as_raw_fd()) };
        // SAFETY: NULL, or a C string that lives until the next call with this cookie.
        unsafe { copied(answer) }.ok_or_else(|| self.error())
    }

    /// Sets one of libmagic's limits.
    fn set(&self, parameter: c_int, value: usize) -> Result<(), MagicError> {
        let pointer = (&raw const value).cast::<c_void>();
        // SAFETY: an open cookie; libmagic reads a size_t through the pointer, during the call.
        match unsafe { ffi::magic_setparam(self.cookie.as_ptr(), parameter, pointer) } {
            0 => Ok(()),
            _ => Err(MagicError::new(format!(
                "libmagic refused to set limit {parameter} to {value}"
            ))),
        }
    }

    /// The current value of one of libmagic's limits; None if libmagic doesn't know the limit.
    fn parameter(&self, parameter: c_int) -> Option<usize> {
        let mut value = 0_usize;
        let pointer = (&raw mut value).cast::<c_void>();
        // SAFETY: an open cookie; libmagic writes a size_t through the pointer, during the call.
        let got = unsafe { ffi::magic_getparam(self.cookie.as_ptr(), parameter, pointer) };
        (got == 0).then_some(value)
    }

    fn error(&self) -> MagicError {
        // SAFETY: an open cookie; NULL, or a C string that lives until the next call with it.
        let text = unsafe { copied(ffi::magic_error(self.cookie.as_ptr())) };
        // SAFETY: an open cookie.
        let errno = unsafe { ffi::magic_errno(self.cookie.as_ptr()) };
        MagicError {
            text: text.map_or("no reason given".to_owned(), |text| text.trim().to_owned()),
            errno: (1..4096)
                .contains(&errno)
                .then(|| Errno::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once, and no text of it is kept.
        unsafe { ffi::magic_close(self.cookie.as_ptr()) };
    }
}

/// libmagic's release as a number, 544 for 5.44.
pub fn version() -> i32 {
    // SAFETY: no preconditions.
    unsafe { ffi::magic_version() }
}

/// The number of bytes that file(1) reads of a file: libmagic's default of BYTES_MAX, which a packager may have
/// changed.
pub fn bytes_max() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // SAFETY: no preconditions.
        let cookie = NonNull::new(unsafe { ffi::magic_open(FLAGS) }).map(|cookie| Cookie {
            cookie,
            limit: None,
            without: Tests::NONE,
        });
        let asked = cookie.and_then(|cookie| cookie.parameter(ffi::MAGIC_PARAM_BYTES_MAX));
        asked.unwrap_or(release::bytes_max(version()))
    })
}

/// Where libmagic looks for its database: a path, or several separated by ':'.
pub fn database_path() -> Option<String> {
    // SAFETY: NULL asks for the default. The result is NULL or a C string that libmagic or the environment keeps
    // until the next call, and it is copied at once.
    unsafe { copied(ffi::magic_getpath(std::ptr::null(), ffi::FILE_LOAD)) }
}

/// # Safety
///
/// `text` is NULL or a C string that doesn't change during the call.
unsafe fn copied(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_and_are_those_of_file() {
        // SAFETY: no preconditions.
        let untouched = NonNull::new(unsafe { ffi::magic_open(FLAGS) }).unwrap();
        let untouched = Cookie {
            cookie: untouched,
            limit: None,
            without: Tests::NONE,
        };
        let ours = Cookie::open().unwrap();
        let limits: Vec<Limit> = release::limits(version()).collect();
        assert!(limits.len() >= 7, "a release that nobody has looked at");
        for Limit { parameter, value } in limits {
            assert_eq!(ours.parameter(parameter), Some(value));
            assert_eq!(untouched.parameter(parameter), Some(value));
        }
    }

    #[test]
    fn as_much_is_looked_at_as_by_file() {
        assert_eq!(bytes_max(), release::bytes_max(version()));
    }

    #[test]
    fn what_libmagic_does_not_know_is_refused() {
        assert!(Cookie::open().unwrap().set(99, 1).is_err());
    }
}
