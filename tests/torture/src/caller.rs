//! The session that runs CALL, and how it ended.

use std::fmt;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use ntt_mime_integration::{Background, Outcome, Session, server, session, wait_for, wait_until};

use crate::ground::{DATABASE, Ground};

const SOON: Duration = Duration::from_secs(60);

pub enum Caller {
    Session(Background),
    /// A client program, that it can be killed.
    Psql {
        program: Child,
        leader: i32,
    },
}

/// How CALL ended for the one who sent it.
#[derive(Debug)]
pub enum Ending {
    Succeeded(Outcome),
    /// An error of the server, and the session lives.
    Failed {
        sqlstate: String,
        message: String,
    },
    /// The session is gone.
    Lost(String),
}

impl Caller {
    /// CALL by a session that has been prepared.
    pub fn session(session: Session, arguments: &str) -> Caller {
        Caller::Session(session.call_in_background(arguments))
    }

    /// CALL by psql.
    pub fn psql(ground: &Ground, beside: &mut Session, arguments: &str) -> Caller {
        let mut command = ground.cluster.client("psql", DATABASE);
        command
            .args(["-X", "-c", &format!("CALL ntt_backfill_mime({arguments})")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut program = server::spawn(command).expect("psql starts");
        let leader = wait_for(SOON, "psql to connect", || {
            // It may be over before it is seen; no process has this number.
            if program.try_wait().expect("our child").is_some() {
                return Some(0);
            }
            beside
                .query_opt(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'psql' AND query LIKE 'CALL %'",
                    &[],
                )
                .expect("reads")
                .map(|row| row.get(0))
        });
        Caller::Psql { program, leader }
    }

    /// The process id of the leader.
    pub fn leader(&self) -> i32 {
        match self {
            Caller::Session(background) => background.pid,
            Caller::Psql { leader, .. } => *leader,
        }
    }

    pub fn is_finished(&mut self) -> bool {
        match self {
            Caller::Session(background) => background.is_finished(),
            Caller::Psql { program, .. } => program.try_wait().expect("our child").is_some(),
        }
    }

    /// Waits for the end.
    pub fn finish(self) -> Ending {
        match self {
            Caller::Session(background) => match background.finish().1 {
                Ok(outcome) => Ending::Succeeded(outcome),
                Err(error) => Ending::from(&error),
            },
            Caller::Psql { mut program, .. } => {
                wait_until(SOON, "psql to end", || {
                    program.try_wait().expect("our child").is_some()
                });
                let mut words = String::new();
                if let Some(mut stderr) = program.stderr.take() {
                    let _ = stderr.read_to_string(&mut words);
                }
                Ending::Lost(words)
            }
        }
    }
}

impl Ending {
    /// `ok`, `lost` or the SQLSTATE.
    pub fn word(&self) -> &str {
        match self {
            Ending::Succeeded(_) => "ok",
            Ending::Failed { sqlstate, .. } => sqlstate,
            Ending::Lost(_) => "lost",
        }
    }

    pub fn is_ok(&self) -> bool {
        matches!(self, Ending::Succeeded(_))
    }
}

impl From<&postgres::Error> for Ending {
    fn from(error: &postgres::Error) -> Ending {
        match error.as_db_error() {
            Some(db) if db.severity() == "ERROR" => Ending::Failed {
                sqlstate: db.code().code().to_owned(),
                message: session::describe(error),
            },
            _ => Ending::Lost(session::describe(error)),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Succeeded(outcome) => write!(f, "ok ({} rows)", outcome.rows_updated),
            Ending::Failed { message, .. } => f.write_str(message),
            Ending::Lost(words) => write!(f, "lost ({words})"),
        }
    }
}
