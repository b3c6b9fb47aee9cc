//! What many groups cost: three nodes in one process, real logs, a transport within the process.
//!
//! ```text
//! cargo run --release -p raftmq-raft --example groups_bench idle GROUPS SECONDS WINDOW_MS
//! cargo run --release -p raftmq-raft --example groups_bench write SECONDS GROUPS…
//! cargo run --release -p raftmq-raft --example groups_bench flush MIB
//! ```
//!
//! `idle` prints how many messages go between the nodes in a second while nothing happens, and the processor time of all; heartbeats wait
//! `WINDOW_MS` for those of other groups, 0 sends each alone. `write` prints how many commands of 256 bytes are committed and applied in a
//! second, with 256 of them on their way, spread over so many groups whose machines keep changes in memory. `flush` prints how long the three
//! replicas of a group take to flush so much at once, and by how much a task that wakes every millisecond on the same threads was late meanwhile.
#![allow(clippy::unwrap_used, reason = "a measurement that fails says so and ends")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use raftmq_raft::{
    CachedMachine, Class, Group, GroupId, Groups, MachineError, NodeId, RaftOptions, StateKeys, Transport,
    TransportError,
};
use raftmq_storage::{StateStore, StoreOptions, Wal, WalOptions};
use tempfile::TempDir;

const NODES: u64 = 3;
const ON_THEIR_WAY: usize = 256;
const COMMAND: usize = 256;

/// All nodes; a call and its answer are a message each.
#[derive(Clone, Default)]
struct Net {
    nodes: Arc<OnceLock<BTreeMap<NodeId, Groups>>>,
    messages: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Net {
    fn count(&self, frame: &Bytes) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
    }
}

impl Transport for Net {
    fn call(
        &self,
        to: NodeId,
        frame: Bytes,
        _class: Class,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let net = self.clone();
        async move {
            let unreachable = || TransportError::Unreachable { to, reason: "it has not started".into() };
            let node = net.nodes.get().and_then(|nodes| nodes.get(&to)).cloned().ok_or_else(unreachable)?;
            net.count(&frame);
            let handled = tokio::spawn(async move { node.handle(frame).await });
            let answer = tokio::time::timeout(deadline, handled)
                .await
                .map_err(|_| TransportError::Timeout { to })?
                .map_err(|e| TransportError::Failed { to, reason: e.to_string() })?;
            net.count(&answer);
            Ok(answer)
        }
        .boxed()
    }

    fn takes_bundles(&self, _to: NodeId) -> bool {
        true
    }
}

/// Keeps the last commands.
struct Last {
    _keys: StateKeys,
    dirty: BTreeMap<[u8; 2], Bytes>,
    bytes: usize,
    flushing: Instant,
}

/// How long flushes took, from being handed out to being written.
static FLUSHES: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

impl CachedMachine for Last {
    fn apply(&mut self, index: u64, command: &Bytes) -> Result<Bytes, MachineError> {
        let [.., high, low] = index.to_be_bytes();
        self.bytes += command.len();
        if let Some(old) = self.dirty.insert([high, low], command.clone()) {
            self.bytes -= old.len();
        }
        Ok(Bytes::new())
    }

    fn dirty_bytes(&self) -> usize {
        self.bytes
    }

