//! pgbouncer in its three modes: a CALL needs one server connection for as long as it lasts, and gets it in each of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ntt_mime_integration::cluster::{PORT, SUPERUSER};
use ntt_mime_integration::{SOON, TestDb, inode, scratch, server, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::exists;

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// A pooler whose databases are called as its modes, all of them the one of a test; it ends with the test.
struct Pooler {
    folder: PathBuf,
    process: Child,
}

impl Pooler {
    /// None where there is no pgbouncer.
    fn start(db: &TestDb) -> Option<Pooler> {
        if !exists(Path::new(PGBOUNCER)) {
            return None;
        }
        let folder = scratch::folder("pooler");
        server::give_to_server(&folder);
        let mut config = String::from("[databases]\n");
        for mode in MODES {
            config.push_str(&format!(
                "{mode} = host={} port={PORT} dbname={} pool_mode={mode}\n",
                db.cluster.socket_dir().display(),
                db.name
            ));
        }
        let users = folder.join("users");
        config.push_str(&format!(
            "[pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\nunix_socket_dir = {}\nauth_type = trust\n\
             auth_file = {}\nlogfile = {}\n",
            folder.display(),
            users.display(),
            folder.join("log").display(),
        ));
        std::fs::write(&users, format!("\"{SUPERUSER}\" \"\"\n")).expect("ours");
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, config).expect("ours");
        let mut command = server::command(PGBOUNCER);
        command.arg("--quiet").arg(&file).stdin(Stdio::null());
        let process = server::spawn(command).expect("pgbouncer starts");
        let pooler = Pooler { folder, process };
        wait_until(SOON, "pgbouncer to take connections", || {
            let asked = pooler.psql("session", "SELECT 1").output();
            asked.expect("psql starts").status.success()
        });
        Some(pooler)
    }

    /// psql through the pooler.
    fn psql(&self, mode: &str, sql: &str) -> Command {
        let mut psql = server::command("psql");
        psql.args(["-X", "-A", "-t", "-U", SUPERUSER, "-p", &PORT.to_string()])
            .args(["-d", mode, "-c", sql, "-h"])
            .arg(&self.folder);
        psql
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const MODES: [&str; 3] = ["session", "transaction", "statement"];

#[test]
fn a_run_through_a_pooler_in_each_mode() {
    let (db, _store, mut s) = inode::archive("pooler", 4, 150, 4);
    let Some(pooler) = Pooler::start(&db) else {
        return;
    };
    let expected = inode::expected(&mut s);
    for mode in MODES {
        let output = pooler.psql(mode, "CALL ntt_backfill_mime(50)").output();
        let output = output.expect("psql starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{mode}: {said}");
        assert!(
            said.contains("succeeded: "),
            "{mode}: NOTICEs come through: {said}"
        );
        let row = String::from_utf8_lossy(&output.stdout);
        let counts = format!("|{}|{}|", expected.blobs, expected.rows);
        assert!(row.contains(&counts), "{mode}: {row}");
        inode::check_filled(&mut s, "inode");
        s.exec(&format!(
            "UPDATE inode SET mime_type = NULL WHERE mime_type <> '{}'",
            inode::KEPT
        ));
        inode::remember(&mut s, "inode");
    }
}

#[test]
fn ctrl_c_comes_through_a_pooler() {
    let (db, _store, mut s) = inode::archive("pooler_cancel", 4, 300, 4);
    s.exec(&format!(
        "ALTER DATABASE {} SET ntt_mime.batch_delay = '200ms'",
        db.name
    ));
    let Some(pooler) = Pooler::start(&db) else {
        return;
    };
    let mut call = pooler.psql("transaction", "CALL ntt_backfill_mime(20)");
    call.stdout(Stdio::null()).stderr(Stdio::piped());
    let psql = server::spawn(call).expect("psql starts");
    let run_id = s.wait_for_run();
    kill_process(Pid::from_child(&psql), Signal::INT).expect("it is there");
    let output = psql.wait_with_output().expect("psql ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("canceling statement due to user request"),
        "{said}"
    );
    assert_eq!(s.run_row(run_id, "status"), "cancelled");
    inode::check_partly_filled(&mut s, "inode");
}
