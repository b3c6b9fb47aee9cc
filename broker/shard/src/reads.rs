//! What a leader, or whoever becomes one, reads. Every list is bounded and goes on where it ended.
//!
//! Reading changes nothing but what is in memory.

mod deliveries;
mod groups;
mod retained;

use raftmq_mqtt::{Message, QoS};

use crate::answer::Older;
use crate::command::Subscription;
use crate::effect::Dropped;
use crate::keep::{Keep, Room};
use crate::key::{self, Key, OWNED_NAME};
use crate::machine::ShardMachine;
use crate::record::{
    Client, Node, OPTIONS_NO_LOCAL, OPTIONS_RETAIN, Options, Outgoing, Owned, Peer, Route, Session, Stored, Timer,
};
use crate::store::{Store, StoreError};
use crate::{Name, NodeBoot};

pub use deliveries::{Deliveries, Delivery, Sent, packet_id};
pub use groups::{GroupInfo, GroupMember, NoteToSend};
pub use retained::{PageLimits, RetainedCursor, RetainedMessage, RetainedPage};

/// What is known of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// Where it is connected.
    pub owner: Option<NodeBoot>,
    /// The epoch of its last connection.
    pub epoch: u64,
    /// Older connections for which this one waits.
    pub older: Vec<Older>,
    /// When its session ends, in the shard's time.
    pub ends_at_ms: Option<u64>,
    /// When its will is published, in the shard's time.
    pub will_at_ms: Option<u64>,
    /// Its durable session.
    pub session: Option<SessionInfo>,
}

/// What is known of a durable session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Subscriptions.
    pub subscriptions: u32,
    /// Messages in its queue.
    pub messages: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that are not granted.
    pub waiting: u32,
    /// The last sequence number given.
    pub last: u64,
    /// Sequence numbers up to here are granted.
    pub granted: u64,
    /// Messages dropped: expired, not taken, oldest.
    pub dropped: [u64; 3],
    /// Packet identifiers of QoS 2 messages from the client that it has not released; without those that a shard has to keep, whose outcome was not asked for.
    pub inbound: Vec<u16>,
}

/// A message in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// Its number for the destination, or among those that wait to be routed.
    pub number: u64,
    /// The tenant.
    pub namespace: u32,
    /// The message.
    pub message: Message,
    /// What is left of its expiry interval, in milliseconds.
    pub lifetime_ms: Option<u64>,
    /// What the destination does with it before it is published.
    pub keep: Option<Keep>,
    /// Live subscribers get it after that, too: no node sends it to them.
    pub live: bool,
}

/// A subscription of a durable session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFilter {
    /// The tenant.
    pub namespace: u32,
    /// The filter.
    pub filter: String,
}

/// A node that has opened streams, or was declared down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownNode {
    /// The node, with the latest boot that opened one.
    pub node: NodeBoot,
    /// The last boot that was declared down.
    pub down: Option<u64>,
}

impl KnownNode {
    /// Whether the latest boot was not declared down.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.down.is_none_or(|down| down < self.node.boot)
    }

    /// The boots before the latest one, by the last of them, where they were not declared down. They are over, since a later one has opened a stream; until that is said, whoever was
    /// connected under them is held for connected.
    #[must_use]
    pub fn earlier(&self) -> Option<NodeBoot> {
        let earlier = NodeBoot { node: self.node.node, boot: self.node.boot.checked_sub(1)? };
        self.down.is_none_or(|down| down < earlier.boot).then_some(earlier)
    }
}

/// A change of the shard's routes that has not been announced for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// Its number; they have no gaps.
    pub number: u64,
    /// The tenant.
    pub namespace: u32,
    /// The filter.
    pub filter: String,
    /// The shard has sessions with this filter from now on; or none any more.
    pub added: bool,
}

/// Where a list of filters goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterCursor(Vec<u8>);

/// Numbers for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The shard's time, in milliseconds.
    pub now_ms: u64,
    /// The latest wall clock of a leader, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// What is switched on.
    pub level: u32,
    /// Clients that are known.
    pub clients: u64,
    /// Durable sessions.
    pub sessions: u64,
    /// Their subscriptions, those of ended sessions that are still to be removed included.
    pub subscriptions: u64,
    /// Distinct filters of these.
    pub filters: usize,
    /// Messages that are kept, each once.
    pub messages: u64,
    /// Messages in queues.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Topics with a retained message.
    pub retained: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Dropped: expired, not taken, oldest.
    pub dropped: [u64; 3],
}

impl Numbers {
    /// Messages dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize]
    }
}

