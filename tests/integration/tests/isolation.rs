//! Isolation: who may do what, in one table; and that no name, no object in a search path, no trigger and no setting
//! gives anybody a privilege or an answer to which they have no right.

use std::path::Path;
use std::time::Duration;

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::session::describe;
use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, assert_error, errors, inode, wait_for, wait_until,
};

/// The columns of [`WHO_MAY_DO_WHAT`], in their order.
const ROLES: [&str; 9] = [
    "nobody",
    "reader",
    "monitor",
    "executor",
    "runner",
    "set_role",
    "authorized",
    "owner",
    "superuser",
];

/// What each role gets: `ok`, a SQLSTATE, or how many rows a run fills; `-` stands for 42501. The roles: `nobody` may
/// just log in; `reader` and `monitor` are members of pg_read_server_files and pg_monitor; `executor` may execute the
/// procedure and the function that cancels, `runner` may also update `mime_type` of the targets, and nothing else.
/// `set_role` is a role like `runner` that can't log in, taken on by a member of it who has no rights of its own;
/// `authorized` is the same role taken on by a superuser with SET SESSION AUTHORIZATION. `owner` owns the targets.
const WHO_MAY_DO_WHAT: &str = "
                                            nobody reader monitor executor runner set_role authorized owner superuser
SELECT ntt_detect_mime('{blob}')              | -     ok     -       -       -       -        -         -      ok
SELECT ntt_detect_mime('x'::bytea)            | -     ok     -       -       -       -        -         -      ok
SELECT ntt_inspect_blob('{blob}')             | -     ok     -       -       -       -        -         -      ok
SELECT ntt_mime_version()                     | -     ok     -       -       -       -        -         -      ok
SELECT ntt_mime_suggest_index('plain')        | -     -      ok      -       -       -        -         -      ok
SELECT ntt_cancel_backfill(0)                 | -     -      -       ok      ok      ok       ok        ok     ok
SELECT ntt_cancel_backfill({run_of_dba})      | -     -      -       -       -       -        -         -      ok

TABLE ntt_mime.run                            | -     -      ok      -       -       -        -         -      ok
TABLE ntt_mime.failure                        | -     -      -       -       -       -        -         -      ok
TABLE ntt_mime.leaf_error                     | -     -      -       -       -       -        -         -      ok
SELECT leaf, message FROM ntt_mime.leaf_error | -     -      ok      -       -       -        -         -      ok
TABLE ntt_mime.leaf                           | -     -      -       -       -       -        -         -      ok
TABLE ntt_mime.verified_leaf                  | -     -      -       -       -       -        -         -      ok
TABLE ntt_mime.difference                     | -     -      ok      -       -       -        -         -      ok
SELECT /* remove_differences */ ntt_mime.remove_differences() | -     -      -       -       -       -        -         -      0A000
DELETE FROM ntt_mime.difference               | -     -      -       -       -       -        -         -      ok
TABLE ntt_mime.progress                       | -     -      ok      -       -       -        -         -      ok
TABLE ntt_mime.mime_summary                   | -     -      ok      -       -       -        -         -      ok
{insert_run}                                  | -     -      -       -       -       -        -         -      ok
{insert_failure}                              | -     -      -       -       -       -        -         -      ok
UPDATE ntt_mime.run SET error = 'x'           | -     -      -       -       -       -        -         -      ok
UPDATE ntt_mime.failure SET attempts = 0      | -     -      -       -       -       -        -         -      ok
DELETE FROM ntt_mime.run                      | -     -      -       -       -       -        -         -      ok
DELETE FROM ntt_mime.leaf_error               | -     -      -       -       -       -        -         -      ok
DELETE FROM ntt_mime.leaf                     | -     -      -       -       -       -        -         -      ok
DELETE FROM ntt_mime.verified_leaf            | -     -      -       -       -       -        -         -      ok
DELETE FROM ntt_mime.failure                  | -     -      -       -       -       -        -         -      ok
TRUNCATE ntt_mime.run, ntt_mime.failure       | -     -      -       -       -       -        -         -      ok
DELETE FROM ntt_mime.progress                 | -     -      55000   -       -       -        -         -      55000
SELECT nextval('ntt_mime.run_run_id_seq')     | -     -      -       -       -       -        -         -      ok
LOCK TABLE ntt_mime.run                       | -     -      -       -       -       -        -         -      ok
CREATE TABLE ntt_mime.mine (x int)            | -     -      -       -       -       -        -         -      ok
DROP TABLE ntt_mime.failure                   | -     -      -       -       -       -        -         -      2BP01

SET ntt_mime.blob_root = '/tmp'               | -     -      -       -       -       -        -         -      ok
SET ntt_mime.head_bytes = '1MB'               | -     -      -       -       -       -        -         -      ok
SET ntt_mime.cache_size = '1GB'               | -     -      -       -       -       -        -         -      ok
SET ntt_mime.prefilter = off                  | -     -      -       -       -       -        -         -      ok
SET ntt_mime.read_ahead = 100                 | -     -      -       -       -       -        -         -      ok
SET ntt_mime.run_history = 0                  | -     -      -       -       -       -        -         -      ok
SET ntt_mime.target = 'x'                     | ok    ok     ok      ok      ok      ok       ok        ok     ok
SET ntt_mime.workers = 3                      | ok    ok     ok      ok      ok      ok       ok        ok     ok
SET ntt_mime.lock_timeout = '2s'              | ok    ok     ok      ok      ok      ok       ok        ok     ok
SET ntt_mime.retry_failures_after = '1h'      | ok    ok     ok      ok      ok      ok       ok        ok     ok
SET ntt_mime.full_scan_after = '1h'           | ok    ok     ok      ok      ok      ok       ok        ok     ok
SET ntt_mime.batch_delay = '1s'               | ok    ok     ok      ok      ok      ok       ok        ok     ok
SET ntt_mime.no_such_setting = 1              | 42602 42602  42602   42602   42602   42602    42602     42602  42602
ALTER ROLE {self} SET ntt_mime.blob_root = '' | -     -      -       -       -       -        -         -      ok
ALTER ROLE {self} SET ntt_mime.run_history = 0| -     -      -       -       -       -        -         -      ok
ALTER ROLE {self} SET ntt_mime.workers = 3    | ok    ok     ok      ok      ok      ok       ok        ok     ok

