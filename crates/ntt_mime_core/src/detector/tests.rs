mod locale;
mod probes;

use super::*;
use crate::blob_id::BlobId;
use crate::store::Store;
use std::fs;
use std::path::Path;
use std::process::Command;

const CONFIG: DetectorConfig = DetectorConfig {
    head_bytes: 16 * 1024,
    prefilter: true,
};

fn detector() -> Detector {
    let mut detector = Detector::new(CONFIG).unwrap();
    // Otherwise it would come in the middle of a test, and read a little less from then on.
    detector.prepare();
    detector
}

/// One that leaves all to libmagic.
fn without_prefilter() -> Detector {
    let config = DetectorConfig {
        prefilter: false,
        ..CONFIG
    };
    Detector::new(config).unwrap()
}

/// A store with one blob of this content.
fn with_blob<T>(content: &[u8], work: impl FnOnce(Blob, &Path) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let id = BlobId::from_bytes([0xab; 32]);
    let path = directory.path().join(id.relative_path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    let store = Store::open(directory.path().to_str().unwrap()).unwrap();
    work(store.open_blob(&id).unwrap(), &path)
}

#[test]
fn bytes_in_hand_have_the_type_of_the_blob() {
    let mut detector = detector();
    for KnownFile { content, .. } in known_files() {
        // Short, and longer than any look but at the whole.
        for content in [content.to_vec(), content.repeat(100_000 / content.len())] {
            let of_bytes = detector.detect_bytes(&content).unwrap();
            let of_blob = with_blob(&content, |blob, _| detector.detect_blob(&blob).unwrap());
            assert_eq!(of_bytes.mime_type, of_blob.mime_type);
            assert_eq!(of_bytes.bytes_read, of_blob.bytes_read);
            assert_eq!(of_bytes.reads, of_blob.reads);
        }
    }
}

#[test]
fn nothing_at_all_has_a_type() {
    let detection = detector().detect_bytes(b"").unwrap();
    assert_eq!(
        (detection.mime_type.as_str(), detection.bytes_read),
        (EMPTY, 0)
    );
    let detection = with_blob(b"", |blob, _| detector().detect_blob(&blob).unwrap());
    assert_eq!((detection.mime_type.as_str(), detection.reads), (EMPTY, 0));
}

#[test]
fn a_single_byte_is_something() {
    let detection = detector().detect_bytes(b"a").unwrap();
    assert_eq!(detection.mime_type, "application/octet-stream");
    assert_eq!((detection.bytes_read, detection.reads), (1, 1));
}

#[test]
fn long_json_is_looked_at_whole() {
    let mut text = String::from("[");
    for n in 0..20_000 {
        text += &format!("{{\"n\": {n}}}, ");
    }
    let cut_off = text.clone();
    text += "{}]\n";
    let detection = detector().detect_bytes(text.as_bytes()).unwrap();
    assert_eq!(detection.mime_type, "application/json");
    // On from the head.
    assert_eq!(detection.reads, 1);
    assert_eq!(detection.bytes_read, text.len() as u64);
    let detection = detector().detect_bytes(cut_off.as_bytes()).unwrap();
    assert_eq!(detection.mime_type, "text/plain");
    let rtf = format!("{{\\rtf1\\ansi {cut_off}");
    let detection = detector().detect_bytes(rtf.as_bytes()).unwrap();
    assert_eq!(
        (detection.mime_type.as_str(), detection.reads),
        ("text/rtf", 1)
    );
}

#[test]
fn a_mark_beyond_the_head_is_found() {
    // ISO 9660 has it at 32 kB.
    let mut image = vec![0; 100_000];
    image[32768..32775].copy_from_slice(b"\x01CD001\x01");
    let detection = detector().detect_bytes(&image).unwrap();
    assert_eq!(detection.mime_type, "application/x-iso9660-image");
    assert!(detection.bytes_read < 80_000, "{detection:?}");
    let detection = without_prefilter().detect_bytes(&image).unwrap();
    assert_eq!(detection.mime_type, "application/x-iso9660-image");
    // And what we and libmagic read at the end: in the first look, and from 5.46 on in the second.
    let (looks, end) = (40960 + 22, [16384, 40960]);
    assert_eq!(detection.reads, 2);
    assert!(
        end.contains(&(detection.bytes_read - looks)),
        "{detection:?}"
    );
}

#[test]
fn what_follows_a_head_of_text_decides_too() {
    let mut detector = detector();
    let text = b"some words\n".repeat(2_000);
    let plain = [text.as_slice(), text.as_slice(), text.as_slice()].concat();
    let mut type_of = |content: &[u8]| detector.detect_bytes(content).unwrap().mime_type;
    assert_eq!(type_of(&plain), "text/plain");
    let holed = [text.as_slice(), &[0; 4096], text.as_slice()].concat();
    assert_eq!(type_of(&holed), "application/octet-stream");
    // Beyond 64 kB nobody asks.
    let later = [text.repeat(3).as_slice(), &[0; 4096]].concat();
    assert_eq!(type_of(&later), "text/plain");
}

#[test]
fn the_setting_decides_the_first_look() {
    let mut detector = detector();
    // A PNG is known before any rule asks for the end of the file.
    let mut image = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    image.resize(1_100_000, 0);
    for (head_bytes, looked) in [
        (0, 512),
        (4096, 4096),
        (1 << 20, 1 << 20),
        (1 << 30, 1_100_000),
    ] {
        let config = DetectorConfig {
            head_bytes,
            prefilter: false,
        };
        detector.set_config(config);
        let detection = detector.detect_bytes(&image).unwrap();
        assert_eq!(
            (detection.mime_type.as_str(), detection.bytes_read),
            ("image/png", looked)
        );
    }
    assert!(!detector.prefilter_active());
}

#[test]
fn what_libmagic_reads_by_itself_counts() {
    let mut detector = without_prefilter();
    // Nobody knows what this is, so the rules that count from the end are asked too.
    let strange = [0xfe, 0, 0xfd, 1].repeat(1 << 18);
    let detection = detector.detect_bytes(&strange).unwrap();
    assert_eq!(detection.mime_type, "application/octet-stream");
    // One look, as much at the end, and a search for two marks of our own.
    let head = CONFIG.head_bytes as u64;
    assert_eq!(detection.bytes_read, head + head + 22 + 32 + 288);
    assert_eq!(detection.reads, 1);
    // With a prefilter the rules are tried where they look, and find nothing.
    let detection = self::detector().detect_bytes(&strange).unwrap();
    assert!(detection.bytes_read < 8 * head, "{detection:?}");
    assert_eq!((detection.prefiltered, detection.fallbacks), (1, 0));
    // A file cannot have more than it has.
    let detection = detector.detect_bytes(&strange[..20_000]).unwrap();
    assert_eq!((detection.bytes_read, detection.reads), (20_000, 1));
}

#[test]
fn the_position_of_the_descriptor_does_not_matter() {
    with_blob(b"%PDF-1.4\n1 0 obj\n", |blob, _| {
        rustix::fs::seek(blob.as_fd(), rustix::fs::SeekFrom::Start(9)).unwrap();
        let mut detector = detector();
        for _ in 0..2 {
            let detection = detector.detect_blob(&blob).unwrap();
            assert_eq!(detection.mime_type, "application/pdf");
        }
    });
}

#[test]
fn a_file_cut_short_meanwhile_is_judged_by_what_is_left() {
    let content = [b"%PDF-1.4\n".as_slice(), &[0; 100_000]].concat();
    with_blob(&content, |blob, path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(9).unwrap();
        let mut detector = detector();
        assert_eq!(
            detector.detect_blob(&blob).unwrap().mime_type,
            "application/pdf"
        );
        file.set_len(0).unwrap();
        assert_eq!(detector.detect_blob(&blob).unwrap().mime_type, EMPTY);
    });
}

