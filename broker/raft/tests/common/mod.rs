//! A cluster in one process: real logs and stores in temporary directories, a transport that can be cut.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod toy;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use raftmq_raft::{
    Class, Group, GroupId, GroupStatus, Groups, MachineError, NodeId, Persistence, RaftOptions, StateBatch,
    StateMachine, StateRead, Transport, TransportError,
};
use raftmq_storage::{StateStore, StoreOptions, Wal, WalOptions};
use tempfile::TempDir;

pub(crate) const CLUSTER: u128 = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321;
pub(crate) const GROUP: GroupId = GroupId { number: 1, generation: 3 };
/// Long enough for a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// All commands in order.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    pub(crate) commands: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Also keeps every command under its index in the state store.
    pub(crate) stored: bool,
}

impl Journal {
    pub(crate) fn get(&self) -> Vec<Vec<u8>> {
        self.commands.lock().unwrap().clone()
    }
}

impl StateMachine for Journal {
    fn apply(&mut self, index: u64, command: &[u8], out: &mut StateBatch) -> Vec<u8> {
        let mut commands = self.commands.lock().unwrap();
        commands.push(command.to_vec());
        if self.stored {
            out.put((commands.len() as u64).to_be_bytes(), command.to_vec());
        }
        let _ = index;
        (commands.len() as u64).to_be_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        if self.stored {
            return Vec::new();
        }
        let mut out = Vec::new();
        for command in &*self.commands.lock().unwrap() {
            out.extend_from_slice(&(command.len() as u32).to_be_bytes());
            out.extend_from_slice(command);
        }
        out
    }

    fn restore(&mut self, mut snapshot: &[u8]) -> Result<(), MachineError> {
        let mut commands = Vec::new();
        while let Some((len, rest)) = snapshot.split_first_chunk::<4>() {
            let (command, rest) =
                rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(|| MachineError::new("cut off"))?;
            commands.push(command.to_vec());
            snapshot = rest;
        }
        *self.commands.lock().unwrap() = commands;
        Ok(())
    }

    fn load(&mut self, keys: &dyn StateRead) -> Result<(), MachineError> {
        *self.commands.lock().unwrap() = keys.scan(b"")?.into_iter().map(|(_, value)| value.to_vec()).collect();
        Ok(())
    }
}

/// The network between all nodes.
#[derive(Clone, Default)]
pub(crate) struct Net {
    state: Arc<Mutex<NetState>>,
}

#[derive(Default)]
struct NetState {
    nodes: HashMap<NodeId, Groups>,
    /// Directed: nothing goes from the first to the second.
    cut: HashSet<(NodeId, NodeId)>,
    /// Calls to these are not answered, and nobody says that they will not be.
    silent: HashSet<NodeId>,
    /// The last frame of each class on each way, also if it was cut off.
    last: HashMap<(NodeId, NodeId, Class), Bytes>,
    chunks: u64,
    heartbeats: u64,
    /// Those that carry the heartbeats of several groups, by the node they go to.
    bundles: HashMap<NodeId, u64>,
    /// Nodes that know such frames.
    takes_bundles: HashSet<NodeId>,
    /// How often a node asked for a vote or a pre-vote.
    asked: HashMap<NodeId, u64>,
}

impl Net {
    pub(crate) fn port(&self, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(Port { node, net: self.clone() })
    }

    /// The node is down.
    pub(crate) fn leave(&self, node: NodeId) {
        self.state.lock().unwrap().nodes.remove(&node);
    }

    pub(crate) fn cut(&self, a: NodeId, b: NodeId) {
        self.state.lock().unwrap().cut.extend([(a, b), (b, a)]);
    }

    /// Nothing goes from the first to the second any more; the other way is open.
    pub(crate) fn cut_way(&self, from: NodeId, to: NodeId) {
        self.state.lock().unwrap().cut.insert((from, to));
    }

    /// The node hangs: it says nothing, and who calls it learns so by the deadline alone.
    pub(crate) fn silence(&self, node: NodeId, others: impl IntoIterator<Item = NodeId>) {
        let mut state = self.state.lock().unwrap();
        state.silent.insert(node);
        state.cut.extend(others.into_iter().map(|other| (node, other)));
    }

