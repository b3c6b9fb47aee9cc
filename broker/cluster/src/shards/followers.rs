//! At a node with replicas: the nodes without one that serve clients of its shards, and what they have not been told of those clients' queues.
//!
//! A node *follows* shards here, within a session of its own making: it begins with each shard, and then asks for the news of all of them at once, a call that waits
//! until there are some. What was not told before the session ended is lost, and so is what a shard's replica did before it was followed: whoever begins looks at all
//! its clients.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raftmq_shard::Name;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::node::{Node, Running};

use super::read::{caught_up, when_there};
use super::{Replica, ShardId};

/// How long news are waited for. Then the other node hears that this one is there.
pub(super) const PARK: Duration = Duration::from_secs(1);
/// Clients of a shard that are kept for one node, and the bytes of their names; more are told as all.
const MOST: usize = 1_024;
const MOST_BYTES: usize = 64 << 10;
/// Of the names that are told at once.
const NEWS_BYTES: usize = 1 << 20;
/// A node that has not asked for so long follows nothing any more.
const FORGET: Duration = Duration::from_secs(30);

/// Which following of a shard: a node that begins again says another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) shard: u16,
    pub(crate) generation: u32,
    pub(crate) number: u64,
}

impl Turn {
    fn id(self) -> ShardId {
        ShardId { number: self.shard, generation: self.generation }
    }
}

/// A node wants to follow a shard, or to know whether it does and is not kept from anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Follow {
    pub(crate) session: u64,
    pub(crate) turn: Turn,
    pub(crate) begins: bool,
}

/// It does, and what was committed when it asked is applied here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// The last entry applied.
    pub(crate) index: u64,
    /// Who leads, as far as is known here.
    pub(crate) leader: Option<u64>,
}

/// A node asks for news.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewsRequest {
    pub(crate) session: u64,
    /// Shards that it does not follow any more.
    pub(crate) left: Vec<Turn>,
}

/// What came up in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) turn: Turn,
    /// An entry that is applied here, and by which it had come up. `None`: there is no replica any more.
    pub(crate) index: Option<u64>,
    /// Any client may have something new.
    pub(crate) all: bool,
    /// Clients with something new.
    pub(crate) clients: Vec<(u32, String)>,
}

/// What a node was not told of a shard.
struct Pending {
    turn: Turn,
    clients: HashSet<Name>,
    bytes: usize,
    all: bool,
    gone: bool,
}

impl Pending {
    fn new(turn: Turn) -> Self {
        Self { turn, clients: HashSet::new(), bytes: 0, all: false, gone: false }
    }

    fn is_empty(&self) -> bool {
        self.clients.is_empty() && !self.all && !self.gone
    }

    fn add(&mut self, client: &Name) {
        if self.all || self.clients.contains(client) {
            return;
        }
        if self.clients.len() >= MOST || self.bytes + client.id.len() > MOST_BYTES {
            return self.add_all();
        }
        self.bytes += client.id.len();
        self.clients.insert(client.clone());
    }

    fn add_all(&mut self) {
        self.all = true;
        self.clients = HashSet::new();
        self.bytes = 0;
    }
}

/// A node that follows shards.
struct Follower {
    session: u64,
    shards: HashMap<u16, Pending>,
    wake: Arc<Notify>,
    asked: Instant,
}

/// The nodes that follow shards here.
#[derive(Default)]
pub(crate) struct Followers {
    /// There are some: read with each entry that is applied.
    any: AtomicBool,
    followers: Mutex<HashMap<u64, Follower>>,
}

impl Followers {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody follows anything. Who begins to is seen by whatever is applied after that.
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// A node follows a shard from now on; a session that is another one than before ends that.
    fn begin(&self, node: u64, session: u64, turn: Turn) {
        let mut followers = self.lock();
        self.any.store(true, Ordering::Release);
        let new = || Follower { session, shards: HashMap::new(), wake: Arc::default(), asked: Instant::now() };
        let follower = followers.entry(node).or_insert_with(new);
        if follower.session != session {
            // Who waits for its news is told that it is over.
            follower.wake.notify_one();
            *follower = new();
        }
        follower.asked = Instant::now();
        follower.shards.insert(turn.shard, Pending::new(turn));
    }

    fn is_followed(&self, node: u64, session: u64, turn: Turn) -> bool {
        let followers = self.lock();
        let follower = followers.get(&node).filter(|follower| follower.session == session);
        follower.and_then(|follower| follower.shards.get(&turn.shard)).is_some_and(|pending| pending.turn == turn)
    }

