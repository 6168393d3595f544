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

/// Less than this is a setting gone wrong: no look is shorter.
const SHORTEST: usize = 512;

/// As far as libmagic goes to tell text from binary: FILE_ENCODING_MAX in its file.h.
pub const SECOND: usize = 64 * 1024;

/// How far file(1) looks, so there is no point in going further: FILE_BYTES_MAX in the same.
const WHOLE: usize = 7 * 1024 * 1024;

/// What libmagic says of content that no rule knows.
const UNNAMED: &str = "application/octet-stream";

/// What it says of a tape: that all it saw is in order.
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
    let unnamed = mime_type == UNNAMED;
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
    if mime_type == UNNAMED {
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
/// regular expression, which sees 8 kB (FILE_REGEX_MAX in file.h) from the first name on.
fn is_document_archive(head: &[u8]) -> bool {
    let near = head.get(30..).unwrap_or_default();
    let near = &near[..near.len().min(8192)];
    let names: [&[u8]; 4] = [
        b"[Content_Types].xml",
        b"_rels/.rels",
        b"docProps",
        b"customXml",
    ];
    names.iter().any(|name| memmem::find(near, name).is_some())
}

/// Where the rules stop to look for the fourth member: behind the first one they search 6 kB for each
/// of the next three.
fn members_end(head: &[u8]) -> usize {
    let length = head.get(18..22).and_then(|bytes| bytes.try_into().ok());
    let length = length.map_or(0, u32::from_le_bytes);
    49 + length as usize + 3 * 8192
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
    if !is_text(head) {
        // Text in units of two or four bytes, or in EBCDIC.
        return Ok(text.then_some(SECOND));
    }
    let longer = view.head(end)?;
    let (head, more) = longer.split_at(looked.min(longer.len()));
    // The words may begin in the head.
    let words = &longer[head.len().saturating_sub(SCRIPT_MARK)..];
    let again = !is_text(more) || has_script_mark(words) || csv::decides_otherwise(head, longer);
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
    end.is_some_and(|end| end + 1 < head.len() && is_text(&head[..=end]))
}

/// None of these bytes keeps a file from being text in an encoding of one byte or UTF-8, by
/// `text_chars` in libmagic's encoding.c. Control-Z counts as text from 5.48 on; it doesn't here, so
/// that libmagic decides.
fn is_text(bytes: &[u8]) -> bool {
    // Without branches, so that it goes by many bytes at a time.
    let strange = |byte| matches!(byte, 0..=6 | 14..=26 | 28..=31 | 127);
    let mut chunks = bytes.chunks(256);
    chunks.all(|chunk| !chunk.iter().fold(false, |any, byte| any | strange(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const HEAD: usize = 16 * 1024;

    /// A file in memory, with zeros behind.
    struct Content<'a> {
        bytes: &'a [u8],
        size: u64,
        end_was_asked_for: bool,
        head: Vec<u8>,
    }

    impl View for Content<'_> {
        type Error = Infallible;

        fn size(&self) -> u64 {
            self.size
        }

        fn head(&mut self, end: usize) -> Result<&[u8], Infallible> {
            let end = usize::try_from(self.size).map_or(end, |size| size.min(end));
            self.head = self.bytes[..self.bytes.len().min(end)].to_vec();
            self.head.resize(end, 0);
            Ok(&self.head)
        }

        fn end_was_asked_for(&self) -> bool {
            self.end_was_asked_for
        }

        fn peek(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Infallible> {
            for (n, byte) in buffer.iter_mut().enumerate() {
                let at = usize::try_from(offset).unwrap() + n;
                *byte = self.bytes.get(at).copied().unwrap_or(0);
            }
            Ok(buffer.len())
        }
    }

    fn after(mime_type: &str, bytes: &[u8], looked: usize, size: usize) -> Option<usize> {
        let mut view = Content {
            bytes,
            size: size as u64,
            end_was_asked_for: mime_type != "image/png",
            head: Vec::new(),
        };
        let Ok(next) = next(&Steps::IN_USE, mime_type, &mut view, looked);
        next
    }

    /// After the first look at all of `bytes`.
    fn first(mime_type: &str, bytes: &[u8]) -> Option<usize> {
        after(mime_type, bytes, HEAD, bytes.len())
    }

    fn long(start: &[u8], filler: u8) -> Vec<u8> {
        let mut content = start.to_vec();
        content.resize(200_000, filler);
        content
    }

    #[test]
    fn the_first_look_is_what_is_set_within_reason() {
        assert_eq!(first_look(HEAD), HEAD);
        assert_eq!(first_look(0), SHORTEST);
        assert_eq!(first_look(usize::MAX), WHOLE);
    }

    #[test]
    fn a_file_seen_whole_is_not_looked_at_again() {
        for start in [b"{\"a\"".as_slice(), b"PK\x03\x04", b"ID3", b"text"] {
            assert_eq!(after(UNNAMED, start, HEAD, HEAD), None);
            assert_eq!(after(UNNAMED, start, WHOLE, 1 << 30), None);
        }
    }

    #[test]
    fn what_bears_no_mark_is_looked_at_once() {
        assert_eq!(first(UNNAMED, &long(b"\x01", 0xff)), None);
        assert_eq!(first("application/pdf", &long(b"%PDF", 0xff)), None);
        assert_eq!(first("image/png", &long(b"\x89PNG\r\n\x1a\n", 0)), None);
    }

    #[test]
    fn cd_images_are_looked_for_where_they_are() {
        for (at, mark) in [
            (32769, b"CD001"),
            (32769, b"BEA01"),
            (32777, b"CDROM"),
            (37385, b"CD001"),
            (37633, b"CD001"),
            (37657, b"CD001"),
        ] {
            let mut image = long(b"", 0);
            image[at..at + 5].copy_from_slice(mark);
            assert_eq!(first(UNNAMED, &image), Some(CD));
            assert_eq!(after(UNNAMED, &image, CD, image.len()), None);
            assert_eq!(first(WEAK[0], &image), Some(CD));
            assert_eq!(first("application/x-something", &image), None);
        }
    }

    #[test]
    fn mp3_is_looked_at_behind_its_tag() {
        let song = long(b"ID3\x04\0\0\x00\x03\x31\x76", 0xff);
        let tag = (3 << 14) + (0x31 << 7) + 0x76;
        assert_eq!(first(UNNAMED, &song), Some(10 + tag + SOUND));
        assert_eq!(after(UNNAMED, &song, 10 + tag + SOUND, 1 << 30), None);
        // No look is longer because another one was.
        for length in [0, 100, 12_000, 13_000] {
            let [high, low] = [(length >> 7) as u8, (length & 0x7f) as u8];
            let song = long(
                &[b"ID3\x04\0\0\0\0".as_slice(), &[high, low]].concat(),
                0xff,
            );
            let again = (10 + length + SOUND / 4 > HEAD).then_some(10 + length + SOUND);
            assert_eq!(first(UNNAMED, &song), again, "{length}");
        }
        assert_eq!(first("audio/mpeg", &song), None);
    }

    #[test]
    fn programs_of_dos_are_looked_at_as_far_as_they_jump() {
        let program = |distance: i16| {
            let [low, high] = distance.to_le_bytes();
            long(&[0xe9, low, high, b'\n'], b' ')
        };
        assert_eq!(first(UNNAMED, &program(30_000)), Some(30_004));
        assert_eq!(
            first("text/plain", &program(-1000)),
            Some(65_536 - 1000 + 4)
        );
        assert_eq!(first("application/x-dosexec", &program(30_000)), None);
        assert_eq!(first(UNNAMED, &program(3)), None);
    }

    #[test]
    fn tapes_are_looked_at_whole() {
        let mut tape = long(&50_001u32.to_le_bytes(), 1);
        assert_eq!(first(UNNAMED, &tape), None);
        tape[50_006..50_010].copy_from_slice(&50_002u32.to_le_bytes());
        assert_eq!(first(UNNAMED, &tape), Some(WHOLE));
        assert_eq!(first(TAPE, &long(b"\x01", 1)), Some(WHOLE));
        let endless = long(b"\xff\xff\xff\xff", 0xff);
        assert_eq!(first(UNNAMED, &endless), None);
    }

    fn archive(name: &[u8], first_member: u32, signed: bool) -> Vec<u8> {
        let mut archive = long(b"PK\x03\x04", 1);
        archive[18..22].copy_from_slice(&first_member.to_le_bytes());
        archive[30..30 + name.len()].copy_from_slice(name);
        if signed {
            archive[100_000 - 16..100_000].copy_from_slice(b"APK Sig Block 42");
        }
        let end = archive.len() - ARCHIVE_END;
        archive[end..end + 4].copy_from_slice(b"PK\x05\x06");
        archive[end + 16..end + 20].copy_from_slice(&100_000u32.to_le_bytes());
        archive
    }

    #[test]
    fn archives_are_looked_into_for_their_members() {
        let document = archive(b"[Content_Types].xml", 50_000, false);
        let end = 49 + 50_000 + 3 * 8192;
        assert_eq!(first("application/zip", &document), Some(end));
        assert_eq!(after("application/zip", &document, end, 200_000), None);
        assert_eq!(first("application/epub+zip", &document), None);
        // The first member may be longer than anything: only what says it is a document is believed.
        let photos = archive(b"photo.jpg", u32::MAX, false);
        assert_eq!(first("application/zip", &photos), None);
        let strange = archive(b"docProps/", u32::MAX, false);
        assert_eq!(first("application/zip", &strange), Some(WHOLE));
    }

    #[test]
    fn archives_are_looked_at_whole_for_their_end() {
        let package = archive(b"META-INF/MANIFEST.MF", 100, true);
        assert_eq!(first("application/java-archive", &package), Some(WHOLE));
        assert_eq!(first("application/zip", &package), Some(WHOLE));
        let library = archive(b"META-INF/MANIFEST.MF", 100, false);
        assert_eq!(first("application/java-archive", &library), None);
        assert_eq!(first(UNNAMED, &library), Some(WHOLE));
        let mut damaged = library;
        damaged[..1000].fill(0);
        assert_eq!(first(UNNAMED, &damaged), Some(WHOLE));
        // Something in front of it. If libmagic didn't ask for the end, it wouldn't of more either.
        damaged[..8].copy_from_slice(b"\x89PNG\r\n\x1a\n");
        assert_eq!(
            first("application/x-bytecode.python", &damaged),
            Some(WHOLE)
        );
        assert_eq!(first("image/png", &damaged), None);
    }

    #[test]
    fn what_may_be_json_is_looked_at_whole() {
        let text = |start| long(start, b' ');
        assert_eq!(first("text/plain", &text(b"\n\t {\"a\"")), Some(WHOLE));
        assert_eq!(first(UNNAMED, &text(b"[1")), Some(WHOLE));
        assert_eq!(first("text/plain", &text(b"hello {")), None);
        assert_eq!(first("text/rtf", &text(b"{\\rtf1\\ansi")), None);
        // One value, and the head ends: the rest may be anything.
        assert_eq!(first("application/json", &text(b"{}")), Some(WHOLE));
        assert_eq!(first("application/x-ndjson", &text(b"{}\n{}\n{")), None);
    }

    #[test]
    fn text_is_read_on() {
        let text = long(b"words\n", b'x');
        assert_eq!(first("text/plain", &text), None);
        for (at, expected) in [
            (HEAD, Some(SECOND)),
            (SECOND - 1, Some(SECOND)),
            (SECOND, None),
        ] {
            let mut holed = text.clone();
            holed[at] = 0;
            assert_eq!(first("text/plain", &holed), expected, "{at}");
        }
        assert_eq!(
            first("text/plain", &long(b"\xff\xfew\0", b'x')),
            Some(SECOND)
        );
        assert_eq!(first(UNNAMED, &long(b"\xff\xfew\0", b'x')), None);
        assert!(is_text(
            b"\x07\x08\t\n\x0b\x0c\r\x1b na\xc3\xafve \x80\x85\xff"
        ));
        for byte in [0, 6, 14, 26, 28, 31, 127] {
            let mut text = [b'x'; 1000];
            assert!(is_text(&text));
            text[999] = byte;
            assert!(!is_text(&text), "{byte}");
        }
    }

    #[test]
    fn csv_with_long_lines_is_looked_at_again() {
        let mut table = [b"a,".as_slice(), &b"x".repeat(20_000)].concat();
        table.push(b'\n');
        table.extend(b"b,c\n".repeat(20_000));
        assert_eq!(first("text/plain", &table), Some(SECOND));
        assert_eq!(
            after("text/csv", &table, SECOND, table.len() + 100_000),
            None
        );
        assert_eq!(first("text/plain", &long(b"a,b\n", b'x')), None);
        assert_eq!(first("text/csv", &b"a,b\n".repeat(10_000)), None);
    }

    #[test]
    fn words_that_make_javascript_are_seen() {
        for (words, expected) in [
            ("\"use strict\"", Some(SECOND)),
            ("'use strict'", Some(SECOND)),
            ("'use strict\"", None),
            (" use strict ", None),
        ] {
            for at in [HEAD - 11, HEAD - 1, HEAD, 30_000, SECOND - 12] {
                let mut text = long(b"words\n", b'x');
                text[at..at + words.len()].copy_from_slice(words.as_bytes());
                assert_eq!(first("text/plain", &text), expected, "{words} at {at}");
            }
        }
        assert!(!has_script_mark(b"use strict\"") && !has_script_mark(b"\"use strict"));
    }

    #[test]
    fn padded_text_is_looked_at_to_its_end() {
        for mime_type in ["text/plain", UNNAMED] {
            assert_eq!(first(mime_type, &long(b"words", 0)), Some(WHOLE));
        }
        assert_eq!(first(UNNAMED, &long(b"", 0)), None);
        assert_eq!(first(UNNAMED, &long(b"\x01words", 0)), None);
    }

    #[test]
    fn it_ends() {
        let starts: [&[u8]; 9] = [
            b"ID3\x04\0\0\0\0\x01\0",
            b"ID3\x04\0\0\0\0\x60\0",
            b"\xe9\xf0\x7f",
            b"[",
            b"x",
            b"\0",
            b"ID3\0\0\0\x7f\x7f\x7f\x7f",
            b"PK\x03\x04",
            b"\xff\xfe",
        ];
        for mime_type in [UNNAMED, "application/zip", "text/plain"] {
            for content in starts.map(|start| long(start, 0)) {
                let mut looked = first_look(0);
                let mut looks = 1;
                while let Some(limit) = after(mime_type, &content, looked, 1 << 30) {
                    assert!(limit > looked);
                    looked = limit;
                    looks += 1;
                }
                assert!(looks <= 3);
            }
        }
    }
}
