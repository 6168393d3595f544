//! Private PostgreSQL servers: made, started, stopped and removed by the tests.
//!
//! Most tests share one server and have a database each. A test that needs other settings, or stops its server,
//! starts its own [`Cluster`], which is removed when it is dropped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use postgres::NoTls;

use crate::wait::wait_until;
use crate::{Session, scratch, server};

/// Settings of every cluster. Durability against power cuts isn't tested here, so nothing is flushed.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    // An ANALYZE that nobody asked for would change plans, hold back vacuum, and be in the way of NOWAIT.
    ("autovacuum", "off"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "80"),
    ("max_worker_processes", "16"),
    ("shared_buffers", "64MB"),
    ("max_wal_size", "4GB"),
    ("log_line_prefix", "%m [%p] <%d> %b: "),
    ("log_min_messages", "warning"),
    ("log_statement", "none"),
    ("lc_messages", "C"),
];

/// Only part of a socket's name: each server has a folder of its own, and nobody listens elsewhere.
pub const PORT: u16 = 5432;

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

/// How to stop a server, as `pg_ctl stop -m` calls it.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    /// Sessions are terminated, work is rolled back.
    Fast,
    /// As in a crash: recovery follows at the next start.
    Immediate,
}

/// A private server with its data folder.
pub struct Cluster {
    dir: PathBuf,
    environment: Vec<(String, String)>,
    /// What runs the server, if anything: a program that runs what it gets as arguments, as it is to be run.
    launcher: Vec<String>,
    process: Mutex<Option<Child>>,
}