CALL plain                                    | -     -      -       -       12      12       12        12     12
CALL plain, dry_run => true                   | -     -      -       -       0       0        0         0      0
CALL parted                                   | -     -      -       -       12      12       12        12     12
CALL parted, dry_run => true                  | -     -      -       -       0       0        0         0      0
CALL plain_secured                            | -     -      -       -       6       6        6         12     12
CALL plain_forced                             | -     -      -       -       6       6        6         6      12
CALL parted_secured                           | -     -      -       -       0A000   0A000    0A000     12     12
CALL parted_forced                            | -     -      -       -       0A000   0A000    0A000     0A000  12
CALL others                                   | -     -      -       -       -       -        -         -      12
/* in a transaction block */ CALL ntt_backfill_mime_on_node() | - - -  -       -       -        -         -      2D000
/* in a transaction block */ CALL ntt_verify_mime() | - - -  -       -       -        -         -      2D000
/* in a transaction block */ CALL ntt_verify_mime_on_node() | - - -  -       -       -        -         -      2D000
";

/// The targets of that table, all but `others` the owner's: 12 rows each, every other one of which a policy shows.
fn make_targets(s: &mut Session, owner: &str, runners: &str) {
    for (name, security) in [
        ("plain", ""),
        ("plain_secured", "ENABLE ROW LEVEL SECURITY"),
        (
            "plain_forced",
            "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ),
        ("parted", ""),
        ("parted_secured", "ENABLE ROW LEVEL SECURITY"),
        (
            "parted_forced",
            "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ),
        ("others", ""),
    ] {
        let partitioned = name.starts_with("parted");
        let by = if partitioned {
            "PARTITION BY LIST (n)"
        } else {
            ""
        };
        s.exec(&format!(
            "CREATE TABLE {name} (n int, blobid text, mime_type text) {by}"
        ));
        if partitioned {
            s.exec(&format!(
                "CREATE TABLE {name}_1 PARTITION OF {name} FOR VALUES IN (1);
                 CREATE TABLE {name}_2 PARTITION OF {name} DEFAULT"
            ));
        }
        s.exec(&format!("INSERT INTO {name} SELECT n, blobid FROM source"));
        if !security.is_empty() {
            s.exec(&format!(
                "CREATE POLICY odd ON {name} USING (n % 2 = 1); ALTER TABLE {name} {security}"
            ));
        }
        if name != "others" {
            s.exec(&format!(
                "ALTER TABLE {name} OWNER TO {owner}; GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON {name} TO {runners}"
            ));
        }
    }
}

#[test]
fn who_may_do_what() {
    let db = TestDb::new("who");
    let store = Store::new();
    db.use_store(&store);
    // A setting is only known as ours once the library is there.
    db.connect().exec(&format!(
        "ALTER DATABASE {} SET session_preload_libraries = 'ntt_mime'",
        db.name
    ));
    let mut s = db.connect();
    let blobids = store.put_synthetic(12);
    inode::load_source(&mut s, &blobids);
    let role = |name: &str, options: &str| db.role(name, options);
    let nobody = role("nobody", "LOGIN");
    let reader = role("reader", "LOGIN IN ROLE pg_read_server_files");
    let monitor = role("monitor", "LOGIN IN ROLE pg_monitor");
    let executor = role("executor", "LOGIN");
    let runner = role("runner", "LOGIN");
    let group = role("group", "NOLOGIN");
    let member = role("member", &format!("LOGIN NOINHERIT IN ROLE {group}"));
    let owner = role("owner", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {executor}, {runner}, {group}, {owner};
         GRANT EXECUTE ON FUNCTION ntt_cancel_backfill TO {executor}, {runner}, {group}, {owner}"
    ));
    make_targets(&mut s, &owner, &format!("{runner}, {group}"));
    let run_of_dba = s.backfill("target => 'plain'").run_id;

    let session = |column: &str| match column {
        "nobody" => (db.connect_as(&nobody), nobody.clone()),
        "reader" => (db.connect_as(&reader), reader.clone()),
        "monitor" => (db.connect_as(&monitor), monitor.clone()),
        "executor" => (db.connect_as(&executor), executor.clone()),
        "runner" => (db.connect_as(&runner), runner.clone()),
        "owner" => (db.connect_as(&owner), owner.clone()),
        "set_role" => {
            let mut s = db.connect_as(&member);
            s.exec(&format!("SET ROLE {group}"));
            (s, group.clone())
        }
        "authorized" => {
            let mut s = db.connect();
            s.exec(&format!("SET SESSION AUTHORIZATION {group}"));
            (s, group.clone())
        }
        _ => (db.connect(), SUPERUSER.to_owned()),
    };
    let mut sessions: Vec<(Session, String)> = ROLES.iter().map(|role| session(role)).collect();

    let mut lines = WHO_MAY_DO_WHAT.lines().filter(|l| !l.trim().is_empty());
    let heading: Vec<&str> = lines
        .next()
        .expect("a heading")
        .split_whitespace()
        .collect();
    assert_eq!(heading, ROLES);
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for line in lines {
        let (action, expected) = line.split_once('|').expect("action | results");
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert_eq!(expected.len(), ROLES.len(), "{line}");
        for ((column, (session, name)), expected) in ROLES.iter().zip(&mut sessions).zip(expected) {
            let expected = if expected == "-" { "42501" } else { expected };
            let action = action
                .trim()
                .replace("{self}", name)
                .replace("{blob}", &blobids[0])
                .replace("{run_of_dba}", &run_of_dba.to_string())
                .replace("{insert_run}", INSERT_RUN)
                .replace("{insert_failure}", INSERT_FAILURE);
            let got = attempt(&mut s, session, &action);
            looked_at += 1;
            if got.split(' ').next() != Some(expected) {
                wrong.push(format!("{action} as {column}: {got}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} actions, {looked_at} cells", looked_at / ROLES.len());
    assert!(
        looked_at > 350,
        "only {looked_at} cells of the table were read"
    );

    // No object of the extension is missing from it, nor any of several functions with the same name.
    let actions = WHO_MAY_DO_WHAT.replace("CALL ", "ntt_backfill_mime ");
    let members = s.table(
        "SELECT CASE classid WHEN 'pg_proc'::regclass THEN (SELECT proname::text FROM pg_proc WHERE oid = objid)
                             ELSE objid::regclass::text END, count(*)
           FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid AND extname = 'ntt_mime'
          WHERE deptype = 'e' AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass) GROUP BY 1",
    );
    assert!(members.len() >= 11, "{members:?}");
    for member in members {
        let (name, n) = member.split_once('|').expect("two columns");
        let names = |line: &&str| {
            line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
                .any(|word| word == name)
        };
        let tried = actions.lines().filter(names).count();
        assert!(
            tried >= n.parse().expect("a count"),
            "{tried} actions with {member}"
        );
    }
}

const INSERT_RUN: &str =
    "INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic)
                          VALUES ('x', 'succeeded', 1, 'x', '{}', 1, 'x')";
const INSERT_FAILURE: &str =
    "INSERT INTO ntt_mime.failure (blobid, reason, first_run_id, last_run_id)
                              VALUES ('x', 'missing', 1, 1)";

/// Tries a line of the table and undoes it: `ok`, a number of rows, or a SQLSTATE with the message.
fn attempt(dba: &mut Session, session: &mut Session, action: &str) -> String {
    let failed = |e: postgres::Error| {
        let code = e
            .code()
            .map_or("no code".to_owned(), |c| c.code().to_owned());
        format!("{code} ({})", describe(&e))
    };
    match action.strip_prefix("CALL ") {
        None => {
            let tried = session.batch_execute(&format!("BEGIN; {action}"));
            session.exec("ROLLBACK");
            tried.map_or_else(failed, |()| "ok".to_owned())
        }
        Some(target) => {
            let (target, rest) = target.split_once(',').unwrap_or((target, ""));
            dba.exec(&format!(
                "UPDATE {target} SET mime_type = NULL WHERE mime_type IS NOT NULL"
            ));
            let rest = if rest.is_empty() {
                "retry_failed => false"
            } else {
                rest
            };
            let called = session.call(&format!("target => '{target}', {rest}"));
            let filled = dba.count(&format!("SELECT count(mime_type) FROM {target}"));
            match called {
                Ok(outcome) if outcome.rows_updated == filled => filled.to_string(),
                Ok(outcome) => format!("{filled} rows, and {outcome:?}"),
                Err(e) if filled == 0 => failed(e),
                Err(e) => format!("{filled} rows in spite of {}", failed(e)),
            }
        }
    }
}

/// Fills the schema `evil` with objects named like those of pg_catalog that our statements use, and like our own
/// tables. Each records in `public.seen` as which role it was executed, and returns what the original does.
///
/// There are operators for all pairs of common types, including pairs for which pg_catalog has no exact operator:
/// such an operator is preferred to pg_catalog's, even if it comes later in the search path.
const PLANT: &str = r#"
    CREATE TABLE IF NOT EXISTS public.seen (who name, what text);
    GRANT INSERT ON public.seen TO PUBLIC;
    GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.note(what pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (current_user, what);
            RAISE WARNING 'planted: %, as %', what, current_user;  -- which outlives a rollback
            RETURN true;
        END $$;
    DO $plant$
    DECLARE
        f record; l regtype; r regtype; op text; result regtype; n int := 0; call text;
        types regtype[] := '{int2, int4, int8, float8, numeric, text, name, oid, timestamptz, interval, tid, "char", bool}';
    BEGIN
        FOREACH l IN ARRAY types LOOP FOREACH r IN ARRAY types LOOP
            FOREACH op IN ARRAY '{=, <>, <, >, <=, >=, +, -, *, /, &, ||}'::text[] LOOP
                BEGIN
                    EXECUTE format('SELECT pg_typeof(NULL::%s OPERATOR(pg_catalog.%s) NULL::%s)', l, op, r) INTO result;
                EXCEPTION WHEN undefined_function OR ambiguous_function THEN CONTINUE;
                END;
                n := n + 1;
                EXECUTE format('CREATE FUNCTION evil.op_%s(l %s, r %s) RETURNS %s LANGUAGE plpgsql AS
                    $$BEGIN PERFORM evil.note(%L); RETURN l OPERATOR(pg_catalog.%s) r; END$$',
                    n, l, r, result, format('%s %s %s', l, op, r), op);
                EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op_%s)', op, l, r, n);
            END LOOP;
        END LOOP; END LOOP;
        FOR f IN SELECT p.oid::regprocedure AS signature, proname, proretset, pg_get_function_result(p.oid) AS result,
                        pg_get_function_identity_arguments(p.oid) AS arguments,
                        (SELECT string_agg('$' || i, ', ') FROM generate_series(1, pronargs) i) AS passed
                   FROM pg_proc p
                  WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND provariadic = 0
                    AND proname IN ('unnest', 'now', 'clock_timestamp', 'format_type', 'has_column_privilege',
                        'row_security_active', 'to_regclass', 'current_database', 'round', 'jsonb_populate_record',
                        'pg_get_partition_constraintdef', 'int8', 'int4', 'oid', 'timezone', 'make_interval', 'length')
        LOOP
            call := format('pg_catalog.%I(%s)', f.proname, f.passed);
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS $$BEGIN PERFORM evil.note(%L); %s END$$',
                f.proname, f.arguments, f.result, f.signature::text,
                CASE WHEN f.proretset THEN 'RETURN QUERY SELECT ' || call ELSE 'RETURN ' || call END || ';');
        END LOOP;
        FOREACH op IN ARRAY '{text, oid, jsonb, numeric, bool, int4, int8, float8, timestamptz}'::text[] LOOP
            EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil.note(%L))', op, op, 'type ' || op);
        END LOOP;
        FOREACH op IN ARRAY '{pg_class, pg_namespace, pg_inherits, pg_locks, pg_database, pg_roles}'::text[] LOOP
            EXECUTE format('CREATE VIEW evil.%I AS SELECT * FROM pg_catalog.%I WHERE evil.note(%L)', op, op, op);
        END LOOP;
        EXECUTE 'CREATE FUNCTION evil.format(text, name, name) RETURNS text LANGUAGE plpgsql AS
            $$BEGIN PERFORM evil.note(''format''); RETURN pg_catalog.format($1, $2, $3); END$$';
        EXECUTE 'CREATE TABLE evil.run AS TABLE ntt_mime.run WITH NO DATA';
        EXECUTE 'CREATE TABLE evil.failure AS TABLE ntt_mime.failure WITH NO DATA';
        EXECUTE 'GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC';
    END $plant$"#;

/// Which of these were executed, and as whom.
fn seen(s: &mut Session) -> Vec<String> {
    s.table("SELECT DISTINCT who, what FROM public.seen ORDER BY 1, 2")
}

/// A database whose extension belongs to a superuser who does nothing else, two targets without triggers of their
/// own, and a role that may run a backfill on them.
struct Guarded {
    db: TestDb<'static>,
    _store: Store,
    s: Session,
    blobids: Vec<String>,
    runner: String,
}

fn guarded(name: &str) -> Guarded {
    let db = TestDb::empty(Cluster::shared(), name);
    let extension_owner = db.role("extension_owner", "LOGIN SUPERUSER");
    db.connect_as(&extension_owner)
        .exec("CREATE EXTENSION ntt_mime");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    let blobids = store.put_synthetic(60);
    inode::load_source(&mut s, &blobids);
    inode::multilevel(&mut s, 2, 2);
    inode::fill(&mut s, 2, 2);
    inode::plain(&mut s, &blobids);
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "ALTER DATABASE {} SET ntt_mime.workers = 2;
         GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner};
         GRANT EXECUTE ON FUNCTION ntt_cancel_backfill TO {runner};
         GRANT SELECT, UPDATE ON inode, blob TO {runner};
         GRANT pg_read_server_files, pg_monitor TO {runner}",
        db.name
    ));
    Guarded {
        db,
        _store: store,
        s,
        blobids,
        runner,
    }
}