#[test]
fn what_cannot_be_read_is_unreadable() {
    // A directory can be opened and not read, which stands for a bad disk here.
    let directory = fs::File::open("/").unwrap();
    let error = detector().detect(directory.as_fd(), 4096).err().unwrap();
    let expected = "could not read \"/\": Is a directory";
    let failure = error.about("\"/\"");
    assert_eq!(
        (failure.reason, failure.detail.as_str()),
        (FailureReason::Unreadable, expected)
    );
}

#[test]
fn only_mime_types_are_believed() {
    for good in ["text/plain", "application/vnd.ms-excel", "image/svg+xml"] {
        assert!(matches!(believed(good.to_owned()), Ok(answer) if answer == good));
    }
    let long = format!("a/{}", "b".repeat(254));
    for bad in [
        "",
        "text",
        "text/plain\n",
        "a/b c",
        "a/\u{e9}",
        "a/b\0",
        &long,
    ] {
        let Err(error) = believed(bad.to_owned()) else {
            panic!("{bad:?} believed");
        };
        let failure = error.about("it");
        assert_eq!(failure.reason, FailureReason::Error);
        assert!(
            failure
                .detail
                .chars()
                .all(|c| c == ' ' || c.is_ascii_graphic())
        );
        assert!(failure.detail.len() < 200);
    }
}

