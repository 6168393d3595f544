//! The detector: a blob in, its MIME type out, as `file --mime-type` gives it for the whole file.
//!
//! libmagic judges, through a descriptor rather than a buffer: OLE documents are told apart by
//! sectors far from the head, and position-independent executables by their dynamic section; libmagic
//! seeks and reads those itself, if it has a descriptor. How much it may look at otherwise is bounded
//! by MAGIC_PARAM_BYTES_MAX, and [`plan`] decides when an answer calls for a longer look.
//!
//! The head is read here first: errors of the disk surface as such, the time of reading is told apart
//! from that of judging, and what comes before libmagic has something to look at.

mod cookie;
mod database;
mod plan;
mod selfcheck;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::failure::{Failure, FailureReason};
use crate::store::{Blob, in_words};
use cookie::Cookie;
pub use database::{MagicDatabase, magic_database};
pub use selfcheck::known_bad_release;

/// What libmagic calls the type of nothing at all. (`file` on an empty file looks at its inode first
/// and says `inode/x-empty`; on an empty pipe it says this.)
pub const EMPTY: &str = "application/x-empty";

/// Longest MIME type that is believed.
const MAX_MIME_TYPE: usize = 255;

/// How to detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Bytes of the first look.
    pub head_bytes: usize,
    /// Rule out what cannot match before libmagic looks.
    pub prefilter: bool,
}

/// libmagic can't be used; in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectorError(String);

impl fmt::Display for DetectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DetectorError {}

/// An answer, and what it took.
#[derive(Clone, Debug)]
pub struct Detection {
    pub mime_type: String,
    /// Bytes looked at, over all looks; what libmagic reads beyond by itself isn't known.
    pub bytes_read: u64,
    /// Looks taken.
    pub reads: u32,
    pub read_time: Duration,
    pub detect_time: Duration,
}

/// A warm libmagic. Neither Send nor Sync: one a backend.
pub struct Detector {
    config: DetectorConfig,
    cookie: Cookie,
    /// The head of the blob at hand; kept for its capacity.
    head: Vec<u8>,
}

impl Detector {
    /// Opens libmagic and loads its database, which takes milliseconds and megabytes.
    pub fn new(config: DetectorConfig) -> Result<Detector, DetectorError> {
        Ok(Detector {
            config,
            cookie: Cookie::open().map_err(DetectorError)?,
            head: Vec::new(),
        })
    }

    /// How it detects.
    pub fn config(&self) -> DetectorConfig {
        self.config
    }

    /// Changes how it detects; costs nothing.
    pub fn set_config(&mut self, config: DetectorConfig) {
        self.config = config;
    }

    /// Is anything ruled out before libmagic looks? Not in this release.
    pub fn prefilter_active(&self) -> bool {
        false
    }

    /// The type of a blob.
    pub fn detect_blob(&mut self, blob: &Blob) -> Result<Detection, Failure> {
        self.detect(blob.as_fd(), blob.size())
    }

    /// The type of bytes in hand: the same answer as for a file with this content, since libmagic
    /// gets one, in memory.
    pub fn detect_bytes(&mut self, content: &[u8]) -> Result<Detection, Failure> {
        let file = in_memory(content).map_err(|error| Failure {
            reason: FailureReason::Error,
            detail: format!("could not make a file in memory: {}", in_words(error)),
        })?;
        self.detect(file.as_fd(), content.len() as u64)
    }

    /// Judges tiny known heads; tells what it got wrong, a sentence each.
    pub fn self_check(&mut self) -> Vec<String> {
        selfcheck::run(self)
    }

