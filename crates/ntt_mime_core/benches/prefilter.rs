//! What the prefilter spares, by type of file: both ways in turn on the same files, in one run.
//!
//! `cargo bench -p ntt_mime_core --bench prefilter [-- FOLDER...]`. Without folders it takes /usr/share and /usr/lib. A
//! ratio is the time with the prefilter over the time without, both of medians of rounds. Beside them, what it takes to open
//! each of the files, read as much of it as is read of most, and close it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ntt_mime_core::detector::{Detector, DetectorConfig};
use walkdir::{DirEntry, WalkDir};

const ROUNDS: usize = 5;

/// Bytes that are read of a file at first.
const HEAD: usize = 16 * 1024;

/// Types that take more than this of libmagic's time are named.
const SLOW: f64 = 0.5;

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
            head_bytes: HEAD,
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

    let mut types: BTreeMap<String, Vec<(PathBuf, File)>> = BTreeMap::new();
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
            files.push((path, file));
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
    let mut slow = Vec::new();
    for (mime_type, files) in &types {
        let row = measure(files, &mut without, &mut with);
        all.add(&row);
        if row.ratio() > SLOW {
            slow.push(format!("{mime_type} {:.2}", row.ratio()));
        }
        match files.len() < FEWEST {
            true => few.add(&row),
            false => row.print(mime_type),
        }
    }
    few.print("rarer types");
    all.print("**all**");
    let reading = all.reading.as_secs_f64();
    println!(
        "\nto open, read {} kB and close takes {:.1} us a file; detection with the prefilter {:.1} times as long",
        HEAD / 1024,
        reading * 1e6 / all.files as f64,
        all.times[1].as_secs_f64() / reading
    );
    match slow.is_empty() {
        true => println!("no type takes more than {SLOW} of libmagic's time"),
        false => println!("more than {SLOW} of libmagic's time: {}", slow.join(", ")),
    }
    let [ordinary, audit] = all.audit.map(|time| time.as_secs_f64());
    println!(
        "audits take {:.2} % of the time of detection",
        100.0 * audit / AUDIT_INTERVAL / ordinary
    );
}

#[derive(Default)]
struct Row {
    files: usize,
    times: Times,
    /// To open the file, read what is read at first, and close it.
    reading: Duration,
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
        self.reading += other.reading;
        self.audit[0] += other.audit[0];
        self.audit[1] += other.audit[1];
        self.fallbacks += other.fallbacks;
    }

    fn ratio(&self) -> f64 {
        self.times[1].as_secs_f64() / self.times[0].as_secs_f64()
    }

    fn print(&self, name: &str) {
        let [without, with] = self
            .times
            .map(|time| time.as_secs_f64() * 1e6 / self.files.max(1) as f64);
        let (files, fallbacks) = (self.files, self.fallbacks);
        println!(
            "| {name} | {files} | {without:.1} | {with:.1} | {:.3} | {fallbacks} |",
            self.ratio()
        );
    }
}

fn measure(files: &[(PathBuf, File)], without: &mut Detector, with: &mut Detector) -> Row {
    let mut row = Row::default();
    let mut head = vec![0; HEAD];
    for (path, file) in files {
        let size = size(file);
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..=ROUNDS {
            let reading = read(path, &mut head);
            if round > 0 {
                times[2].push(reading);
            }
            for (detector, times) in [&mut *without, &mut *with].into_iter().zip(&mut times) {
                let detection = detector.detect_file(file.as_fd(), size).expect("as before");
                // The first round warms up.
                if round > 0 {
                    times.push(detection.detect_time);
                }
                row.fallbacks += u32::from(round > 0 && detection.fallbacks > 0);
            }
        }
        let [a, b, reading] = times.map(|mut times| {
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
            reading,
            audit: [ordinary, begun.elapsed() - ordinary],
            fallbacks: 0,
        });
    }
    row.fallbacks /= ROUNDS as u32;
    row
}

/// How long it takes to open a file, read its head, and close it.
fn read(path: &Path, head: &mut [u8]) -> Duration {
    let begun = Instant::now();
    if let Ok(mut file) = File::open(path) {
        std::hint::black_box(file.read(head).unwrap_or(0));
    }
    begun.elapsed()
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
