//! How a worker compares the types of rows with those of their blobs, and corrects them on request.
//!
//! The counts of a leaf are true if each of its rows has been compared once. A leaf that is read again in another
//! pass, because it was rewritten or somebody had locked a part of it, is read from its beginning. So each worker
//! remembers what it has counted for such a leaf, and takes it back when it sees the leaf in the task queue again. It
//! doesn't take back what it has corrected: the new versions of these rows are skipped, like all versions that were
//! written since the run began ([`crate::backfill::leaf::Selection`]).

use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::time::{Duration, Instant};

use super::Worker;
use crate::backfill::batch::{Batch, TypedRow};
use crate::backfill::counters::{add, take_back};
use crate::backfill::differences::{self, Comparison, Differences, Pair};
use crate::backfill::leaf::{Filling, Leaf, LeafError, Tid, TidSet, block_of};
use crate::backfill::options::Verify;
use crate::backfill::sample::Sums;
use crate::pg::report::Report;
use crate::pg::rows;

/// How often a worker records what it has found, and the maximum number of pairs that it accumulates.
const WRITE_EVERY: Duration = Duration::from_secs(5);
const MOST_UNWRITTEN: usize = 1000;

/// What a worker knows about its verification.
#[derive(Default)]
pub(super) struct Findings {
    unwritten: Differences,
    written_at: Option<Instant>,
    /// What has been counted for leaves of this pass that aren't known to be finished, by OID.
    open: HashMap<u32, Counted>,
    /// The pass in which that was.
    pass: u32,
}

/// What has been counted for a leaf, without the rows that were corrected.
#[derive(Default)]
struct Counted {
    sums: Sums,
    spelled_otherwise: u64,
    pairs: HashMap<Pair, u64>,
}

/// A row whose type isn't that of its blob.
struct Deviation<'b> {
    row: TypedRow,
    new: &'b str,
    how: Comparison,
}

