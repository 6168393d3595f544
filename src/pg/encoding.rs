//! Converts text between the encoding of the database and UTF-8, the encoding of Rust's strings.
//!
//! Nearly every database is in UTF-8, and then there is nothing to do. In others, text is converted so that
//! converting it back gives the same bytes: names of tables and roles find these, and what is recorded of a row
//! matches the row. That also holds for bytes that aren't valid text, as in SQL_ASCII, where every byte is permitted:
//! each becomes a character that nobody uses (`RAW`).
//!
//! Not everything that a file system or an error message can contain exists in every encoding. What the database's
//! encoding lacks is escaped there: `\u{1f600}`. Where text must not fail because of one character, since it also
//! goes to a client with an unknown encoding (an error, a message), everything outside ASCII is escaped.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// The base to which a byte that isn't valid text is added. Unicode reserves these characters, the last ones for
/// private use, for any purpose.
const RAW: u32 = 0x10_FF00;

/// The number of bytes that are converted at once: that number, times the growth, is an int of PostgreSQL's.
const PIECE: usize = 1 << 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// SQL_ASCII: bytes outside ASCII have no meaning to PostgreSQL. They are taken for UTF-8 where they are valid.
    Unknown,
    /// An encoding that PostgreSQL can usually convert to and from UTF-8.
    Other(pg_sys::pg_enc::Type),
}

fn database_encoding() -> Encoding {
    // SAFETY: reads a backend-local variable.
    match unsafe { pg_sys::GetDatabaseEncoding() as pg_sys::pg_enc::Type } {
        pg_sys::pg_enc::PG_UTF8 => Encoding::Utf8,
        pg_sys::pg_enc::PG_SQL_ASCII => Encoding::Unknown,
        other => Encoding::Other(other),
    }
}

/// Decodes bytes of this database.
pub fn from_server(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.is_ascii() {
        return String::from_utf8_lossy(bytes);
    }
    match database_encoding() {
        Encoding::Utf8 => String::from_utf8_lossy(bytes),
        Encoding::Unknown => decode(bytes, |bytes| (bytes.len(), Cow::Borrowed(bytes))).into(),
        Encoding::Other(encoding) => {
            let utf8 = pg_sys::pg_enc::PG_UTF8;
            let there = |bytes| convert(bytes, encoding, utf8);
            let back = |text: &[u8]| convert(text, utf8, encoding).1.into_owned();
            decode(bytes, |bytes| reversibly(bytes, there, back)).into()
        }
    }
}

/// Encodes text for this database. The inverse of [`from_server`]; what its encoding lacks is escaped.
pub fn to_server(text: &str) -> CString {
    CString::new(server_bytes(text, raw_byte)).unwrap_or_default()
}

fn server_bytes(text: &str, escape: impl Fn(char) -> Vec<u8>) -> Vec<u8> {
    match database_encoding() {
        _ if text.is_ascii() => text.as_bytes().to_vec(),
        Encoding::Utf8 => text.as_bytes().to_vec(),
        Encoding::Unknown => encode(text, |text| (text.len(), text.as_bytes().to_vec()), escape),
        Encoding::Other(encoding) => {
            let utf8 = pg_sys::pg_enc::PG_UTF8;
            let convert = |text: &str| {
                let (done, bytes) = convert(text.as_bytes(), utf8, encoding);
                (done, bytes.into_owned())
            };
            encode(text, convert, escape)
        }
    }
}

/// Converts the longest prefix of `bytes` that can be converted and yields the same bytes when converted back. Some
/// encodings have several codes for the same character.
fn reversibly<'b>(
    bytes: &'b [u8],
    there: impl Fn(&'b [u8]) -> (usize, Cow<'b, [u8]>),
    back: impl Fn(&[u8]) -> Vec<u8>,
) -> (usize, Cow<'b, [u8]>) {
    let mut piece = bytes;
    loop {
        let (done, text) = there(piece);
        let again = back(&text);
        if again == piece[..done] {
            return (done, text);
        }
        let same = again.iter().zip(piece).take_while(|(a, b)| a == b).count();
        piece = &piece[..same.min(done.saturating_sub(1))];
    }
}

