//! Contents of each kind that has once had another type than file(1) gives it: with the prefilter, for some part of the
//! file that was looked at, or in another locale.

use std::io::Write;

use super::{Pair, file_says};
use crate::detector::cookie;

/// So many zeros.
fn zeros(n: usize) -> Vec<u8> {
    vec![0; n]
}

/// `n` bytes of `fill` with marks put at offsets.
fn at(n: usize, fill: u8, marks: &[(usize, &[u8])]) -> Vec<u8> {
    let mut content = vec![fill; n];
    for (offset, mark) in marks {
        let end = offset + mark.len();
        content.resize(content.len().max(end), fill);
        content[*offset..end].copy_from_slice(mark);
    }
    content
}

/// Data between two copies of a word.
fn tape(word: u32, data: &[u8]) -> Vec<u8> {
    [&word.to_le_bytes(), data, &word.to_le_bytes()].concat()
}

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xFEFF).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

/// Each with the type that 5.44 has for it.
fn contents() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let end_of_archive = [b"PK\x05\x06".as_slice(), &zeros(18)].concat();
    let program = [
        b"MZ".as_slice(),
        &zeros(22),
        b"\x40\0",
        &zeros(34),
        &20_000_u32.to_le_bytes(),
        &zeros(19_936),
        b"PE\0\0\x4c\x01",
        &zeros(300),
    ]
    .concat();
    vec![
        // What the prefilter saw otherwise.
        (
            // Where a rule that counts from the end may match before, so that libmagic was asked.
            "what indirect applies is no rule that may match at the beginning",
            [b"ID3\0\0\x10\0\0\0\0".as_slice(), &end_of_archive].concat(),
            "application/zip",
        ),
        (
            "a run of blanks longer than any window",
            [b"<a".as_slice(), &[b' '; 20_000], b"href=\"x\">t</a>\n"].concat(),
            "text/html",
        ),
        (
            "NEL is ASCII, and then this is UTF-7",
            b"+/v8\x85\n\"use strict\";\n".to_vec(),
            "text/plain",
        ),
        (
            "found_match outlives a rule that is given up",
            b"BZhGBMB".to_vec(),
            "application/x-bzip2",
        ),
        (
            "a number beyond the end, behind which nothing counts",
            [b"\x78\x9c".as_slice(), &[1; 88], b"WMPHOTO"].concat(),
            "application/octet-stream",
        ),
        (
            "a tag of DER that is more than 32 bits",
            [
                b"\x3f\x80\x80\x80\x80\x90\x20\x30\x10\x02\x01\x00\xfcW\xf3\xa5\xc3".as_slice(),
                &zeros(40),
            ]
            .concat(),
            "application/octet-stream",
        ),
        (
            "a tape",
            [tape(6, b"abcdef"), vec![0xFF; 4]].concat(),
            "application/octet-stream",
        ),
        (
            "a tape with bits that aren't used",
            tape(0x0100_000A, b"\xe5cM\x06]k+\xf0&D"),
            "image/x-pcx",
        ),
        (
            "an end that is that of an archive, and not asked for",
            at(
                40_022,
                0,
                &[
                    (0, b"vhdxfile"),
                    (20, b"loge"),
                    (32_752, b"TMR SEGA"),
                    (32_767, b"\x4c"),
                    (40_000, &end_of_archive),
                ],
            ),
            "application/x-sms-rom",
        ),
        (
            "letters that have another case in Turkish",
            b"<TITLE>x</TITLE>\n".to_vec(),
            "text/html",
        ),
        // What lay beyond what was looked at.
        (
            "a pointer that leads beyond the head",
            program,
            "application/vnd.microsoft.portable-executable",
        ),
        (
            "what is content with anything that is large enough",
            at(
                32_034,
                0x55,
                &[(0, b"\0\0"), (4, b"\x07\x77"), (6, &b"\x07\0".repeat(14))],
            ),
            "image/x-atari-degas",
        ),
        (
            "a search that ends beyond the head",
            at(30_000, 0x55, &[(0, b"\0\x04\0\0"), (20_000, b"Maple")]),
            "application/x-maple-hdb",
        ),
        (
            "a byte that makes it another encoding",
            [
                b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n".as_slice(),
                &b"word ".repeat(3400),
                b"\xff\n",
            ]
            .concat(),
            "text/plain",
        ),
        (
            "a mark at a fixed place beyond the head",
            at(32_768, 0, &[(32_752, b"TMR SEGA"), (32_767, b"\x4c")]),
            "application/x-sms-rom",
        ),
        (
            "a rule beyond the head that only describes",
            at(32_768, 0, &[(0, b"(\xb5/\xfd"), (32_758, b"SWAP-SPACE")]),
            "application/octet-stream",
        ),
        (
            "blanks that reach beyond the head",
            [b"#!".as_slice(), &[b' '; 16_400], b"/usr/bin/wish\n"].concat(),
            "text/x-tcl",
        ),
        (
            "binary beyond a head of UTF-16",
            [
                utf16(&format!("\"use strict\";{}", " word".repeat(2500))),
                b"\x01\0".to_vec(),
            ]
            .concat(),
            "application/octet-stream",
        ),
    ]
}

#[test]
fn each_kind_has_the_type_that_file_gives_it() {
    let mut pair = Pair::new();
    for (what, content, of_544) in contents() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let said = file_says(file.path());
        if cookie::version() == 544 {
            assert_eq!(said, of_544, "{what}, by file(1)");
        }
        for (how, detector) in [("whole", &mut pair.whole), ("read", &mut pair.filtered)] {
            let found = detector.detect_bytes(&content).map(|found| found.mime_type);
            assert_eq!(found.as_deref(), Ok(said.as_str()), "{what}, {how}");
        }
    }
}

#[test]
fn an_error_of_the_head_is_not_the_last_word() {
    // Text in UTF-32 with a character of 32 bits, which isn't converted; and a mark of another format further in.
    let mut content = b"\xFF\xFE\0\0".to_vec();
    content.extend(
        "words "
            .chars()
            .cycle()
            .take(4000)
            .flat_map(|c| u32::from(c).to_le_bytes()),
    );
    content.extend(b"\xFF\xFF\xFF\xFF");
    content.resize(70_000, b' ');
    content[32_769..32_774].copy_from_slice(b"CD001");
    let mut pair = Pair::new();
    pair.agree(&content, "UTF-32");
}
