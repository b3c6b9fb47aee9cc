//! The two state machines as the Raft crate sees them.

use std::sync::{Arc, Mutex, PoisonError};

use raftmq_meta::{MetaMachine, MetaState};
use raftmq_raft::{MachineError, StateBatch, StateMachine};
use raftmq_routing::{RoutesMachine, ShardRoutes};
use tokio::sync::watch;

use crate::net::Net;

/// The meta machine, which publishes its state.
pub(crate) struct MetaAdapter {
    machine: MetaMachine,
    state: watch::Sender<Arc<MetaState>>,
}

impl MetaAdapter {
    pub(crate) fn new(state: watch::Sender<Arc<MetaState>>) -> Self {
        Self { machine: MetaMachine::new(), state }
    }

    fn publish(&self) {
        self.state.send_if_modified(|known| {
            let changed = **known != *self.machine.state();
            if changed {
                *known = Arc::new(self.machine.state().clone());
            }
            changed
        });
    }
}

impl StateMachine for MetaAdapter {
    fn apply(&mut self, index: u64, command: &[u8], _out: &mut StateBatch) -> Vec<u8> {
        self.machine.apply(index, command)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.machine.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        self.machine.restore(snapshot).map_err(|e| MachineError::new(e.to_string()))?;
        self.publish();
        Ok(())
    }

    fn applied(&mut self, _index: u64) {
        self.publish();
    }
}

/// The routes machine, shared with those who ask which streams are open.
#[derive(Clone)]
pub(crate) struct SharedMachine(Arc<Mutex<Seen>>);

struct Seen {
    machine: RoutesMachine,
    /// The last entry that the machine has; `None` while that is not known, after a snapshot.
    applied: Option<u64>,
}

impl SharedMachine {
    pub(crate) fn new(machine: RoutesMachine) -> Self {
        Self(Arc::new(Mutex::new(Seen { machine, applied: None })))
    }

    /// The stream that is open for a node.
    pub(crate) fn open_stream(&self, node: u64) -> Option<(u64, u64)> {
        self.lock().machine.open_stream(node)
    }

    /// What is known of a shard's routes, and an entry of the log up to which that was so.
    pub(crate) fn shard_routes(&self, shard: u16) -> Option<(ShardRoutes, u64)> {
        let seen = self.lock();
        seen.machine.shard_routes(shard).zip(seen.applied)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the Raft crate drives. `own` gets the stream that is open for this node, whenever it changes.
pub(crate) struct RoutesAdapter {
    pub(crate) machine: SharedMachine,
    pub(crate) node: u64,
    pub(crate) own: watch::Sender<Option<(u64, u64)>>,
    /// Gets the last stream of each node.
    pub(crate) net: Arc<Net>,
}

impl StateMachine for RoutesAdapter {
    fn apply(&mut self, index: u64, command: &[u8], _out: &mut StateBatch) -> Vec<u8> {
        let mut seen = self.machine.lock();
        seen.applied = Some(index);
        let response = seen.machine.apply(index, command);
        self.net.lives.set_last(seen.machine.last_streams());
        response
    }

    fn snapshot(&self) -> Vec<u8> {
        self.machine.lock().machine.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        {
            let mut seen = self.machine.lock();
            seen.applied = None;
            seen.machine.restore(snapshot).map_err(|e| MachineError::new(e.to_string()))?;
            self.net.lives.set_last(seen.machine.last_streams());
        }
        self.publish();
        Ok(())
    }

    fn applied(&mut self, index: u64) {
        self.machine.lock().applied = Some(index);
        self.publish();
    }
}

impl RoutesAdapter {
    fn publish(&self) {
        let open = self.machine.open_stream(self.node);
        self.own.send_if_modified(|known| std::mem::replace(known, open) != open);
    }
}
