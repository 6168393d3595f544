//! libmagic on a head in a buffer: how scripts use it, to be compared with.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use magic_sys as ffi;

/// An open libmagic that is only ever given buffers.
pub struct Buffers {
    cookie: ffi::magic_t,
    buffer: Vec<u8>,
}

impl Buffers {
    pub fn open(head: usize) -> Result<Buffers, String> {
        // SAFETY: no preconditions.
        let cookie = unsafe { ffi::magic_open(ffi::MAGIC_MIME_TYPE) };
        if cookie.is_null() {
            return Err("libmagic: out of memory".to_owned());
        }
        let buffers = Buffers {
            cookie,
            buffer: vec![0; head],
        };
        // SAFETY: an open cookie; NULL asks for the default database.
        match unsafe { ffi::magic_load(cookie, std::ptr::null()) } {
            0 => Ok(buffers),
            _ => Err("libmagic: no database".to_owned()),
        }
    }

    /// The type of a file's head, and how long that is.
    pub fn judge(&mut self, path: &Path) -> std::io::Result<(String, u64)> {
        let mut file = File::open(path)?;
        let mut length = 0;
        while length < self.buffer.len() {
            match file.read(&mut self.buffer[length..])? {
                0 => break,
                n => length += n,
            }
        }
        // SAFETY: an open cookie with a database, and `length` bytes that were read.
        let answer = unsafe { ffi::magic_buffer(self.cookie, self.buffer.as_ptr().cast(), length) };
        if answer.is_null() {
            return Err(std::io::Error::other("libmagic gave no answer"));
        }
        // SAFETY: a C string that lives until the next call with this cookie, and is copied.
        let answer = unsafe { CStr::from_ptr(answer) };
        Ok((answer.to_string_lossy().into_owned(), length as u64))
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once.
        unsafe { ffi::magic_close(self.cookie) };
    }
}