    /// Clients have something new. `owner` says at which node a client is; it may not know, and then all are told.
    pub(super) fn note<'a>(
        &self,
        shard: ShardId,
        clients: impl Iterator<Item = &'a Name>,
        mut owner: impl FnMut(&Name) -> Result<Option<u64>, ()>,
    ) {
        let mut followers = self.following(shard);
        if followers.is_none() {
            return;
        }
        for client in clients {
            let owner = owner(client);
            for (node, follower) in followers.iter_mut().flat_map(|followers| followers.iter_mut()) {
                if let Some(pending) = follower.shards.get_mut(&shard.number)
                    && pending.turn.id() == shard
                    && (owner.is_err() || owner == Ok(Some(*node)))
                {
                    pending.add(client);
                    follower.wake.notify_one();
                }
            }
        }
    }

    /// Those that are left, if any of them follows a shard.
    fn following(&self, shard: ShardId) -> Option<MutexGuard<'_, HashMap<u64, Follower>>> {
        let mut followers = self.lock();
        followers.retain(|_, follower| follower.asked.elapsed() < FORGET);
        self.any.store(!followers.is_empty(), Ordering::Release);
        let follows = followers.values().any(|follower| follower.shards.contains_key(&shard.number));
        follows.then_some(followers)
    }

    /// Any client of a shard may have something new.
    pub(super) fn note_all(&self, shard: ShardId) {
        self.tell(shard, Pending::add_all);
    }

    /// There is no replica of a shard any more.
    pub(super) fn end(&self, shard: ShardId) {
        self.tell(shard, |pending| pending.gone = true);
    }

    fn tell(&self, shard: ShardId, what: impl Fn(&mut Pending)) {
        for follower in self.lock().values_mut() {
            if let Some(pending) = follower.shards.get_mut(&shard.number).filter(|pending| pending.turn.id() == shard) {
                what(pending);
                follower.wake.notify_one();
            }
        }
    }

    /// What a node was not told. `None`: it has no such session.
    fn take(&self, node: u64, request: &mut NewsRequest) -> Option<(Vec<Pending>, Arc<Notify>)> {
        let mut followers = self.lock();
        let follower = followers.get_mut(&node).filter(|follower| follower.session == request.session)?;
        follower.asked = Instant::now();
        for left in request.left.drain(..) {
            if follower.shards.get(&left.shard).is_some_and(|pending| pending.turn == left) {
                follower.shards.remove(&left.shard);
            }
        }
        let (mut news, mut bytes) = (Vec::new(), 0);
        for pending in follower.shards.values_mut().filter(|pending| !pending.is_empty()) {
            if bytes > NEWS_BYTES {
                // At the next call, at once.
                follower.wake.notify_one();
                break;
            }
            bytes += pending.bytes + 64 * pending.clients.len();
            let turn = pending.turn;
            news.push(std::mem::replace(pending, Pending::new(turn)));
        }
        follower.shards.retain(|_, pending| !news.iter().any(|told| told.gone && told.turn == pending.turn));
        Some((news, Arc::clone(&follower.wake)))
    }
}

/// A node begins to follow a shard here, or asks whether it does. `None`: it cannot, or does not.
pub(crate) async fn follow(node: &Arc<Node>, running: &Running, from: u64, request: Follow) -> Option<Followed> {
    let Follow { session, turn, begins } = request;
    // One that is behind, or hears nothing more, has nothing to tell.
    let replica = running.shards.own(turn.id())?;
    if begins {
        // First, so that it is told of all that is applied after the index below.
        node.followers.begin(from, session, turn);
    } else if !node.followers.is_followed(from, session, turn) {
        return None;
    }
    let index = current(node, running, &replica).await?;
    let leader = replica.group.status().borrow().leader;
    Some(Followed { index, leader })
}

/// The last entry applied, once that is all that was committed when this was called.
async fn current(node: &Arc<Node>, running: &Running, replica: &Replica) -> Option<u64> {
    let index = caught_up(node, running, replica).await.ok()?;
    // The last ones may be entries of the group itself, of which the machine knows nothing.
    when_there(&replica.machine, |machine| machine.applied()).await.map(|applied| applied.max(index))
}