/// Everything that a role may do with the extension, while one of its runs is going on, and a run from start to end.
fn do_everything(g: &mut Guarded, session: &mut Session) {
    let s = &mut g.s;
    s.exec("UPDATE blob SET mime_type = NULL; UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    let mut first = g.db.connect_as(&g.runner);
    first.exec("SET ntt_mime.batch_delay = '60s'");
    let first = first.call_in_background("1, target => 'blob'");
    let run_id = s.wait_for_run();
    assert_eq!(session.table("TABLE ntt_mime.progress").len(), 1);
    assert!(!session.table("TABLE ntt_mime.run").is_empty());
    session.exec(&format!(
        "SELECT ntt_detect_mime('{0}'), ntt_detect_mime('x'::bytea);
         SELECT ntt_inspect_blob('{0}'), ntt_mime_version()",
        g.blobids[0]
    ));
    session.exec(&format!("SELECT ntt_cancel_backfill({run_id})"));
    first.succeed();
    let outcome = session.backfill("20, target => 'public.inode'");
    assert!(outcome.rows_updated > 0);
    session.backfill("20, target => 'public.blob', dry_run => true");
    session.exec("SET ntt_mime.target = 'public.blob'");
    session.backfill("20");
    assert_eq!(inode::pending(s, "blob") + inode::pending(s, "inode"), 0);
}

#[test]
fn objects_planted_in_a_search_path_are_not_executed() {
    let mut g = guarded("planted");
    g.s.exec("CREATE SCHEMA evil");
    g.s.exec(PLANT);
    g.s.backfill("20, target => 'blob'");
    // They work: anybody who has them in the search path executes them.
    g.s.exec("SET search_path = evil, pg_catalog, public; SELECT 1 + 1; SELECT now(); SELECT 'x'::text; TABLE pg_locks");
    g.s.exec("RESET search_path");
    assert!(seen(&mut g.s).len() >= 4, "{:?}", seen(&mut g.s));
    g.s.exec("TRUNCATE seen");
    for role in [g.runner.clone(), SUPERUSER.to_owned()] {
        for path in ["evil, pg_catalog, public", "evil, public"] {
            let mut session = g.db.connect_as(&role);
            session.exec(&format!("SET search_path = {path}"));
            do_everything(&mut g, &mut session);
            assert_eq!(seen(&mut g.s), Vec::<String>::new(), "{path}, {role}");
        }
    }
    assert_eq!(
        g.s.count("SELECT (SELECT count(*) FROM evil.run) + (SELECT count(*) FROM evil.failure)"),
        0,
        "rows in tables with the names of ours"
    );
}

#[test]
fn tables_planted_in_place_of_the_extensions_are_not_written_to() {
    let mut g = guarded("planted_later");
    let thief = g.db.role("thief", "NOLOGIN");
    let mut session = g.db.connect();
    session.exec("SET ntt_mime.batch_delay = '60s'");
    let run = session.call_in_background("1, target => 'blob', workers => 1");
    g.s.wait_for_run();
    // All at once, so that the run finds the extension dropped and somebody else's tables in its place. The trigger's
    // work is deferred to the commit, to be executed by whoever commits.
    g.s.exec(&format!(
        "CREATE TABLE seen_later (who name); GRANT INSERT ON seen_later TO PUBLIC;
         BEGIN;
         CREATE TABLE kept AS TABLE ntt_mime.run;
         DROP EXTENSION ntt_mime;
         DROP SCHEMA IF EXISTS ntt_mime;
         CREATE SCHEMA ntt_mime AUTHORIZATION {thief};
         CREATE TABLE ntt_mime.run (LIKE kept INCLUDING ALL);
         INSERT INTO ntt_mime.run TABLE kept;
         CREATE TABLE ntt_mime.failure (blobid text PRIMARY KEY, reason text, detail text, attempts int DEFAULT 1,
             first_run_id bigint, last_run_id bigint, first_seen timestamptz, last_seen timestamptz);
         CREATE FUNCTION ntt_mime.steal() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.seen_later VALUES (current_user); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER steal AFTER INSERT OR UPDATE ON ntt_mime.run DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION ntt_mime.steal();
         CREATE CONSTRAINT TRIGGER steal AFTER INSERT OR UPDATE ON ntt_mime.failure DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION ntt_mime.steal();
         ALTER TABLE ntt_mime.run OWNER TO {thief}; ALTER TABLE ntt_mime.failure OWNER TO {thief};
         ALTER FUNCTION ntt_mime.steal OWNER TO {thief};
         COMMIT"
    ));
    let error = assert_error(
        run.finish().1,
        "55000",
        "table \"ntt_mime.run\" is not a member of extension \"ntt_mime\"",
    );
    assert!(error.hint().is_some());
    g.db.wait_for_no_workers(SOON);
    assert_eq!(
        g.s.table("SELECT status, finished_at IS NULL FROM ntt_mime.run"),
        ["running|t"]
    );
    assert_eq!(
        g.s.column("SELECT who FROM seen_later"),
        Vec::<String>::new()
    );
}

#[test]
fn an_extension_made_anew_gets_nothing_of_a_run_of_before() {
    let mut g = guarded("made_anew");
    let mut session = g.db.connect();
    session.exec("SET ntt_mime.batch_delay = '60s'");
    let run = session.call_in_background("1, target => 'blob', workers => 1");
    assert_eq!(g.s.wait_for_run(), 1);
    g.s.exec(
        "BEGIN;
         DROP EXTENSION ntt_mime; CREATE EXTENSION ntt_mime;
         INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic)
             VALUES ('x', 'succeeded', 1, 'x', '{}', 1, 'x');
         COMMIT",
    );
    // It writes at its end at the latest.
    run.cancel();
    let _ = run.finish();
    assert_eq!(
        g.s.table("SELECT run_id, target, status, rows_scanned FROM ntt_mime.run"),
        ["1|x|succeeded|0"]
    );
}

