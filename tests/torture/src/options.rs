//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

/// Rounds of each fault when nothing else is said.
const EACH: usize = 1;

pub struct Options {
    /// How long the whole of it goes on at least.
    pub time: Duration,
    /// Rounds of each fault at least.
    pub each: usize,
    /// The short form: each fault once, brief loaders, little memory.
    pub short: bool,
    /// Parts of names of faults, `loaders`, `memory`, `locks` or `corrections`; empty: all.
    pub only: Vec<String>,
    pub seed: u64,
    /// Writes the tables into docs/reliability.md.
    pub write: bool,
    /// Where violations are written down.
    pub log: PathBuf,
}

impl Options {
    pub fn from_command_line() -> Result<Options, lexopt::Error> {
        use lexopt::prelude::*;
        let mut options = Options {
            time: Duration::ZERO,
            each: EACH,
            short: false,
            only: Vec::new(),
            seed: fastrand::u64(..),
            write: false,
            log: std::env::temp_dir().join("ntt_mime_torture.log"),
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("seconds") => options.time = Duration::from_secs(parser.value()?.parse()?),
                Long("each") => options.each = parser.value()?.parse()?,
                Long("short") => options.short = true,
                Long("only") => options.only.push(parser.value()?.string()?),
                Long("seed") => options.seed = parser.value()?.parse()?,
                Long("write") => options.write = true,
                Long("log") => options.log = parser.value()?.into(),
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }

    /// Is a fault or part of this name wanted?
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// How long loaders go on beside runs.
    pub fn loaders_time(&self) -> Duration {
        match self.short {
            true => Duration::from_secs(8),
            false => (self.time / 10).max(Duration::from_secs(30)),
        }
    }
}
