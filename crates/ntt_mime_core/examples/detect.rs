//! Judges files again and again, for tools that count instructions (benches/instructions.sh).
//!
//!     detect on|off TIMES FILE...

use std::fs::File;
use std::os::fd::AsFd;

use ntt_mime_core::detector::{Detector, DetectorConfig};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [prefilter, times, paths @ ..] = arguments.as_slice() else {
        panic!("usage: detect on|off TIMES FILE...");
    };
    let config = DetectorConfig {
        head_bytes: 16 * 1024,
        prefilter: prefilter == "on",
    };
    let mut detector = Detector::new(config).expect("libmagic");
    detector.prepare();
    let open = |path| {
        let file = File::open(path).expect("a file");
        let size = file.metadata().expect("its size").len();
        (file, size)
    };
    let files: Vec<(File, u64)> = paths.iter().map(open).collect();
    for _ in 0..times.parse().expect("a number") {
        for (file, size) in &files {
            detector.detect_file(file.as_fd(), *size).ok();
        }
    }
}