#[test]
fn a_refusal_looks_up_nothing_in_the_callers_path() {
    let mut g = guarded("planted_refusal");
    g.s.exec("CREATE SCHEMA evil");
    g.s.exec(PLANT);
    let mut first = g.db.connect();
    first.exec("SET ntt_mime.batch_delay = '60s'");
    let first = first.call_in_background("1, target => 'blob'");
    g.s.wait_for_run();
    let mut session = g.db.connect_as(&g.runner);
    session.exec("SET search_path = evil, pg_catalog, public");
    let refused = assert_error(session.call("target => 'public.blob'"), "55006", "blob");
    assert!(errors::words(&refused).contains(&first.pid.to_string()));
    first.cancel();
    let _ = first.finish();
    assert_eq!(session.take_warnings(), Vec::<String>::new());
}

#[test]
fn objects_planted_before_it_was_installed_are_not_executed() {
    // In databases made before PostgreSQL 15, everybody can create objects in the schema public. Objects that exist
    // there when the extension is created must not become part of its view.
    let db = TestDb::empty(Cluster::shared(), "planted_early");
    let mut s = db.connect();
    s.exec("CREATE SCHEMA evil; CREATE SCHEMA ntt_mime; CREATE TABLE ntt_mime.run (); CREATE TABLE ntt_mime.failure ()");
    s.exec(PLANT);
    s.exec("DROP SCHEMA ntt_mime CASCADE; CREATE EXTENSION ntt_mime SCHEMA evil");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::plain(&mut s, &store.put_synthetic(20));
    s.exec("TRUNCATE seen; SET ntt_mime.batch_delay = '60s'");
    let running = s.call_in_background("1, target => 'blob'");
    // That was refused: the procedure is in the other schema.
    assert_error(running.finish().1, "42883", "ntt_backfill_mime");
    let mut s = db.connect();
    s.exec("SET search_path = evil, public; SET ntt_mime.batch_delay = '60s'; SET ntt_mime.workers = 1");
    let running = s.call_in_background("1, target => 'public.blob'");
    let mut dba = db.connect();
    dba.wait_for_run();
    assert_eq!(dba.table("TABLE ntt_mime.progress").len(), 1);
    running.cancel();
    let _ = running.finish();
    assert_eq!(seen(&mut dba), Vec::<String>::new());
}

