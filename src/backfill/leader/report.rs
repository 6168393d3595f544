//! What a leader tells of its run: the row in `ntt_mime.run`, NOTICEs, the server's log, the title of its process.

use std::time::Duration;

use pgrx::{PgLogLevel, PgSqlErrorCode, ereport};

use super::Leader;
use crate::backfill::history::{self, Additions, RunRow};
use crate::backfill::progress::{self, Progress};
use crate::backfill::shared::Shared;
use crate::pg::{bgworker, tx};

impl Leader {
    /// A line in the server's log. The options are in the run's row.
    pub(super) fn log_start(&self, leaves: usize) {
        pgrx::log!(
            "ntt_mime run {} on {} started: {} workers, {} leaves, batches of up to {} rows{}",
            self.run_id,
            self.target.name,
            self.handles.len(),
            leaves,
            self.options.batch_size,
            if self.options.dry_run { ", dry" } else { "" },
        );
    }

    /// The run row as of now.
    pub(super) fn row(&self, status: &'static str, error: Option<String>) -> RunRow {
        let Some(segment) = &self.segment else {
            return RunRow {
                status,
                error,
                ..RunRow::default()
            };
        };
        let shared = Shared::view(segment).expect("written by ourselves");
        let totals = shared.totals();
        let board = shared.board();
        let (blocks_done, blocks_total) = board.blocks();
        let ms = |us: u64| us as f64 / 1000.0;
        let total = self.leaves.len() as i64;
        let left_open = match (self.passes, status) {
            (1, _) => i64::from(board.open_leaves()),
            (_, "running") => 0,
            _ => self.leaves.values().filter(|seen| seen.locked).count() as i64,
        };
        RunRow {
            status,
            workers: self.handles.len() as i32,
            leaves_total: total,
            leaves_done: total - left_open,
            blocks_total: blocks_total.max(blocks_done),
            blocks_done,
            rows_scanned: totals.rows_scanned,
            blobs: shared.blobs(),
            detections: totals.detections,
            cache_hits: totals.cache_hits,
            rows_updated: totals.rows_updated,
            rows_retried: totals.rows_retried,
            rows_left: None,
            failures: totals.failures,
            bytes_read: totals.bytes_read,
            scan_ms: ms(totals.scan_us),
            read_ms: ms(totals.read_us),
            detect_ms: ms(totals.detect_us),
            update_ms: ms(totals.update_us),
            commit_ms: ms(totals.commit_us),
            mime_counts: shared
                .dictionary()
                .counts()
                .map(|(mime_type, blobs)| (mime_type.to_owned(), blobs))
                .collect(),
            options: Additions {
                prefiltered: totals.prefiltered,
                prefilter_fallbacks: totals.prefilter_fallbacks,
                worker_ms: ms(totals.worker_us),
                idle_ms: ms(totals.idle_us),
            },
            error,
        }
    }

    pub(super) fn record(&self, status: &'static str, error: Option<String>) -> RunRow {
        let row = self.row(status, error);
        self.write(&row);
        let elapsed = self.started.elapsed();
        let title = Progress { row: &row, elapsed }.title();
        bgworker::report_title(&format!("CALL, ntt_mime run {}: {title}", self.run_id));
        row
    }

    pub(super) fn write(&self, row: &RunRow) {
        tx::in_subtransaction(|| history::update(self.run_id, row));
        tx::commit_and_begin();
    }

    pub(super) fn notice(&self) {
        let row = self.row("running", None);
        let elapsed = self.started.elapsed();
        pgrx::notice!("{}", Progress { row: &row, elapsed }.line());
    }

    pub(super) fn tell(&self, row: &RunRow, elapsed: Duration) {
        let summary = Progress { row, elapsed }.summary(self.run_id);
        pgrx::log!("ntt_mime {summary}");
        let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
        match progress::shares(row) {
            Some(shares) => ereport!(PgLogLevel::NOTICE, code, summary, shares),
            None => ereport!(PgLogLevel::NOTICE, code, summary),
        }
        let locked = self.leaves.values().filter(|seen| seen.locked).count();
        if locked > 0 {
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("{locked} leaves were locked by others and are not filled completely"),
                "The next run looks at them again."
            );
        }
        if row.failures > 0 {
            pgrx::notice!("see ntt_mime.failure for blobs that could not be detected");
        }
    }
}
