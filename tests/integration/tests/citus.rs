//! Targets that Citus distributes: three nodes, a coordinator and two with shards.
//!
//! Debian has no package of Citus. If the extension isn't installed, the tests say so and do nothing.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::NoTls;

use ntt_mime_integration::cluster::{PORT, SUPERUSER};
use ntt_mime_integration::store::absent_blobid;
use ntt_mime_integration::{
    Background, Cluster, SOON, Session, TestDb, assert_error, corpus, inode, server, wait_for,
    wait_until,
};

/// Rows of the larger tables.
const ROWS: i64 = 100_000;

/// Rows that keep a slow run busy for some time.
const ROWS_TO_WATCH: i64 = 30_000;

/// What a node needs besides the libraries to be loaded.
const SETTINGS: [(&str, &str); 7] = [
    ("wal_level", "logical"),
    ("max_worker_processes", "40"),
    ("max_replication_slots", "40"),
    ("max_wal_senders", "40"),
    ("citus.node_conninfo", "sslmode=prefer"),
    ("citus.enable_statistics_collection", "off"),
    // The tests themselves wait for everything that has to be waited for.
    ("citus.defer_shard_delete_interval", "-1"),
];

/// Whether an extension is installed. Prints a message if not.
fn is_installed(extension: &str) -> bool {
    let control = server::sharedir().join(format!("extension/{extension}.control"));
    let is_there = control.exists();
    if !is_there {
        // Written past the capture of a test's output, so that it is visible that the tests were skipped.
        let mut out = std::io::stderr();
        let _ = writeln!(
            out,
            "skipped citus::, since there is no {}",
            control.display()
        );
    }
    is_there
}

/// The three nodes; none if Citus isn't installed.
fn nodes() -> Option<&'static [Cluster; 3]> {
    static NODES: OnceLock<Option<[Cluster; 3]>> = OnceLock::new();
    let nodes = NODES.get_or_init(|| {
        if !is_installed("citus") {
            return None;
        }
        let mut settings = vec![("shared_preload_libraries", "citus")];
        settings.extend(SETTINGS);
        Some(std::array::from_fn(|_| {
            let node = Cluster::start(&settings);
            let name = node.socket_dir().to_str().expect("a plain name");
            node.configure(&[("citus.local_hostname", name)]);
            // Citus' own plugin for splitting a shard. Not every minor release knows the setting.
            let list = "output_plugin_libraries";
            let setting = format!("SELECT setting FROM pg_settings WHERE name = '{list}'");
            for libraries in node.connect("postgres", SUPERUSER).column(&setting) {
                let libraries = format!("{libraries}, citus");
                node.configure(&[(list, &libraries)]);
            }
            node.restart();
            node
        }))
    });
    nodes.as_ref()
}

/// A database on all nodes, over one store.
struct Distributed {
    databases: [TestDb<'static>; 3],
    /// The superuser's sessions, one on each node.
    sessions: [Session; 3],
    /// The types of the corpus' blobids, in the order of their numbers in the tables.
    types: HashMap<String, String>,
}

impl Distributed {
    /// The corpus is its store; there is a table `source (n, blobid)` on the coordinator.
    fn new(name: &str) -> Option<Distributed> {
        let mut it = Distributed::empty(name)?;
        let blobs = &corpus().blobs;
        it.types = blobs
            .iter()
            .map(|blob| (blob.blobid.clone(), blob.file_mime.clone()))
            .collect();
        let blobids: Vec<String> = blobs.iter().map(|blob| blob.blobid.clone()).collect();
        inode::load_source(&mut it.sessions[0], &blobids);
        Some(it)
    }

