//! The links, as this crate uses them: calls by address, and Raft's transport by id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use raftmq_links::{Class, LinkError, Links, SendError};
use raftmq_raft::{NodeId, Transport, TransportError};
use tokio::sync::Notify;

use crate::lives::{self, Lives};
use crate::wire::{self, Request, Response, kind};

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("cut off by a test")]
    Isolated,
    #[error("no address of node {0} is known")]
    NoAddress(u64),
    #[error("{0}")]
    Malformed(String),
}

/// The links and the addresses of the members.
pub(crate) struct Net {
    links: OnceLock<Links>,
    isolated: AtomicBool,
    addresses: ArcSwap<BTreeMap<u64, String>>,
    /// Where members were found though the meta group says otherwise: they moved and could not tell it yet.
    moved: ArcSwap<BTreeMap<u64, String>>,
    /// Who said that it has seen no later start of this node's directory than this one.
    confirmed: ArcSwap<BTreeSet<u64>>,
    /// The newest feature level that a peer knows, as it said when it connected.
    levels: ArcSwap<BTreeMap<u64, u32>>,
    /// Members that are held to be down: their routes may still be there.
    down: ArcSwap<BTreeSet<u64>>,
    /// A peer is there that may not have said so yet.
    pub(crate) showed_itself: Notify,
    /// See [`Net::confirmed_one_by_one`].
    one_by_one: AtomicBool,
    /// The life that a forwarded publish is meant for.
    pub(crate) lives: Lives,
}

impl Net {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            links: OnceLock::new(),
            isolated: AtomicBool::new(false),
            addresses: ArcSwap::default(),
            moved: ArcSwap::default(),
            confirmed: ArcSwap::default(),
            levels: ArcSwap::default(),
            down: ArcSwap::default(),
            showed_itself: Notify::new(),
            one_by_one: AtomicBool::new(false),
            lives: Lives::default(),
        })
    }

    pub(crate) fn set_links(&self, links: Links) {
        // Set once, by the start.
        let _ = self.links.set(links);
    }

    pub(crate) fn try_links(&self) -> Option<&Links> {
        self.links.get()
    }

    pub(crate) fn links(&self) -> Links {
        self.links.get().expect("the links are started before the node is handed out").clone()
    }

    pub(crate) fn isolate(&self, cut: bool) {
        self.isolated.store(cut, Ordering::Relaxed);
    }

    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated.load(Ordering::Relaxed)
    }

    pub(crate) fn addresses(&self) -> Arc<BTreeMap<u64, String>> {
        self.addresses.load_full()
    }

    pub(crate) fn set_addresses(&self, addresses: BTreeMap<u64, String>) {
        self.addresses.store(Arc::new(addresses));
    }

    pub(crate) fn set_down(&self, down: BTreeSet<u64>) {
        self.down.store(Arc::new(down));
    }

    pub(crate) fn address_of(&self, node: u64) -> Option<String> {
        if let Some(moved) = self.moved.load().get(&node) {
            return Some(moved.clone());
        }
        self.addresses.load().get(&node).cloned()
    }

    /// The member was found elsewhere (`None`: what the meta group says counts again). Says whether that is news.
    pub(crate) fn set_moved(&self, node: u64, address: Option<String>) -> bool {
        let before = self.moved.load_full();
        if before.get(&node) == address.as_ref() {
            return false;
        }
        let mut moved = (*before).clone();
        match address {
            Some(address) => moved.insert(node, address),
            None => moved.remove(&node),
        };
        self.moved.store(Arc::new(moved));
        true
    }

    /// Whether groups of this node may talk to those of the peer, be it one or the other that begins.
    pub(crate) fn is_confirmed(&self, node: u64) -> bool {
        !self.one_by_one.load(Ordering::Relaxed) || self.confirmed.load().contains(&node)
    }

    /// Whether groups talk to those peers only that have said that they know no later start of this node.
    pub(crate) fn confirmed_one_by_one(&self, one_by_one: bool) {
        self.one_by_one.store(one_by_one, Ordering::Relaxed);
    }

    pub(crate) fn confirm(&self, node: u64) {
        if !self.confirmed.load().contains(&node) {
            self.confirmed.rcu(|known| known.iter().copied().chain([node]).collect::<BTreeSet<_>>());
        }
    }

    /// What a peer said of itself.
    pub(crate) fn knows(&self, node: u64, level: u32) {
        if node != 0 && self.levels.load().get(&node) != Some(&level) {
            self.levels.rcu(|known| {
                let mut known = BTreeMap::clone(known);
                known.insert(node, level);
                known
            });
        }
    }

    /// Ids are never used again; what is kept about those that are gone would only grow.
    pub(crate) fn keep_known(&self, keep: impl Fn(u64) -> bool) {
        if self.levels.load().keys().any(|id| !keep(*id)) {
            self.levels.rcu(|known| {
                known.iter().filter(|(id, _)| keep(**id)).map(|(id, level)| (*id, *level)).collect::<BTreeMap<_, _>>()
            });
        }
        if self.confirmed.load().iter().any(|id| !keep(*id)) {
            self.confirmed.rcu(|known| known.iter().copied().filter(|id| keep(*id)).collect::<BTreeSet<_>>());
        }
    }

    /// Calls a peer by its address.
    pub(crate) async fn call(
        &self,
        address: &str,
        request: &Request,
        deadline: Duration,
    ) -> Result<Response, CallError> {
        self.call_by(address, request, Class::Control, deadline).await
    }

    async fn call_by(
        &self,
        address: &str,
        request: &Request,
        class: Class,
        deadline: Duration,
    ) -> Result<Response, CallError> {
        if self.is_isolated() {
            return Err(CallError::Isolated);
        }
        let payload = wire::encode(request);
        let links = self.links.get().ok_or(LinkError::Shutdown)?;
        let answer = links.request(address, kind::CALL, payload, class, deadline).await?;
        if self.is_isolated() {
            return Err(CallError::Isolated);
        }
        wire::decode(&answer).map_err(CallError::Malformed)
    }

    /// Calls a member.
    pub(crate) async fn call_node(
        &self,
        node: u64,
        request: &Request,
        deadline: Duration,
    ) -> Result<Response, CallError> {
        self.call_node_by(node, request, Class::Control, deadline).await
    }

    /// As [`Net::call_node`], on another stream: where the answer may be large.
    pub(crate) async fn call_node_by(
        &self,
        node: u64,
        request: &Request,
        class: Class,
        deadline: Duration,
    ) -> Result<Response, CallError> {
        let address = self.address_of(node).ok_or(CallError::NoAddress(node))?;
        self.call_by(&address, request, class, deadline).await
    }

    /// Whether any member is one of [`Net::is_unreachable`].
    pub(crate) fn any_unreachable(&self) -> bool {
        !self.down.load().is_empty() || self.links.get().is_some_and(Links::any_lost)
    }

    /// Whether a member is held to be down, or forwarded publishes wait for it, because the connection to it broke.
    pub(crate) fn is_unreachable(&self, node: u64) -> bool {
        if self.down.load().contains(&node) {
            return true;
        }
        let Some(links) = self.links.get() else { return false };
        self.addresses.load().get(&node).is_some_and(|address| links.is_lost(address))
    }

    /// Takes the messages of groups back from what a peer has not acknowledged.
    pub(crate) fn take_back(&self, address: &str) -> Vec<(Bytes, bool)> {
        let mut taken = Vec::new();
        if let Some(links) = self.links.get() {
            links.revise(address, |kind, frame, handled| {
                let (life, frame) = match kind {
                    kind::FORWARD => (None, frame.clone()),
                    kind::FORWARD_TO_LIFE => lives::split(frame).map(|(life, frame)| (Some(life), frame))?,
                    _ => return None,
                };
                let rest = raftmq_routing::frame_without_groups(&frame)?;
                taken.push((frame, handled));
                Some(match life {
                    Some(life) => lives::join(life, &rest),
                    None => rest.into(),
                })
            });
        }
        taken
    }

    /// Hands over a forwarded publish.
    pub(crate) fn send(&self, node: u64, frame: Bytes) -> Result<(), CallError> {
        if self.is_isolated() {
            return Err(CallError::Isolated);
        }
        let addresses = self.addresses.load();
        let address = addresses.get(&node).ok_or(CallError::NoAddress(node))?;
        let links = self.links.get().ok_or(LinkError::Shutdown)?;
        let (kind, frame) = match self.lives.of(node) {
            Some(life) => (kind::FORWARD_TO_LIFE, lives::join(life, &frame)),
            None => (kind::FORWARD, frame),
        };
        links.send(address, kind, frame).map_err(|error| match error {
            SendError::Shutdown => CallError::Link(LinkError::Shutdown),
            other => CallError::Malformed(other.to_string()),
        })
    }
}