/// Decodes bytes of which `convert` converts as long a prefix as it can, to UTF-8 or from it. Other bytes become
/// [`RAW`].
fn decode<'b>(mut bytes: &'b [u8], convert: impl Fn(&'b [u8]) -> (usize, Cow<'b, [u8]>)) -> String {
    let mut text = String::with_capacity(bytes.len());
    let push_raw = |text: &mut String, bytes: &[u8]| {
        let raw = |byte: &u8| char::from_u32(RAW + u32::from(*byte));
        text.extend(bytes.iter().filter_map(raw));
    };
    while !bytes.is_empty() {
        let (mut done, converted) = convert(&bytes[..bytes.len().min(PIECE)]);
        for chunk in converted.utf8_chunks() {
            for c in chunk.valid().chars() {
                match byte_of(c) {
                    None => text.push(c),
                    // The text itself has this character: then it must not be taken for a byte.
                    Some(_) => push_raw(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            push_raw(&mut text, chunk.invalid());
        }
        if done == 0 {
            done = 1;
            match bytes[0].is_ascii() {
                true => text.push(char::from(bytes[0])),
                false => push_raw(&mut text, &bytes[..done]),
            }
        }
        bytes = &bytes[done..];
    }
    text
}

/// The inverse. `escape` replaces characters that `convert` doesn't know.
fn encode(
    text: &str,
    convert: impl Fn(&str) -> (usize, Vec<u8>),
    escape: impl Fn(char) -> Vec<u8>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        // Up to the next character that stands for a byte, or to a maximal length.
        let end = rest
            .char_indices()
            .find(|(at, c)| *at >= PIECE || byte_of(*c).is_some())
            .map_or(rest.len(), |(at, _)| at);
        let (mut done, converted) = match end {
            0 => (0, Vec::new()),
            end => convert(&rest[..end]),
        };
        bytes.extend(converted);
        if done == 0 {
            done = first.len_utf8();
            match u8::try_from(first) {
                Ok(byte) if byte.is_ascii() => bytes.push(byte),
                _ => bytes.extend(escape(first)),
            }
        }
        rest = &rest[done..];
    }
    bytes
}

/// The byte for which a character stands.
fn byte_of(c: char) -> Option<u8> {
    let byte = u8::try_from(u32::from(c).checked_sub(RAW)?).ok()?;
    (!byte.is_ascii()).then_some(byte)
}

/// A character that can't be encoded for the database: the byte for which it stands, or an escape.
fn raw_byte(c: char) -> Vec<u8> {
    byte_of(c).map_or_else(|| escape(c).into_bytes(), |byte| vec![byte])
}

/// The escape that people read.
fn escape(c: char) -> String {
    match byte_of(c) {
        Some(byte) => format!("\\x{byte:02x}"),
        None => c.escape_default().to_string(),
    }
}

/// Converts the longest prefix of `bytes` that can be converted: returns its length and the result.
fn convert(
    bytes: &[u8],
    from: pg_sys::pg_enc::Type,
    to: pg_sys::pg_enc::Type,
) -> (usize, Cow<'_, [u8]>) {
    // SAFETY: the bytes are only read. The buffer is as large as PostgreSQL requires, and ends with a zero.
    // Conversions are looked up in catalogs, inside a transaction only.
    unsafe {
        if !pg_sys::IsTransactionState() {
            return (0, Cow::Borrowed(&[]));
        }
        let procedure = pg_sys::FindDefaultConversionProc(from as i32, to as i32);
        if procedure == pg_sys::InvalidOid {
            return (0, Cow::Borrowed(&[]));
        }
        let mut room = vec![0; bytes.len() * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
        let done = pg_sys::pg_do_encoding_conversion_buf(
            procedure,
            from as i32,
            to as i32,
            bytes.as_ptr().cast_mut(),
            bytes.len() as i32,
            room.as_mut_ptr(),
            room.len() as i32,
            true,
        );
        let end = room.iter().position(|byte| *byte == 0);
        room.truncate(end.unwrap_or_default());
        (usize::try_from(done).unwrap_or_default(), Cow::Owned(room))
    }
}

/// Calls `look` with a value of type text or varchar, in whatever form it is stored.
///
/// # Safety
/// A value of that type, not null.
pub unsafe fn with_text<T>(value: pg_sys::Datum, look: impl FnOnce(&str) -> T) -> T {
    // SAFETY: the caller's promise; if the result isn't the stored value itself, it is a copy made for us.
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

/// The elements of a value of type text[], each None if it is null.
///
/// # Safety
/// A value of that type, not null.
pub unsafe fn texts_of(value: pg_sys::Datum) -> Vec<Option<String>> {
    // SAFETY: the caller's promise. Length and alignment are those of the type text in pg_type. Both arrays have the
    // given number of elements.
    unsafe {
        let array = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast();
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            pg_sys::TEXTOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
            &mut values,
            &mut nulls,
            &mut count,
        );
        let element = |at: usize| {
            let is_null: bool = *nulls.add(at);
            (!is_null).then(|| with_text(*values.add(at), str::to_owned))
        };
        (0..count as usize).map(element).collect()
    }
}

/// Decodes a C string of the server; None for NULL.
///
/// # Safety
/// NULL, or a C string in the database's encoding.
pub unsafe fn from_server_c(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| from_server(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned())
}

/// Text as a value of type text. What the database's encoding lacks is escaped.
pub fn text_value(text: &str) -> DatumWithOid<'static> {
    // SAFETY: a value of the type that is given.
    unsafe { DatumWithOid::new(datum(&server_bytes(text, raw_byte)), pg_sys::TEXTOID) }
}

/// Text that people read, as a value of type text: bytes that aren't valid text are escaped, too, because clients
/// might not be able to read them.
pub fn readable_value(text: &str) -> DatumWithOid<'static> {
    let escape = |c| escape(c).into_bytes();
    // SAFETY: as above.
    unsafe { DatumWithOid::new(datum(&server_bytes(text, escape)), pg_sys::TEXTOID) }
}

/// The same for JSON, which stays valid JSON: its own escapes would be turned into characters that the database may
/// lack.
pub fn json_value(json: &str) -> DatumWithOid<'static> {
    // SAFETY: as above.
    unsafe { DatumWithOid::new(datum(&server_bytes(json, json_escape)), pg_sys::TEXTOID) }
}