    fn empty(name: &str) -> Option<Distributed> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nodes = nodes()?;
        let name = format!("citus_{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let databases = nodes
            .each_ref()
            .map(|node| TestDb::named(node, &format!("t_{name}")));
        let sessions = databases.each_ref().map(|db| {
            db.connect().exec("CREATE EXTENSION citus");
            db.connect()
        });
        let mut it = Distributed {
            databases,
            sessions,
            types: HashMap::new(),
        };
        let address = |node: &Cluster| format!("'{}', {PORT}", node.socket_dir().display());
        let [coordinator, first, second] = nodes.each_ref().map(address);
        let s = &mut it.sessions[0];
        s.exec(&format!("SELECT citus_set_coordinator_host({coordinator})"));
        s.exec(&format!("SELECT citus_add_node({first})"));
        s.exec(&format!("SELECT citus_add_node({second})"));
        // On the other nodes as well.
        s.exec("CREATE EXTENSION ntt_mime");
        // So are these.
        let db = &it.databases[0];
        let set = format!("ALTER DATABASE {} SET ntt_mime.workers = 2", db.name);
        db.connect().exec(&set);
        db.use_store(&corpus().store);
        it.reconnect();
        Some(it)
    }

    fn reconnect(&mut self) {
        self.sessions = self.databases.each_ref().map(TestDb::connect);
    }

    fn coordinator(&mut self) -> &mut Session {
        &mut self.sessions[0]
    }

    /// `blob` with `rows` rows of the blobs of `source`, in 32 shards by its blobid; rows whose number is divisible
    /// by 7 have a type.
    fn make_plain(&mut self, rows: i64) {
        self.coordinator().exec(&format!(
            "CREATE TABLE blob (blobid text, n bigint, mime_type text, PRIMARY KEY (blobid, n));
             SELECT create_distributed_table('blob', 'blobid', shard_count => 32);
             INSERT INTO blob SELECT blobid, i, CASE WHEN i % 7 = 0 THEN 'application/x-kept' END
               FROM generate_series(1, {rows}) i JOIN source ON n = i % (SELECT count(*) FROM source)"
        ));
    }

    /// `inode`, partitioned by medium, in the same way.
    fn make_partitioned(&mut self, rows: i64) {
        self.coordinator().exec(&format!(
            "CREATE TABLE inode (medium_hash text, blobid text, ino bigint, mime_type varchar(255),
                                 PRIMARY KEY (medium_hash, blobid, ino)) PARTITION BY LIST (medium_hash);
             CREATE TABLE inode_m0 PARTITION OF inode FOR VALUES IN ('m0');
             CREATE TABLE inode_m1 PARTITION OF inode FOR VALUES IN ('m1');
             SELECT create_distributed_table('inode', 'blobid', shard_count => 32);
             CREATE TABLE inode_m2 PARTITION OF inode FOR VALUES IN ('m2');
             INSERT INTO inode SELECT 'm' || i % 3, blobid, i, CASE WHEN i % 7 = 0 THEN 'application/x-kept' END
               FROM generate_series(1, {rows}) i JOIN source ON n = i % (SELECT count(*) FROM source)"
        ));
    }

    fn pending(&mut self, table: &str) -> i64 {
        self.coordinator().count(&format!(
            "SELECT count(*) FROM {table} WHERE blobid IS NOT NULL AND mime_type IS NULL"
        ))
    }

    /// Each row has what file(1) says, or what it had before. `number` is the column with the row's number.
    fn check(&mut self, table: &str, number: &str, rows: i64) {
        let types = self.types.clone();
        let found = self.coordinator().table(&format!(
            "SELECT blobid, mime_type, {number} % 7 = 0, count(*) FROM {table} GROUP BY 1, 2, 3"
        ));
        let mut counted = 0;
        for line in found {
            let cells: Vec<&str> = line.split('|').collect();
            let [blobid, mime_type, kept, count] = cells[..] else {
                panic!("four columns: {line}");
            };
            counted += count.parse::<i64>().expect("a count");
            let expected = match kept {
                "t" => "application/x-kept",
                _ => types[blobid].as_str(),
            };
            assert_eq!(mime_type, expected, "{blobid} in {table}");
        }
        assert_eq!(counted, rows);
    }

    /// The names of the shards of a table on a node, without those of its partitions.
    fn shards(&mut self, node: usize, table: &str) -> Vec<String> {
        let node = self.databases[node]
            .cluster
            .socket_dir()
            .display()
            .to_string();
        self.coordinator().column(&format!(
            "SELECT shardid FROM citus_shards WHERE table_name = '{table}'::regclass AND nodename = '{node}' ORDER BY 1"
        ))
    }