#[test]
fn temporary_tables_are_not_taken_for_ours() {
    let mut g = guarded("temporary");
    let runner = g.runner.clone();
    for role in [runner.as_str(), SUPERUSER] {
        let mut session = g.db.connect_as(role);
        session.exec(
            "CREATE TEMPORARY TABLE run (run_id bigint); CREATE TEMPORARY TABLE failure (blobid text);
             CREATE TEMPORARY TABLE progress (x int); CREATE TEMPORARY TABLE inode_m0 (blobid text, mime_type text);
             CREATE TEMPORARY TABLE pg_class (x int); CREATE TEMPORARY TABLE pg_inherits (x int);
             CREATE TEMPORARY TABLE pg_locks (x int); CREATE TEMPORARY TABLE pg_database (x int);
             SET search_path = pg_temp, public",
        );
        do_everything(&mut g, &mut session);
        // The target's own name leads to the temporary table, which is no target; to the right one with its schema.
        session.exec("CREATE TEMPORARY TABLE blob (blobid text, mime_type text); SET ntt_mime.target = 'blob'");
        assert_error(session.call(""), "42809", "temporary");
        assert_error(session.call("target => 'blob'"), "42809", "temporary");
        assert_eq!(session.backfill("target => 'public.blob'").rows_updated, 0);
    }
}

/// A trigger function that tries each of `attempts`, and records in `public.tried` what came of it: the role names
/// before, those after, or the SQLSTATE.
fn trying_trigger(attempts: &[&str]) -> String {
    let tries: String = attempts
        .iter()
        .map(|sql| {
            format!(
                "BEGIN
                     {sql};
                     INSERT INTO public.tried VALUES ({0}, 'ok', current_user, session_user);
                 EXCEPTION WHEN OTHERS THEN
                     INSERT INTO public.tried VALUES ({0}, SQLSTATE, current_user, session_user);
                 END;\n",
                quoted(sql)
            )
        })
        .collect();
    format!(
        "CREATE TABLE tried (attempt text, result text, who name, session name);
         GRANT INSERT ON tried TO PUBLIC;
         CREATE FUNCTION try() RETURNS trigger LANGUAGE plpgsql AS $try$ BEGIN {tries} RETURN NULL; END $try$;
         CREATE TRIGGER try AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION try()"
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[test]
fn a_trigger_gains_nothing_from_a_worker() {
    let (db, store, mut s) = TestDb::with_store("trigger_rights");
    let other = Store::new();
    let blobids = store.put_synthetic(40);
    for blobid in &blobids {
        other.put_as(blobid, b"GIF89a\x01\0\x01\0\0\0\0;");
    }
    inode::plain(&mut s, &blobids);
    inode::remember(&mut s, "blob");
    let runner = db.role("runner", "LOGIN");
    let root = format!("SET ntt_mime.blob_root = '{}'", other.root_str());
    let attempts = [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "RESET ROLE",
        "RESET SESSION AUTHORIZATION",
        "ALTER TABLE ntt_mime.run OWNER TO CURRENT_USER",
        "DELETE FROM ntt_mime.run",
        "INSERT INTO ntt_mime.failure VALUES ('x', 'missing', NULL, 1, 1, 1)",
        "UPDATE public.source SET n = 0",
        &root,
        "SET ntt_mime.head_bytes = 512",
        "SET ntt_mime.prefilter = off",
        "SET ntt_mime.read_ahead = 0",
        // What anybody may set, and a run must cope with.
        "SET search_path = pg_temp",
        "SET ntt_mime.target = 'x'",
        "SET ntt_mime.batch_delay = 0",
        "SET row_security = off",
        "SET client_encoding = 'LATIN1'",
        "SET default_transaction_read_only = off",
        "CREATE TEMPORARY TABLE IF NOT EXISTS blob (blobid text, mime_type text)",
        "COMMIT",
    ];
    s.exec(&trying_trigger(&attempts));
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON blob TO {runner}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    let outcome = db.connect_as(&runner).backfill("10, target => 'blob'");
    assert_eq!(outcome.rows_updated, 40);
    inode::check_filled(&mut s, "blob");
    let results = |s: &mut Session| {
        s.table("SELECT DISTINCT attempt, result FROM tried WHERE result <> 'ok' ORDER BY attempt")
    };
    let mut refused: Vec<String> = attempts[4..8]
        .iter()
        .chain(&attempts[..2])
        .chain(&attempts[8..12])
        .map(|attempt| format!("{attempt}|42501"))
        .collect();
    refused.push("COMMIT|2D000".to_owned());
    refused.sort();
    let mut got = results(&mut s);
    got.sort();
    assert_eq!(got, refused);
    assert_eq!(
        s.table("SELECT DISTINCT who, session FROM tried"),
        [format!("{runner}|{runner}")]
    );

    // A role adopted by SET ROLE: the trigger may reset it, as it may in the caller's own session, and gets the
    // caller, who can't update the target. The run goes on with the privileges that it had when it began.
    let group = db.role("group", "NOLOGIN");
    let member = db.role("member", &format!("LOGIN NOINHERIT IN ROLE {group}"));
    s.exec(&format!(
        "ALTER TABLE blob DISABLE TRIGGER try; UPDATE blob SET mime_type = NULL; ALTER TABLE blob ENABLE TRIGGER try;
         TRUNCATE tried;
         GRANT SELECT, UPDATE ON blob TO {group}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {group}"
    ));
    inode::remember(&mut s, "blob");
    let mut session = db.connect_as(&member);
    session.exec(&format!("SET ROLE {group}"));
    assert_eq!(
        session
            .backfill("10, target => 'blob', workers => 1")
            .rows_updated,
        40
    );
    inode::check_filled(&mut s, "blob");
    let mut got = results(&mut s);
    got.sort();
    assert_eq!(got, refused);
    assert_eq!(
        s.table("SELECT DISTINCT who, session FROM tried ORDER BY 1"),
        [format!("{group}|{member}"), format!("{member}|{member}")]
    );
    assert_eq!(
        session.column("SELECT current_user"),
        std::slice::from_ref(&group),
        "the caller's own session is untouched"
    );
}

/// Names that do damage when pasted into a statement; `y` is a table that must survive.
fn hostile_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "x; DROP TABLE y; --",
        "\"",
        "\"\"; DROP TABLE y; --",
        "'; DROP TABLE y; --",
        "a.b",
        ".",
        " ",
        " blank before and after ",
        "back\\slash\\",
        "new\nline",
        "tab\tand\rreturn",
        "%s%I%L$1{}",
        "$$",
        "select",
        "UPPER",
        "/* comment",
        "Größe 文件 🗀 \u{202e}txt",
        "e\u{301}",
    ]
    .map(str::to_owned)
    .into();
    // The maximum length of a name is 63 bytes.
    names.push("n".repeat(63));
    names.push("é".repeat(31) + "x");
    names.push("文".repeat(21));
    names.push("\"".repeat(63));
    names
}

