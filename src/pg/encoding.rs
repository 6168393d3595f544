//! Text between the encoding of the database and UTF-8, which Rust's strings have.
//!
//! Nearly every database is in UTF-8, and then there is nothing to do. In one that isn't, names of tables
//! and roles are converted where SQL is made of them. What is only for people to read (a failure's detail,
//! an error) has characters outside ASCII escaped there: not all that a file system can hold can be said in
//! every encoding.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

fn database_encoding() -> pg_sys::pg_enc::Type {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetDatabaseEncoding() as pg_sys::pg_enc::Type }
}

/// Are bytes of this database UTF-8, or of no encoding that is known?
fn is_utf8() -> bool {
    matches!(
        database_encoding(),
        pg_sys::pg_enc::PG_UTF8 | pg_sys::pg_enc::PG_SQL_ASCII
    )
}

/// Bytes of this database as text.
pub fn from_server(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.is_ascii() || is_utf8() {
        return String::from_utf8_lossy(bytes);
    }
    // SAFETY: the bytes are read during the call; the answer is a new C string, since it isn't UTF-8 already.
    unsafe {
        let converted = pg_sys::pg_server_to_any(
            bytes.as_ptr().cast(),
            bytes.len() as i32,
            pg_sys::pg_enc::PG_UTF8 as i32,
        );
        let text = CStr::from_ptr(converted).to_string_lossy().into_owned();
        pg_sys::pfree(converted.cast());
        Cow::Owned(text)
    }
}

/// Calls `look` with a value of type text or varchar, in whatever way it is stored.
///
/// # Safety
/// Such a value, not null.
pub unsafe fn with_text<T>(value: pg_sys::Datum, look: impl FnOnce(&str) -> T) -> T {
    // SAFETY: as promised; what isn't the stored value itself is a copy made for us.
    unsafe {
        let stored: *mut pg_sys::varlena = value.cast_mut_ptr();
        let plain = pg_sys::pg_detoast_datum_packed(stored);
        let looked = look(&from_server(pgrx::varlena::varlena_to_byte_slice(plain)));
        if plain != stored {
            pg_sys::pfree(plain.cast());
        }
        looked
    }
}

/// A C string of the server's as text; None for NULL.
///
/// # Safety
/// NULL, or a C string in the encoding of the database.
pub unsafe fn from_server_c(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: as promised.
    (!text.is_null()).then(|| from_server(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned())
}

/// Text as this database has it; an error if it can't be said in its encoding.
pub fn to_server(text: &str) -> CString {
    if text.is_ascii() || is_utf8() {
        return CString::new(text).unwrap_or_default();
    }
    // SAFETY: as above, the other way.
    unsafe {
        let converted = pg_sys::pg_any_to_server(
            text.as_ptr().cast(),
            text.len() as i32,
            pg_sys::pg_enc::PG_UTF8 as i32,
        );
        let copy = CStr::from_ptr(converted).to_owned();
        pg_sys::pfree(converted.cast());
        copy
    }
}

/// Text for people, fit for a column or a message of any database.
pub fn readable(text: String) -> String {
    match text.is_ascii() || is_utf8() {
        true => text,
        false => escaped(&text),
    }
}

/// Text for a message, fit for the client as well.
pub fn sayable(text: &str) -> String {
    // SAFETY: reads a backend-local variable.
    let client = unsafe { pg_sys::pg_get_client_encoding() as pg_sys::pg_enc::Type };
    let same = client == database_encoding() || client == pg_sys::pg_enc::PG_SQL_ASCII;
    match text.is_ascii() || is_utf8() && same {
        true => text.to_owned(),
        false => escaped(text),
    }
}

fn escaped(text: &str) -> String {
    let escaped = text.chars().map(|c| match c.is_ascii() {
        true => c.to_string(),
        false => c.escape_default().to_string(),
    });
    escaped.collect()
}

/// JSON for any database. Its texts become as [`readable`] makes them: JSON's own escapes would be turned into
/// characters that the database may not have.
pub fn readable_json(json: String) -> String {
    if json.is_ascii() || is_utf8() {
        return json;
    }
    ascii_json(&json)
}

fn ascii_json(json: &str) -> String {
    let escaped = json.chars().map(|c| match c.is_ascii() {
        true => c.to_string(),
        false => format!("\\{}", c.escape_default()),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn json_stays_json() {
        let json = serde_json::to_string("söme \u{1f600} path").unwrap();
        let ascii = super::ascii_json(&json);
        assert!(ascii.is_ascii());
        let text: String = serde_json::from_str(&ascii).unwrap();
        assert_eq!(text, r"s\u{f6}me \u{1f600} path");
    }
}