    /// The statement that moves a shard from one node to another.
    fn move_of(&self, shard: &str, from: usize, to: usize, mode: &str) -> String {
        let [from, to] = [from, to].map(|node| {
            let node = self.databases[node].cluster;
            format!("'{}', {PORT}", node.socket_dir().display())
        });
        format!("SELECT citus_move_shard_placement({shard}, {from}, {to}, '{mode}')")
    }
}

/// The statement with which a node that has no shard of a table tells users to run it on all nodes.
#[track_caller]
fn statement_for_all<T: Debug>(result: Result<T, postgres::Error>, table: &str) -> String {
    let message = format!("no shard of distributed table \"public.{table}\" is on this node");
    let error = assert_error(result, "55000", &message);
    let hint = error.hint().expect("a hint");
    hint[hint.find("SELECT").expect("a statement")..].to_owned()
}

#[test]
fn each_node_fills_its_own_shards() {
    let Some(mut it) = Distributed::new("fill") else {
        return;
    };
    it.make_plain(ROWS);
    it.make_partitioned(ROWS);
    for (table, number) in [("blob", "n"), ("inode", "ino")] {
        let before = it.pending(table);
        let mut filled = 0;
        for node in [1, 2] {
            let outcome = it.sessions[node].backfill(&format!("10000, target => '{table}'"));
            assert_eq!(outcome.failures, 0);
            let row = it.sessions[node].run_row(
                outcome.run_id,
                "status, rows_left, leaves_total, leaves_done",
            );
            let leaves = if table == "inode" { 48 } else { 16 };
            assert_eq!(row, format!("succeeded|0|{leaves}|{leaves}"));
            assert!(outcome.rows_updated > before / 4);
            filled += outcome.rows_updated;
        }
        assert_eq!(filled, before);
        it.check(table, number, ROWS);
        for node in [1, 2] {
            let outcome = it.sessions[node].backfill(&format!("10000, target => '{table}'"));
            assert_eq!(
                (outcome.blobs, outcome.rows_updated, outcome.failures),
                (0, 0, 0)
            );
            assert!(it.sessions[node].take_warnings().is_empty());
        }
    }
}

#[test]
fn a_node_without_shards_says_how_to_run_on_all() {
    let Some(mut it) = Distributed::new("hint") else {
        return;
    };
    it.make_plain(ROWS);
    it.coordinator().exec("SET ntt_mime.target = 'blob'");
    let statement = statement_for_all(it.sessions[0].call("5000, workers => 1"), "blob");
    assert!(
        statement.contains("batch_size => 5000") && statement.contains("workers => 1"),
        "{statement}"
    );
    let before = it.pending("blob");
    // Exactly as in the message.
    let results = it.coordinator().table(&statement);
    assert_eq!(results.len(), 3, "{results:#?}");
    assert!(
        results.iter().all(|row| row.split('|').nth(1) == Some("t")),
        "{results:#?}"
    );
    assert_eq!(
        results
            .iter()
            .filter(|row| row.contains("\"skipped\""))
            .count(),
        1,
        "{results:#?}"
    );
    it.check("blob", "n", ROWS);
    let sum = "SELECT sum((result::jsonb->>'rows_updated')::bigint)::bigint FROM";
    let again = statement.replace("SELECT * FROM", "");
    assert_eq!(it.coordinator().count(&format!("{sum} {again}")), 0);
    let mut filled = 0;
    for node in [1, 2] {
        filled += it.sessions[node].count("SELECT sum(rows_updated)::bigint FROM ntt_mime.run");
    }
    assert_eq!(filled, before);
    let statement = statement_for_all(it.coordinator().call("target => 'blob'"), "blob");
    assert_eq!(
        statement,
        "SELECT * FROM pg_catalog.run_command_on_all_nodes(\
         $$CALL public.ntt_backfill_mime_on_node(batch_size => 10000, target => 'public.blob')$$);"
    );
}