    fn flush(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> Result<(), MachineError> {
        self.flushing = Instant::now();
        for (key, value) in &self.dirty {
            put(key, Some(value));
        }
        Ok(())
    }

    fn flushed(&mut self) {
        self.dirty.clear();
        self.bytes = 0;
        FLUSHES.lock().unwrap().push(self.flushing.elapsed());
    }
}

struct Cluster {
    net: Net,
    /// The leaders' replicas.
    leaders: Vec<Group>,
    wals: Vec<Wal>,
    _dir: TempDir,
}

async fn cluster(groups: u32, options: RaftOptions) -> Cluster {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let (mut nodes, mut wals) = (BTreeMap::new(), Vec::new());
    for node in 1..=NODES {
        let path = dir.path().join(node.to_string());
        let (wal, _) = Wal::open(path.join("wal"), WalOptions::default()).unwrap();
        let store = StateStore::open(path.join("state"), StoreOptions::default()).unwrap();
        wals.push(wal.clone());
        let (snapshots, transport) = (path.join("snapshots"), Arc::new(net.clone()));
        nodes.insert(node, Groups::new(node, 1, snapshots, wal, store, transport, options.clone()).unwrap());
    }
    assert!(net.nodes.set(nodes.clone()).is_ok());
    let mut leaders = Vec::new();
    for number in 0..groups {
        let id = GroupId::new(16 + number, 0);
        let make = |keys| Ok(Last { _keys: keys, dirty: BTreeMap::new(), bytes: 0, flushing: Instant::now() });
        for node in nodes.values() {
            node.start_cached(id, make).await.unwrap();
        }
        let first = &nodes[&(1 + u64::from(number) % NODES)];
        let group = first.group(id.number).unwrap();
        group.initialize((1..=NODES).collect()).await.unwrap();
        leaders.push(group);
    }
    for leader in &leaders {
        leader.wait(Duration::from_secs(60), |s| s.is_leader() && s.membership_settled).await.unwrap();
    }
    Cluster { net, leaders, wals, _dir: dir }
}

impl Cluster {
    /// Also closes the circle between the nodes and their transport.
    async fn stop(self) {
        let nodes = self.net.nodes.get().unwrap().values();
        futures::future::join_all(nodes.map(Groups::shutdown)).await;
        for wal in &self.wals {
            wal.close().unwrap();
        }
    }
}

/// Processor time of the process so far, in seconds.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // The kernel's unit here is a hundredth of a second on every machine that this runs on.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn idle(groups: u32, seconds: u64, window: Duration) {
    let cluster = cluster(groups, RaftOptions { bundle_window: window, ..RaftOptions::default() }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = || {
        let terms: Vec<u64> = cluster.leaders.iter().map(|group| group.status().borrow().term).collect();
        let fsyncs: u64 = cluster.wals.iter().map(|wal| wal.metrics().fsyncs).sum();
        let (messages, bytes) = (&cluster.net.messages, &cluster.net.bytes);
        (terms, fsyncs, messages.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed), processor())
    };
    let (before, start) = (read(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (after, took) = (read(), start.elapsed().as_secs_f64());
    println!(
        "{groups:>4} groups, window {:>2} ms: {:>7.1} messages/s, {:>7.1} KB/s, {:>5.1} % of a processor, {} fsyncs, {}",
        window.as_millis(),
        (after.2 - before.2) as f64 / took,
        (after.3 - before.3) as f64 / took / 1000.0,
        (after.4 - before.4) / took * 100.0,
        after.1 - before.1,
        if before.0 == after.0 { "no election" } else { "ELECTIONS" },
    );
    cluster.stop().await;
}

async fn write(groups: u32, seconds: u64) {
    let cluster = cluster(groups, RaftOptions::default()).await;
    let done = Arc::new(AtomicU64::new(0));
    let fsyncs = || cluster.wals.iter().map(|wal| wal.metrics().fsyncs).sum::<u64>();
    let (start, cpu, syncs) = (Instant::now(), processor(), fsyncs());
    let end = start + Duration::from_secs(seconds);
    let tasks = (0..ON_THEIR_WAY).map(|number| {
        let (group, done) = (cluster.leaders[number % cluster.leaders.len()].clone(), done.clone());
        tokio::spawn(async move {
            while Instant::now() < end {
                group.propose_anywhere(vec![7; COMMAND].into(), Duration::from_secs(30)).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    let (took, done) = (start.elapsed().as_secs_f64(), done.load(Ordering::Relaxed) as f64);
    println!(
        "{groups:>4} groups: {:>7.0} commands/s, {:>6.1} µs of a processor each, {:>6.2} fsyncs of a node per 1000",
        done / took,
        (processor() - cpu) / done * 1e6,
        (fsyncs() - syncs) as f64 / NODES as f64 / done * 1e3,
    );
    cluster.stop().await;
}

async fn flush(mib: usize) {
    const PIECE: usize = 8 << 10;
    let options = RaftOptions { dirty_bytes: usize::MAX, dirty_bytes_node: usize::MAX, ..RaftOptions::default() };
    let cluster = cluster(1, options).await;
    let group = &cluster.leaders[0];
    let proposals = (0..(mib << 20) / PIECE).map(|_| group.propose(vec![7; PIECE].into()));
    for done in futures::future::join_all(proposals).await {
        done.unwrap();
    }
    let index = group.status().borrow().applied.unwrap();
    for node in cluster.net.nodes.get().unwrap().values() {
        node.group(group.id().number).unwrap().wait_applied(index, Duration::from_secs(30)).await.unwrap();
    }
    let late = tokio::spawn(async {
        let mut worst = Duration::ZERO;
        while FLUSHES.lock().unwrap().len() < NODES as usize {
            let start = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            worst = worst.max(start.elapsed());
        }
        worst
    });
    for node in cluster.net.nodes.get().unwrap().values() {
        node.group(group.id().number).unwrap().snapshot_now(Duration::from_secs(60)).await.unwrap();
    }
    let worst = late.await.unwrap();
    println!("{mib} MiB: flushes took {:?}, a task was late by {worst:?} at most", FLUSHES.lock().unwrap());
    cluster.stop().await;
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = arguments.iter().skip(1).filter_map(|text| text.parse().ok()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match (arguments.first().map(String::as_str), &numbers[..]) {
        (Some("idle"), [groups, seconds, window]) => {
            runtime.block_on(idle(u32::try_from(*groups).unwrap(), *seconds, Duration::from_millis(*window)));
        }
        (Some("write"), [seconds, groups @ ..]) if !groups.is_empty() => {
            for groups in groups {
                runtime.block_on(write(u32::try_from(*groups).unwrap(), *seconds));
            }
        }
        (Some("flush"), [mib]) => runtime.block_on(flush(usize::try_from(*mib).unwrap())),
        _ => {
            eprintln!("groups_bench idle GROUPS SECONDS WINDOW_MS | write SECONDS GROUPS… | flush MIB");
            std::process::exit(2);
        }
    }
}