    /// Cuts the node off from everybody else.
    pub(crate) fn isolate(&self, node: NodeId, others: impl IntoIterator<Item = NodeId>) {
        others.into_iter().filter(|other| *other != node).for_each(|other| self.cut(node, other));
    }

    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().cut.clear();
    }

    pub(crate) fn last(&self, from: NodeId, to: NodeId, class: Class) -> Option<Bytes> {
        self.state.lock().unwrap().last.get(&(from, to, class)).cloned()
    }

    /// How often a node asked for votes since the start.
    pub(crate) fn asked(&self, node: NodeId) -> u64 {
        self.state.lock().unwrap().asked.get(&node).copied().unwrap_or(0)
    }

    /// Calls of the class of heartbeats.
    pub(crate) fn heartbeats(&self) -> u64 {
        self.state.lock().unwrap().heartbeats
    }

    /// Calls that carry the heartbeats of several groups, to a node.
    pub(crate) fn bundles(&self, to: NodeId) -> u64 {
        self.state.lock().unwrap().bundles.get(&to).copied().unwrap_or(0)
    }

    /// These nodes know them.
    pub(crate) fn take_bundles(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.state.lock().unwrap().takes_bundles.extend(nodes);
    }

    pub(crate) fn chunks(&self) -> u64 {
        self.state.lock().unwrap().chunks
    }
}

struct Port {
    node: NodeId,
    net: Net,
}

impl Transport for Port {
    fn call(
        &self,
        to: NodeId,
        frame: Bytes,
        class: Class,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (from, net) = (self.node, self.net.clone());
        async move {
            let unreachable = || TransportError::Unreachable { to, reason: "cut off or down".into() };
            if net.state.lock().unwrap().silent.contains(&to) {
                tokio::time::sleep(deadline).await;
                return Err(TransportError::Timeout { to });
            }
            let target = {
                let mut state = net.state.lock().unwrap();
                state.last.insert((from, to, class), frame.clone());
                *state.asked.entry(from).or_default() += u64::from(matches!(frame[1], 1 | 2));
                if state.cut.contains(&(from, to)) {
                    return Err(unreachable());
                }
                state.chunks += u64::from(class == Class::Snapshot);
                state.heartbeats += u64::from(class == Class::Heartbeat);
                *state.bundles.entry(to).or_default() += u64::from(frame[1] == 7);
                state.nodes.get(&to).cloned().ok_or_else(unreachable)?
            };
            // As on a real network, the call goes on if the caller gives up.
            let handled = tokio::spawn(async move { target.handle(frame).await });
            let answer = tokio::time::timeout(deadline, handled)
                .await
                .map_err(|_| TransportError::Timeout { to })?
                .map_err(|e| TransportError::Failed { to, reason: e.to_string() })?;
            if net.state.lock().unwrap().cut.contains(&(to, from)) {
                return Err(TransportError::Timeout { to });
            }
            Ok(answer)
        }
        .boxed()
    }

    fn takes_bundles(&self, to: NodeId) -> bool {
        self.net.state.lock().unwrap().takes_bundles.contains(&to)
    }
}

/// Opens what a node has in `path`, and puts the node into the network.
pub(crate) async fn open(
    net: &Net,
    path: &Path,
    id: NodeId,
    options: RaftOptions,
    full: bool,
) -> (Groups, Wal, StateStore) {
    let wal_options = WalOptions {
        segment_bytes: 1 << 20,
        ballast_bytes: 0,
        min_free_bytes: if full { u64::MAX >> 1 } else { 0 },
        ..WalOptions::default()
    };
    let (wal, _) = Wal::open(path.join("wal"), wal_options).unwrap();
    // A call that was being answered when the node stopped may have it for a moment yet.
    let end = Instant::now() + Duration::from_secs(5);
    let store = loop {
        match StateStore::open(path.join("state"), StoreOptions::default()) {
            Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(10)).await,
            store => break store.unwrap(),
        }
    };
    let (port, snapshots) = (net.port(id), path.join("snapshots"));
    let groups = Groups::new(id, CLUSTER, snapshots, wal.clone(), store.clone(), port, options).unwrap();
    net.state.lock().unwrap().nodes.insert(id, groups.clone());
    (groups, wal, store)
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) groups: Groups,
    pub(crate) group: Group,
    pub(crate) journal: Journal,
    pub(crate) wal: Wal,
    _store: StateStore,
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) options: RaftOptions,
    pub(crate) persistence: Persistence,
    /// Nodes that have no room on their disk when they start.
    pub(crate) full: BTreeSet<NodeId>,
    dir: TempDir,
}