#[test]
fn a_shard_by_its_own_name() {
    let Some(mut it) = Distributed::new("shard") else {
        return;
    };
    it.make_plain(10_000);
    let shard = it.shards(1, "blob").remove(0);
    let before = it.pending("blob");
    let outcome = it.sessions[1].backfill(&format!("target => 'blob_{shard}'"));
    assert!(outcome.rows_updated > 0);
    assert_eq!(it.pending("blob"), before - outcome.rows_updated);
    // The only way before this extension supported Citus.
    let results = it.coordinator().column(
        "SELECT success FROM run_command_on_shards('blob', 'CALL ntt_backfill_mime_on_node(10000, target => ''%s'')')",
    );
    assert!(results.len() == 32 && results.iter().all(|success| success == "t"));
    it.check("blob", "n", 10_000);
    // Where the shard no longer is: nothing would be filled.
    let there = it.move_of(&shard, 1, 2, "block_writes");
    it.coordinator().exec(&there);
    it.coordinator().exec("UPDATE blob SET mime_type = NULL");
    let result = it.sessions[1].call(&format!("target => 'blob_{shard}'"));
    assert!(statement_for_all(result, "blob").contains("target => 'public.blob'"));
}

/// A slow run on a node, which has already filled something, with that lock timeout.
fn slow_run(it: &mut Distributed, node: usize, table: &str, lock_timeout: &str) -> Background {
    let mut caller = it.databases[node].connect();
    caller.exec(&format!(
        "SET ntt_mime.batch_delay = '150ms'; SET ntt_mime.lock_timeout = '{lock_timeout}'"
    ));
    let before = it.pending(table);
    let running = caller.call_in_background(&format!("50, workers => 2, target => '{table}'"));
    wait_until(SOON, "the run to fill something", || {
        it.pending(table) < before
    });
    running
}

#[test]
fn shards_that_move_meanwhile() {
    let Some(mut it) = Distributed::new("moves") else {
        return;
    };
    it.make_plain(ROWS_TO_WATCH);
    it.make_partitioned(ROWS_TO_WATCH);
    for (table, number) in [("blob", "n"), ("inode", "ino")] {
        let before = it.pending(table);
        let runs = [1, 2].map(|node| slow_run(&mut it, node, table, "200ms"));
        // In both directions, by both of Citus' ways, and with shards that the runs may or may not have reached.
        let mut moved = 0;
        for (from, to) in [(1, 2), (2, 1)] {
            let shards = it.shards(from, table);
            for (at, mode) in [
                (0, "block_writes"),
                (7, "force_logical"),
                (15, "force_logical"),
            ] {
                let statement = it.move_of(&shards[at], from, to, mode);
                it.coordinator().exec(&statement);
                moved += usize::from(runs.iter().all(|run| !run.is_finished()));
            }
        }
        assert!(moved >= 2, "the runs were too quick for the moves");
        let mut filled = 0;
        for run in runs {
            let (mut s, outcome) = run.succeed();
            let warnings = s.take_warnings();
            assert!(warnings.is_empty(), "{warnings:#?}");
            filled += outcome.rows_updated;
        }
        // What came to a node that had finished everything it had is left to its next run. No row is filled twice, or
        // in vain.
        for node in [1, 2] {
            let outcome = it.sessions[node].backfill(&format!("target => '{table}'"));
            filled += outcome.rows_updated;
        }
        it.check(table, number, ROWS_TO_WATCH);
        assert_eq!(filled, before);
    }
}

#[test]
fn shards_that_are_split_and_partitions_that_go() {
    let Some(mut it) = Distributed::new("split") else {
        return;
    };
    it.make_partitioned(ROWS_TO_WATCH);
    it.coordinator().exec(
        "CREATE TABLE inode_m3 PARTITION OF inode FOR VALUES IN ('m3');
         INSERT INTO inode SELECT 'm3', blobid, n, NULL FROM source",
    );
    let running = slow_run(&mut it, 1, "inode", "200ms");
    let node = it.databases[1].cluster.socket_dir().display().to_string();
    let shards = it.shards(1, "inode");
    for (at, mode) in [(5, "block_writes"), (9, "force_logical")] {
        let shard = &shards[at];
        let middle: i64 = it.coordinator().value(&format!(
            "SELECT (shardminvalue::bigint + shardmaxvalue::bigint) / 2 FROM pg_dist_shard WHERE shardid = {shard}"
        ));
        it.coordinator().exec(&format!(
            "SELECT citus_split_shard_by_split_points({shard}, ARRAY['{middle}'], ARRAY[n, n], '{mode}')
               FROM (SELECT nodeid AS n FROM pg_dist_node WHERE nodename = '{node}') one"
        ));
    }
    it.coordinator().exec("DROP TABLE inode_m3");
    it.coordinator()
        .exec("CREATE TABLE inode_m4 PARTITION OF inode FOR VALUES IN ('m4')");
    it.coordinator()
        .exec("ALTER TABLE inode ADD COLUMN more int");
    assert!(!running.is_finished());
    let (mut s, _) = running.succeed();
    let warnings = s.take_warnings();
    assert!(warnings.is_empty(), "{warnings:#?}");
    for node in [1, 2] {
        it.sessions[node].backfill("target => 'inode'");
    }
    it.check("inode", "ino", ROWS_TO_WATCH);
}