    fn detect(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Detection, Failure> {
        let mut detection = Detection {
            mime_type: EMPTY.to_owned(),
            bytes_read: 0,
            reads: 0,
            read_time: Duration::ZERO,
            detect_time: Duration::ZERO,
        };
        let begun = Instant::now();
        self.read_head(file, size)?;
        detection.read_time = begun.elapsed();
        if self.head.is_empty() {
            return Ok(detection);
        }
        let mut limit = self.config.head_bytes;
        loop {
            let begun = Instant::now();
            detection.mime_type = self.look(file, limit)?;
            detection.detect_time += begun.elapsed();
            detection.bytes_read += size.min(limit as u64);
            detection.reads += 1;
            match plan::longer_look(&detection.mime_type, &self.head, limit, size) {
                Some(longer) => limit = longer,
                None => return Ok(detection),
            }
        }
    }

    fn read_head(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<(), Failure> {
        let unreadable = |error: Errno| Failure {
            reason: FailureReason::Unreadable,
            detail: format!("could not read: {}", in_words(error)),
        };
        // A file that grows meanwhile is judged by what it was.
        let wanted = size.min(self.config.head_bytes as u64) as usize;
        self.head.resize(wanted, 0);
        let mut have = 0;
        while have < wanted {
            match rustix::io::pread(file, &mut self.head[have..], have as u64) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        self.head.truncate(have);
        Ok(())
    }

    fn look(&mut self, file: BorrowedFd<'_>, limit: usize) -> Result<String, Failure> {
        let error = |detail: String| Failure {
            reason: FailureReason::Error,
            detail,
        };
        let answer = self.cookie.descriptor(file, limit);
        let answer = answer.map_err(|text| error(format!("libmagic: {text}")))?;
        let believable = |b: u8| b.is_ascii_graphic();
        if answer.contains('/') && answer.len() <= MAX_MIME_TYPE && answer.bytes().all(believable) {
            return Ok(answer);
        }
        let start: String = answer.chars().take(100).collect();
        Err(error(format!(
            "libmagic gave no MIME type but \"{}\"",
            start.escape_default()
        )))
    }
}

fn in_memory(content: &[u8]) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(c"ntt_mime", MemfdFlags::CLOEXEC)?;
    let mut rest = content;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}

/// The release of libmagic that is loaded, such as "5.44".
pub fn libmagic_release() -> String {
    let version = cookie::version();
    format!("{}.{:02}", version / 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_id::BlobId;
    use crate::store::Store;
    use std::collections::HashMap;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    const CONFIG: DetectorConfig = DetectorConfig {
        head_bytes: 16 * 1024,
        prefilter: true,
    };

    /// What file(1) says of whole files, in one process.
    fn judge(paths: &[PathBuf]) -> HashMap<PathBuf, String> {
        let mut file = Command::new("file")
            .args(["--mime-type", "--brief", "--files-from", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("file(1) is installed");
        let mut input = file.stdin.take().unwrap();
        let list: Vec<_> = paths.iter().map(|p| p.to_str().unwrap()).collect();
        let list = list.join("\n") + "\n";
        let writer = std::thread::spawn(move || input.write_all(list.as_bytes()).unwrap());
        let output = file.wait_with_output().unwrap();
        writer.join().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<_> = lines.lines().map(str::to_owned).collect();
        assert_eq!(answers.len(), paths.len());
        paths.iter().cloned().zip(answers).collect()
    }

    /// Regular files of this machine, of many kinds: at most `each` a directory.
    fn corpus(each: usize) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories: Vec<_> = ["/usr/share", "/usr/lib", "/usr/bin", "/etc"]
            .iter()
            .map(PathBuf::from)
            .collect();
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            let mut taken = 0;
            for path in paths {
                let Ok(metadata) = path.symlink_metadata() else {
                    continue;
                };
                if metadata.is_dir() {
                    directories.push(path);
                } else if usable(&path, &metadata) && taken < each {
                    taken += 1;
                    found.push(path);
                }
            }
        }
        found
    }

    fn usable(path: &Path, metadata: &std::fs::Metadata) -> bool {
        let plain = |c: char| c.is_ascii_graphic();
        metadata.is_file()
            && metadata.len() > 0
            && metadata.len() < 20_000_000
            && path.to_str().is_some_and(|text| text.chars().all(plain))
            && std::fs::File::open(path).is_ok()
    }

    #[test]
    fn answers_are_those_of_file_on_the_whole_file() {
        let paths = corpus(3);
        assert!(paths.len() > 500, "too few files on this machine");
        let truth = judge(&paths);
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().to_str().unwrap()).unwrap();
        let mut detector = Detector::new(CONFIG).unwrap();
        let mut wrong = Vec::new();
        for (n, path) in paths.iter().enumerate() {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            let id = BlobId::from_bytes(bytes);
            let place = directory.path().join(id.relative_path());
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(path, &place).unwrap();
            let blob = store.open_blob(&id).unwrap();
            let answer = detector.detect_blob(&blob).unwrap().mime_type;
            let content = std::fs::read(path).unwrap();
            let of_bytes = detector.detect_bytes(&content).unwrap().mime_type;
            assert_eq!(answer, of_bytes, "bytes in hand of {}", path.display());
            if answer != truth[path] {
                wrong.push(format!("{}: {answer}, not {}", path.display(), truth[path]));
            }
            std::fs::remove_file(&place).unwrap();
        }
        // Heads are read, not whole files: one in a thousand may differ.
        assert!(wrong.len() * 1000 <= paths.len(), "{wrong:#?}");
    }

    #[test]
    fn nothing_at_all_has_a_type() {
        let detection = Detector::new(CONFIG).unwrap().detect_bytes(b"").unwrap();
        assert_eq!(
            (detection.mime_type.as_str(), detection.bytes_read),
            (EMPTY, 0)
        );
    }

    #[test]
    fn long_json_is_looked_at_whole() {
        let mut text = String::from("[");
        for n in 0..20_000 {
            text += &format!("{{\"n\": {n}}},\n");
        }
        text += "{}]\n";
        let detection = Detector::new(CONFIG)
            .unwrap()
            .detect_bytes(text.as_bytes())
            .unwrap();
        assert_eq!(detection.mime_type, "application/json");
        assert!(detection.reads > 1 && detection.bytes_read > text.len() as u64);
    }

    #[test]
    fn the_machine_passes_the_self_check() {
        assert_eq!(
            Detector::new(CONFIG).unwrap().self_check(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_unusable_database_is_an_error() {
        // In a process of its own: MAGIC is read from the environment.
        let me = std::env::current_exe().unwrap();
        let output = Command::new(me)
            .args([
                "--ignored",
                "--exact",
                "detector::tests::child_with_a_bad_database",
            ])
            .env("MAGIC", "/nonexistent/magic")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    #[ignore = "run by an_unusable_database_is_an_error, with MAGIC set"]
    fn child_with_a_bad_database() {
        let error = Detector::new(CONFIG).err().expect("must fail").to_string();
        assert!(error.contains("/nonexistent/magic"), "{error}");
        assert!(!error.ends_with('\n'));
    }
}