/// Texts as a value of type text[]; `value` converts each, and is [`text_value`] or [`readable_value`].
pub fn array_value<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    value: fn(&str) -> DatumWithOid<'static>,
) -> DatumWithOid<'static> {
    let elements = texts.into_iter().map(|text| value(text).datum());
    let mut elements: Vec<pg_sys::Datum> = elements
        .map(|datum| datum.expect("a text is never null").sans_lifetime())
        .collect();
    // SAFETY: length and alignment are those of the type text in pg_type; the elements are copied.
    unsafe {
        let array = pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            pg_sys::TEXTOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
        );
        DatumWithOid::new(pg_sys::Datum::from(array), pg_sys::TEXTARRAYOID)
    }
}

/// Texts as a value of type text[] that isn't an argument of an SPI call.
pub fn texts<'t>(texts: impl IntoIterator<Item = &'t str>) -> pg_sys::Datum {
    let array = array_value(texts, text_value).datum();
    array.expect("an array is never null").sans_lifetime()
}

/// Allocated in the current memory context.
fn datum(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: the bytes are copied.
    let text = unsafe {
        pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as std::ffi::c_int)
    };
    pg_sys::Datum::from(text)
}

/// Text for a message, where the database is unknown or no conversion is possible.
pub fn readable(text: String) -> String {
    match database_encoding() {
        _ if text.is_ascii() => text,
        Encoding::Utf8 => text,
        Encoding::Unknown => escaped(&text, |c| byte_of(c).is_some()),
        Encoding::Other(_) => escaped(&text, |c| !c.is_ascii()),
    }
}

/// Text for a message, in a form that any client can show.
pub fn sayable(text: &str) -> String {
    // SAFETY: reads a backend-local variable.
    let client = unsafe { pg_sys::pg_get_client_encoding() as pg_sys::pg_enc::Type };
    let unknown = client == pg_sys::pg_enc::PG_SQL_ASCII;
    match database_encoding() {
        _ if text.is_ascii() => text.to_owned(),
        Encoding::Utf8 if unknown || client == pg_sys::pg_enc::PG_UTF8 => text.to_owned(),
        Encoding::Unknown if unknown => readable(text.to_owned()),
        _ => escaped(text, |c| !c.is_ascii()),
    }
}