#[test]
fn hostile_names_of_schema_table_and_leaf() {
    let (db, store, mut s) = TestDb::with_store("hostile_names");
    inode::load_source(&mut s, &store.put_synthetic(6));
    s.exec("CREATE TABLE y AS SELECT 1 AS x; SET ntt_mime.workers = 1");
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    let mut runner_session = db.connect_as(&runner);
    for name in hostile_names() {
        let ident = format!("\"{}\"", name.replace('"', "\"\""));
        // One leaf is in public, with a name that differs from its parent's only in its schema, and one is in that
        // schema.
        let target = format!("{ident}.{ident}");
        s.exec(&format!(
            r#"CREATE SCHEMA {ident};
             CREATE TABLE {target} (number int, blobid varchar(64), "mime_TYPE" text, mime_type text)
                 PARTITION BY LIST (number);
             CREATE TABLE {ident}.leaf PARTITION OF {target} FOR VALUES IN (0);
             CREATE TABLE public.{ident} PARTITION OF {target} DEFAULT;
             INSERT INTO {target} SELECT n, blobid FROM source;
             GRANT USAGE ON SCHEMA {ident} TO {runner}; GRANT SELECT, UPDATE ON {target} TO {runner}"#
        ));
        inode::remember(&mut s, &target);
        // One by its argument, the other by its setting, regardless of the user.
        let by_argument = s.backfill(&format!(
            "3, max_blobs => 3, target => {}::regclass",
            quoted(&target)
        ));
        assert_eq!(by_argument.rows_updated, 3, "{name:?}");
        runner_session.exec(&format!("SET ntt_mime.target = {}", quoted(&target)));
        let by_setting = runner_session.backfill("3");
        assert_eq!(by_setting.rows_updated, 3, "{name:?}");
        inode::check_filled(&mut s, &target);

        let shown = s.run_row(by_setting.run_id, "target");
        let oids = s.table(&format!(
            "SELECT {}::regclass::oid = {}::regclass::oid",
            quoted(&shown),
            quoted(&target)
        ));
        assert_eq!(oids, ["t"], "{name:?} is shown as {shown:?}");
        s.exec(&format!("DROP SCHEMA {ident} CASCADE"));
    }
    assert_eq!(s.column("TABLE y"), ["1"]);
    // Without quotes this isn't the name of such a table.
    s.exec("SET ntt_mime.target = 'x; DROP TABLE y; --'");
    assert!(s.call("").is_err());
    assert_eq!(s.column("TABLE y"), ["1"]);
}

/// The compiled default of `ntt_mime.blob_root`.
const DEFAULT_ROOT: &str = "/data/cold/by-hash";

#[test]
fn settings_in_a_connection_string_are_checked_like_others() {
    let (db, store, mut s) = TestDb::with_store("options");
    let other = Store::new();
    let blobids = store.put_synthetic(10);
    inode::plain(&mut s, &blobids);
    inode::remember(&mut s, "blob");
    let runner = db.role("runner", "LOGIN IN ROLE pg_read_server_files");
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON blob TO {runner}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    for blobid in &blobids {
        other.put_as(blobid, b"GIF89a\x01\0\x01\0\0\0\0;");
    }
    let connect = |role: &str, options: &str| {
        let mut config = db.cluster.config(&db.name, role);
        config.options(options);
        Session::connect(config)
    };
    let smuggled = format!("-c ntt_mime.blob_root={}", other.root_str());
    let detect = format!("SELECT ntt_detect_mime('{}')", blobids[0]);
    for preloaded in [false, true] {
        if preloaded {
            s.exec(&format!(
                "ALTER DATABASE {} SET session_preload_libraries = 'ntt_mime'",
                db.name
            ));
        }
        // PostgreSQL refuses it when the library is loaded, and then falls back on the default.
        let mut runner_session = connect(&runner, &smuggled);
        assert_eq!(
            runner_session.column(&detect),
            [""],
            "preloaded: {preloaded}"
        );
        assert_eq!(
            runner_session.column("SHOW ntt_mime.blob_root"),
            [DEFAULT_ROOT]
        );
        let result = runner_session.call("target => 'blob'");
        match Path::new(DEFAULT_ROOT).is_dir() {
            // A machine may have a store there, with other blobs.
            true => assert_eq!(result.expect("runs").failures, 10),
            false => drop(assert_error(result, "58P01", DEFAULT_ROOT)),
        }
        assert_eq!(inode::check_partly_filled(&mut s, "blob"), 0);
        s.exec("TRUNCATE ntt_mime.failure");

        let options = "-c ntt_mime.target=blob -c ntt_mime.workers=1 -c ntt_mime.run_history=0 -c ntt_mime.head_bytes=512";
        let outcome = connect(&runner, options).backfill("");
        assert_eq!(outcome.rows_updated, 10);
        inode::check_filled(&mut s, "blob");
        assert_eq!(
            s.run_row(outcome.run_id, "options ->> 'head_bytes', workers"),
            "16384|1"
        );
        s.exec("UPDATE blob SET mime_type = NULL");
        inode::remember(&mut s, "blob");
    }
    assert!(
        s.count("SELECT count(*) FROM ntt_mime.run") >= 2,
        "the run log is the superuser's"
    );
    // A superuser may.
    assert_eq!(connect(SUPERUSER, &smuggled).column(&detect), ["image/gif"]);
}

