//! A client that asks and doesn't read: what a server does while its answers pile up.
//!
//! It speaks as much of PostgreSQL's protocol (manual, "Frontend/Backend Protocol") as that takes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::cluster::{PORT, SUPERUSER};
use crate::wait::{SOON, wait_for};
use crate::{Session, TestDb};

/// A connection over which the server can send nothing more.
pub struct SilentClient {
    socket: UnixStream,
    /// The process id of the server's side.
    pub pid: i32,
    /// Answers that have been asked for.
    asked: usize,
}

/// A message of the server: its kind, and what is in it.
pub type Message = (u8, Vec<u8>);

impl SilentClient {
    /// A session of the superuser which has done what `sql` says, and whose socket is full of answers that nobody has
    /// read: not one more fits in.
    pub fn full(db: &TestDb, watcher: &mut Session, sql: &str) -> SilentClient {
        let mut first = SilentClient::connect(db);
        first.run(sql);
        let mut fitting = 0;
        while first.gets_an_answer(watcher) {
            fitting += 1;
        }
        let mut client = SilentClient::connect(db);
        client.run(sql);
        for _ in 0..fitting {
            assert!(client.gets_an_answer(watcher), "as many as before fit in");
        }
        client
    }

    fn connect(db: &TestDb) -> SilentClient {
        let path = db.cluster.socket_dir().join(format!(".s.PGSQL.{PORT}"));
        let mut socket = UnixStream::connect(path).expect("the server listens");
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        for word in ["user", SUPERUSER, "database", &db.name, ""] {
            startup.extend(word.as_bytes());
            startup.push(0);
        }
        send(&mut socket, None, &startup);
        let mut client = SilentClient {
            socket,
            pid: 0,
            asked: 1,
        };
        let messages = client.read_all();
        let key = messages.iter().find(|(kind, _)| *kind == b'K');
        let (_, key) = key.expect("the server tells its process id");
        client.pid = i32::from_be_bytes(key[..4].try_into().expect("four bytes"));
        client
    }

    /// Sends a statement, and reads nothing.
    pub fn ask(&mut self, sql: &str) {
        let mut text = sql.as_bytes().to_vec();
        text.push(0);
        send(&mut self.socket, Some(b'Q'), &text);
        self.asked += 1;
    }

    fn run(&mut self, sql: &str) {
        self.ask(sql);
        let messages = self.read_all();
        assert!(messages.iter().all(|(kind, _)| *kind != b'E'), "{sql}");
    }

    /// Asks for something small; false if the answer doesn't fit in any more.
    fn gets_an_answer(&mut self, watcher: &mut Session) -> bool {
        let waiting = |socket: &UnixStream| rustix::io::ioctl_fionread(socket).expect("a socket");
        let before = waiting(&self.socket);
        self.ask("SELECT 1");
        let blocked = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'ClientWrite'",
            self.pid
        );
        wait_for(SOON, "an answer, or none", || {
            if waiting(&self.socket) > before {
                return Some(true);
            }
            (watcher.count(&blocked) > 0).then_some(false)
        })
    }

    /// Reads all answers to what was asked.
    pub fn read_all(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.asked > 0 {
            let mut head = [0; 5];
            self.socket
                .read_exact(&mut head)
                .expect("the server goes on");
            let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
            let mut body = vec![0; length as usize - 4];
            self.socket
                .read_exact(&mut body)
                .expect("the server goes on");
            // ReadyForQuery
            if head[0] == b'Z' {
                self.asked -= 1;
            }
            messages.push((head[0], body));
        }
        messages
    }
}

/// A message without a kind is the first of a connection.
fn send(socket: &mut UnixStream, kind: Option<u8>, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    let mut message: Vec<u8> = kind.into_iter().collect();
    message.extend(length.to_be_bytes());
    message.extend(body);
    socket.write_all(&message).expect("the server reads");
}