fn escaped(text: &str, which: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match which(c) {
            true => escaped.push_str(&escape(c)),
            false => escaped.push(c),
        }
    }
    escaped
}

/// An [`escape`] inside a JSON string.
fn json_escape(c: char) -> Vec<u8> {
    escape(c).replace('\\', "\\\\").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From ISO 8859-1, as PostgreSQL's conversions do it.
    fn from_latin1(bytes: &[u8]) -> (usize, Cow<'_, [u8]>) {
        let text: String = bytes.iter().copied().map(char::from).collect();
        (bytes.len(), Cow::Owned(text.into_bytes()))
    }

    fn to_latin1(text: &str) -> (usize, Vec<u8>) {
        let known = text.chars().take_while(|c| u32::from(*c) < 0x100);
        let bytes: Vec<u8> = known.clone().map(|c| c as u8).collect();
        (known.map(char::len_utf8).sum(), bytes)
    }

    fn unknown(bytes: &[u8]) -> (usize, Cow<'_, [u8]>) {
        (bytes.len(), Cow::Borrowed(bytes))
    }

    fn of_unknown(text: &str) -> (usize, Vec<u8>) {
        (text.len(), text.as_bytes().to_vec())
    }

    #[test]
    fn any_bytes_are_text_and_the_same_bytes_again() {
        let all: Vec<u8> = (1..=255).collect();
        let mixed = [&all[..], "söme \u{1f600}\u{10ffe4}".as_bytes(), b"\xf6\xe4"].concat();
        let long = mixed.repeat(1000);
        for bytes in [&mixed, &long] {
            let text = decode(bytes, unknown);
            assert_eq!(&encode(&text, of_unknown, raw_byte), bytes);
            let text = decode(bytes, from_latin1);
            assert_eq!(&encode(&text, to_latin1, raw_byte), bytes);
            // An encoding that can't be converted.
            let text = decode(bytes, |_| (0, Cow::Borrowed(&[])));
            assert_eq!(&encode(&text, |_| (0, Vec::new()), raw_byte), bytes);
        }
        assert_eq!(decode("söme".as_bytes(), unknown), "söme");
    }

    #[test]
    fn a_character_that_has_two_codes_is_the_one_that_it_was() {
        // In this encoding, 0xff is another code for "ä".
        let there = |bytes: &[u8]| {
            let bytes: Vec<u8> = bytes
                .iter()
                .map(|b| if *b == 0xff { 0xe4 } else { *b })
                .collect();
            (bytes.len(), Cow::Owned(from_latin1(&bytes).1.into_owned()))
        };
        let back = |text: &[u8]| to_latin1(std::str::from_utf8(text).unwrap()).1;
        let bytes = b"a\xe4 b\xffc\xff";
        assert_eq!(reversibly(bytes, there, back).0, 4);
        assert_eq!(reversibly(b"\xff", there, back).0, 0);
        let text = decode(bytes, |bytes| reversibly(bytes, there, back));
        assert!(text.starts_with("aä b") && text.ends_with("c\u{10ffff}"));
        assert_eq!(encode(&text, to_latin1, raw_byte), bytes);
    }

    #[test]
    fn what_an_encoding_cannot_hold_is_escaped() {
        let bytes = encode("schön \u{1f600} \u{10ffe4}", to_latin1, raw_byte);
        assert_eq!(bytes, b"sch\xf6n \\u{1f600} \xe4");
        let bytes = encode("\u{10ffe4}", to_latin1, |c| escape(c).into_bytes());
        assert_eq!(bytes, b"\\xe4");
        assert_eq!(escaped("ö\u{10ffe4}", |c| !c.is_ascii()), r"\u{f6}\xe4");
    }

    #[test]
    fn json_stays_json() {
        let json = serde_json::to_string("söme \u{1f600} path").unwrap();
        let latin1 = encode(&json, to_latin1, json_escape);
        let text: String = latin1.into_iter().map(char::from).collect();
        let text: String = serde_json::from_str(&text).unwrap();
        assert_eq!(text, r"söme \u{1f600} path");
    }
}