impl Worker<'_> {
    /// Compares the rows of a batch, and corrects those that differ, on request.
    pub(super) fn check(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        batch: &Batch,
        verify: &Verify,
    ) -> Result<(), LeafError> {
        self.record_undetected(index, batch);
        let dictionary = self.shared.dictionary();
        let (mut compared, mut deviating) = (Vec::new(), Vec::new());
        for row in &batch.typed {
            let Some(new) = batch.wanted[row.blob as usize].mime_type(dictionary) else {
                continue;
            };
            compared.push(*row);
            match differences::compare(&batch.types[row.now as usize], new) {
                Comparison::Same => {}
                how => deviating.push(Deviation {
                    row: *row,
                    new,
                    how,
                }),
            }
        }
        let task_queue = self.shared.task_queue();
        // Rows whose blobs could not be detected stay as they are.
        let left = batch.typed.len() - compared.len();
        task_queue.add_left(index, left as u64, false);
        task_queue.count_found(index, deviating.len() as u64);
        let corrected = match verify.correct {
            true => self.correct(leaf, index, batch, &deviating, verify),
            false => Ok(Vec::new()),
        };
        let (corrected, result) = match corrected {
            Ok(corrected) => (corrected, Ok(())),
            Err(trouble) => (Vec::new(), Err(trouble)),
        };
        if corrected.len() < deviating.len() {
            // A later verification has to read rows that don't have the detected type.
            task_queue.leaf(index).set_unsure();
        }
        self.count(leaf, batch, &compared, &deviating, &corrected);
        result?;
        self.write_findings(false).map_err(LeafError::Fatal)
    }

    /// Corrects rows; returns the TIDs of those that got the detected type.
    fn correct(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        batch: &Batch,
        deviating: &[Deviation<'_>],
        verify: &Verify,
    ) -> Result<Vec<Tid>, LeafError> {
        // Another spelling of the same type stays, unless it is named.
        let is_meant =
            |d: &&Deviation<'_>| d.how == Comparison::Different || verify.only_types.is_some();
        let mut tids = Vec::new();
        let mut rows_of = HashMap::new();
        let mut too_long = HashSet::new();
        for deviation in deviating.iter().filter(is_meant) {
            let TypedRow { tid, blob, now } = deviation.row;
            if !self.job.has_room_for(deviation.new) {
                too_long.insert(blob);
                continue;
            }
            tids.push(tid);
            rows_of.insert((blob, now), deviation.new);
        }
        let blobs_too_long = too_long.into_iter().filter(|blob| {
            let key = &batch.wanted[*blob as usize].key;
            self.finder.is_first_of_pair(key, "")
        });
        add(&self.slot.counters.too_long, blobs_too_long.count() as u64);
        if tids.is_empty() {
            return Ok(Vec::new());
        }
        let (mut blobids, mut mime_types, mut now) = (Vec::new(), Vec::new(), Vec::new());
        for ((blob, type_now), new) in rows_of {
            blobids.push(batch.wanted[blob as usize].key.text());
            mime_types.push(new);
            now.push(batch.types[type_now as usize].as_str());
        }
        let filling = Filling {
            tids: TidSet::Few(&tids),
            blobids: &blobids,
            mime_types: &mime_types,
            now: &now,
            expected: tids.len() as u64,
        };
        let updated = self.update_and_count(leaf, index, filling, batch.rows)?;
        // What others have changed is up to them. What they only hold may become free.
        if updated.held {
            self.shared.task_queue().set_locked(index);
        }
        Ok(updated.corrected)
    }

    fn count(
        &mut self,
        leaf: &Leaf<'_>,
        batch: &Batch,
        compared: &[TypedRow],
        deviating: &[Deviation<'_>],
        corrected: &[Tid],
    ) {
        let corrected: HashSet<u64> = corrected.iter().map(|tid| rows::number(*tid)).collect();
        let is_corrected = |row: &TypedRow| corrected.contains(&rows::number(row.tid));
        let mut counted = Counted::default();
        // For each pair: the detected type, all its rows, and those that stay as they are.
        let mut pairs: HashMap<(u32, u32), (&str, u64, u64)> = HashMap::new();
        let mut different_at: HashMap<u32, u64> = HashMap::new();
        for deviation in deviating {
            let row = &deviation.row;
            let pair = pairs.entry((row.blob, row.now));
            let (_, all, stay) = pair.or_insert((deviation.new, 0, 0));
            *all += 1;
            if !is_corrected(row) {
                *stay += 1;
            }
            match deviation.how {
                Comparison::SpelledOtherwise => {
                    counted.spelled_otherwise += u64::from(!is_corrected(row))
                }
                _ => *different_at.entry(block_of(row.tid)).or_default() += 1,
            }
        }
        for ((blob, now), (new, all, stay)) in pairs {
            let wanted = &batch.wanted[blob as usize];
            let old = &batch.types[now as usize];
            let pair = Pair {
                old: old.clone(),
                new: new.to_owned(),
            };
            let first = self.finder.is_first_of_pair(&wanted.key, old);
            let findings = &mut self.findings.unwritten;
            findings.add(pair.clone(), all as i64, first, || wanted.key.text());
            if stay > 0 {
                *counted.pairs.entry(pair).or_default() += stay;
            }
        }
        // They are in physical order.
        for rows in compared.chunk_by(|a, b| block_of(a.tid) == block_of(b.tid)) {
            let different = different_at.get(&block_of(rows[0].tid));
            let different = different.copied().unwrap_or_default();
            counted.sums.add_block(rows.len() as u64, different);
        }
        let counters = &self.slot.counters;
        let spelled = deviating
            .iter()
            .filter(|d| d.how == Comparison::SpelledOtherwise);
        add(&counters.rows_spelled_otherwise, spelled.count() as u64);
        self.add_sums(counted.sums);
        let corrected_different = deviating
            .iter()
            .filter(|d| d.how == Comparison::Different && is_corrected(&d.row));
        counted.sums.different -= corrected_different.count() as u64;
        counted.sums.rows -= corrected.len() as u64;
        self.remember(leaf, counted);
    }

    /// Counts the blocks of a finished range that are in the sample.
    pub(super) fn count_sampled(&mut self, leaf: &Leaf<'_>, start: u32, end: u32) {
        let Some(blocks) = self.selection.sampled(leaf.oid, start, end) else {
            return;
        };
        let sums = Sums {
            blocks,
            of_blocks: u64::from(end - start),
            ..Sums::default()
        };
        self.add_sums(sums);
        self.remember(
            leaf,
            Counted {
                sums,
                ..Counted::default()
            },
        );
    }

    fn add_sums(&self, sums: Sums) {
        let counters = self.slot.counters.of_sums(sums);
        counters.for_each(|(counter, amount)| add(counter, amount));
    }

    fn remember(&mut self, leaf: &Leaf<'_>, counted: Counted) {
        self.see_pass();
        let open = self.findings.open.entry(leaf.oid.to_u32()).or_default();
        open.sums.add(counted.sums);
        open.spelled_otherwise += counted.spelled_otherwise;
        for (pair, rows) in counted.pairs {
            *open.pairs.entry(pair).or_default() += rows;
        }
    }

    /// The worker has compared all of a leaf by itself. If there is no reason to, nobody reads it again.
    pub(super) fn close_checked(&mut self, leaf: &Leaf<'_>, index: usize) {
        if !self.shared.task_queue().comes_again(index) {
            self.findings.open.remove(&leaf.oid.to_u32());
        }
    }

    /// If another pass has been opened, takes back what was counted for leaves that are read again in it.
    pub(super) fn see_pass(&mut self) {
        let task_queue = self.shared.task_queue();
        let Some(pass) = task_queue.pass().filter(|pass| *pass != self.findings.pass) else {
            return;
        };
        self.findings.pass = pass;
        let open = take(&mut self.findings.open);
        if open.is_empty() {
            return;
        }
        let again: HashSet<u32> = task_queue.leaves().map(|leaf| leaf.oid).collect();
        let counters = &self.slot.counters;
        for (_, counted) in open.into_iter().filter(|(oid, _)| again.contains(oid)) {
            let sums = counters.of_sums(counted.sums);
            sums.for_each(|(counter, amount)| take_back(counter, amount));
            take_back(&counters.rows_spelled_otherwise, counted.spelled_otherwise);
            for (pair, rows) in counted.pairs {
                self.findings.unwritten.take_back(pair, rows as i64);
            }
        }
    }

    /// Records what has been found, if it is time, or `now`.
    pub(super) fn write_findings(&mut self, now: bool) -> Result<(), Report> {
        let findings = &mut self.findings;
        if findings.unwritten.is_empty() {
            return Ok(());
        }
        let since = *findings.written_at.get_or_insert_with(Instant::now);
        if !now && since.elapsed() < WRITE_EVERY && findings.unwritten.len() < MOST_UNWRITTEN {
            return Ok(());
        }
        let run_id = self.job.run_id;
        let written = self
            .finder
            .with_lock_retry(|| differences::add(run_id, &findings.unwritten))?;
        // A worker that is being stopped has tried once.
        if written.is_some() {
            findings.unwritten = Differences::default();
        }
        findings.written_at = Some(Instant::now());
        Ok(())
    }
}