#[test]
fn a_table_that_is_distributed_meanwhile() {
    let Some(mut it) = Distributed::new("becomes") else {
        return;
    };
    it.coordinator().exec(&format!(
        "CREATE TABLE blob (blobid text, n bigint, mime_type text, PRIMARY KEY (blobid, n));
         INSERT INTO blob SELECT blobid, i, CASE WHEN i % 7 = 0 THEN 'application/x-kept' END
           FROM generate_series(1, {ROWS_TO_WATCH}) i JOIN source ON n = i % (SELECT count(*) FROM source)"
    ));
    let running = slow_run(&mut it, 0, "blob", "60s");
    let mut other = it.databases[0].connect();
    // It waits for a batch of 50 rows.
    other.exec("SET lock_timeout = '10s'");
    other.exec("SELECT create_distributed_table('blob', 'blobid', shard_count => 32)");
    let (_, result) = running.finish();
    it.coordinator().exec(&statement_for_all(result, "blob"));
    it.check("blob", "n", ROWS_TO_WATCH);
}

#[test]
fn who_cancels_the_statement_for_all_nodes_cancels_their_runs() {
    let Some(mut it) = Distributed::new("cancel") else {
        return;
    };
    it.make_plain(ROWS_TO_WATCH);
    let name = it.databases[0].name.clone();
    it.coordinator().exec(&format!(
        "ALTER DATABASE {name} SET ntt_mime.batch_delay = '500ms'"
    ));
    let statement = statement_for_all(it.coordinator().call("20, target => 'blob'"), "blob");
    let mut caller = it.databases[0].connect();
    let cancel = caller.cancel_token();
    let waiting = std::thread::spawn(move || caller.batch_execute(&statement));
    let runs = [1, 2].map(|node| it.sessions[node].wait_for_run());
    cancel.cancel_query(NoTls).expect("the request arrives");
    assert_error(
        waiting.join().expect("it does not panic"),
        "57014",
        "user request",
    );
    for (node, run_id) in [(1, runs[0]), (2, runs[1])] {
        it.databases[node].wait_for_no_workers(SOON);
        wait_until(SOON, "the run to be written down", || {
            it.sessions[node].run_row(run_id, "status") == "cancelled"
        });
    }
}

#[test]
fn the_statements_of_the_page() {
    let Some(mut it) = Distributed::new("page") else {
        return;
    };
    it.make_plain(10_000);
    let absent = absent_blobid(1);
    it.coordinator()
        .exec(&format!("INSERT INTO blob VALUES ('{absent}', 1, NULL)"));
    let archivist = it.databases[0].role("archivist", "LOGIN");
    let page = include_str!("../../../docs/citus.md");
    // pg_cron isn't loaded here: see the_schedule_of_the_page.
    let blocks = page
        .split("```sql\n")
        .skip(1)
        .filter_map(|block| block.split("```").next());
    let blocks = blocks.filter(|block| !block.contains("cron."));
    let results: Vec<Vec<String>> = blocks
        .map(|block| {
            it.coordinator()
                .table(&block.replace("archivist", &archivist))
        })
        .collect();
    assert_eq!(results.len(), 7);
    let asked = |rows: &[String]| rows.iter().filter(|row| row.contains("|t|")).count();
    assert_eq!(
        (asked(&results[0]), asked(&results[1]), asked(&results[6])),
        (3, 3, 3)
    );
    // No run is going on any more, each node with shards has made one, and one of them has not found a blob.
    assert_eq!(results[2], [""; 0]);
    assert_eq!(results[3].len(), 2, "{:?}", results[3]);
    assert!(
        results[3]
            .iter()
            .all(|row| row.contains("|public.blob|succeeded|"))
    );
    assert_eq!(results[4].len(), 1);
    assert!(results[4][0].starts_with(&format!("{absent}|missing|")));
    assert_eq!(results[5], [""; 0]);
}

