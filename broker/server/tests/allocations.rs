//! How often a node allocates to forward a QoS 0 message: counted in the real server, a process of its own with an allocator that counts.
//!
//! This program is both. With [`COUNTER`] in its environment it is `raftmq`, and says what it has allocated so far to whoever connects to that socket;
//! without, it starts itself so and publishes. So it has no test harness: the node's command line is its own.

#![allow(clippy::unwrap_used)]

#[path = "node/client.rs"]
#[allow(dead_code)] // What other tests need of it.
mod client;

use std::alloc::System;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use raftmq_mqtt::QoS;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tempfile::TempDir;

use crate::client::{Client, PATIENCE, publish};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Path of the socket on which a node says what it has allocated.
const COUNTER: &str = "RAFTMQ_TEST_ALLOCATIONS";
const MESSAGES: usize = 20_000;
/// What a node allocates meanwhile for other reasons: its timers, the log, the count itself.
const BESIDE: f64 = 0.02;

fn main() -> ExitCode {
    if let Some(path) = std::env::var_os(COUNTER) {
        let listener = UnixListener::bind(PathBuf::from(path)).unwrap();
        std::thread::spawn(move || tell(&listener));
        return raftmq::cli::run();
    }
    // Message by message, and many in one read: each with one worker, and with two so that half of the subscribers are on the other one.
    for (name, workers, subscribers, batch, most) in [
        ("one subscriber, message by message", 1, 1, 1, 1.0),
        ("one subscriber, 50 at a time", 1, 1, 50, 1.0),
        ("20 subscribers, message by message", 1, 20, 1, 1.0),
        ("20 subscribers of two workers, message by message", 2, 20, 1, 1.0),
        ("20 subscribers of two workers, 50 at a time", 2, 20, 50, 1.0),
    ] {
        let counted = per_message(workers, subscribers, batch);
        println!("{name}: {counted:.3} allocations a message");
        assert!(counted <= most + BESIDE, "{name}: {counted} allocations a message, not {most} or fewer");
    }
    ExitCode::SUCCESS
}

fn tell(listener: &UnixListener) {
    for stream in listener.incoming() {
        let stats = ALLOCATOR.stats();
        // A buffer that grows is as good as a new one.
        write!(stream.unwrap(), "{}", stats.allocations + stats.reallocations).unwrap();
    }
}

/// Allocations of a published message.
fn per_message(workers: usize, subscribers: usize, batch: usize) -> f64 {
    let node = Node::start(workers);
    let mut publisher = Client::connect(node.mqtt, "publisher");
    let mut subscribers: Vec<Client> = (0..subscribers)
        .map(|n| {
            let mut client = Client::connect(node.mqtt, &format!("subscriber-{n}"));
            client.subscribe("plant/7/temperature", QoS::AtMostOnce);
            client
        })
        .collect();
    let one = publish("plant/7/temperature", &[7; 64], None);
    let packets = one.repeat(batch);
    let mut received = vec![0; packets.len()];
    let mut round = |rounds: usize| {
        for _ in 0..rounds {
            publisher.send(&packets);
            for subscriber in &mut subscribers {
                subscriber.socket.set_read_timeout(Some(PATIENCE)).unwrap();
                subscriber.socket.read_exact(&mut received).unwrap();
                assert_eq!(received, packets);
            }
        }
    };
    // What is made once and kept.
    round(200);
    let before = node.allocations();
    round(MESSAGES / batch);
    (node.allocations() - before) as f64 / MESSAGES as f64
}

struct Node {
    child: Child,
    mqtt: SocketAddr,
    directory: TempDir,
}

impl Node {
    fn start(workers: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let sockets = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [mqtt, http, metrics] = sockets.map(|socket| socket.local_addr().unwrap());
        let file = directory.path().join("node.yaml");
        let settings = format!(
            "workers: {workers}\nlisteners: [{{name: mqtt, bind: '{mqtt}'}}]\nhttp: {{bind: '{http}'}}\nmetrics: {{bind: '{metrics}'}}\n\
             log: {{level: error}}\n"
        );
        fs::write(&file, settings).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["node", "--exit-with-stdin", "--config"])
            .arg(&file)
            .env(COUNTER, counter(directory.path()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut node = Self { child, mqtt, directory };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = std::net::TcpStream::connect(mqtt) {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert!(node.child.try_wait().unwrap().is_none(), "the node ended");
            assert!(Instant::now() < deadline, "the node does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        node
    }

    fn allocations(&self) -> usize {
        let mut text = String::new();
        UnixStream::connect(counter(self.directory.path())).unwrap().read_to_string(&mut text).unwrap();
        text.parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn counter(directory: &Path) -> PathBuf {
    directory.join("allocations")
}
