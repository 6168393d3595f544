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
        assert_eq!(after(DATA, start, HEAD, HEAD), None);
        assert_eq!(after(DATA, start, WHOLE, 1 << 30), None);
    }
}

#[test]
fn what_bears_no_mark_is_looked_at_once() {
    assert_eq!(first(DATA, &long(b"\x01", 0xff)), None);
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
        assert_eq!(first(DATA, &image), Some(CD));
        assert_eq!(after(DATA, &image, CD, image.len()), None);
        assert_eq!(first(WEAK[0], &image), Some(CD));
        assert_eq!(first("application/x-something", &image), None);
    }
}

#[test]
fn mp3_is_looked_at_behind_its_tag() {
    let song = long(b"ID3\x04\0\0\x00\x03\x31\x76", 0xff);
    let tag = (3 << 14) + (0x31 << 7) + 0x76;
    assert_eq!(first(DATA, &song), Some(10 + tag + SOUND));
    assert_eq!(after(DATA, &song, 10 + tag + SOUND, 1 << 30), None);
    // No look is longer because another one was.
    for length in [0, 100, 12_000, 13_000] {
        let [high, low] = [(length >> 7) as u8, (length & 0x7f) as u8];
        let song = long(
            &[b"ID3\x04\0\0\0\0".as_slice(), &[high, low]].concat(),
            0xff,
        );
        let again = (10 + length + SOUND / 4 > HEAD).then_some(10 + length + SOUND);
        assert_eq!(first(DATA, &song), again, "{length}");
    }
    assert_eq!(first("audio/mpeg", &song), None);
}

#[test]
fn programs_of_dos_are_looked_at_as_far_as_they_jump() {
    let program = |distance: i16| {
        let [low, high] = distance.to_le_bytes();
        long(&[0xe9, low, high, b'\n'], b' ')
    };
    assert_eq!(first(DATA, &program(30_000)), Some(30_004));
    assert_eq!(
        first("text/plain", &program(-1000)),
        Some(65_536 - 1000 + 4)
    );
    assert_eq!(first("application/x-dosexec", &program(30_000)), None);
    assert_eq!(first(DATA, &program(3)), None);
}

#[test]
fn tapes_are_looked_at_whole() {
    let mut tape = long(&50_001u32.to_le_bytes(), 1);
    assert_eq!(first(DATA, &tape), None);
    tape[50_006..50_010].copy_from_slice(&50_002u32.to_le_bytes());
    assert_eq!(first(DATA, &tape), Some(WHOLE));
    assert_eq!(first(TAPE, &long(b"\x01", 1)), Some(WHOLE));
    let endless = long(b"\xff\xff\xff\xff", 0xff);
    assert_eq!(first(DATA, &endless), None);
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
    let end = 49 + 50_000 + MEMBERS;
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
    assert_eq!(first(DATA, &library), Some(WHOLE));
    let mut damaged = library;
    damaged[..1000].fill(0);
    assert_eq!(first(DATA, &damaged), Some(WHOLE));
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
    assert_eq!(first(DATA, &text(b"[1")), Some(WHOLE));
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
    assert_eq!(first(DATA, &long(b"\xff\xfew\0", b'x')), None);
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
    for mime_type in ["text/plain", DATA] {
        assert_eq!(first(mime_type, &long(b"words", 0)), Some(WHOLE));
    }
    assert_eq!(first(DATA, &long(b"", 0)), None);
    assert_eq!(first(DATA, &long(b"\x01words", 0)), None);
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
    for mime_type in [DATA, "application/zip", "text/plain"] {
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