#[test]
fn the_schedule_of_the_page() {
    if !is_installed("citus") || !is_installed("pg_cron") {
        return;
    }
    // A cluster of a single node, with pg_cron.
    let mut settings = vec![
        ("shared_preload_libraries", "citus,pg_cron"),
        ("cron.database_name", "postgres"),
        ("cron.use_background_workers", "on"),
        ("ntt_mime.workers", "2"),
        ("ntt_mime.blob_root", corpus().store.root_str()),
    ];
    settings.extend(SETTINGS);
    let node = Cluster::start(&settings);
    let name = node.socket_dir().to_str().expect("a plain name");
    node.configure(&[("citus.local_hostname", name)]);
    node.restart();
    let mut s = node.connect("postgres", SUPERUSER);
    for extension in ["citus", "pg_cron", "ntt_mime"] {
        s.exec(&format!("CREATE EXTENSION {extension}"));
    }
    s.exec(&format!(
        "SELECT citus_set_coordinator_host('{name}', {PORT})"
    ));
    s.exec(&format!(
        "SELECT citus_set_node_property('{name}', {PORT}, 'shouldhaveshards', true)"
    ));
    let blobs = &corpus().blobs;
    let blobids: Vec<String> = blobs.iter().map(|blob| blob.blobid.clone()).collect();
    inode::load_source(&mut s, &blobids);
    s.exec(
        "CREATE TABLE blob (blobid text PRIMARY KEY, mime_type text);
         SELECT create_distributed_table('blob', 'blobid', shard_count => 8);
         INSERT INTO blob SELECT DISTINCT blobid FROM source",
    );
    let page = include_str!("../../../docs/citus.md");
    let mut blocks = page.split("```sql\n").skip(1);
    let block = blocks.find(|block| block.contains("cron.schedule"));
    let block = block.and_then(|block| block.split("```").next());
    // More often than every ten minutes.
    let results = s.table(&block.expect("the schedule").replace("*/10", "*"));
    assert!(
        results.len() == 1 && results[0].contains("|t|"),
        "{results:?}"
    );
    // The next minute begins within 60 seconds; the rest is for the job.
    let ended = wait_for(Duration::from_secs(90), "the job to run", || {
        let ended = s.table(
            "SELECT status, return_message FROM cron.job_run_details WHERE status IN ('succeeded', 'failed')",
        );
        (!ended.is_empty()).then_some(ended)
    });
    s.exec("SELECT cron.unschedule('ntt-mime')");
    assert!(ended[0].starts_with("succeeded|"), "{ended:?}");
    for blob in blobs {
        let found = s.column(&format!(
            "SELECT mime_type FROM blob WHERE blobid = '{}'",
            blob.blobid
        ));
        assert_eq!(found, [blob.file_mime.as_str()]);
    }
}

