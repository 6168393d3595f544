//! A session: a connection that keeps what the server says beside its answers.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::error::DbError;
use postgres::types::FromSqlOwned;
use postgres::{CancelToken, Client, Error, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::errors::assert_well_put;
use crate::wait::{SOON, wait_for, wait_until};

/// Nothing in these tests takes longer, unless it hangs.
const FOREVER: Duration = Duration::from_secs(120);

/// A NOTICE, WARNING or the like.
#[derive(Clone, Debug)]
pub struct Notice {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    /// Message, detail and hint.
    pub words: String,
    raised: DbError,
}

/// A connection to a database.
pub struct Session {
    client: Client,
    notices: Arc<Mutex<Vec<Notice>>>,
    /// The process id of the server's side.
    pub pid: i32,
}

/// The row that CALL returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub run_id: i64,
    pub blobs: i64,
    pub rows_updated: i64,
    pub failures: i64,
    /// As the server writes an interval.
    pub elapsed: String,
}

impl Session {
    /// A session as `config` says; [`crate::Cluster::config`] makes one.
    pub fn connect(config: postgres::Config) -> Session {
        match Session::try_connect(config) {
            Ok(session) => session,
            Err(e) => panic!("cannot connect: {e}"),
        }
    }

    pub(crate) fn try_connect(mut config: postgres::Config) -> Result<Session, Error> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&notices);
        config.notice_callback(move |notice: DbError| {
            sink.lock().expect("notices").push(Notice {
                severity: notice.severity().to_owned(),
                sqlstate: notice.code().code().to_owned(),
                message: notice.message().to_owned(),
                words: crate::errors::words(&notice),
                raised: notice,
            });
        });
        let mut client = config.connect(NoTls)?;
        let pid = client
            .query_one("SELECT pg_catalog.pg_backend_pid()", &[])?
            .get(0);
        Ok(Session {
            client,
            notices,
            pid,
        })
    }

    /// Runs statements that have to succeed.
    #[track_caller]
    pub fn exec(&mut self, sql: &str) {
        if let Err(e) = self.client.batch_execute(sql) {
            panic!("{}\n  in: {}", describe(&e), shorten(sql));
        }
    }

    /// The one value that `sql` has to give.
    #[track_caller]
    pub fn value<T: FromSqlOwned>(&mut self, sql: &str) -> T {
        match self.client.query_one(sql, &[]) {
            Ok(row) => row.get(0),
            Err(e) => panic!("{}\n  in: {}", describe(&e), shorten(sql)),
        }
    }

    /// A count.
    #[track_caller]
    pub fn count(&mut self, sql: &str) -> i64 {
        self.value(sql)
    }

    /// The first column of the rows of `sql`, as the server prints it; NULL is the empty string.
    #[track_caller]
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        self.simple_rows(sql)
            .iter()
            .map(|row| row.get(0).unwrap_or_default().to_owned())
            .collect()
    }

    /// The rows of `sql` as psql would show them unaligned: one line a row, `|` between columns.
    #[track_caller]
    pub fn table(&mut self, sql: &str) -> Vec<String> {
        self.simple_rows(sql)
            .iter()
            .map(|row| {
                let cells: Vec<&str> = (0..row.len())
                    .map(|i| row.get(i).unwrap_or_default())
                    .collect();
                cells.join("|")
            })
            .collect()
    }

    #[track_caller]
    fn simple_rows(&mut self, sql: &str) -> Vec<SimpleQueryRow> {
        match self.client.simple_query(sql) {
            Ok(messages) => rows(messages),
            Err(e) => panic!("{}\n  in: {}", describe(&e), shorten(sql)),
        }
    }

    /// `CALL ntt_backfill_mime(arguments)` as psql sends it.
    pub fn call(&mut self, arguments: &str) -> Result<Outcome, Error> {
        self.call_named("ntt_backfill_mime", arguments)
    }

    /// The same by a qualified name.
    pub fn call_named(&mut self, procedure: &str, arguments: &str) -> Result<Outcome, Error> {
        let row = self.call_row(procedure, arguments)?;
        let names: Vec<&str> = row.columns().iter().map(|c| c.name()).collect();
        assert_eq!(
            names,
            ["run_id", "blobs", "rows_updated", "failures", "elapsed"]
        );
        let text = |name: &str| {
            row.get(name)
                .unwrap_or_else(|| panic!("{name} of the result row is NULL"))
                .to_owned()
        };
        let number = |name: &str| text(name).parse().expect("a bigint");
        Ok(Outcome {
            run_id: number("run_id"),
            blobs: number("blobs"),
            rows_updated: number("rows_updated"),
            failures: number("failures"),
            elapsed: text("elapsed"),
        })
    }

    /// CALL of a procedure as psql sends it: its result row.
    pub fn call_row(&mut self, procedure: &str, arguments: &str) -> Result<SimpleQueryRow, Error> {
        let messages = self
            .client
            .simple_query(&format!("CALL {procedure}({arguments})"))?;
        let mut rows = rows(messages);
        assert_eq!(rows.len(), 1, "CALL returns one row");
        Ok(rows.remove(0))
    }

    /// The same, where it has to succeed.
    #[track_caller]
    pub fn backfill(&mut self, arguments: &str) -> Outcome {
        match self.call(arguments) {
            Ok(outcome) => outcome,
            Err(e) => panic!("CALL ntt_backfill_mime({arguments}): {}", describe(&e)),
        }
    }

    /// CALL in a thread of its own, so that the test can watch and disturb it.
    pub fn call_in_background(mut self, arguments: &str) -> Background {
        let arguments = arguments.to_owned();
        Background {
            pid: self.pid,
            cancel: self.client.cancel_token(),
            notices: Arc::clone(&self.notices),
            thread: std::thread::spawn(move || {
                let result = self.call(&arguments);
                (self, result)
            }),
        }
    }

    /// Columns of a run's row, or expressions over it, as [`Session::table`] gives them.
    #[track_caller]
    pub fn run_row(&mut self, run_id: i64, columns: &str) -> String {
        self.table(&format!(
            "SELECT {columns} FROM ntt_mime.run WHERE run_id = {run_id}"
        ))
        .pop()
        .unwrap_or_else(|| panic!("run {run_id} has no row"))
    }

    /// A number in a run's row.
    #[track_caller]
    pub fn run_counter(&mut self, run_id: i64, column: &str) -> i64 {
        let text = self.run_row(run_id, column);
        text.parse()
            .unwrap_or_else(|_| panic!("{column} is {text:?}"))
    }

    /// The run_id of the one run that goes on in this database, as soon as it is to be seen.
    #[track_caller]
    pub fn wait_for_run(&mut self) -> i64 {
        wait_for(SOON, "the run to be seen", || {
            let runs = self.column("SELECT run_id FROM ntt_mime.progress");
            runs.first().map(|run_id| run_id.parse().expect("a bigint"))
        })
    }

    /// What the server said since the last time this was asked.
    #[track_caller]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        let notices = std::mem::take(&mut *self.notices.lock().expect("notices"));
        for notice in &notices {
            assert_well_put(&notice.raised);
        }
        notices
    }

    /// The WARNINGs among [`Session::take_notices`].
    #[track_caller]
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.take_notices()
            .into_iter()
            .filter(|n| n.severity == "WARNING")
            .map(|n| n.words)
            .collect()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A CALL under way.
