//! Checks that the loaded libmagic gives the right answers.
//!
//! There have been releases that did not, the library may have been replaced under a running server, and a custom
//! database may be broken or incomplete. A few tiny files reveal most of that in a millisecond or two.

use std::borrow::Cow;

use super::{Detector, libmagic_release};

/// A tiny file, and the type that libmagic 5.44 to 5.48 all give it.
pub struct KnownFile {
    /// What it is, for messages.
    pub name: &'static str,
    pub content: Cow<'static, [u8]>,
    pub mime_type: &'static str,
}

/// The files with which a detector is checked.
pub fn known_files() -> Vec<KnownFile> {
    let files: [(_, Cow<[u8]>, _); 13] = [
        (
            "a PNG image",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0".into(),
            "image/png",
        ),
        (
            "a JPEG image",
            b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".into(),
            "image/jpeg",
        ),
        (
            "an MPEG-4 film",
            b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".into(),
            "video/mp4",
        ),
        (
            "a PDF document",
            b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n".into(),
            "application/pdf",
        ),
        (
            "a ZIP archive",
            zip_archive(&["a.txt"]).into(),
            "application/zip",
        ),
        (
            "a Word document of today",
            zip_archive(&["[Content_Types].xml", "_rels/.rels", "word/document.xml"]).into(),
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        (
            "a Word document of old",
            ole_document("WordDocument").into(),
            "application/msword",
        ),
        (
            "a gzip file",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x04\0\x43\xbe\xb7\xe8\x01\0\0\0".into(),
            "application/gzip",
        ),
        (
            "an ELF program",
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\0\0\x40\0\0\0\0\0\
              \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\x38\0\0\0\x40\0\0\0\0\0"
                .into(),
            "application/x-executable",
        ),
        (
            "a text in UTF-8",
            "na\u{ef}ve caf\u{e9}, \u{fc}ber\n".as_bytes().into(),
            "text/plain",
        ),
        (
            "a JSON text",
            b"{\"name\": [1, 2, {\"x\": null}]}\n".into(),
            "application/json",
        ),
        (
            "an HTML page",
            b"<!DOCTYPE html>\n<html><head><title>x</title></head></html>\n".into(),
            "text/html",
        ),
        (
            "bytes without meaning",
            b"\x80\0\x81\x01\x82\x02\x83\x03\x84\x04\x85\x05\x86\x06\x87\x07".into(),
            "application/octet-stream",
        ),
    ];
    files
        .map(|(name, content, mime_type)| KnownFile {
            name,
            content,
            mime_type,
        })
        .into()
}

/// A ZIP archive of files with the same 100 bytes: APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16. Between very small
/// files libmagic doesn't find the names by which it recognizes documents: 5.46 needs 20 bytes each if there are
/// three files, 5.47 needs 10 if there are four.
fn zip_archive(names: &[&str]) -> Vec<u8> {
    const CONTENT: [u8; 100] = [b'x'; 100];
    const CHECKSUM: u32 = 0x5e0e_5d8f;
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    for name in names {
        let length = u16::try_from(name.len()).expect("names are short");
        let mut common = vec![20, 0];
        common.extend([0; 8]); // neither flags, method nor time
        common.extend(CHECKSUM.to_le_bytes());
        common.extend([CONTENT.len() as u8, 0, 0, 0].repeat(2));
        common.extend(length.to_le_bytes());
        common.extend([0; 2]);
        let offset = u32::try_from(archive.len()).expect("archives are small");
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]); // no comment, no attributes
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(CONTENT);
    }
    let count = u16::try_from(names.len())
        .expect("names are few")
        .to_le_bytes();
    let [offset, size] = [&archive, &directory].map(|part| {
        u32::try_from(part.len())
            .expect("archives are small")
            .to_le_bytes()
    });
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count, count].concat());
    archive.extend([size, offset].concat());
    archive.extend([0; 2]);
    archive
}

/// An OLE document with one stream, by whose name it is recognized. It has three sectors of 512 bytes: a header, the
/// allocation table, the directory ([MS-CFB] 2.2, 2.3 and 2.6).
fn ole_document(stream: &str) -> Vec<u8> {
    const FREE: [u8; 4] = [0xff; 4];
    const END: [u8; 4] = [0xfe, 0xff, 0xff, 0xff];
    const TABLE: [u8; 4] = [0xfd, 0xff, 0xff, 0xff];
    let mut document = vec![0; 3 * 512];
    let mut put = |offset: usize, bytes: &[u8]| {
        document[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1");
    put(24, b"\x3e\0\x03\0\xfe\xff\x09\0\x06\0"); // version, byte order, sizes of sectors
    put(44, b"\x01\0\0\0\x01\0\0\0"); // one sector of table; the directory is in sector 1
    put(56, &4096u32.to_le_bytes());
    put(60, &END);
    put(68, &END);
    put(80, &FREE.repeat(108)); // the table is in sector 0, and nowhere else
    put(512, &[TABLE, END].concat());
    put(520, &FREE.repeat(126));
    for (entry, name, kind, child) in [
        (1024, "Root Entry", 5, [1, 0, 0, 0]),
        (1152, stream, 2, FREE),
    ] {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        put(entry, &name);
        let length = u8::try_from(name.len() + 2).expect("names have 31 characters at most");
        put(entry + 64, &[length, 0, kind, 1]);
        put(entry + 68, &[FREE, FREE, child].concat());
        put(entry + 116, &END);
    }
    document
}

/// A sentence for each of the tiny files that is judged wrong. None if no such file can be created, which isn't
/// libmagic's fault.
pub(super) fn run(detector: &mut Detector) -> Vec<String> {
    if crate::memory::file().is_err() {
        return Vec::new();
    }
    known_files()
        .iter()
        .filter_map(|file| {
            let answer = match detector.detect_bytes(&file.content) {
                Ok(detection) if detection.mime_type == file.mime_type => return None,
                Ok(detection) => format!("\"{}\"", detection.mime_type),
                Err(failure) => format!("an error ({})", failure.detail),
            };
            Some(format!(
                "libmagic {} takes {} for {answer} instead of \"{}\".",
                libmagic_release(),
                file.name,
                file.mime_type
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_tiny() {
        assert!(known_files().iter().all(|file| file.content.len() < 2048));
    }
}
