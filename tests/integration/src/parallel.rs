//! Parallel queries, whatever the size of their tables.

use crate::Session;

/// From now on the session's queries are parallel where they can be.
pub fn force(s: &mut Session) {
    s.exec(
        "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
         SET min_parallel_table_scan_size = 0",
    );
}

/// Asserts that workers of `query` call `function`, which stands in the list of what it selects.
#[track_caller]
pub fn assert_parallel(s: &mut Session, query: &str, function: &str) {
    let plan = s
        .table(&format!("EXPLAIN (ANALYZE, VERBOSE, COSTS OFF) {query}"))
        .join("\n");
    let below = plan.split("Parallel Seq Scan").nth(1).unwrap_or_default();
    assert!(
        below.contains(function),
        "{function} isn't below the Gather:\n{plan}"
    );
    assert!(
        !plan.contains("Workers Launched: 0"),
        "no worker was launched:\n{plan}"
    );
}
