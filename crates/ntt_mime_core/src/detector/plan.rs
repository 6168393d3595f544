//! How much of a file to read, so that the answer is that of file(1) for the whole file.
//!
//! libmagic has thousands of rules, and nearly all of them are decided by the first kilobytes. After the head has
//! been judged, this module knows where more could change the answer:
//!
//! - **JSON** is recognized only when its end has been read.
//! - **Text** is text to libmagic if the first 64 kB are. A run of zeros, or a Control-Z, beyond the head makes it
//!   something else. So do the words that make a text JavaScript. And CSV with long lines isn't recognized by its
//!   first ones.
//! - **Text padded with zeros** is text if nothing but zeros follows, to the end of the file.
//! - **ZIP archives** can be identified by members further in, by the directory at their end, or by the signature in
//!   front of that; libmagic finds the latter two only if it sees the whole file. The end also identifies archives
//!   that have something else in front of them.
//! - **CD images** have their mark at 32 kB; **MP3 files** begin after a tag of any length; **DOS programs** begin
//!   with a jump that must lead into the file; and **tapes** are recognized (from 5.45 on) if their records are in
//!   order as far as they are read.
//!
//! `make accuracy` measures each of these; docs/accuracy.md has the table. A file to which no step here applies is
//! judged once. The facts are from libmagic's sources, 5.44 to 5.48, as named below.

use memchr::memmem;

use super::csv;
use super::json::may_become_json;
use super::limits::{DATA, ENCODING_MAX, REGEX_MAX};
use super::prefilter::text::is_surely_text;

/// A smaller setting is a mistake: at least this much is read.
const SHORTEST: usize = 512;

/// As much as libmagic reads to distinguish text from binary content.
const SECOND: usize = ENCODING_MAX;

/// file(1) doesn't read further, so there is no point in it.
const WHOLE: usize = 7 << 20;

/// libmagic's answer for a tape: everything that it has seen is in order.
const TAPE: &str = "application/SIMH-tape-data";

/// Answers, besides text and none, that a mark further in overrides: what hybrid CDs also are, and what a few bytes
/// make probable.
const WEAK: [&str; 3] = [
    "application/x-apple-diskimage",
    "application/x-adobe-aco",
    "image/x-os2-ico",
];

/// Access to a file.
pub trait View {
    type Error;

    /// The size of the file in bytes.
    fn size(&self) -> u64;

    /// Its first bytes, up to `end` or to its own end.
    fn head(&mut self, end: usize) -> Result<&[u8], Self::Error>;

    /// Whether libmagic read the end when it last judged the file. True if that isn't known.
    fn end_was_asked_for(&self) -> bool;

    /// Reads from another place, as much as fits into `buffer` and the file has; returns how much that is.
    fn peek(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Self::Error>;
}

/// When a file beginning with a bracket is read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    Never,
    /// Always.
    Bracket,
    /// If the head doesn't contradict JSON.
    Possible,
}

/// The steps of the plan. All but [`Steps::IN_USE`] exist only to be compared with it (tests/accuracy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    pub json: Json,
    /// Content without a type, and ZIP archives without a more specific one: read up to 64 kB.
    pub unnamed: bool,
    /// Content without a type that has a mark beyond the head: CD images, MP3, damaged ZIP archives.
    pub marked: bool,
    /// ZIP archives by their members and signatures.
    pub archives: bool,
    /// Text, by what follows it, up to this many bytes; 0 disables the step.
    pub text: usize,
}

impl Steps {
    /// The head only.
    pub const HEAD: Steps = Steps {
        json: Json::Never,
        unnamed: false,
        marked: false,
        archives: false,
        text: 0,
    };

    /// The plan.
    pub const IN_USE: Steps = Steps {
        json: Json::Possible,
        unnamed: false,
        marked: true,
        archives: true,
        text: SECOND,
    };
}

/// The size of the first read, given the setting.
pub fn first_look(head_bytes: usize) -> usize {
    head_bytes.clamp(SHORTEST, WHOLE)
}

/// How many bytes to read next, after the first `looked` bytes gave `mime_type`; None if the answer is final.
pub fn next<V: View>(
    steps: &Steps,
    mime_type: &str,
    view: &mut V,
    looked: usize,
) -> Result<Option<usize>, V::Error> {
    if view.size() <= looked as u64 {
        return Ok(None);
    }
    let wanted = wanted(steps, mime_type, view, looked)?;
    Ok(wanted
        .map(|bytes| bytes.min(WHOLE))
        .filter(|bytes| *bytes > looked))
}

