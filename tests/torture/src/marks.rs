//! Leaf marks: has a run skipped a leaf in which rows were pending?
//!
//! A run may notice late what other sessions have written, until they have published their counts. So before a run
//! that must notice everything, [`wait_until_published`] waits for them. And the leaves are declared to be large, so
//! that the run relies on the marks, and doesn't read everything because the target is small. Afterwards [`check`]
//! reads everything.

use std::time::{Duration, Instant};

use ntt_mime_integration::{Session, session};

/// Sessions publish when they end, and within a minute if they go on.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Has the next run go by the marks.
pub fn seem_large(s: &mut Session) -> Result<(), String> {
    s.batch_execute("UPDATE ntt_mime.leaf SET blocks = 1000000")
        .map_err(|error| session::describe(&error))
}

/// Waits until all other sessions have published their counts.
pub fn wait_until_published(s: &mut Session) {
    let begun = Instant::now();
    let others = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()
                     AND backend_type NOT IN ('autovacuum worker', 'walsender')
                     AND (state = 'idle' AND state_change < clock_timestamp() - interval '11 seconds') IS NOT TRUE";
    while s.count(others) > 0 && begun.elapsed() < PUBLISHED {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks at all leaves after a run that should have filled everything; what is wrong, in words.
pub fn check(s: &mut Session, batch: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    s.exec("SET ntt_mime.full_scan_after = 0");
    match s.call(batch) {
        Ok(outcome) if outcome.rows_updated > 0 => wrong.push(format!(
            "marks: {} rows were passed over, as run {} has found",
            outcome.rows_updated, outcome.run_id
        )),
        Ok(_) => {}
        Err(error) => wrong.push(format!(
            "the run over all leaves failed: {}",
            session::describe(&error)
        )),
    }
    s.exec("RESET ntt_mime.full_scan_after");
    let told = s.count("SELECT coalesce(sum((options->>'marks_wrong')::int), 0) FROM ntt_mime.run");
    if told > 0 {
        wrong.push(format!(
            "marks: runs have found {told} leaves that only seemed unchanged"
        ));
    }
    wrong
}