#[test]
fn a_caller_whom_workers_cannot_follow_is_told() {
    let (db, store, mut s) = TestDb::with_store("cannot_follow");
    inode::plain(&mut s, &store.put_synthetic(10));
    let runner = db.role("runner", "LOGIN CONNECTION LIMIT 1");
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON blob TO {runner}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    // One connection is the caller's; workers need none of them.
    let mut session = db.connect_as(&runner);
    session.exec("SET ntt_mime.target = 'blob'");
    assert_eq!(session.backfill("").rows_updated, 10);

    // In a session that began earlier: a role that has lost LOGIN, and one that may no longer connect to this
    // database. Workers connect anew.
    for loss in [
        format!("ALTER ROLE {runner} NOLOGIN CONNECTION LIMIT -1"),
        format!(
            "ALTER ROLE {runner} LOGIN; REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
            db.name
        ),
    ] {
        s.exec(&format!("UPDATE blob SET mime_type = NULL; {loss}"));
        assert_error(session.call(""), "53400", "the server log has the reason");
        db.wait_for_no_workers(Duration::from_secs(5));
        assert_eq!(inode::pending(&mut s, "blob"), 10, "{loss}");
        assert_eq!(
            s.column("SELECT status FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1"),
            ["failed"],
            "{loss}"
        );
        assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    }
}

#[test]
fn settings_of_other_libraries_reach_the_workers_or_do_no_harm() {
    let (db, store, mut s) = TestDb::with_store("other_settings");
    inode::plain(&mut s, &store.put_synthetic(20));
    inode::remember(&mut s, "blob");
    s.exec(
        "CREATE TABLE told (setting text);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.told VALUES (current_setting(''archive.loader'')); RETURN NULL; END';
         CREATE TRIGGER tell AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION tell()",
    );
    let mut caller = db.connect();
    // A library that the workers haven't loaded, a setting that belongs to no extension, and other things that a
    // session may do to itself.
    caller.exec(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = '1h'; SET archive.loader = 'number 7';
         SET client_encoding = 'LATIN1'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard';
         SET TimeZone = 'Asia/Kathmandu'; SET bytea_output = 'escape'; SET standard_conforming_strings = off;
         SET quote_all_identifiers = on; SET transform_null_equals = on; SET array_nulls = off;
         SET work_mem = '64kB'; SET temp_buffers = '800kB'; SET max_parallel_workers_per_gather = 8;
         SET default_tablespace = 'pg_default'; SET enable_tidscan = off; SET enable_hashjoin = off;
         SET debug_print_plan = off; SET plan_cache_mode = 'force_custom_plan';
         SET xmloption = 'document'; SET row_security = off; SET check_function_bodies = off;
         SET statement_timeout = '1min'; SET idle_in_transaction_session_timeout = '1ms';
         SET idle_session_timeout = '1min'; SET lock_timeout = '1ms'; SET client_min_messages = 'warning';
         SET extra_float_digits = -15; SET lc_numeric = 'C'; SET search_path = ''",
    );
    // It has another name from PostgreSQL 16 on.
    caller.exec(
        "SELECT set_config(name, 'on', false) FROM pg_settings
          WHERE name IN ('force_parallel_mode', 'debug_parallel_query')",
    );
    let outcome = caller
        .call_named("public.ntt_backfill_mime", "7, target => 'public.blob'")
        .unwrap_or_else(|e| panic!("{}", describe(&e)));
    assert_eq!(outcome.rows_updated, 20);
    inode::check_filled(&mut s, "blob");
    assert_eq!(s.column("SELECT DISTINCT setting FROM told"), ["number 7"]);
}

#[test]
fn transactions_that_may_not_write_are_refused_and_stricter_ones_work() {
    let (db, store, mut s) = TestDb::with_store("transaction_defaults");
    inode::plain(&mut s, &store.put_synthetic(30));
    inode::remember(&mut s, "blob");
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON blob TO {runner}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "default_transaction_isolation = 'read uncommitted'",
        "default_transaction_deferrable = on",
    ] {
        s.exec(&format!("ALTER ROLE {runner} SET {setting}"));
        let outcome = db
            .connect_as(&runner)
            .call("7, target => 'blob'")
            .unwrap_or_else(|e| panic!("{setting}: {}", describe(&e)));
        assert_eq!(outcome.rows_updated, 30, "{setting}");
        inode::check_filled(&mut s, "blob");
        s.exec("UPDATE blob SET mime_type = NULL");
        inode::remember(&mut s, "blob");
        s.exec(&format!("ALTER ROLE {runner} RESET ALL"));
    }
    // Two runs would make each other fail if they counted as reading what the other writes.
    let mut caller = db.connect();
    caller.exec(
        "SET default_transaction_isolation = 'serializable'; SET ntt_mime.batch_delay = '1s'",
    );
    let running = caller.call_in_background("7, target => 'blob', workers => 1");
    s.wait_for_run();
    let first = s.count("SELECT rows_updated FROM ntt_mime.progress");
    // What is read beside another serializable transaction is remembered until that ends.
    let mut beside = db.connect();
    beside.exec("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT FROM ntt_mime.failure");
    wait_until(SOON, "the run to write how far it is", || {
        s.count("SELECT rows_updated FROM ntt_mime.progress") > first
    });
    let remembered = format!(
        "SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock' AND pid = {}",
        running.pid
    );
    assert_eq!(s.count(&remembered), 0);
    beside.exec("COMMIT");
    running.succeed();
    s.exec("UPDATE blob SET mime_type = NULL");
    inode::remember(&mut s, "blob");

    s.exec(&format!(
        "ALTER ROLE {runner} SET default_transaction_read_only = on"
    ));
    let mut session = db.connect_as(&runner);
    let runs = s.count("SELECT count(*) FROM ntt_mime.run");
    for arguments in ["7, target => 'blob'", "target => 'blob', dry_run => true"] {
        let refused = assert_error(session.call(arguments), "25006", "");
        assert_eq!(
            errors::words(&refused),
            "cannot execute ntt_backfill_mime in a read-only transaction",
            "{arguments}"
        );
    }
    assert_eq!(inode::check_partly_filled(&mut s, "blob"), 0);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), runs);
    session.exec("SET default_transaction_read_only = off");
    assert_eq!(session.backfill("7, target => 'blob'").rows_updated, 30);
    inode::check_filled(&mut s, "blob");
}