fn wanted<V: View>(
    steps: &Steps,
    mime_type: &str,
    view: &mut V,
    looked: usize,
) -> Result<Option<usize>, V::Error> {
    let head = view.head(looked)?;
    let json = match steps.json {
        Json::Never => false,
        Json::Bracket => begins_with_bracket(head),
        Json::Possible => may_become_json(head),
    };
    let unnamed = mime_type == DATA;
    let text = mime_type.starts_with("text/");
    if json || steps.text > 0 && (unnamed || text) && is_padded_text(head) {
        return Ok(Some(WHOLE));
    }
    if steps.archives {
        if head.starts_with(b"PK\x03\x04") {
            return look_into_archive(mime_type, view, looked);
        }
        if view.end_was_asked_for() && archive_end(view)?.is_some() {
            return Ok(Some(WHOLE));
        }
    }
    if steps.marked && mime_type == TAPE {
        return Ok(Some(WHOLE));
    }
    if steps.marked
        && (unnamed || text || WEAK.contains(&mime_type))
        && let Some(longer) = look_for_marks(view, looked)?
    {
        return Ok(Some(longer));
    }
    if steps.unnamed && (unnamed || mime_type == "application/zip") {
        return Ok(Some(SECOND));
    }
    if steps.text > looked {
        return look_beyond_text(text, view, looked, steps.text);
    }
    Ok(None)
}

