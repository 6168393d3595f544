//! The PostgreSQL installation under test, and how its programs are started.
//!
//! A server refuses to run as root, and CI runs as root: then the programs run as the account `postgres`. They get
//! a signal when the thread that started them ends, so that a killed test process leaves no server behind; for this
//! reason one thread, which lives as long as the process, starts them all.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::{env, fs, thread};

/// The account that servers run as when the tests run as root.
const ACCOUNT: &str = "postgres";

/// The major version under test.
pub fn major_version() -> u32 {
    static VERSION: OnceLock<u32> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let output = Command::new(bindir().join("postgres"))
            .arg("--version")
            .output()
            .expect("postgres can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace()
            .nth(2)
            .and_then(|v| v.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|v| v.parse().ok())
            .unwrap_or_else(|| panic!("no version in {text:?}"))
    })
}

/// Where the server's programs lie: `$PG_CONFIG --bindir`, or Debian's folder for version `$PG` (15).
pub fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| match env::var_os("PG_CONFIG") {
        Some(pg_config) => PathBuf::from(pg_config_says(&pg_config, "--bindir")),
        None => {
            let version = env::var("PG").unwrap_or_else(|_| "15".into());
            let bindir = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
            assert!(
                bindir.is_dir(),
                "no PostgreSQL in {}; set PG or PG_CONFIG",
                bindir.display()
            );
            bindir
        }
    })
}

/// Where its libraries lie.
pub fn pkglibdir() -> PathBuf {
    PathBuf::from(pg_config_says(
        bindir().join("pg_config").as_os_str(),
        "--pkglibdir",
    ))
}

/// Where what its extensions need lies.
pub fn sharedir() -> PathBuf {
    PathBuf::from(pg_config_says(
        bindir().join("pg_config").as_os_str(),
        "--sharedir",
    ))
}

fn pg_config_says(pg_config: &OsStr, what: &str) -> String {
    let output = Command::new(pg_config)
        .arg(what)
        .output()
        .expect("PG_CONFIG can be started");
    assert!(output.status.success(), "PG_CONFIG failed");
    String::from_utf8(output.stdout)
        .expect("a path")
        .trim()
        .to_owned()
}

/// Whether the tests run as root, so that servers need another account.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The account that servers run as.
pub fn account() -> String {
    match is_root() {
        true => ACCOUNT.to_owned(),
        false => {
            let output = Command::new("id").arg("-un").output().expect("id starts");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
    }
}

/// Makes `path` belong to the servers' account.
pub fn give_to_server(path: &Path) {
    if is_root() {
        let meta = fs::metadata(home()).unwrap_or_else(|e| panic!("no home of {ACCOUNT}: {e}"));
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).expect("root may chown");
    }
}

/// The home of the account, which Debian's package makes and gives to it.
fn home() -> PathBuf {
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    passwd
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{ACCOUNT}:")))
        .and_then(|rest| rest.split(':').nth(4))
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("no account {ACCOUNT} on this machine"))
}

/// `program` of the installation as a command that runs as the servers' account and ends with this process.
pub fn command(program: &str) -> Command {
    command_with(program, &[])
}

/// The same with variables in its environment.
pub fn command_with(program: &str, environment: &[(String, String)]) -> Command {
    command_of(&bindir().join(program), environment)
}

/// The same for any program.
pub fn command_of(program: &Path, environment: &[(String, String)]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        command.args([
            "--reuid",
            ACCOUNT,
            "--regid",
            ACCOUNT,
            "--init-groups",
            "--reset-env",
        ]);
    }
    // setpriv resets the environment, so the variables are set behind it.
    command.args(["--", "env"]);
    command.args(
        environment
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    command.arg(program);
    command.current_dir("/");
    command
}

/// The same run by another program, which gets it as its last arguments.
pub fn run_by(launcher: &[String], command: Command) -> Command {
    let Some((program, arguments)) = launcher.split_first() else {
        return command;
    };
    let mut outer = Command::new(program);
    outer.args(arguments);
    outer.arg(command.get_program()).args(command.get_args());
    outer.current_dir("/").stdin(std::process::Stdio::null());
    outer
}

/// Starts `command` from the thread that outlives every test.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The one who ordered waits for the answer, so it is there to take it.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    spawner
        .lock()
        .expect("spawner")
        .send((command, reply))
        .expect("the spawner thread lives");
    answer.recv().expect("the spawner answers")
}
