//! Does the detector answer as file(1) does on the whole file, and at what price?
//!
//!     ntt_mime_accuracy [--rules] [--goals] [--report FILE] [--answers FILE] CORPUS
//!
//! CORPUS is a folder of files, made by `corpus/make.sh`; its first level names the classes that the
//! report is by. Each file is judged by `file --mime-type`, by the detector through a descriptor, and by the
//! detector with the whole content in hand (as `ntt_detect_mime(bytea)` has it).
//!
//! Fails if the two ways of the detector differ from each other, or if more than one answer in 2,000
//! differs from file(1)'s. With `--goals`, for a corpus that is known: if any answer differs, or if what the project
//! promises isn't reached. With
//! `--rules` the simpler rules for how much to read are measured beside the one in use. `--report`
//! writes the report to a file, too, and `--answers` a line for each file of the corpus: its name, size,
//! file(1)'s answer, the detector's, bytes read, places.

mod buffer;
mod corpus;
mod goals;
mod judge;
mod measure;
mod report;
mod rules;

use std::path::PathBuf;
use std::process::ExitCode;

use corpus::Corpus;
use measure::Measured;
use report::Report;

struct Arguments {
    corpus: PathBuf,
    rules: bool,
    goals: bool,
    report: Option<PathBuf>,
    answers: Option<PathBuf>,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut corpus, mut rules, mut goals) = (None, false, false);
    let (mut report, mut answers) = (None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rules") => rules = true,
            Long("goals") => goals = true,
            Long("answers") => answers = Some(parser.value()?.into()),
            Long("report") => report = Some(parser.value()?.into()),
            Value(path) if corpus.is_none() => corpus = Some(path.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Arguments {
        corpus: corpus.ok_or("missing argument: the corpus")?,
        rules,
        goals,
        report,
        answers,
    })
}

fn main() -> ExitCode {
    match arguments().map_err(|error| error.to_string()).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Measures, reports, and tells whether all is well.
fn run(arguments: Arguments) -> Result<bool, String> {
    let corpus = Corpus::find(&arguments.corpus)?;
    eprintln!("{} files; file(1) judges them", corpus.files.len());
    let truth = judge::file_mime(&corpus)?;
    let contestants = if arguments.rules {
        rules::all()
    } else {
        vec![rules::in_use()]
    };
    let mut measured = Vec::new();
    for rule in contestants {
        eprintln!("{}", rule.name);
        measured.push(Measured::new(rule, &corpus)?);
    }
    eprintln!("the same with the content in hand");
    let torn =
        measure::differing_in_hand(&corpus, &measured.last().expect("one at least").answers)?;

    let report = Report::new(&corpus, &truth, &measured);
    print!("{}", report.text());
    let files = [
        (arguments.report, report.text()),
        (arguments.answers, report.answers()),
    ];
    for (path, text) in files {
        let Some(path) = path else { continue };
        std::fs::write(&path, text).map_err(|error| format!("\"{}\": {error}", path.display()))?;
    }
    let mut complaints = match arguments.goals {
        true => goals::missed(&report),
        false => goals::missed_anywhere(&report),
    };
    complaints.extend(torn);
    for complaint in &complaints {
        println!("FAILED: {complaint}");
    }
    let all = report.share(|_| true);
    // In the form that test runners have, for those who count.
    println!(
        "\naccuracy: {} passed, {} failed",
        all.files - all.differ,
        complaints.len()
    );
    Ok(complaints.is_empty())
}