impl<S: Store> ShardMachine<S> {
    /// What is known of a client; what its nodes' being down leaves to be done counts as done.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn client(&mut self, client: &Name) -> Result<Option<ClientInfo>, StoreError> {
        let name = key::client_name(client.namespace, &client.id);
        let Some(mut known) = self.cache.get::<Client>(&key::client(&name))?.cloned() else { return Ok(None) };
        let mut is_down = |node| self.down_since(node).map(|since| since.is_some());
        if let Some(owner) = known.owner
            && is_down(owner)?
        {
            known.owner = None;
        }
        let mut older = Vec::new();
        for candidate in known.older.iter().map(|former| former.at) {
            if !is_down(candidate.node)? {
                older.push(candidate);
            }
        }
        let session = match known.session {
            Some(session) => self.cache.get::<Session>(&key::session(session))?.map(|session| SessionInfo {
                subscriptions: session.subscriptions,
                messages: session.messages,
                bytes: session.bytes,
                waiting: session.waiting,
                last: session.next - 1,
                granted: session.granted,
                dropped: session.dropped,
                inbound: session.answerable(),
            }),
            None => None,
        };
        self.cache.trim();
        Ok(Some(ClientInfo {
            owner: known.owner,
            epoch: known.epoch,
            older,
            ends_at_ms: known.ends_at,
            will_at_ms: known.will_at,
            session,
        }))
    }

    /// Where a client is connected, or was when its node went down.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn owner(&mut self, client: &Name) -> Result<Option<NodeBoot>, StoreError> {
        let name = key::client_name(client.namespace, &client.id);
        let owner = self.cache.get::<Client>(&key::client(&name))?.and_then(|known| known.owner);
        self.cache.trim();
        Ok(owner)
    }

    /// Subscriptions of a client's durable session, in the order of their filters: at most `limit` after `after`. None: no session, or no more.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn subscriptions(
        &mut self,
        client: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Subscription>, StoreError> {
        let name = key::client_name(client.namespace, &client.id);
        let Some(id) = self.cache.get::<Client>(&key::client(&name))?.and_then(|client| client.session) else {
            return Ok(Vec::new());
        };
        let from = after.map_or_else(|| key::subscription(id, ""), |filter| key::after(&key::subscription(id, filter)));
        let page = self.cache.scan::<Options>(&from, &key::subscription(id + 1, ""), limit)?;
        self.cache.trim();
        let subscription = |(key, options): &(Key, Options)| {
            let (_, filter) = key::read_subscription(key)?;
            Some(Subscription {
                filter: filter.into(),
                qos: QoS::from_u8(options.flags & 0b11)?,
                no_local: options.flags & OPTIONS_NO_LOCAL != 0,
                retain_as_published: options.flags & OPTIONS_RETAIN != 0,
                identifier: options.identifier,
            })
        };
        Ok(page.iter().filter_map(subscription).collect())
    }

    /// Clients that are connected to a boot of a node, or for whose closing of an older connection others wait; at most `limit` after `after`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn owned(&self, node: NodeBoot, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, StoreError> {
        let from = match after {
            None => key::owned_from(node.node, node.boot),
            Some(name) => key::after(&key::owned(node, &key::client_name(name.namespace, &name.id))),
        };
        let found = self.cache.scan::<Owned>(&from, &key::after_boot(node.node, node.boot), limit)?;
        let names = found.iter().filter_map(|(key, _)| key::read_client_name(&key[OWNED_NAME..]));
        Ok(names.map(|(namespace, id)| Name::new(namespace, id)).collect())
    }

    /// Filters of subscriptions, for announcing routes: at most `limit`, a filter of several sessions as often. `None`: these were the last.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn filters(
        &mut self,
        cursor: &FilterCursor,
        limit: usize,
    ) -> Result<(Vec<KnownFilter>, Option<FilterCursor>), StoreError> {
        let first = key::subscription(0, "");
        let from = cursor.0.as_slice().max(&first[..]);
        let page = self.cache.scan::<Options>(from, &key::table_end(key::table::SUBSCRIPTION), limit.max(1))?;
        let mut filters = Vec::with_capacity(page.len());
        for (key, _) in &page {
            if let Some((session, filter)) = key::read_subscription(key)
                && let Some((namespace, _)) = self.session_space(session)?
            {
                filters.push(KnownFilter { namespace, filter: filter.to_owned() });
            }
        }
        self.cache.trim();
        let next = page.last().map(|(last, _)| FilterCursor(key::after(last).to_vec()));
        Ok((filters, next.filter(|_| page.len() >= limit.max(1))))
    }

    /// The nodes that have opened streams, or were declared down: the latest boot of each, and the last one that was declared down.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn nodes(&self) -> Result<Vec<KnownNode>, StoreError> {
        let found = self.cache.scan::<Node>(&key::node(0), &key::table_end(key::table::NODE), usize::MAX)?;
        let known = |(key, node): (Key, Node)| KnownNode {
            node: NodeBoot { node: key::last_number(&key).unwrap_or_default(), boot: node.boot },
            down: node.down,
        };
        Ok(found.into_iter().map(known).collect())
    }

    /// The epoch of the map of slots that the shard has.
    #[must_use]
    pub fn map_epoch(&self) -> u64 {
        self.meta.map_epoch
    }

    /// Changes of the shard's routes after a number, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn routes(&mut self, after: u64, limit: usize) -> Result<Vec<RouteChange>, StoreError> {
        let from = key::route(after.saturating_add(1));
        let page = self.cache.scan::<Route>(&from, &key::table_end(key::table::ROUTE), limit)?;
        self.cache.trim();
        let change = |(key, route): (Key, Route)| RouteChange {
            number: key::last_number(&key).unwrap_or_default(),
            namespace: route.namespace,
            filter: route.filter.into(),
            added: route.added,
        };
        Ok(page.into_iter().map(change).collect())
    }

    /// The number of the last change of the shard's routes, and the one up to which they have been announced.
    #[must_use]
    pub fn route_numbers(&self) -> (u64, u64) {
        (self.meta.last_route, self.meta.announced)
    }

    /// When a [`crate::Command::Tick`] has something to do, in the shard's time: now, if work is done in steps; `None`, if nothing waits for
    /// a time.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn next_tick(&mut self) -> Result<Option<u64>, StoreError> {
        let meta = &self.meta;
        if !meta.sweeps.is_empty() || meta.ended_subscriptions > 0 || meta.ended_queues > 0 {
            return Ok(Some(meta.now_ms));
        }
        let end = key::table_end(key::table::TIMER);
        let first = self.cache.scan::<Timer>(&key::timers_from(0), &end, 1)?;
        self.cache.trim();
        Ok(first.first().and_then(|(key, _)| key::read_timer(key)).map(|(due, ..)| due))
    }

    /// Messages for a destination after a number, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn outbox(&mut self, destination: u32, after: u64, limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        let from = key::outbox(destination, after.saturating_add(1));
        self.outgoing(&from, &key::after(&key::outbox(destination, u64::MAX)), limit)
    }

    /// The destinations for which there are messages in the outbox, each with the number up to which they were handed off.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn destinations(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        let peers = self.cache.scan::<Peer>(&key::peer(0), &key::table_end(key::table::PEER), usize::MAX)?;
        let waiting = peers.into_iter().filter(|(_, peer)| peer.sent > peer.handed_off);
        Ok(waiting.filter_map(|(key, peer)| Some((key::last_small(&key)?, peer.handed_off))).collect())
    }

    /// Wills and delayed messages that wait for [`crate::Op::Route`], after a number, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn unrouted(&mut self, after: u64, limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        let from = key::unrouted(after.saturating_add(1));
        self.outgoing(&from, &key::table_end(key::table::UNROUTED), limit)
    }

    /// The number of the last message that was handed off by a source.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn received_from(&mut self, source: u32) -> Result<u64, StoreError> {
        Ok(self.cache.get::<Peer>(&key::peer(source))?.map_or(0, |peer| peer.received))
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let meta = &self.meta;
        Numbers {
            now_ms: meta.now_ms,
            wall_ms: meta.wall_ms,
            level: meta.level,
            clients: meta.clients,
            sessions: meta.sessions,
            subscriptions: meta.subscriptions,
            filters: self.index.filters(),
            messages: meta.messages,
            queued: meta.queued,
            queued_bytes: meta.queued_bytes,
            retained: meta.retained,
            delayed: meta.delayed,
            dropped: meta.dropped,
        }
    }

    /// As many as are asked for, and fit into one proposal.
    fn outgoing(&mut self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        let page = self.cache.scan::<Outgoing>(from, to, limit)?;
        let (mut messages, mut room) = (Vec::with_capacity(page.len()), Room::default());
        for (key, outgoing) in page {
            if let Some(stored) = self.cache.get::<Stored>(&key::message(outgoing.message))? {
                if !room.takes(stored.message.wire_len()) {
                    break;
                }
                messages.push(OutboxMessage {
                    number: key::last_number(&key).unwrap_or_default(),
                    namespace: stored.namespace,
                    message: stored.message.clone(),
                    lifetime_ms: outgoing.expires_at.map(|at| at.saturating_sub(self.meta.now_ms)),
                    live: outgoing.staged.as_ref().is_some_and(|staged| staged.session == 0),
                    keep: outgoing
                        .staged
                        .map(|staged| staged.keeper.keep.after(self.meta.now_ms.saturating_sub(staged.since))),
                });
            }
        }
        self.cache.trim();
        Ok(messages)
    }
}