impl Cluster {
    /// The server that most tests share.
    pub fn shared() -> &'static Cluster {
        SHARED.get_or_init(|| Cluster::start(&[]))
    }

    /// A new server with `settings` on top of the usual ones.
    pub fn start(settings: &[(&str, &str)]) -> Cluster {
        Cluster::start_in(&[], settings)
    }

    /// The same with variables in the server's environment.
    pub fn start_in(environment: &[(&str, &str)], settings: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::in_new_folder();
        cluster.environment = owned(environment);
        cluster.initialize(settings);
        cluster
    }

    /// A new server that is run by `launcher`, a program with arguments, behind which the server's command comes.
    pub fn start_by(launcher: &[&str], settings: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::in_new_folder();
        cluster.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
        cluster.initialize(settings);
        cluster
    }

    /// A new server with the library of [`poison_path`].
    pub fn start_poisonous(environment: &[(&str, &str)], settings: &[(&str, &str)]) -> Cluster {
        let path = poison_path();
        let mut all = vec![("dynamic_library_path", path.as_str())];
        all.extend(settings);
        Cluster::start_in(environment, &all)
    }

    /// A new server in an empty `folder` of the caller's: on a filesystem of its own, say.
    pub fn start_at(folder: PathBuf, settings: &[(&str, &str)]) -> Cluster {
        let cluster = Cluster::in_folder(folder);
        cluster.initialize(settings);
        cluster
    }

    fn initialize(&self, settings: &[(&str, &str)]) {
        let data = self.data();
        self.run(
            server::command("initdb")
                .args([
                    "--auth=trust",
                    "--no-sync",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                ])
                .args(["--username", SUPERUSER, "--pgdata"])
                .arg(&data),
        );
        self.configure(SETTINGS);
        self.configure(settings);
        self.launch();
    }

    /// A hot standby that streams from this server.
    pub fn standby(&self, settings: &[(&str, &str)]) -> Cluster {
        self.standby_in(&[], settings)
    }

    /// The same with variables in the standby's environment.
    pub fn standby_in(&self, environment: &[(&str, &str)], settings: &[(&str, &str)]) -> Cluster {
        let mut standby = Cluster::in_new_folder();
        standby.environment = owned(environment);
        let data = standby.data();
        standby.run(
            self.client_environment(&mut server::command("pg_basebackup"), "postgres")
                .args([
                    "--write-recovery-conf",
                    "--no-sync",
                    "--checkpoint=fast",
                    "--pgdata",
                ])
                .arg(&data),
        );
        standby.configure(settings);
        standby.launch();
        standby
    }

    fn in_new_folder() -> Cluster {
        Cluster::in_folder(scratch::folder("cluster"))
    }

    fn in_folder(dir: PathBuf) -> Cluster {
        server::give_to_server(&dir);
        Cluster {
            dir,
            environment: Vec::new(),
            launcher: Vec::new(),
            process: Mutex::new(None),
        }
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The folder of the server's Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Adds settings; a later one wins. They hold from the next start.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let file = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&file).expect("initdb wrote it");
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(&file, text).expect("we may write it");
    }

    /// Starts the server, which must not be running, and waits until it takes connections.
    pub fn launch(&self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("log file");
        let mut command = server::command_with("postgres", &self.environment);
        command
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.dir)
            .args(["-p", &PORT.to_string()])
            .stdin(Stdio::null());
        let mut command = server::run_by(&self.launcher, command);
        command
            .stdout(log.try_clone().expect("file descriptor"))
            .stderr(log);
        *self.process.lock().expect("process") =
            Some(server::spawn(command).expect("postgres starts"));
        let config = self.config("postgres", SUPERUSER);
        wait_until(
            Duration::from_secs(60),
            "the server to take connections",
            || {
                // No panic while it is locked: dropping the cluster locks it once more.
                let ended = self
                    .process
                    .lock()
                    .expect("process")
                    .as_mut()
                    .and_then(|child| child.try_wait().expect("our child"));
                if let Some(status) = ended {
                    panic!("the server ended with {status}:\n{}", self.log());
                }
                config.connect(NoTls).is_ok()
            },
        );
    }

    /// Stops the server and returns how long that took.
    pub fn stop(&self, how: Shutdown) -> Duration {
        use rustix::process::Signal;
        let Some(mut child) = self.process.lock().expect("process").take() else {
            return Duration::ZERO;
        };
        let signal = match how {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        let started = Instant::now();
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
        while child.try_wait().expect("our child").is_none() {
            if started.elapsed() > Duration::from_secs(60) {
                // Kill it, or its folder can't go; the test fails below.
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "the server did not stop within a minute ({how:?}):\n{}",
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        started.elapsed()
    }

    /// Stops the server and starts it again.
    pub fn restart(&self) {
        self.stop(Shutdown::Fast);
        self.launch();
    }

    /// Kills the server process itself, which can't tell the others, and waits until these have seen it and gone:
    /// before that no server starts in the folder.
    pub fn kill(&self) {
        if let Some(mut child) = self.process.lock().expect("process").take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
        self.wait_for_no_process();
    }

    /// After a crash: waits until the server takes connections again, and starts it if it has ended altogether.
    pub fn recover(&self) {
        let config = self.config("postgres", SUPERUSER);
        wait_until(Duration::from_secs(60), "the server to recover", || {
            if !self.is_running() {
                self.wait_for_no_process();
                self.launch();
            }
            config.connect(NoTls).is_ok()
        });
    }

    fn is_running(&self) -> bool {
        let mut process = self.process.lock().expect("process");
        let running = |child: &mut Child| child.try_wait().expect("our child").is_none();
        process.as_mut().is_some_and(running)
    }

    /// The server's processes: all whose working directory is its data folder.
    pub fn processes(&self) -> Vec<i32> {
        let data = fs::canonicalize(self.data()).unwrap_or_default();
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn wait_for_no_process(&self) {
        wait_until(
            Duration::from_secs(60),
            "the server's processes to be gone",
            || self.processes().is_empty(),
        );
    }

    /// What a client needs to connect.
    pub fn config(&self, database: &str, user: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config
            .host_path(&self.dir)
            .port(PORT)
            .dbname(database)
            .user(user)
            .application_name("ntt_itest");
        config
    }

    /// A session of `user` in `database`.
    pub fn connect(&self, database: &str, user: &str) -> Session {
        Session::connect(self.config(database, user))
    }

    /// The same where the server may refuse it.
    pub fn try_connect(&self, database: &str, user: &str) -> Result<Session, postgres::Error> {
        Session::try_connect(self.config(database, user))
    }

    /// A client program (psql, pg_dump, …) that will talk to `database` as the superuser.
    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = server::command(program);
        self.client_environment(&mut command, database);
        command
    }

    fn client_environment<'c>(&self, command: &'c mut Command, database: &str) -> &'c mut Command {
        // Arguments rather than variables: setpriv resets those.
        command.arg("--host").arg(&self.dir).args([
            "--port",
            &PORT.to_string(),
            "--username",
            SUPERUSER,
            "--no-password",
        ]);
        if database != "postgres" {
            command.args(["--dbname", database]);
        }
        command
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn run(&self, command: &mut Command) {
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(
            output.status.success(),
            "{command:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            eprintln!("the last lines of the server's log:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        self.stop(Shutdown::Immediate);
        if std::env::var_os("NTT_ITEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

static SHARED: OnceLock<Cluster> = OnceLock::new();

/// Stops the shared server; called when the process exits.
pub(crate) fn stop_shared() {
    if let Some(cluster) = SHARED.get() {
        cluster.stop(Shutdown::Immediate);
    }
}

/// The `dynamic_library_path` by which a server loads the library that was built with the feature `poison`, in which
/// blobs that the server's environment names do harm (crates/ntt_mime_core/src/poison.rs), every store is a slow one,
/// and a worker is large early. `scripts/test.sh integration` builds it and tells where it is.
pub fn poison_path() -> String {
    // One copy for all, where the server's account can read it.
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let built = std::env::var("NTT_POISON_LIBRARY")
            .expect("NTT_POISON_LIBRARY names it; scripts/test.sh integration builds it");
        let folder = scratch::folder("poison");
        fs::copy(built, folder.join("ntt_mime.so")).expect("it was built");
        folder
    });
    format!("{}:$libdir", folder.display())
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let each = variables.iter();
    each.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// The threads of that name in a process of a server: their folders below `/proc`.
pub fn threads(pid: &str, name: &str) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let folders = threads.into_iter().flatten().flatten();
    folders.map(|thread| thread.path()).filter(move |thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

/// Runs `psql`, a [`Cluster::client`] of that name, on a script, which has to succeed.
#[track_caller]
pub fn run_script(psql: &mut Command, script: &[u8]) {
    let mut child = psql
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(script).expect("psql reads");
    drop(input);
    let output = child.wait_with_output().expect("psql ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
