//! file(1), the judge of every answer.
//!
//! Two differences are decided and wanted, and [`file_mime`] translates them: an empty file is
//! `application/x-empty`, where file(1) says `inode/x-empty`; and a complaint about a damaged ELF file,
//! which file(1) appends to the type after a comma, is cut off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::{fs, io::Write};

use crate::scratch;

/// The MIME type that file(1) gives for each whole file, one process for all.
pub fn file_mime(paths: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let list = scratch::folder("judge").join("paths");
    let mut out = fs::File::create(&list).expect("scratch folder");
    for path in paths {
        writeln!(out, "{}", path.display()).expect("scratch folder");
    }
    drop(out);
    let output = Command::new("file")
        .args(["--brief", "--mime-type", "--files-from"])
        .arg(&list)
        .output()
        .expect("file(1) is installed");
    assert!(output.status.success(), "file(1) failed");
    let answers = String::from_utf8(output.stdout).expect("MIME types are ASCII");
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), paths.len(), "file(1) gives one line a file");
    paths
        .iter()
        .cloned()
        .zip(answers.into_iter().map(translate))
        .collect()
}

fn translate(answer: &str) -> String {
    match answer.split(", ").next() {
        None | Some("inode/x-empty") => "application/x-empty".into(),
        Some(mime_type) => mime_type.into(),
    }
}

/// The release of libmagic that file(1) uses, as `5.44`.
pub fn libmagic_release() -> String {
    let output = Command::new("file")
        .arg("--version")
        .output()
        .expect("file(1) is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default();
    first
        .strip_prefix("file-")
        .unwrap_or_else(|| panic!("no release in {first:?}"))
        .to_owned()
}
