//! The members of groups that share their messages (MQTT 5, 4.8.2), and who of them gets a message.
//!
//! [`NodeGroups`] is one for all workers of a node: a message of a group asks it once, under the lock of one of 64 shards, and gets a member
//! (with its worker) or another node. So the turn of a round robin goes over all members of the node, whatever workers they are on.
//!
//! **Where.** The routes tell which other nodes have members, and about how many ([`crate::SharedTarget`]). The node that the message was
//! published on chooses between itself and them, by the strategy and in proportion to their members; the node that it is forwarded to
//! chooses the member. Each node of origin keeps its own turns: a round robin over several nodes is even for the messages of each of
//! them, exact on a node, and as exact as [`crate::members_of_rank`] between nodes.
//!
//! **Who.** A member that is online. The specification leaves open whether the message of a group may wait for a session that is offline;
//! here it does only if no member is online on any node. A node without an online member passes the message on and names
//! itself in what it sends ([`TriedNode`]), so that the message comes to each node once; after the last of them it goes to
//! an offline session of this node, or to a node that had one. A message thus ends within two visits a node, with exactly one member, if one
//! stays in the group meanwhile. A member that refuses (its queue is full, it has just left) is excluded and the choice repeated.

mod pick;
mod place;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ahash::RandomState;
use smallvec::SmallVec;

use crate::{
    key::{FilterKind, group_key, told},
    set::GroupNode,
};
use pick::Turns;
use place::Places;

/// How the member of a group is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupStrategy {
    /// In turns. Between nodes in turns weighted by their members.
    #[default]
    RoundRobin,
    /// Any. Between nodes weighted by their members.
    Random,
    /// The same as before, until it leaves, goes offline, or its node has no member any more.
    Sticky,
    /// The same for all messages of a publisher, while the members stay. When one leaves, only its publishers change.
    HashClient,
    /// The same for all messages of a topic, while the members stay. When one leaves, only its topics change.
    HashTopic,
    /// In turns among the members on the node of the publisher; if it has none, in turns elsewhere.
    LocalFirst,
    /// The one with the fewest messages that it has not acknowledged, in turns among equal ones; of a large group 64 are looked at.
    /// Between nodes as [`GroupStrategy::RoundRobin`]: how busy the others' members are is not known.
    LeastInFlight,
}

/// A member, on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId {
    /// The worker that has its session.
    pub worker: u8,
    /// What the worker knows it by. Must not be used again soon: a message may be on its way to it.
    pub client: u64,
}

/// A node that has had a message and no online member for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriedNode {
    /// Its Raft id.
    pub node: u64,
    /// It has an offline member that could take it in the end.
    pub offline: bool,
}

/// The nodes that have had a message.
pub type Tried = SmallVec<[TriedNode; 1]>;

/// A message that a member is chosen for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// How to choose.
    pub strategy: GroupStrategy,
    /// The Raft id of this node; 0 for a standalone one.
    pub own: u64,
    /// The publisher's client identifier.
    pub client: &'a str,
    /// The topic name.
    pub topic: &'a str,
    /// 64 random bits.
    pub random: u64,
    /// Another node chose this one: an online member of this node comes before those of other nodes.
    pub forwarded: bool,
    /// The nodes that have had the message; what came with it, if it was forwarded.
    pub tried: &'a [TriedNode],
    /// The members of this node that refused it.
    pub excluded: &'a [MemberId],
}

/// A message that came to so many nodes without an online member goes to no more of them: what a frame can say of them is bounded.
const MOST_TRIED: usize = 128;

/// Who gets the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<O> {
    /// This node's member.
    Member(Chosen<O>),
    /// A member of another node: forward the message.
    Node {
        /// Its Raft id.
        node: u64,
        /// To be sent along.
        tried: Tried,
    },
    /// There is no member anywhere that could take it.
    Nobody,
}

/// The chosen member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen<O> {
    /// Who it is.
    pub member: MemberId,
    /// The filter that it subscribed with: the group's key, or `$queue/filter`.
    pub filter: Arc<str>,
    /// Whether it is online. If not, no member is.
    pub online: bool,
    /// Its options.
    pub options: O,
}

/// What [`NodeGroups::join`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Joined<O> {
    /// The member had subscribed with this filter before: its options then. It is one subscription as before.
    pub replaced: Option<O>,
    /// The number of members of the group on this node.
    pub members: usize,
}

/// A subscription within its group.
struct Member<O> {
    key: MemberKey,
    options: O,
}

/// `$queue/f` and `$share/$queue/f` are one group: a client may have both subscriptions, and end one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct MemberKey {
    id: MemberId,
    queue: bool,
}