#[test]
fn a_complaint_behind_the_type_is_cut_off() {
    // A shared library whose program headers have a size that no header has.
    let mut library = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
    library.resize(64, 0);
    library[32] = 64;
    library[52] = 64;
    library[54] = 1;
    library[56] = 2;
    library.resize(1000, 0);
    let detection = detector().detect_bytes(&library).unwrap();
    assert_eq!(detection.mime_type, "application/x-sharedlib");
    let said = "application/x-sharedlib, corrupted program header size".to_owned();
    assert!(matches!(believed(said), Ok(answer) if answer == "application/x-sharedlib"));
    assert!(believed(", application/pdf".to_owned()).is_err());
}

#[test]
fn hostile_content_gets_an_answer() {
    let mut detector = detector();
    let deep = b"[".repeat(200_000);
    let quotes = b"\"\n".repeat(100_000);
    for content in [deep, quotes, vec![0xff; 70_000], b"\x7fELF".repeat(5_000)] {
        assert!(detector.detect_bytes(&content).is_ok());
    }
}

#[test]
fn the_machine_passes_the_complaints() {
    assert_eq!(detector().complaints(), Vec::<String>::new());
}

/// Runs one of the ignored tests below in a process of its own, since MAGIC is read from the
/// environment.
fn child(test: &str, magic: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("detector::tests::{test}")])
        .env("MAGIC", magic)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn an_unusable_database_is_an_error() {
    child("child_with_a_bad_database", Path::new("/nonexistent/magic"));
}

#[test]
#[ignore = "run by an_unusable_database_is_an_error, with MAGIC set"]
fn child_with_a_bad_database() {
    let error = Detector::new(CONFIG).err().expect("must fail").to_string();
    assert!(error.starts_with("\"/nonexistent/magic\": "), "{error}");
    assert_eq!(error.trim_end_matches(['\n', '.']), error);
    let database = magic_database();
    assert_eq!(
        (database.path.as_str(), database.entries),
        ("/nonexistent/magic", None)
    );
}

#[test]
fn a_poor_database_fails_the_complaints() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("poor");
    fs::write(
        &path,
        "0\tstring\t%PDF\tnot really\n!:mime\ttext/x-not-pdf\n",
    )
    .unwrap();
    child("child_with_a_poor_database", &path);
}

#[test]
#[ignore = "run by a_poor_database_fails_the_complaints, with MAGIC set"]
fn child_with_a_poor_database() {
    let complaints = Detector::new(CONFIG).unwrap().complaints();
    let expected = format!(
        "libmagic {} takes a PDF document for \"text/x-not-pdf\" instead of \"application/pdf\".",
        libmagic_release()
    );
    assert!(complaints.contains(&expected), "{complaints:#?}");
    assert!(complaints.len() > 3);
    assert_eq!(magic_database().entries, Some(1));
}

#[test]
fn the_release_reads_as_people_write_it() {
    let version = cookie::version();
    assert_eq!(libmagic_release(), format!("5.{}", version - 500));
}
