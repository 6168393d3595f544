use super::*;
use proptest::prelude::*;

fn zeroed(leaves: usize) -> (TaskQueueHeader, Vec<LeafEntry>) {
    let entries = (0..leaves).map(|_| LeafEntry::default()).collect();
    (TaskQueueHeader::default(), entries)
}

/// Works until the pass is over; returns every block taken, as (leaf, block).
fn work(task_queue: &TaskQueue, sizes: &[u32]) -> Vec<(usize, u32)> {
    let (mut taken, mut current) = (Vec::new(), None);
    loop {
        match task_queue.take(current) {
            Task::Open(leaf) => {
                task_queue.size(leaf, sizes[leaf]);
                current = Some(leaf);
            }
            Task::Range { leaf, start, end } => {
                assert!(end - start <= BLOCKS_PER_TASK);
                taken.extend((start..end).map(|block| (leaf, block)));
                task_queue.finish(leaf, end - start, 0);
                current = Some(leaf);
            }
            Task::Wait => std::thread::yield_now(),
            Task::PassDone | Task::Closed => return taken,
        }
    }
}

fn all_blocks(sizes: &[u32]) -> Vec<(usize, u32)> {
    let of = |(leaf, size): (usize, &u32)| (0..*size).map(move |block| (leaf, block));
    sizes.iter().enumerate().flat_map(of).collect()
}

proptest! {
    #[test]
    fn every_block_is_taken_exactly_once(
        sizes in prop::collection::vec(0u32..5000, 0..40),
        workers in 1usize..5,
    ) {
        let (header, leaves) = zeroed(sizes.len());
        let task_queue = TaskQueue::new(&header, &leaves);
        task_queue.open_pass((1..=sizes.len() as u32).map(|oid| (oid, 10)));
        task_queue.set_workers(workers as u32);
        let mut taken: Vec<_> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..workers)
                .map(|_| scope.spawn(|| work(&TaskQueue::new(&header, &leaves), &sizes)))
                .collect();
            handles.into_iter().flat_map(|h| h.join().unwrap()).collect()
        });
        taken.sort_unstable();
        prop_assert_eq!(taken, all_blocks(&sizes));
        prop_assert_eq!(task_queue.open_leaves(), 0);
        let blocks = i64::from(sizes.iter().sum::<u32>());
        prop_assert_eq!(task_queue.blocks(), (blocks, blocks));
    }
}

#[test]
fn an_abandoned_leaf_still_finishes() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(42, 0)]);
    assert_eq!(task_queue.take(None), Task::Open(0));
    assert!(!task_queue.size(0, 3000));
    let Task::Range { start, end, .. } = task_queue.take(Some(0)) else {
        panic!("a sized leaf has ranges");
    };
    assert_eq!((start, end), (0, BLOCKS_PER_TASK));
    task_queue.set_locked(0);
    assert!(!task_queue.leaves().next().unwrap().done);
    let skipped = task_queue.abandon(0);
    assert_eq!(skipped, 3000 - BLOCKS_PER_TASK);
    assert_eq!(task_queue.abandon(0), 0);
    assert_eq!(task_queue.take(Some(0)), Task::Wait);
    assert!(task_queue.finish(0, end - start + skipped, 0));
    assert_eq!(task_queue.take(Some(0)), Task::PassDone);
    let state = task_queue.leaves().next().unwrap();
    assert!(state.done && state.locked && !state.missed && !state.gone && state.oid == 42);
}

#[test]
fn the_largest_leaf_there_can_be_is_taken_to_its_end() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(42, 0)]);
    assert_eq!(task_queue.take(None), Task::Open(0));
    task_queue.size(0, u32::MAX);
    let range = |start, end| Task::Range {
        leaf: 0,
        start,
        end,
    };
    let last = u32::MAX - BLOCKS_PER_TASK / 2;
    let before = last - BLOCKS_PER_TASK;
    leaves[0].next_block.store(before, Ordering::Relaxed);
    assert_eq!(task_queue.take(Some(0)), range(before, last));
    assert_eq!(task_queue.take(Some(0)), range(last, u32::MAX));
    for _ in 0..2 {
        assert_eq!(task_queue.take(Some(0)), Task::Wait);
    }
    // Given up in the middle.
    leaves[0].next_block.store(before, Ordering::Relaxed);
    assert_eq!(task_queue.abandon(0), u32::MAX - before);
    assert_eq!(task_queue.take(Some(0)), Task::Wait);
}

#[test]
fn a_leaf_done_as_a_whole_has_no_ranges() {
    let (header, leaves) = zeroed(2);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(1, 10), (2, 10)]);
    assert_eq!(task_queue.take(None), Task::Open(0));
    task_queue.finish_whole(0, 5000);
    assert_eq!(task_queue.take(Some(0)), Task::Open(1));
    task_queue.finish_whole(1, 0);
    assert_eq!(task_queue.take(Some(1)), Task::PassDone);
    assert_eq!(task_queue.blocks(), (5000, 5000));
}