/// What a node was not told; waits for a while until there is something. `None`: it has no such session.
pub(crate) async fn news(node: &Node, running: &Running, from: u64, mut request: NewsRequest) -> Option<Vec<News>> {
    let end = tokio::time::Instant::now() + PARK;
    let pending = loop {
        let (pending, wake) = node.followers.take(from, &mut request)?;
        if !pending.is_empty() || tokio::time::timeout_at(end, wake.notified()).await.is_err() {
            break pending;
        }
    };
    let mut news = Vec::with_capacity(pending.len());
    for Pending { turn, clients, all, gone, .. } in pending {
        let replica = running.shards.replica(turn.id()).filter(|_| !gone);
        let index = match &replica {
            // Read after it had come up.
            Some(replica) => when_there(&replica.machine, |machine| machine.applied()).await,
            None => None,
        };
        let clients = clients.into_iter().map(|client| (client.namespace, client.id.to_string())).collect();
        news.push(News { turn, index, all, clients });
    }
    Some(news)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHARD: ShardId = ShardId { number: 3, generation: 1 };

    fn turn(number: u64) -> Turn {
        Turn { shard: 3, generation: 1, number }
    }

    fn name(id: &str) -> Name {
        Name::new(0, id)
    }

    fn taken(followers: &Followers, node: u64, session: u64, left: Vec<Turn>) -> Option<Vec<Pending>> {
        followers.take(node, &mut NewsRequest { session, left }).map(|(news, _)| news)
    }

    fn names(news: &[Pending]) -> Vec<String> {
        let mut names: Vec<String> =
            news.iter().flat_map(|pending| pending.clients.iter().map(|c| c.id.to_string())).collect();
        names.sort();
        names
    }

    #[test]
    fn a_node_is_told_of_its_own_clients_once() {
        let followers = Followers::default();
        assert!(followers.is_empty());
        followers.begin(7, 1, turn(1));
        followers.begin(8, 1, turn(1));
        assert!(!followers.is_empty());
        let note = |id: &str, owner| followers.note(SHARD, [name(id)].iter(), |_| owner);
        note("a", Ok(Some(7)));
        note("a", Ok(Some(7)));
        note("b", Ok(Some(8)));
        note("c", Ok(None));
        note("d", Err(()));
        assert_eq!(names(&taken(&followers, 7, 1, Vec::new()).unwrap()), ["a", "d"]);
        assert_eq!(names(&taken(&followers, 8, 1, Vec::new()).unwrap()), ["b", "d"]);
        assert!(taken(&followers, 7, 1, Vec::new()).unwrap().is_empty());
        // Another shard, and another generation of it.
        followers.note(ShardId { number: 4, generation: 1 }, [name("e")].iter(), |_| Ok(Some(7)));
        followers.note(ShardId { number: 3, generation: 2 }, [name("e")].iter(), |_| Ok(Some(7)));
        assert!(taken(&followers, 7, 1, Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn too_many_are_all() {
        let followers = Followers::default();
        followers.begin(7, 1, turn(1));
        let many: Vec<Name> = (0..=MOST).map(|n| name(&n.to_string())).collect();
        followers.note(SHARD, many[..MOST].iter(), |_| Ok(Some(7)));
        let news = taken(&followers, 7, 1, Vec::new()).unwrap();
        assert!(!news[0].all && news[0].clients.len() == MOST);
        followers.note(SHARD, many.iter(), |_| Ok(Some(7)));
        let news = taken(&followers, 7, 1, Vec::new()).unwrap();
        assert!(news[0].all && news[0].clients.is_empty());
        let long = name(&"x".repeat(MOST_BYTES / 2 + 1));
        let other = name(&"y".repeat(MOST_BYTES / 2 + 1));
        followers.note(SHARD, [long, other].iter(), |_| Ok(Some(7)));
        assert!(taken(&followers, 7, 1, Vec::new()).unwrap()[0].all);
    }

    /// What belongs to a session that has ended, or to a following that began again, is not mixed up with the present one.
    #[test]
    fn sessions_and_turns_are_told_apart() {
        let followers = Followers::default();
        followers.begin(7, 1, turn(1));
        assert!(followers.is_followed(7, 1, turn(1)));
        followers.begin(7, 1, turn(2));
        assert!(!followers.is_followed(7, 1, turn(1)));
        followers.note(SHARD, [name("a")].iter(), |_| Ok(Some(7)));
        // It has left the one before: late.
        let news = taken(&followers, 7, 1, vec![turn(1)]).unwrap();
        assert_eq!((names(&news), news[0].turn), (vec!["a".to_owned()], turn(2)));
        assert!(followers.is_followed(7, 1, turn(2)));
        taken(&followers, 7, 1, vec![turn(2)]).unwrap();
        assert!(!followers.is_followed(7, 1, turn(2)));
        followers.begin(7, 2, turn(3));
        assert!(taken(&followers, 7, 1, Vec::new()).is_none());
        followers.note_all(SHARD);
        assert!(taken(&followers, 7, 2, Vec::new()).unwrap()[0].all);
        followers.end(SHARD);
        assert!(taken(&followers, 7, 2, Vec::new()).unwrap()[0].gone);
        assert!(!followers.is_followed(7, 2, turn(3)), "it has been told that it is gone");
    }
}