impl Cluster {
    /// Empty nodes that know nothing of each other.
    pub(crate) async fn empty(
        ids: impl IntoIterator<Item = NodeId>,
        persistence: Persistence,
        options: RaftOptions,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster =
            Self { net: Net::default(), nodes: BTreeMap::new(), options, persistence, full: BTreeSet::new(), dir };
        for id in ids {
            cluster.start(id).await;
        }
        cluster
    }

    /// Voters with a leader.
    pub(crate) async fn of(count: u64, persistence: Persistence, options: RaftOptions) -> Self {
        let cluster = Self::empty(1..=count, persistence, options).await;
        cluster.nodes[&1].group.initialize((1..=count).collect()).await.unwrap();
        cluster.leader().await;
        cluster
    }

    fn path(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Where a node keeps its snapshots.
    pub(crate) fn snapshots(&self, id: NodeId) -> PathBuf {
        self.path(id).join("snapshots")
    }

    pub(crate) async fn start(&mut self, id: NodeId) {
        let full = self.full.contains(&id);
        let (groups, wal, store) = open(&self.net, &self.path(id), id, self.options.clone(), full).await;
        let journal = Journal { stored: self.persistence == Persistence::Stored, ..Journal::default() };
        let group = groups.start(GROUP, self.persistence, journal.clone()).await.unwrap();
        self.nodes.insert(id, Node { id, groups, group, journal, wal, _store: store });
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        self.net.leave(id);
        let before = Instant::now();
        node.groups.shutdown().await;
        assert!(before.elapsed() < Duration::from_secs(4), "a shutdown is quick");
        node.wal.close().unwrap();
    }

    pub(crate) fn status(&self, id: NodeId) -> GroupStatus {
        self.nodes[&id].group.status().borrow().clone()
    }

    pub(crate) fn group(&self, id: NodeId) -> &Group {
        &self.nodes[&id].group
    }

    /// Waits until one of all running nodes leads and all running members follow it.
    pub(crate) async fn leader(&self) -> NodeId {
        self.leader_of(self.nodes.keys().copied()).await
    }

    pub(crate) async fn leader_of(&self, ids: impl IntoIterator<Item = NodeId>) -> NodeId {
        let ids: BTreeSet<NodeId> = ids.into_iter().collect();
        let mut found = 0;
        eventually("one leader that all follow", || {
            let leaders: BTreeSet<_> = ids.iter().map(|id| self.status(*id).leader).collect();
            match leaders.into_iter().collect::<Vec<_>>()[..] {
                [Some(leader)] if ids.contains(&leader) && leads(&self.status(leader)) => {
                    found = leader;
                    true
                }
                _ => false,
            }
        })
        .await;
        found
    }

    /// Proposes `count` commands from node `from`.
    pub(crate) async fn write(&self, from: NodeId, name: &str, count: usize) {
        for number in 0..count {
            let command = Bytes::from(format!("{name}-{number}"));
            self.group(from).propose_anywhere(command, SOON).await.unwrap();
        }
    }

    /// Waits until all running nodes have the same commands, this many, and returns them.
    pub(crate) async fn same(&self, ids: impl IntoIterator<Item = NodeId>, count: usize) -> Vec<Vec<u8>> {
        let ids: Vec<NodeId> = ids.into_iter().collect();
        eventually("the same commands everywhere", || ids.iter().all(|id| self.nodes[id].journal.get().len() == count))
            .await;
        let all: BTreeSet<Vec<Vec<u8>>> = ids.iter().map(|id| self.nodes[id].journal.get()).collect();
        assert_eq!(all.len(), 1, "all nodes have the same commands in the same order");
        all.into_iter().next().unwrap()
    }
}

/// It leads, and the next change of members may come.
fn leads(status: &GroupStatus) -> bool {
    status.is_leader() && status.membership_settled
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Small limits, so that few entries make snapshots of many chunks.
pub(crate) fn small() -> RaftOptions {
    RaftOptions {
        snapshot_entries: 50,
        keep_entries: 5,
        snapshot_chunk: 64,
        max_append_bytes: 200,
        ..RaftOptions::default()
    }
}
