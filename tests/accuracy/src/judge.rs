//! file(1), the judge.

use std::io::Write;
use std::process::{Command, Stdio};

use ntt_mime_core::detector::EMPTY;

use crate::corpus::{Corpus, Sample};
use crate::measure::{NO_ANSWER, in_parallel};

/// What file(1) says of each file, looked at whole, in their order.
///
/// Three of its answers are translated. That an empty file is [`EMPTY`] instead of `inode/x-empty` is
/// decided, see there. Of damaged ELF files it gives the type, a comma and a complaint, of which
/// the type is taken. An error of libmagic's is [no answer](NO_ANSWER).
pub fn file_mime(corpus: &Corpus) -> Result<Vec<String>, String> {
    let chunks: Vec<&[Sample]> = corpus.files.chunks(500).collect();
    let answers = in_parallel(chunks.len(), || (), |(), n| one_process(chunks[n]));
    let answers: Result<Vec<Vec<String>>, String> = answers.into_iter().collect();
    Ok(answers?.concat())
}

fn one_process(files: &[Sample]) -> Result<Vec<String>, String> {
    let mut process = Command::new("file")
        .args(["--brief", "--mime-type", "--files-from", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("file(1) could not be started: {error}"))?;
    let names: String = files
        .iter()
        .map(|file| format!("{}\n", file.path.display()))
        .collect();
    let mut input = process.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || input.write_all(names.as_bytes()));
    let output = process
        .wait_with_output()
        .map_err(|error| format!("file(1): {error}"))?;
    let written = writer.join().expect("it does not panic");
    written.map_err(|error| format!("file(1) did not read its list: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<String> = text.lines().map(translated).collect();
    if answers.len() != files.len() {
        return Err(format!(
            "file(1) gave {} lines for {} files",
            answers.len(),
            files.len()
        ));
    }
    Ok(answers)
}

fn translated(answer: &str) -> String {
    match answer.split(", ").next() {
        None | Some("inode/x-empty") => EMPTY.to_owned(),
        Some(error) if error.starts_with("ERROR: ") => NO_ANSWER.to_owned(),
        Some(mime_type) => mime_type.to_owned(),
    }
}
