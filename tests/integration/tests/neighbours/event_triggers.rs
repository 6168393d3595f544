//! Event triggers: a run executes no DDL, so none of them fires, and one that forbids all DDL doesn't forbid a run.

use ntt_mime_integration::inode;

#[test]
fn a_run_is_no_ddl() {
    let (_db, _store, mut s) = inode::archive("event_triggers", 3, 100, 3);
    s.exec(
        "CREATE TABLE heard (what text);
         CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'no % today', tg_tag; END $$;
         CREATE FUNCTION hear() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO heard VALUES (tg_tag); END $$;
         CREATE EVENT TRIGGER hear ON ddl_command_end EXECUTE FUNCTION hear();
         CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse();
         TRUNCATE heard",
    );
    let outcome = s.backfill("20");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
    assert_eq!(s.column("SELECT what FROM heard"), [""; 0]);
    s.exec("DROP EVENT TRIGGER refuse; DROP EVENT TRIGGER hear");
}
