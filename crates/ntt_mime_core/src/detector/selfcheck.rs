//! Does the libmagic that is loaded answer as it should? Releases have shipped that did not.

use super::{Detector, cookie, libmagic_release};

/// Tiny heads, and what every good release says of them.
const KNOWN: [(&str, &[u8], &str); 8] = [
    (
        "PNG",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0",
        "image/png",
    ),
    (
        "JPEG",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0",
        "image/jpeg",
    ),
    (
        "PDF",
        b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "application/pdf",
    ),
    (
        "ZIP",
        b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0\x86\xa6\x106\x05\0\0\0\x05\0\0\0\x05\0\0\0a.\
          txthelloPK\x01\x02\x14\x03\x14\0\0\0\0\0\0\0!\0\x86\xa6\x106\x05\0\0\0\x05\0\
          \0\0\x05\0\0\0\0\0\0\0\0\0\0\0\x80\x01\0\0\0\0a.txtPK\x05\x06\0\0\0\0\x01\0\
          \x01\x003\0\0\0(\0\0\0\0\0",
        "application/zip",
    ),
    (
        "gzip",
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x04\0\x43\xbe\xb7\xe8\x01\0\0\0",
        "application/gzip",
    ),
    (
        "UTF-8 text",
        "na\u{ef}ve caf\u{e9}, \u{fc}ber\n".as_bytes(),
        "text/plain",
    ),
    (
        "JSON",
        b"{\"name\": [1, 2, {\"x\": null}]}\n",
        "application/json",
    ),
    (
        "HTML",
        b"<!DOCTYPE html>\n<html><head><title>x</title></head></html>\n",
        "text/html",
    ),
];

/// What is known to be wrong with a release in the way that we use it. (5.46 misjudges zip *buffers*
/// and is fine with descriptors.)
const BAD_RELEASES: [(i32, &str); 1] = [(
    547,
    "as published, it misjudges heads of binary files that are cut off; distributions have mended it",
)];

/// A sentence about the release that is loaded, if it is known for anything bad.
pub fn known_bad_release() -> Option<String> {
    let version = cookie::version();
    BAD_RELEASES
        .iter()
        .find(|(bad, _)| *bad == version)
        .map(|(_, what)| format!("libmagic {}: {what}.", libmagic_release()))
}

pub(super) fn run(detector: &mut Detector) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, head, expected) in KNOWN {
        let answer = match detector.detect_bytes(head) {
            Ok(detection) => detection.mime_type,
            Err(failure) => failure.detail,
        };
        if answer != expected {
            wrong.push(format!(
                "libmagic {} says \"{answer}\" of a {name} head instead of \"{expected}\".",
                libmagic_release()
            ));
        }
    }
    wrong
}