#[test]
fn passes_follow_each_other_until_the_queue_is_closed() {
    let (header, leaves) = zeroed(2);
    let task_queue = TaskQueue::new(&header, &leaves);
    assert_eq!(task_queue.take(None), Task::Wait);
    assert_eq!(task_queue.open_pass([(1, 0), (2, 0), (3, 0)]), 2);
    task_queue.add_left(0, 5, true);
    assert_eq!(task_queue.leaves().next().unwrap().rows_left, 5);
    assert_eq!(work(&task_queue, &[1, 1]).len(), 2);
    let first = task_queue.generation();
    assert_eq!(task_queue.open_pass([(2, 9)]), 1);
    assert_ne!(task_queue.generation(), first);
    assert_eq!(task_queue.leaves().next().unwrap().rows_left, 0);
    assert_eq!(work(&task_queue, &[7]).len(), 7);
    task_queue.close();
    assert_eq!(task_queue.take(Some(0)), Task::Closed);
    assert_eq!(task_queue.open_pass([]), 0);
}

#[test]
fn a_skipped_leaf_is_finished() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(9, 5)]);
    assert_eq!(task_queue.take(None), Task::Open(0));
    task_queue.set_gone(0);
    task_queue.skip(0);
    assert_eq!(task_queue.take(None), Task::PassDone);
    assert!(task_queue.leaves().next().unwrap().gone);
}

#[test]
fn a_leaf_is_set_aside_once_a_pass() {
    let (header, leaves) = zeroed(2);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(8, 5), (9, 5)]);
    assert!(!task_queue.is_set_aside(1));
    assert!(task_queue.set_aside(1));
    assert!(!task_queue.set_aside(1));
    assert!(task_queue.is_set_aside(1) && !task_queue.is_set_aside(0));
    let states: Vec<LeafState> = task_queue.leaves().collect();
    assert!(states[1].set_aside && states[1].unseen && !states[1].locked);
    assert!(!states[0].set_aside && !states[0].unseen);
}

#[test]
fn a_leaf_is_in_the_file_in_which_it_was_found_first() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(9, 5)]);
    assert!(task_queue.leaf(0).is_in_file(77));
    assert!(task_queue.leaf(0).is_in_file(77));
    assert!(!task_queue.leaf(0).is_in_file(78));
    task_queue.set_rewritten(0);
    let state = task_queue.leaves().next().unwrap();
    assert!(state.rewritten && state.unseen && !state.locked);
    // Another pass begins in whatever file there is.
    task_queue.open_pass([(9, 5)]);
    assert!(task_queue.leaf(0).is_in_file(78));
    assert!(!task_queue.leaves().next().unwrap().rewritten);
}

#[test]
fn what_a_run_writes_itself_is_no_change() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(9, 5)]);
    task_queue.leaf(0).set_counters(1000, 10);
    task_queue.leaf(0).count_own(30);
    task_queue.leaf(0).count_own(4);
    let state = task_queue.leaves().next().unwrap();
    assert_eq!((state.written, state.deleted), (1034, 10));
    task_queue.open_pass([(9, 5)]);
    assert_eq!(task_queue.leaves().next().unwrap().written, 0);
}

#[test]
fn what_is_known_of_a_leaf_is_of_this_pass() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(9, 5)]);
    task_queue.leaf(0).set_shape((7, -3), 99);
    task_queue.leaf(0).set_unsure();
    task_queue.count_found(0, 4);
    task_queue.count_found(0, 1);
    let state = task_queue.leaves().next().unwrap();
    assert_eq!((state.columns, state.rows_found), ((7, -3), 5));
    assert!(state.unsure && state.shape == 99);
    task_queue.open_pass([(9, 5)]);
    let state = task_queue.leaves().next().unwrap();
    assert_eq!((state.columns, state.rows_found), ((0, 0), 0));
    assert!(!state.unsure && state.shape == 0);
}

#[test]
fn a_busy_table_is_waited_for_once_a_pass() {
    let (header, leaves) = zeroed(1);
    let task_queue = TaskQueue::new(&header, &leaves);
    task_queue.open_pass([(9, 5)]);
    assert!(!task_queue.is_busy(77));
    task_queue.set_busy(77);
    task_queue.set_busy(77);
    assert!(task_queue.is_busy(77) && !task_queue.is_busy(78));
    task_queue.open_pass([(9, 5)]);
    assert!(!task_queue.is_busy(77));
    // So many that they can't be told apart any more.
    (1..=BUSY_TABLES as u32).for_each(|oid| task_queue.set_busy(oid));
    assert!(task_queue.is_busy(78));
}

#[test]
fn tasks_become_small_toward_the_end_of_a_leaf() {
    for (blocks, workers) in [(1210, 2), (1000, 8), (50_000, 2), (50_000, 16), (3000, 1)] {
        let (header, leaves) = zeroed(1);
        let task_queue = TaskQueue::new(&header, &leaves);
        task_queue.open_pass([(1, blocks)]);
        task_queue.set_workers(workers);
        assert_eq!(task_queue.take(None), Task::Open(0));
        task_queue.size(0, blocks);
        // Each worker takes the next task when it is done with the last one, and each block takes as long.
        let mut free_at = vec![0_u32; workers as usize];
        let mut end_of_leaf = 0;
        while let Task::Range { start, end, .. } = task_queue.take(Some(0)) {
            assert_eq!(start, end_of_leaf);
            end_of_leaf = end;
            let first = free_at.iter_mut().min().expect("workers");
            *first += end - start;
        }
        assert_eq!(end_of_leaf, blocks);
        let [first, last] =
            [free_at.iter().min(), free_at.iter().max()].map(|at| *at.expect("some"));
        assert!(
            last - first <= LEAST_BLOCKS_PER_TASK,
            "{blocks}, {workers}: {free_at:?}"
        );
    }
}