pub struct Background {
    /// The process id of the leader.
    pub pid: i32,
    cancel: CancelToken,
    notices: Arc<Mutex<Vec<Notice>>>,
    thread: JoinHandle<(Session, Result<Outcome, Error>)>,
}

impl Background {
    /// What Ctrl-C in psql does.
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel
            .cancel_query(NoTls)
            .expect("the cancel request arrives");
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// What the server has said so far.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.lock().expect("notices").clone()
    }

    /// Waits for the end, and gives the session back.
    #[track_caller]
    pub fn finish(self) -> (Session, Result<Outcome, Error>) {
        wait_until(FOREVER, "the CALL to end", || self.thread.is_finished());
        self.thread
            .join()
            .expect("the thread of the CALL did not panic")
    }

    /// Waits for the end, which has to be a success.
    #[track_caller]
    pub fn succeed(self) -> (Session, Outcome) {
        let (session, result) = self.finish();
        match result {
            Ok(outcome) => (session, outcome),
            Err(e) => panic!("the CALL failed: {}", describe(&e)),
        }
    }
}

/// An error with all that the server said.
pub fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => format!(
            "{} {}: {}",
            db.severity(),
            db.code().code(),
            crate::errors::words(db)
        ),
        None => format!("{error:?}"),
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect()
}

/// Asserts that two tables have the same rows, in whatever order; says which only one of them has.
#[track_caller]
pub fn assert_same_rows(found: &[String], expected: &[String], what: &str) {
    let without = |rows: &[String], others: &[String]| -> Vec<String> {
        let kept = rows.iter().filter(|row| !others.contains(row));
        kept.cloned().collect()
    };
    let lacking = without(expected, found);
    let others = without(found, expected);
    assert!(
        lacking.is_empty() && others.is_empty() && found.len() == expected.len(),
        "{what}: {} rows where {} were expected; lacking: {lacking:#?}; instead: {others:#?}",
        found.len(),
        expected.len()
    );
}

fn shorten(sql: &str) -> String {
    sql.chars().take(1000).collect()
}