#[test]
fn types_are_checked_and_corrected_on_each_node() {
    let Some(mut it) = Distributed::new("verify") else {
        return;
    };
    it.make_plain(10_000);
    // As another method would have left them. Rows that have another type must keep it.
    it.coordinator()
        .exec("UPDATE blob SET mime_type = 'application/octet-stream' WHERE mime_type IS NULL");
    let filled = "SELECT count(*) FROM blob WHERE mime_type = 'application/octet-stream'";
    let filled = it.coordinator().count(filled);
    let truly = it.types.clone();
    let truly = truly
        .iter()
        .filter(|(_, mime_type)| *mime_type == "application/octet-stream");
    let truly: Vec<String> = truly.map(|(blobid, _)| format!("'{blobid}'")).collect();
    let right = it.coordinator().count(&format!(
        "SELECT count(*) FROM blob WHERE n % 7 <> 0 AND blobid IN ({})",
        truly.join(", ")
    ));
    assert!(right > 0 && right < filled, "{right} of {filled}");
    let wanted = "only_types => ARRAY['application/octet-stream'], target => 'blob'";
    let sums = |it: &mut Distributed, statement: &str| {
        let sum = |key: &str| format!("sum((result::jsonb->>'{key}')::bigint)");
        let keys = ["rows_checked", "rows_different", "rows_corrected"].map(sum);
        let columns = format!("count(*) FILTER (WHERE success), {}", keys.join(", "));
        let rows = it
            .coordinator()
            .table(&statement.replace("SELECT *", &format!("SELECT {columns}")));
        rows.join("")
    };
    for (correct, corrected) in [("false", 0), ("true", filled - right)] {
        let call = format!("CALL ntt_verify_mime(correct => {correct}, {wanted})");
        let result = it.coordinator().batch_execute(&call);
        let statement = statement_for_all(result, "blob");
        assert_eq!(
            sums(&mut it, &statement),
            format!("3|{filled}|{}|{corrected}", filled - right)
        );
    }
    it.check("blob", "n", 10_000);
}

#[test]
fn rights_are_those_on_the_distributed_table() {
    let Some(mut it) = Distributed::new("rights") else {
        return;
    };
    it.make_plain(10_000);
    it.make_partitioned(10_000);
    let role = it.databases[0].role("filler", "LOGIN");
    for s in &mut it.sessions {
        s.exec(&format!(
            "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime, ntt_backfill_mime_on_node TO {role}"
        ));
    }
    for table in ["blob", "inode"] {
        let mut caller = it.databases[1].connect_as(&role);
        let result = caller.call(&format!("target => '{table}'"));
        assert_error(
            result,
            "42501",
            &format!("permission denied for table public.{table}"),
        );
        it.coordinator().exec(&format!(
            "GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON {table} TO {role}"
        ));
        let before = it.pending(table);
        let filled: i64 = [1, 2]
            .map(|node| {
                let mut caller = it.databases[node].connect_as(&role);
                caller
                    .backfill(&format!("target => '{table}'"))
                    .rows_updated
            })
            .iter()
            .sum();
        assert_eq!(filled, before);
        it.check(table, if table == "blob" { "n" } else { "ino" }, 10_000);
        // With the statement of the hint as well, for everybody who may connect as that role.
        let mut caller = it.databases[0].connect_as(&role);
        let statement = statement_for_all(caller.call(&format!("target => '{table}'")), table);
        let results = caller.table(&statement);
        assert!(
            results.iter().all(|row| row.split('|').nth(1) == Some("t")),
            "{results:#?}"
        );
    }
}