/// A group's members on this node, each list sorted by key, and whose turn it is.
struct Group<O> {
    online: Vec<Member<O>>,
    offline: Vec<Member<O>>,
    /// `$queue/filter`, once somebody subscribed with it.
    queue: Option<Arc<str>>,
    turns: Turns,
    places: Option<Box<Places>>,
}

impl<O> Default for Group<O> {
    fn default() -> Self {
        Self { online: Vec::new(), offline: Vec::new(), queue: None, turns: Turns::default(), places: None }
    }
}

impl<O> Group<O> {
    fn members(&self) -> usize {
        self.online.len() + self.offline.len()
    }

    fn remove(&mut self, key: MemberKey) -> Option<(bool, O)> {
        for (online, list) in [(true, &mut self.online), (false, &mut self.offline)] {
            if let Ok(at) = list.binary_search_by_key(&key, |member| member.key) {
                return Some((online, list.remove(at).options));
            }
        }
        None
    }

    fn insert(&mut self, key: MemberKey, online: bool, options: O) {
        let list = if online { &mut self.online } else { &mut self.offline };
        let at = list.partition_point(|member| member.key < key);
        list.insert(at, Member { key, options });
    }
}

const SHARDS: usize = 64;

/// Groups without members here, a shard: a node that only publishes remembers so many turns between nodes.
const FOREIGN: usize = 256;

struct Shard<O> {
    groups: HashMap<Arc<str>, Group<O>, RandomState>,
    /// How many groups have no member here.
    foreign: usize,
}

impl<O> Default for Shard<O> {
    fn default() -> Self {
        Self { groups: HashMap::default(), foreign: 0 }
    }
}

impl<O> Shard<O> {
    /// The group, made if it is not there, which forgets others that have no members if there are too many.
    fn group(&mut self, key: &Arc<str>) -> &mut Group<O> {
        if !self.groups.contains_key(key) {
            if self.foreign >= FOREIGN {
                self.groups.retain(|_, group| group.members() > 0);
                self.foreign = 0;
            }
            self.foreign += 1;
        }
        self.groups.entry(Arc::clone(key)).or_default()
    }
}

/// The groups of a node with their members. Cheap to clone, all clones are the same.
///
/// `O` is what is to be known of a member when a message is given to it: its options, its count of messages in flight.
pub struct NodeGroups<O>(Arc<Inner<O>>);

struct Inner<O> {
    shards: [Mutex<Shard<O>>; SHARDS],
    hasher: RandomState,
}

impl<O> Clone for NodeGroups<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<O> Default for NodeGroups<O> {
    fn default() -> Self {
        Self(Arc::new(Inner { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }))
    }
}

impl<O> NodeGroups<O> {
    /// No groups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard<O>> {
        let shard = self.0.hasher.hash_one(key) as usize % SHARDS;
        // A panic under the lock leaves lists that are whole: stopping all workers would be worse.
        self.0.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a client a member of the group of its filter (`$share/name/filter` or `$queue/filter`), or replaces its options. `None` if
    /// the filter is not shared. To be done before the route is announced.
    pub fn join(&self, filter: &str, member: MemberId, online: bool, options: O) -> Option<Joined<O>> {
        let (group_name, key) = subscription(filter, member)?;
        let mut shard = self.shard(&group_name);
        let group = shard.group(&group_name);
        let new = group.members() == 0;
        let replaced = group.remove(key).map(|(_, options)| options);
        group.insert(key, online, options);
        if key.queue && group.queue.is_none() {
            group.queue = Some(filter.into());
        }
        let members = group.members();
        shard.foreign -= usize::from(new);
        Some(Joined { replaced, members })
    }

    /// Ends a client's membership by this filter; gives its options. `None` if there was none.
    pub fn leave(&self, filter: &str, member: MemberId) -> Option<O> {
        let (group_name, key) = subscription(filter, member)?;
        let mut shard = self.shard(&group_name);
        let group = shard.groups.get_mut(&group_name)?;
        let (_, options) = group.remove(key)?;
        group.turns.left(key);
        if group.members() == 0 {
            shard.groups.remove(&group_name);
        }
        Some(options)
    }

    /// Says whether a member is connected. `false` if it is no member.
    pub fn set_online(&self, filter: &str, member: MemberId, online: bool) -> bool {
        let Some((group_name, key)) = subscription(filter, member) else {
            return false;
        };
        let mut shard = self.shard(&group_name);
        let Some(group) = shard.groups.get_mut(&group_name) else {
            return false;
        };
        let Some((_, options)) = group.remove(key) else {
            return false;
        };
        group.insert(key, online, options);
        true
    }

