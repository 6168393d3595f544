//! How much of a file to look at, so that the answer is that of file(1) on the whole of it.
//!
//! libmagic has thousands of rules, and nearly all of them are decided by the first kilobytes. After a
//! first look at the head, this module knows where more could change the answer:
//!
//! - **JSON** is believed only when its end has been seen.
//! - **Text** is text to libmagic if the first 64 kB are. A hole of zeros, or a Control-Z, beyond the
//!   head makes it something else; so do the words that make a text JavaScript; and CSV with long lines
//!   isn't recognised by its first ones.
//! - **Text padded with zeros** is text if nothing but zeros follows, to the end of the file.
//! - **ZIP archives** can be told by members further in, by the directory at their end, or by the
//!   signature in front of that; libmagic finds the latter two only if it sees the whole. The end tells
//!   of archives that something else stands in front of, too.
//! - **CD images** have their mark at 32 kB, **MP3 files** begin behind a tag of any length, **programs of
//!   DOS** with a jump that must lead into the file, and **tapes** are recognised (from 5.46 on) if their
//!   records are in order as far as they are seen.
//!
//! `make accuracy` measures each of these; docs/accuracy.md has the table. What no rule here knows is
//! looked at once. Where the facts are from: libmagic's sources, 5.44 to 5.48, as named below.

use memchr::memmem;

use super::csv;
use super::json::may_become_json;
use super::limits::{DATA, ENCODING_MAX, REGEX_MAX};
use super::prefilter::text::is_surely_text;

/// Less than this is a setting gone wrong: no look is shorter.
const SHORTEST: usize = 512;

/// As far as libmagic goes to tell text from binary.
const SECOND: usize = ENCODING_MAX;

/// There is no point in going further than file(1) does.
const WHOLE: usize = 7 << 20;

/// What libmagic says of a tape: that all it saw is in order.
const TAPE: &str = "application/SIMH-tape-data";

/// Answers that give way to a mark further in, besides text and none: what hybrid CDs also are, and what
/// a few bytes make probable.
const WEAK: [&str; 3] = [
    "application/x-apple-diskimage",
    "application/x-adobe-aco",
    "image/x-os2-ico",
];

/// What a file looks like from here.
pub trait View {
    type Error;

    /// Bytes that the file has.
    fn size(&self) -> u64;

    /// Its first bytes, up to `end` or its own end.
    fn head(&mut self, end: usize) -> Result<&[u8], Self::Error>;

    /// Has libmagic read the end, in its last look? True if that isn't known.
    fn end_was_asked_for(&self) -> bool;

    /// Bytes from somewhere else, as many as `buffer` takes and the file has; tells how many.
    fn peek(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Self::Error>;
}

/// When a file beginning with a bracket is looked at whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    Never,
    /// Always.
    Bracket,
    /// If the head doesn't contradict JSON.
    Possible,
}

/// The steps of the plan. All but [`Steps::IN_USE`] are there to be measured beside it (tests/accuracy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    pub json: Json,
    /// What has no name, and ZIP archives without another, at 64 kB.
    pub unnamed: bool,
    /// What has no name, if it bears a mark beyond the head: CD images, MP3, damaged ZIP archives.
    pub marked: bool,
    /// ZIP archives by their members and signatures.
    pub archives: bool,
    /// Text, by what follows it up to so many bytes; 0: not at all.
    pub text: usize,
}

impl Steps {
    /// One look.
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

/// Bytes of the first look, given the setting.
pub fn first_look(head_bytes: usize) -> usize {
    head_bytes.clamp(SHORTEST, WHOLE)
}

/// How many bytes to look at next, after a look at `looked` of them gave `mime_type`; None if the answer
/// stands.
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

/// The simplest thing that can be said of a JSON text.
fn begins_with_bracket(head: &[u8]) -> bool {
    matches!(head.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// A file that begins as a ZIP archive does.
///
/// The rules for Microsoft's documents (Magdir/msooxml) follow the first member to the next ones if a
/// telling name stands near the beginning. The rules for Android's packages (Magdir/archive) go by a
/// signature in front of the directory, the place of which the archive's last bytes tell; it is compared
/// with what is seen of the file as if that were all of it. And if nothing else was found, the directory
/// itself is read likewise (5.46).
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

/// Does a name stand near the beginning that Microsoft's documents have there? As the rules ask: a
/// regular expression, which sees 8 kB from the first name on.
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

/// As far behind the first member as the rules go to tell documents apart. From there they search 6,000 bytes for the
/// next member, the same from its name on for the one after it, and so on, four times in 5.44, and compare names of at
/// most 16 bytes that stand 30 bytes behind: 4 * (6,000 + 30) + 16 bytes. 5.46 goes on to one more member, and 5.47
/// searches 10,000 bytes each; what tells a document only beyond this is missed there.
const MEMBERS: usize = 24 * 1024;

/// Where that ends.
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

/// Does a ZIP archive have the signature of an Android package?
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

/// Where the marks of CD images lie, offset and length (Magdir/filesystems, and Magdir/console for games'):
/// in sector 16, by sectors of 2048 bytes, and by the larger ones of raw images, with what comes before
/// their data.
const CD_MARKS: [(u64, usize); 2] = [(32 * 1024, 32), (37_376, 288)];

/// As far as the rules for CD images go to tell what is on them.
const CD: usize = 40 * 1024;

/// A file that no rule knew by its head, or only as text.
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

/// Does the file begin with a record of a tape that is longer than the head, with its length in front of
/// it and behind it (`getlen` and `simh_parse` in is_simh.c)?
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

/// How much of what is behind the tag of an MP3 file is looked at. A quarter of it is enough to know it, if
/// that lies within the head.
const SOUND: usize = 16 * 1024;

/// Where the tag ends that an MP3 file begins with (Magdir/audio; ID3v2.4, section 3.1: seven bits a byte).
fn tag_end(head: &[u8]) -> Option<usize> {
    let [b'I', b'D', b'3', _, _, _, a, b, c, d, ..] = *head else {
        return None;
    };
    let length = [a, b, c, d].map(|byte| usize::from(byte & 0x7f));
    Some(10 + length.into_iter().fold(0, |sum, byte| sum << 7 | byte))
}

/// Behind what a program of DOS jumps to, if it begins with a jump, as Latin-1 text that begins with "é"
/// does. The rule asks for no more than that the file goes so far (Magdir/msdos).
fn jump_target(head: &[u8]) -> Option<usize> {
    let [0xe9, low, high, ..] = *head else {
        return None;
    };
    // Signed; backwards, it is from the end of a segment of 64 kB.
    let distance = u16::from_le_bytes([low, high]);
    Some(3 + usize::from(distance) + 1)
}

/// A file that may be text as far as libmagic goes to tell. It is read up to `end`, and looked at again
/// if that was worth it.
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

/// Length of `"use strict"`, with its quotes.
const SCRIPT_MARK: usize = 12;

/// The words, in quotes, that make JavaScript of any text, wherever they stand (Magdir/javascript, and
/// Debian's 5.44). All other rules for text look at the first kilobytes.
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

/// Text, and then nothing but zeros. libmagic takes these off before it looks (`trim_nuls` in ascmagic.c),
/// and how many that leaves depends on where the file ends.
fn is_padded_text(head: &[u8]) -> bool {
    let end = head.iter().rposition(|byte| *byte != 0);
    end.is_some_and(|end| end + 1 < head.len() && is_surely_text(&head[..=end]))
}

#[cfg(test)]
mod tests;