/// The simplest property of a JSON text.
fn begins_with_bracket(head: &[u8]) -> bool {
    matches!(head.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// A file that begins as a ZIP archive does.
///
/// The rules for Microsoft's documents (Magdir/msooxml) follow the first member to the next ones if a characteristic
/// name is near the beginning. The rules for Android packages (Magdir/archive) look for a signature in front of the
/// directory, to whose position the archive's last bytes point; that is compared with the part that is read as if it
/// were the whole file. And if nothing else was found, the directory itself is read in the same way (5.46).
fn look_into_archive<V: View>(
    mime_type: &str,
    view: &mut V,
    looked: usize,
) -> Result<Option<usize>, V::Error> {
    if mime_type == DATA {
        return Ok(Some(WHOLE));
    }
    if !matches!(mime_type, "application/zip" | "application/java-archive") {
        return Ok(None);
    }
    if is_signed(view)? {
        return Ok(Some(WHOLE));
    }
    let head = view.head(looked)?;
    Ok(is_document_archive(head).then(|| members_end(head)))
}

/// Whether a name that Microsoft's documents have is near the beginning. The rules' test is a regular expression,
/// which covers 8 kB from the first name on.
fn is_document_archive(head: &[u8]) -> bool {
    let near = head.get(30..).unwrap_or_default();
    let near = &near[..near.len().min(REGEX_MAX)];
    let names: [&[u8]; 4] = [
        b"[Content_Types].xml",
        b"_rels/.rels",
        b"docProps",
        b"customXml",
    ];
    names.iter().any(|name| memmem::find(near, name).is_some())
}

/// How far after the first member the rules go to distinguish documents. From there they search 6,000 bytes for the
/// next member, the same from its name on for the one after it, and so on, four times in 5.44, and compare names of
/// at most 16 bytes, which are 30 bytes further on: 4 * (6,000 + 30) + 16 bytes. 5.46 goes on to one more member, and
/// 5.47 searches 10,000 bytes each. A document that only something beyond this would identify is missed in these
/// releases.
const MEMBERS: usize = 24 * 1024;

/// Where that range ends.
fn members_end(head: &[u8]) -> usize {
    let length = head.get(18..22).and_then(|bytes| bytes.try_into().ok());
    let length = length.map_or(0, u32::from_le_bytes);
    49 + length as usize + MEMBERS
}

/// The end of a ZIP archive without a comment.
const ARCHIVE_END: usize = 22;

/// The last bytes of the file, if they are the end of a ZIP archive (APPNOTE.TXT, section 4.3.16).
fn archive_end<V: View>(view: &mut V) -> Result<Option<[u8; ARCHIVE_END]>, V::Error> {
    let mut end = [0; ARCHIVE_END];
    let Some(offset) = view.size().checked_sub(ARCHIVE_END as u64) else {
        return Ok(None);
    };
    let read = view.peek(offset, &mut end)?;
    Ok((read == ARCHIVE_END && end.starts_with(b"PK\x05\x06")).then_some(end))
}

/// Whether a ZIP archive has the signature of an Android package.
fn is_signed<V: View>(view: &mut V) -> Result<bool, V::Error> {
    let Some(end) = archive_end(view)? else {
        return Ok(false);
    };
    let [.., a, b, c, d, _, _] = end;
    let directory = u64::from(u32::from_le_bytes([a, b, c, d]));
    let mut signature = [0; 16];
    let Some(offset) = directory.checked_sub(signature.len() as u64) else {
        return Ok(false);
    };
    view.peek(offset, &mut signature)?;
    Ok(&signature == b"APK Sig Block 42")
}

/// Offset and length of the marks of CD images (Magdir/filesystems, and Magdir/console for games): in sector 16, for
/// sectors of 2048 bytes, and for the larger ones of raw images, which have something before their data.
const CD_MARKS: [(u64, usize); 2] = [(32 * 1024, 32), (37_376, 288)];

/// As far as the rules for CD images go to determine their content.
const CD: usize = 40 * 1024;

/// A file that no rule recognized by its head, or only as text.
fn look_for_marks<V: View>(view: &mut V, looked: usize) -> Result<Option<usize>, V::Error> {
    let head = view.head(looked)?;
    if let Some(end) = tag_end(head).filter(|end| end + SOUND / 4 > looked) {
        return Ok(Some(end + SOUND));
    }
    if let Some(target) = jump_target(head).filter(|target| *target > looked) {
        return Ok(Some(target));
    }
    for (offset, length) in CD_MARKS {
        if offset < looked as u64 || view.size() <= offset {
            continue;
        }
        let mut window = vec![0; length];
        let read = view.peek(offset, &mut window)?;
        let marks: [&[u8]; 5] = [
            b"CD001",
            b"CDROM",
            b"BEA01",
            b"\x5d\x1c\x9e\xa3",
            b"\xc2\x33\x9f\x3d",
        ];
        if marks
            .iter()
            .any(|mark| memmem::find(&window[..read], mark).is_some())
        {
            return Ok(Some(CD));
        }
    }
    Ok(begins_with_record(view, looked)?.then_some(WHOLE))
}

/// Whether the file begins with a tape record that is longer than the head, with its length before and after it
/// (`getlen` and `simh_parse` in is_simh.c).
fn begins_with_record<V: View>(view: &mut V, looked: usize) -> Result<bool, V::Error> {
    let record_length = |bytes: [u8; 4]| {
        let length = u32::from_le_bytes(bytes) & 0x00ff_ffff;
        length + (length & 1)
    };
    let head = view.head(looked)?;
    let Some(length) = head.first_chunk().map(|first| record_length(*first)) else {
        return Ok(false);
    };
    let end = 4 + u64::from(length);
    if end + 4 <= looked as u64 || end + 4 > view.size().min(WHOLE as u64) {
        return Ok(false);
    }
    let mut behind = [0; 4];
    view.peek(end, &mut behind)?;
    Ok(record_length(behind) == length)
}

/// How much is read of what follows the tag of an MP3 file. A quarter of it is enough to recognize it, if that is
/// within the head.
const SOUND: usize = 16 * 1024;

/// Where the tag at the beginning of an MP3 file ends (Magdir/audio; ID3v2.4, section 3.1: seven bits a byte).
fn tag_end(head: &[u8]) -> Option<usize> {
    let [b'I', b'D', b'3', _, _, _, a, b, c, d, ..] = *head else {
        return None;
    };
    let length = [a, b, c, d].map(|byte| usize::from(byte & 0x7f));
    Some(10 + length.into_iter().fold(0, |sum, byte| sum << 7 | byte))
}

/// The end of what a DOS program jumps to, if it begins with a jump, as Latin-1 text beginning with "é" does. The
/// rule only requires that the file reaches that far (Magdir/msdos).
fn jump_target(head: &[u8]) -> Option<usize> {
    let [0xe9, low, high, ..] = *head else {
        return None;
    };
    // Signed; if negative, it counts from the end of a segment of 64 kB.
    let distance = u16::from_le_bytes([low, high]);
    Some(3 + usize::from(distance) + 1)
}

/// A file that may be text as far as libmagic can see. It is read up to `end`, and judged again if that may change
/// the answer.
fn look_beyond_text<V: View>(
    text: bool,
    view: &mut V,
    looked: usize,
    end: usize,
) -> Result<Option<usize>, V::Error> {
    let head = view.head(looked)?;
    if !is_surely_text(head) {
        // Text in units of two or four bytes, or in EBCDIC.
        return Ok(text.then_some(SECOND));
    }
    let longer = view.head(end)?;
    let (head, more) = longer.split_at(looked.min(longer.len()));
    // The words may begin in the head.
    let words = &longer[head.len().saturating_sub(SCRIPT_MARK)..];
    let again =
        !is_surely_text(more) || has_script_mark(words) || csv::decides_otherwise(head, longer);
    Ok(again.then_some(end))
}

/// Length of `"use strict"` with its quotes.
const SCRIPT_MARK: usize = 12;

/// Whether it has the words, in quotes, that make any text JavaScript, wherever they are (Magdir/javascript, and
/// Debian's 5.44). All other rules for text read the first kilobytes.
fn has_script_mark(text: &[u8]) -> bool {
    memmem::find_iter(text, b"use strict").any(|at| {
        let quotes = (
            at.checked_sub(1).map(|before| text[before]),
            text.get(at + 10),
        );
        matches!(
            quotes,
            (Some(b'"'), Some(b'"')) | (Some(b'\''), Some(b'\''))
        )
    })
}

/// Text, and then nothing but zeros. libmagic removes these first (`trim_nuls` in ascmagic.c), and how many remain
/// depends on where the file ends.
fn is_padded_text(head: &[u8]) -> bool {
    let end = head.iter().rposition(|byte| *byte != 0);
    end.is_some_and(|end| end + 1 < head.len() && is_surely_text(&head[..=end]))
}

#[cfg(test)]
mod tests;