    /// The number of groups with members on this node and of these members, for metrics. Asks each shard in turn.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let mut counts = (0, 0);
        for shard in &self.0.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            counts.0 += shard.groups.len() - shard.foreign;
            counts.1 += shard.groups.values().map(Group::members).sum::<usize>();
        }
        counts
    }
}

impl<O: Clone> NodeGroups<O> {
    /// Chooses who of a group gets a message. `nodes` are the other nodes with members ([`crate::SharedTarget::nodes`]; none if the
    /// group has no route any more), `in_flight` tells how many messages a member has not acknowledged, for
    /// [`GroupStrategy::LeastInFlight`]; it is called under a lock and must not call back.
    pub fn choose(
        &self,
        group: &Arc<str>,
        nodes: &[GroupNode],
        ask: &Ask<'_>,
        in_flight: impl FnMut(MemberId, &O) -> u32,
    ) -> Choice<O> {
        let untried: SmallVec<[GroupNode; 8]> = nodes
            .iter()
            .filter(|_| ask.tried.len() < MOST_TRIED)
            .filter(|place| place.node != ask.own && !ask.tried.iter().any(|tried| tried.node == place.node))
            .copied()
            .collect();
        let mut shard = self.shard(group);
        // Only turns between nodes make a group that has no member here.
        let known = if untried.len() > 1 { Some(shard.group(group)) } else { shard.groups.get_mut(group) };
        let Some(known) = known else {
            return match untried.first() {
                Some(only) => forward(only.node, ask, false),
                None => last_resort(nodes, ask),
            };
        };
        let here = known.online.iter().any(|member| !ask.excluded.contains(&member.key.id));
        let own = here.then(|| GroupNode { node: ask.own, members: known.online.len().try_into().unwrap_or(u32::MAX) });
        let place = match own {
            Some(_) if untried.is_empty() || ask.forwarded || ask.strategy == GroupStrategy::LocalFirst => {
                Some(ask.own)
            }
            Some(own) => {
                let members = told(known.members());
                Some(place::choose(&mut known.places, group, Some((own, members)), &untried, nodes, ask))
            }
            None if untried.is_empty() => None,
            None => Some(place::choose(&mut known.places, group, None, &untried, nodes, ask)),
        };
        let offline = known.offline.iter().any(|member| !ask.excluded.contains(&member.key.id));
        let list = match place {
            Some(node) if node != ask.own => {
                return forward_from(node, ask, (!here).then_some(offline));
            }
            Some(_) => &known.online,
            None if offline => &known.offline,
            None => return last_resort(nodes, ask),
        };
        let Some(at) = known.turns.pick(list, group, ask, in_flight) else {
            // Not reached: one that is not excluded was seen above.
            return Choice::Nobody;
        };
        let Member { key, options } = &list[at];
        let filter = known.queue.as_ref().filter(|_| key.queue).unwrap_or(group);
        Choice::Member(Chosen {
            member: key.id,
            filter: Arc::clone(filter),
            online: place.is_some(),
            options: options.clone(),
        })
    }
}

/// On to a node that has not had the message, from one that has no online member for it.
fn forward<O>(node: u64, ask: &Ask<'_>, offline: bool) -> Choice<O> {
    forward_from(node, ask, Some(offline))
}

/// On to a node; `tried`: this one has no online member for it, but maybe an offline one.
fn forward_from<O>(node: u64, ask: &Ask<'_>, tried: Option<bool>) -> Choice<O> {
    let mut all = Tried::from_slice(ask.tried);
    if let Some(offline) = tried {
        match all.iter_mut().find(|tried| tried.node == ask.own) {
            Some(known) => known.offline = offline,
            None => all.push(TriedNode { node: ask.own, offline }),
        }
    }
    Choice::Node { node, tried: all }
}

/// No member is online anywhere and none is here: a node that had an offline one.
fn last_resort<O>(nodes: &[GroupNode], ask: &Ask<'_>) -> Choice<O> {
    let with_offline = ask
        .tried
        .iter()
        .find(|tried| tried.offline && tried.node != ask.own && nodes.iter().any(|place| place.node == tried.node));
    match with_offline {
        Some(tried) => forward(tried.node, ask, false),
        None => Choice::Nobody,
    }
}

fn subscription(filter: &str, id: MemberId) -> Option<(Arc<str>, MemberKey)> {
    match FilterKind::of(filter) {
        FilterKind::Shared { queue, .. } => Some((group_key(filter)?, MemberKey { id, queue })),
        FilterKind::Plain(_) => None,
    }
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