#[test]
fn triggers_stay_silent_for_a_caller_who_replicates() {
    let (_db, store, mut s) = TestDb::with_store("replica_role");
    inode::plain(&mut s, &store.put_synthetic(20));
    inode::remember(&mut s, "blob");
    s.exec(
        "CREATE TABLE fired (name text);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.fired VALUES (tg_name); RETURN NULL; END';
         CREATE TRIGGER usual AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION fire();
         CREATE TRIGGER always AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION fire();
         ALTER TABLE blob ENABLE ALWAYS TRIGGER always;
         SET session_replication_role = replica",
    );
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 20);
    s.exec("RESET session_replication_role");
    assert_eq!(s.column("SELECT DISTINCT name FROM fired"), ["always"]);
    inode::check_filled(&mut s, "blob");
}

#[test]
fn nobody_holds_a_run_off_with_advisory_locks_of_theirs() {
    let mut g = guarded("advisory");
    // Anybody may take advisory locks, and anybody may see their keys in pg_locks while a run goes on.
    let mut first = g.db.connect();
    first.exec("SET ntt_mime.batch_delay = '60s'");
    let first = first.call_in_background("1, target => 'blob'");
    let keys = wait_for(SOON, "the run's advisory locks", || {
        let keys = g.s.table(&format!(
            "SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND pid = {}",
            first.pid
        ));
        (keys.len() >= 3).then_some(keys)
    });
    first.cancel();
    let _ = first.finish();
    let nobody = g.db.role("nobody", "LOGIN");
    let mut nobody = g.db.connect_as(&nobody);
    for key in keys {
        let (class, object) = key.split_once('|').expect("two keys");
        nobody.exec(&format!(
            "SELECT pg_advisory_lock({class}, ({object}::bigint::bit(32))::int)"
        ));
    }
    // The first run may have filled a row or two.
    let left =
        g.s.count("SELECT count(*) FROM blob WHERE mime_type IS NULL");
    assert!(left > 50, "{left}");
    let outcome = g.s.backfill("20, target => 'blob'");
    assert_eq!(outcome.rows_updated, left);
    assert_eq!(g.s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
}

/// Lets `runner` fill `target`, 60 rows of which are in `leaf`, in batches of 10; executes `change` while the second
/// batch waits for a row; and expects that batch to be the last one. Returns the error that ends the run.
fn changed_during_a_run(
    g: &mut Guarded,
    (target, leaf): (&str, &str),
    change: &str,
    sqlstate: &str,
) -> postgres::error::DbError {
    let runner = g.runner.clone();
    let s = &mut g.s;
    inode::remember(s, target);
    let mut session = g.db.connect_as(&runner);
    session.exec("SET ntt_mime.lock_timeout = '1min'");
    s.exec(&format!(
        "BEGIN; SELECT FROM {leaf} WHERE size = 15 FOR UPDATE"
    ));
    let run = session.call_in_background(&format!("10, target => 'public.{target}', workers => 1"));
    g.db.wait_for_waiting_worker();
    // What the worker waits for ends together with the change, so that the change can't be early or late.
    s.exec(change);
    s.exec("COMMIT");
    let (mut session, result) = run.finish();
    let error = assert_error(result, sqlstate, target);
    g.db.wait_for_no_workers(Duration::from_secs(5));
    assert_eq!(inode::check_partly_filled(s, target), 20);
    assert_eq!(
        s.table("SELECT status, rows_updated, role_name FROM ntt_mime.run"),
        [format!("failed|20|{runner}")]
    );
    let row: String = s.value("SELECT error FROM ntt_mime.run");
    assert!(row.contains(error.message()), "{row}");
    // A new run gets the same error.
    let again = session.call(&format!("target => 'public.{target}'"));
    assert_eq!(
        errors::words(&assert_error(again, sqlstate, target)),
        errors::words(&error)
    );
    assert_eq!(inode::check_partly_filled(s, target), 20);
    error
}

#[test]
fn a_right_revoked_during_a_run_ends_it() {
    for (name, granted, revoked) in [
        ("revoked", "SELECT, UPDATE", "UPDATE"),
        (
            "revoked_column",
            "SELECT, UPDATE (mime_type)",
            "UPDATE (mime_type)",
        ),
        ("revoked_read", "SELECT, UPDATE", "SELECT"),
        (
            "revoked_read_column",
            "SELECT (blobid, mime_type), UPDATE",
            "SELECT (mime_type)",
        ),
    ] {
        let mut g = guarded(name);
        let runner = g.runner.clone();
        g.s.exec(&format!(
            "REVOKE ALL ON blob FROM {runner}; GRANT {granted} ON blob TO {runner}"
        ));
        let revoke = format!("REVOKE {revoked} ON blob FROM {runner}");
        let error = changed_during_a_run(&mut g, ("blob", "blob"), &revoke, "42501");
        assert_eq!(error.message(), "permission denied for table public.blob");
    }
}

#[test]
fn row_security_enabled_during_a_run_of_a_partitioned_table_ends_it() {
    let mut g = guarded("secured");
    g.s.exec(&format!(
        "CREATE TABLE parted (LIKE blob) PARTITION BY RANGE (size);
         CREATE TABLE parted_all PARTITION OF parted DEFAULT;
         INSERT INTO parted SELECT * FROM blob ORDER BY size;
         GRANT SELECT, UPDATE ON parted TO {}",
        g.runner
    ));
    let error = changed_during_a_run(
        &mut g,
        ("parted", "parted_all"),
        "CREATE POLICY odd ON parted USING (size % 2 = 1); ALTER TABLE parted ENABLE ROW LEVEL SECURITY",
        "0A000",
    );
    assert_eq!(
        error.message(),
        format!(
            "cannot fill partitioned table \"public.parted\" because row-level security applies to role \"{}\"",
            g.runner
        )
    );
}
