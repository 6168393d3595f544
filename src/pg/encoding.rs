//! Text between the encoding of the database and UTF-8, which Rust's strings have.
//!
//! Nearly every database is in UTF-8, and then there is nothing to do. From one that isn't, text is converted, and back
//! again it is what it was, byte by byte: names of tables and roles find these, and what is recorded of a row matches the
//! row. That holds for bytes that are no text as well, as SQL_ASCII has them, where everything is permitted: each is kept
//! as a character that nobody uses. (`RAW`)
//!
//! Not all that a file system or an error can hold can be said in every encoding: what a database's can't hold is escaped
//! there, `\u{1f600}`. Where text must not fail for one character, since it goes to a client of whatever encoding as
//! well (an error, a message), all are escaped that aren't ASCII.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// What a byte that is no text is added to. Unicode leaves these characters, the last of its private ones, to
/// whoever has a use for them.
const RAW: u32 = 0x10_FF00;

/// Bytes that are converted at once: their number, times the growth, is an int of PostgreSQL's.
const PIECE: usize = 1 << 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// SQL_ASCII: bytes outside ASCII mean nothing to PostgreSQL. We take them for UTF-8 where they are.
    Unknown,
    /// One that PostgreSQL can convert from UTF-8 and to it, as a rule.
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

/// Bytes of this database as text.
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

/// Text as this database has it. The inverse of [`from_server`]; what its encoding can't hold is escaped.
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

/// Converts what comes first of `bytes`, as far as it can be and comes back as it was. Some encodings have characters
/// twice.
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

/// Makes text of bytes of which `convert` converts as many as it can, in UTF-8 or not: what isn't becomes [`RAW`].
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
                    // It is there already: then it is not to be taken for a byte.
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

/// The inverse: `escape` has what to make of a character that `convert` doesn't know.
fn encode(
    text: &str,
    convert: impl Fn(&str) -> (usize, Vec<u8>),
    escape: impl Fn(char) -> Vec<u8>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        // Up to a byte that is no text, or so many.
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

/// The byte that a character stands for.
fn byte_of(c: char) -> Option<u8> {
    let byte = u8::try_from(u32::from(c).checked_sub(RAW)?).ok()?;
    (!byte.is_ascii()).then_some(byte)
}

/// A character that can't be said as bytes for the database: the byte that it stands for, or an escape.
fn raw_byte(c: char) -> Vec<u8> {
    byte_of(c).map_or_else(|| escape(c).into_bytes(), |byte| vec![byte])
}

/// For people.
fn escape(c: char) -> String {
    match byte_of(c) {
        Some(byte) => format!("\\x{byte:02x}"),
        None => c.escape_default().to_string(),
    }
}

/// Converts what comes first of `bytes`, as far as it can be: how many bytes that is, and what becomes of them.
fn convert(
    bytes: &[u8],
    from: pg_sys::pg_enc::Type,
    to: pg_sys::pg_enc::Type,
) -> (usize, Cow<'_, [u8]>) {
    // SAFETY: the bytes are only read; the room is as large as PostgreSQL wants it, and ends with a zero. How to convert
    // stands in catalogs, which are looked into inside a transaction only.
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

/// The elements of a value of type text[], each None if it is null.
///
/// # Safety
/// Such a value, not null.
pub unsafe fn texts_of(value: pg_sys::Datum) -> Vec<Option<String>> {
    // SAFETY: as promised; length and alignment are those of the type text in pg_type. Both arrays have as many elements as
    // is said.
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

/// A C string of the server's as text; None for NULL.
///
/// # Safety
/// NULL, or a C string in the encoding of the database.
pub unsafe fn from_server_c(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: as promised.
    (!text.is_null()).then(|| from_server(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned())
}

/// Text as a value of type text. What the database can't hold is escaped.
pub fn text_value(text: &str) -> DatumWithOid<'static> {
    // SAFETY: a value of the type that is named.
    unsafe { DatumWithOid::new(datum(&server_bytes(text, raw_byte)), pg_sys::TEXTOID) }
}

/// Text for people as such a value: bytes that are no text are escaped, too, lest clients can't read it.
pub fn readable_value(text: &str) -> DatumWithOid<'static> {
    let escape = |c| escape(c).into_bytes();
    // SAFETY: as above.
    unsafe { DatumWithOid::new(datum(&server_bytes(text, escape)), pg_sys::TEXTOID) }
}

/// The same of JSON, which stays JSON: its own escapes would be turned into characters that the database may not have.
pub fn json_value(json: &str) -> DatumWithOid<'static> {
    // SAFETY: as above.
    unsafe { DatumWithOid::new(datum(&server_bytes(json, json_escape)), pg_sys::TEXTOID) }
}

/// Texts as a value of type text[]: each as `value`, [`text_value`] or [`readable_value`], makes it.
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

/// Texts as a value of type text[] that is no argument of SPI's.
pub fn texts<'t>(texts: impl IntoIterator<Item = &'t str>) -> pg_sys::Datum {
    let array = array_value(texts, text_value).datum();
    array.expect("an array is never null").sans_lifetime()
}

/// In the current memory context.
fn datum(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: the bytes are copied.
    let text = unsafe {
        pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as std::ffi::c_int)
    };
    pg_sys::Datum::from(text)
}

/// Text for a message of any database, or where no conversion is possible.
pub fn readable(text: String) -> String {
    match database_encoding() {
        _ if text.is_ascii() => text,
        Encoding::Utf8 => text,
        Encoding::Unknown => escaped(&text, |c| byte_of(c).is_some()),
        Encoding::Other(_) => escaped(&text, |c| !c.is_ascii()),
    }
}

/// Text for a message, fit for the client as well.
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

/// In a string of JSON, the text that is [`escape`]'s.
fn json_escape(c: char) -> Vec<u8> {
    escape(c).replace('\\', "\\\\").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ISO 8859-1, as PostgreSQL's conversions do it.
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
        // Here 0xff is an "ä" as well.
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
