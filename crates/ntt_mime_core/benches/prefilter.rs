//! What the prefilter spares, by type of file: both ways in turn on the same files, in one run.
//!
//! `cargo bench -p ntt_mime_core --bench prefilter [-- FOLDER...]`. Without folders it takes /usr/share and /usr/lib. A
//! ratio is the time with the prefilter over the time without, both of medians of rounds.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ntt_mime_core::detector::{Detector, DetectorConfig};
use walkdir::{DirEntry, WalkDir};

const ROUNDS: usize = 5;

/// Files of a type at most; types with fewer than some are told of together.
const FILES: usize = 60;
const FEWEST: usize = 3;

/// Of so many blobs one is judged again, whole and with all rules (`ntt_mime.audit_interval`).
const AUDIT_INTERVAL: f64 = 1000.0;

/// Times of a file without and with the prefilter.
type Times = [Duration; 2];

fn main() {
    let mut roots: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    roots.retain(|root| root.exists());
    if roots.is_empty() {
        roots = vec![PathBuf::from("/usr/share"), PathBuf::from("/usr/lib")];
    }
    let detector = |prefilter| {
        let config = DetectorConfig {
            head_bytes: 16 * 1024,
            prefilter,
        };
        Detector::new(config).expect("libmagic")
    };
    let memory = resident();
    let mut without = detector(false);
    let opened = resident();
    let begun = Instant::now();
    let mut with = detector(true);
    with.prepare();
    println!(
        "a second libmagic and its prefilter: {:.1} ms; memory: libmagic {} kB, with prefilter {} kB",
        begun.elapsed().as_secs_f64() * 1e3,
        opened - memory,
        resident() - opened,
    );

    let mut types: BTreeMap<String, Vec<File>> = BTreeMap::new();
    let paths = files(&roots);
    // What libmagic itself takes in use comes first.
    for file in paths.iter().filter_map(|path| File::open(path).ok()) {
        without.detect_file(file.as_fd(), size(&file)).ok();
    }
    let begun_with = resident();
    for path in paths {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let Ok(detection) = with.detect_file(file.as_fd(), size(&file)) else {
            continue;
        };
        let files = types.entry(detection.mime_type).or_default();
        if files.len() < FILES {
            files.push(file);
        }
    }
    println!(
        "memory after {} files of {} types: without {} kB, with {} kB more\n",
        types.values().map(Vec::len).sum::<usize>(),
        types.len(),
        begun_with - opened,
        resident() - begun_with
    );
    println!("| type | files | without, us | with, us | ratio | looks at all rules |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let (mut all, mut few) = (Row::default(), Row::default());
    for (mime_type, files) in &types {
        let row = measure(files, &mut without, &mut with);
        all.add(&row);
        match files.len() < FEWEST {
            true => few.add(&row),
            false => row.print(mime_type),
        }
    }
    few.print("rarer types");
    all.print("**all**");
    let [ordinary, audit] = all.audit.map(|time| time.as_secs_f64());
    println!(
        "\naudits take {:.2} % of the time of detection",
        100.0 * audit / AUDIT_INTERVAL / ordinary
    );
}

#[derive(Default)]
struct Row {
    files: usize,
    times: Times,
    /// Of a detection with the prefilter and of an audit, which reads all of the file: what they take on the clock, with
    /// what is read in memory already.
    audit: Times,
    fallbacks: u32,
}

impl Row {
    fn add(&mut self, other: &Row) {
        self.files += other.files;
        self.times[0] += other.times[0];
        self.times[1] += other.times[1];
        self.audit[0] += other.audit[0];
        self.audit[1] += other.audit[1];
        self.fallbacks += other.fallbacks;
    }

    fn print(&self, name: &str) {
        let [without, with] = self
            .times
            .map(|time| time.as_secs_f64() * 1e6 / self.files.max(1) as f64);
        let (files, fallbacks) = (self.files, self.fallbacks);
        println!(
            "| {name} | {files} | {without:.1} | {with:.1} | {:.3} | {fallbacks} |",
            with / without
        );
    }
}

fn measure(files: &[File], without: &mut Detector, with: &mut Detector) -> Row {
    let mut row = Row::default();
    for file in files {
        let size = size(file);
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=ROUNDS {
            for (detector, times) in [&mut *without, &mut *with].into_iter().zip(&mut times) {
                let detection = detector.detect_file(file.as_fd(), size).expect("as before");
                // The first round warms up.
                if round > 0 {
                    times.push(detection.detect_time);
                }
                row.fallbacks += u32::from(round > 0 && detection.fallbacks > 0);
            }
        }
        let [a, b] = times.map(|mut times| {
            times.sort();
            times[times.len() / 2]
        });
        let begun = Instant::now();
        with.detect_file(file.as_fd(), size).expect("as before");
        let ordinary = begun.elapsed();
        without.detect_whole_file(file.as_fd(), size).ok();
        row.add(&Row {
            files: 1,
            times: [a, b],
            audit: [ordinary, begun.elapsed() - ordinary],
            fallbacks: 0,
        });
    }
    row.fallbacks /= ROUNDS as u32;
    row
}

fn size(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

fn files(roots: &[PathBuf]) -> Vec<PathBuf> {
    let all = roots
        .iter()
        .flat_map(|root| WalkDir::new(root).sort_by_file_name());
    let files = all.flatten().filter(|entry| entry.file_type().is_file());
    let long_enough = files.filter(|entry| entry.metadata().is_ok_and(|file| file.len() > 1));
    long_enough.map(DirEntry::into_path).collect()
}

/// Memory of its own in kB: the mapped database is shared with all who map it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or(0)
}