#[test]
fn tables_of_other_kinds() {
    let Some(mut it) = Distributed::new("kinds") else {
        return;
    };
    it.coordinator().exec(
        "CREATE TABLE everywhere (blobid text PRIMARY KEY, mime_type text);
         SELECT create_reference_table('everywhere');
         CREATE TABLE appended (blobid text, mime_type text);
         SELECT create_distributed_table('appended', 'blobid', 'append');
         CREATE TABLE by_type (blobid text, mime_type text);
         SELECT create_distributed_table('by_type', 'mime_type');
         SET citus.shard_replication_factor = 2;
         CREATE TABLE twice (blobid text, mime_type text);
         SELECT create_distributed_table('twice', 'blobid');
         RESET citus.shard_replication_factor;
         CREATE TABLE one_shard (blobid text PRIMARY KEY, mime_type text);
         SELECT create_distributed_table('one_shard', NULL);
         CREATE TABLE known (blobid text PRIMARY KEY, mime_type text);
         SELECT citus_add_local_table_to_metadata('known');
         CREATE TABLE unknown (blobid text PRIMARY KEY, mime_type text);
         INSERT INTO everywhere SELECT blobid FROM source;
         INSERT INTO one_shard SELECT blobid FROM source;
         INSERT INTO known SELECT blobid FROM source;
         INSERT INTO unknown SELECT blobid FROM source",
    );
    for node in 0..3 {
        for (table, message) in [
            (
                "everywhere",
                "cannot fill reference table \"public.everywhere\"",
            ),
            (
                "by_type",
                "cannot fill table \"public.by_type\" because it is distributed by column \"mime_type\"",
            ),
            (
                "twice",
                "cannot fill distributed table \"public.twice\" because its shards are replicated",
            ),
        ] {
            let result = it.sessions[node].call(&format!("target => '{table}'"));
            assert_error(result, "0A000", message);
        }
        // Nor a copy by its own name.
        let copy = it.sessions[node].column(
            "SELECT shard_name('everywhere', shardid) FROM pg_dist_shard WHERE logicalrelid = 'everywhere'::regclass",
        );
        let result = it.sessions[node].call(&format!("target => '{}'", copy[0]));
        assert_error(
            result,
            "0A000",
            "cannot fill reference table \"public.everywhere\"",
        );
    }
    // Citus tells other nodes nothing about it.
    let result = it.coordinator().call("target => 'appended'");
    let message = "cannot fill append-distributed table \"public.appended\"";
    assert_error(result, "0A000", message);
    let blobs = corpus().blobs.len() as i64;
    for table in ["known", "unknown"] {
        let outcome = it.coordinator().backfill(&format!("target => '{table}'"));
        assert_eq!(outcome.rows_updated, blobs, "{table}");
    }
    let filled: Vec<i64> = [1, 2]
        .into_iter()
        .filter_map(|node| it.sessions[node].call("target => 'one_shard'").ok())
        .map(|outcome| outcome.rows_updated)
        .collect();
    assert_eq!(filled, [blobs]);
    assert_eq!(
        it.pending("known") + it.pending("unknown") + it.pending("one_shard"),
        0
    );
    statement_for_all(it.sessions[1].call("target => 'known'"), "known");
}

#[test]
fn what_goes_on_beside_a_run_waits_for_a_batch() {
    let Some(mut it) = Distributed::new("beside") else {
        return;
    };
    it.make_partitioned(ROWS_TO_WATCH);
    let running = slow_run(&mut it, 1, "inode", "200ms");
    let mut other = it.databases[0].connect();
    // It waits for a batch of 50 rows each time.
    other.exec("SET lock_timeout = '10s'");
    other.exec("CREATE TABLE inode_m5 PARTITION OF inode FOR VALUES IN ('m5')");
    other.exec("CREATE INDEX ON inode (mime_type)");
    other.exec("UPDATE inode SET mime_type = 'application/x-kept' WHERE ino % 7 = 0 AND medium_hash = 'm2'");
    other.exec("DROP TABLE inode_m5");
    assert!(!running.is_finished());
    let (mut s, outcome) = running.succeed();
    assert!(s.take_warnings().is_empty());
    assert_eq!(s.run_row(outcome.run_id, "rows_left"), "0");
    it.sessions[2].backfill("target => 'inode'");
    it.check("inode", "ino", ROWS_TO_WATCH);
}

#[test]
fn one_column_is_to_be_had_without_citus_too() {
    let (_db, _store, mut s) = inode::archive("one_column", 3, 50, 3);
    let expected = inode::expected(&mut s);
    let results = s.table("CALL ntt_backfill_mime_on_node(20, workers => 1)");
    let [result] = &results[..] else {
        panic!("one row: {results:?}");
    };
    assert!(
        result.contains(&format!("\"rows_updated\": {}", expected.rows)),
        "{result}"
    );
    inode::check_filled(&mut s, "inode");
    let results = s.table("CALL ntt_verify_mime_on_node(workers => 1)");
    let [result] = &results[..] else {
        panic!("one row: {results:?}");
    };
    // Rows that had a type before the run have one that isn't their blobs'.
    let kept = s.count(&format!(
        "SELECT count(*) FROM inode WHERE blobid IS NOT NULL AND mime_type = '{}'",
        inode::KEPT
    ));
    assert!(kept > 0);
    assert!(
        result.contains(&format!("\"rows_different\": {kept}")),
        "{result}"
    );
    for procedure in ["ntt_backfill_mime_on_node", "ntt_verify_mime_on_node"] {
        let result = s.batch_execute(&format!("BEGIN; CALL {procedure}()"));
        assert_error(result, "2D000", "transaction block");
        s.exec("ROLLBACK");
    }
}