/// Raft's calls over the links.
pub(crate) struct LinkTransport(pub(crate) Arc<Net>);

impl Transport for LinkTransport {
    fn takes_bundles(&self, to: NodeId) -> bool {
        self.0.levels.load().get(&to).is_some_and(|level| *level >= raftmq_meta::SHARDS_LEVEL)
    }

    fn call(
        &self,
        to: NodeId,
        frame: Bytes,
        class: raftmq_raft::Class,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let net = Arc::clone(&self.0);
        let class = match class {
            raftmq_raft::Class::Heartbeat => Class::Control,
            raftmq_raft::Class::Log => Class::Log,
            raftmq_raft::Class::Snapshot => Class::Bulk,
        };
        Box::pin(async move {
            let unreachable = |reason: &str| TransportError::Unreachable { to, reason: reason.to_owned() };
            if net.is_isolated() {
                return Err(unreachable("cut off by a test"));
            }
            if !net.is_confirmed(to) {
                return Err(unreachable("it has not said yet that it knows of no later start of this node"));
            }
            let address = net.address_of(to).ok_or_else(|| unreachable("no address known"))?;
            let links = net.links.get().ok_or_else(|| unreachable("no links"))?;
            let answer =
                links.request(&address, kind::RAFT, frame, class, deadline).await.map_err(|error| match error {
                    LinkError::Deadline => TransportError::Timeout { to },
                    LinkError::Unreachable(reason) | LinkError::Refused(reason) => {
                        TransportError::Unreachable { to, reason }
                    }
                    other => TransportError::Failed { to, reason: other.to_string() },
                })?;
            if net.is_isolated() {
                return Err(unreachable("cut off by a test"));
            }
            Ok(answer)
        })
    }
}
