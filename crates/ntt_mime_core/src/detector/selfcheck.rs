//! Does the libmagic that is loaded answer as it should?
//!
//! Releases have shipped that did not, the library may have been exchanged under a running server,
//! and a database of one's own may be broken or small. A handful of tiny files tells most of that.

use super::{Detector, cookie, libmagic_release};

/// Tiny files, and what libmagic 5.44 to 5.48 all say of them.
const KNOWN: [(&str, &[u8], &str); 10] = [
    (
        "a PNG image",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0",
        "image/png",
    ),
    (
        "a JPEG image",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0",
        "image/jpeg",
    ),
    (
        "a PDF document",
        b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "application/pdf",
    ),
    (
        "a ZIP archive",
        b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0\x86\xa6\x106\x05\0\0\0\x05\0\0\0\x05\0\0\0a.txthello\
          PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0!\0\x86\xa6\x106\x05\0\0\0\x05\0\0\0\x05\0\0\0\0\0\
          \0\0\0\0\0\0\0\0\0\0\0\0a.txtPK\x05\x06\0\0\0\0\x01\0\x01\x003\0\0\0(\0\0\0\0\0",
        "application/zip",
    ),
    (
        "a gzip file",
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x04\0\x43\xbe\xb7\xe8\x01\0\0\0",
        "application/gzip",
    ),
    (
        "an ELF program",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\0\0\x40\0\0\0\0\0\
          \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\x38\0\0\0\x40\0\0\0\0\0",
        "application/x-executable",
    ),
    (
        "a text in UTF-8",
        "na\u{ef}ve caf\u{e9}, \u{fc}ber\n".as_bytes(),
        "text/plain",
    ),
    (
        "a JSON text",
        b"{\"name\": [1, 2, {\"x\": null}]}\n",
        "application/json",
    ),
    (
        "an HTML page",
        b"<!DOCTYPE html>\n<html><head><title>x</title></head></html>\n",
        "text/html",
    ),
    (
        "bytes without meaning",
        b"\x80\0\x81\x01\x82\x02\x83\x03\x84\x04\x85\x05\x86\x06\x87\x07",
        "application/octet-stream",
    ),
];

/// Releases that answer wrongly *in the way that we ask*, and what is wrong with them.
///
/// There is none among 5.44 to 5.48. Two have a bad name that concerns `magic_buffer` only: 5.46 and,
/// much more so, 5.47 lose the offsets that count from the end of a file when there is no descriptor
/// (`msetoffset` in softmagic.c), and so misjudge archives and heads of binary files. Upstream's 5.46,
/// 5.47 and 5.48 were each compared with their own file(1), whole files, by the test
/// `answers_are_those_of_file_on_the_whole_file`, and differ less from it than 5.44 does.
const BAD_RELEASES: &[(i32, &str)] = &[];

/// A sentence about the release that is loaded, if it is known for anything bad.
pub fn known_bad_release() -> Option<String> {
    what_is_bad_about(cookie::version(), BAD_RELEASES)
        .map(|what| format!("libmagic {}: {what}.", libmagic_release()))
}

fn what_is_bad_about(release: i32, known: &[(i32, &'static str)]) -> Option<&'static str> {
    let entry = known.iter().find(|(bad, _)| *bad == release);
    entry.map(|(_, what)| *what)
}

/// A sentence for each of the tiny files that is judged wrong.
pub(super) fn run(detector: &mut Detector) -> Vec<String> {
    KNOWN
        .iter()
        .filter_map(|(name, content, expected)| {
            let answer = match detector.detect_bytes(content) {
                Ok(detection) if detection.mime_type == *expected => return None,
                Ok(detection) => format!("\"{}\"", detection.mime_type),
                Err(failure) => format!("an error ({})", failure.detail),
            };
            Some(format!(
                "libmagic {} takes {name} for {answer} instead of \"{expected}\".",
                libmagic_release()
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_tiny() {
        assert!(KNOWN.iter().all(|(_, content, _)| content.len() < 200));
    }

    #[test]
    fn bad_releases_are_known_by_number() {
        let known = [(599, "it guesses")];
        assert_eq!(what_is_bad_about(599, &known), Some("it guesses"));
        assert_eq!(what_is_bad_about(544, &known), None);
    }

    #[test]
    fn releases_that_distributions_ship_are_good() {
        for release in 544..=548 {
            assert_eq!(what_is_bad_about(release, BAD_RELEASES), None);
        }
    }
}
