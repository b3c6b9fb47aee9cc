//! Groups that share their messages: each message to one member, on whatever worker or node it is (MQTT 5, 4.8.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use raftmq_mqtt::Message;
use raftmq_routing::{
    Ask, Choice, Chosen, ForwardFrame, Forwards, GroupNode, GroupStrategy, MemberId, SharedForward, Targets, Tried,
    TriedNode, group_key,
};
use raftmq_session::{Forms, Matched, SubscriptionInfo};
use smallvec::SmallVec;

use super::inbox::Item;
use super::wheel::Key;
use super::{ClientState, Worker};
use crate::metrics::DropReason;

/// Which nodes and members a message of a group has been to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempt {
    /// Another node chose this one.
    pub(crate) forwarded: bool,
    pub(crate) tried: Tried,
    /// Members of this node that did not take it.
    pub(crate) excluded: SmallVec<[MemberId; 1]>,
}

/// A message of a group on its way to a worker of its node.
pub(crate) struct Shared {
    pub(crate) message: Message,
    /// The group's key.
    pub(crate) group: Arc<str>,
    /// The member that was chosen and the filter and subscription by which it is one; `None`: the worker has to choose.
    pub(crate) chosen: Option<ChosenMember>,
    pub(crate) attempt: Attempt,
}

pub(crate) struct ChosenMember {
    pub(crate) member: MemberId,
    pub(crate) filter: Arc<str>,
    pub(crate) info: SubscriptionInfo,
}

/// The name of a client of a worker as a member of groups.
pub(super) fn member_id(worker: u8, client: Key) -> MemberId {
    MemberId { worker, client: u64::from(client.generation) << 32 | u64::from(client.slot) }
}

fn client_of(member: MemberId) -> Key {
    Key { slot: member.client as u32, generation: (member.client >> 32) as u32 }
}

impl Worker {
    /// Gives a message to a member of a group. What goes to another node is noted in `forwards`. True: too much waits for the worker that it
    /// was handed to.
    pub(super) fn share(
        &mut self,
        message: &Message,
        group: &Arc<str>,
        nodes: &[GroupNode],
        mut attempt: Attempt,
        forwards: &mut Forwards,
    ) -> bool {
        loop {
            let ask = Ask {
                strategy: self.node.features.strategy,
                own: self.origins.node,
                client: message.publisher(),
                topic: message.topic(),
                random: rand::random(),
                forwarded: attempt.forwarded,
                tried: &attempt.tried,
                excluded: &attempt.excluded,
            };
            let in_flight = |_, member: &crate::features::Member| member.load.load(Ordering::Relaxed);
            let groups = &self.node.features.groups;
            // Who is on a node that just died has to wait for its return or for its end; others need not.
            let choice = match self.node.router.reachable(nodes) {
                Some(reachable) => match groups.choose(group, &reachable, &ask, in_flight) {
                    Choice::Nobody | Choice::Member(Chosen { online: false, .. }) => {
                        groups.choose(group, nodes, &ask, in_flight)
                    }
                    choice => choice,
                },
                None => groups.choose(group, nodes, &ask, in_flight),
            };
            match choice {
                Choice::Member(chosen) => {
                    self.counters.shared_dispatched();
                    if self.node.features.strategy == GroupStrategy::LeastInFlight {
                        chosen.options.load.fetch_add(1, Ordering::Relaxed);
                    }
                    let chosen =
                        ChosenMember { member: chosen.member, filter: chosen.filter, info: chosen.options.info };
                    if chosen.member.worker != self.id {
                        let (worker, group) = (chosen.member.worker, Arc::clone(group));
                        let shared = Shared { message: message.clone(), group, chosen: Some(chosen), attempt };
                        return self.send_to(worker, Item::Shared(Box::new(shared)));
                    }
                    if self.give(message, &chosen) {
                        return false;
                    }
                    attempt.excluded.push(chosen.member);
                }
                Choice::Node { node, tried } => {
                    forwards.group(node, SharedForward { key: Arc::clone(group), tried });
                    return false;
                }
                Choice::Nobody => {
                    self.counters.dropped(DropReason::NoMember, 1);
                    return false;
                }
            }
        }
    }

    /// A message of a group that another worker, or another node, chose this worker for.
    pub(super) fn receive_shared(&mut self, shared: Shared) {
        let Shared { message, group, chosen, mut attempt } = shared;
        if let Some(chosen) = chosen {
            if self.is_member(&chosen) && self.give(&message, &chosen) {
                return;
            }
            attempt.excluded.push(chosen.member);
            self.counters.shared_redispatched();
        }
        self.dispatch(&message, &group, attempt);
    }

    /// Looks for a member, on whatever node.
    fn dispatch(&mut self, message: &Message, group: &Arc<str>, attempt: Attempt) {
        let mut targets = Targets::default();
        self.node.routes.lookup(message.topic(), &mut targets);
        let nodes = targets.shared().iter().find(|target| target.key == *group).map(|target| &target.nodes[..]);
        let mut forwards = Forwards::new();
        self.share(message, group, nodes.unwrap_or_default(), attempt, &mut forwards);
        self.send_frames(message, forwards);
    }

    /// What a session that ends, or a subscription that ended, has not delivered: others of the groups get it. A QoS 2 delivery that has
    /// begun is not among it.
    pub(super) fn redispatch_all(&mut self, client: Key, left: Vec<(Arc<str>, Message)>) {
        for (filter, message) in left {
            if let Some(group) = group_key(&filter) {
                let attempt =
                    Attempt { excluded: SmallVec::from_buf([member_id(self.id, client)]), ..Attempt::default() };
                self.counters.shared_redispatched();
                self.dispatch(&message, &group, attempt);
            }
        }
    }

    /// Sends the frames of a message to other nodes. What a node's link does not take is for another one of the group.
    pub(super) fn send_frames(&mut self, message: &Message, mut forwards: Forwards) {
        // Each round has one node less to try, and there are fewer than this.
        for _ in 0..=u8::MAX {
            if forwards.is_empty() {
                return;
            }
            let node = Arc::clone(&self.node);
            let (mut taken, mut lost) = (0, 0);
            let mut refused: Vec<(u64, SharedForward)> = Vec::new();
            let result = forwards.frames(message, |nodes, frame| {
                let frame = Bytes::from(frame);
                let count = node.router.forward(nodes, &frame);
                taken += count;
                if count < nodes.len() {
                    let (to, groups) = match (nodes, ForwardFrame::decode(&frame)) {
                        ([to], Ok(frame)) => {
                            lost += usize::from(frame.plain);
                            (*to, frame.shared)
                        }
                        _ => {
                            lost += nodes.len() - count;
                            (0, Vec::new())
                        }
                    };
                    refused.extend(groups.into_iter().map(|group| (to, group)));
                }
            });
            if let Err(error) = result {
                tracing::warn!(%error, topic = message.topic(), "a message of a group cannot be forwarded");
            }
            self.counters.forwarded(taken as u64);
            self.counters.dropped(DropReason::LinkQueueFull, lost as u64);
            let mut again = Forwards::new();
            for (to, SharedForward { key, mut tried }) in refused {
                tried.push(TriedNode { node: to, offline: false });
                let mut targets = Targets::default();
                self.node.routes.lookup(message.topic(), &mut targets);
                let nodes = targets.shared().iter().find(|target| target.key == key);
                let attempt = Attempt { tried, ..Attempt::default() };
                let nodes = nodes.map(|target| target.nodes.clone()).unwrap_or_default();
                self.share(message, &key, &nodes, attempt, &mut again);
            }
            forwards = again;
        }
    }

    /// Whether the client still has the subscription: it gets no message that was on its way to it when it unsubscribed
    /// `[MQTT-3.10.4-2]` `[MQTT311-3.10.4-2]`.
    fn is_member(&mut self, chosen: &ChosenMember) -> bool {
        let key = client_of(chosen.member);
        self.stands_for(key, &chosen.filter).is_some()
    }

    /// Gives a message to a member on this worker; false: it does not take it.
    fn give(&mut self, message: &Message, chosen: &ChosenMember) -> bool {
        let key = client_of(chosen.member);
        if self.clients.get_mut(key).is_none() {
            return false;
        }
        let now = self.node.clock.now();
        let matched = Matched { share: Some(Arc::clone(&chosen.filter)), ..Matched::by(&chosen.info) };
        let mut forms = Forms::new(message.clone(), now);
        match self.deliver_to(key.slot, &matched, &mut forms, now) {
            None => true,
            // Nobody gets what has expired.
            Some(DropReason::Expired) => {
                self.counters.dropped(DropReason::Expired, 1);
                true
            }
            Some(_) => false,
        }
    }

    /// Notes how much a member has to do, for the strategy that goes by it.
    pub(super) fn note_load(&mut self, conn: Key) {
        if self.node.features.strategy != GroupStrategy::LeastInFlight {
            return;
        }
        let Some(client) = self.conns.get_mut(conn).and_then(|conn| conn.client) else {
            return;
        };
        let Some(load) = self.clients.get_mut(client).and_then(|client| client.load.clone()) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(conn) {
            let (in_flight, queued) = conn.session.session().messages();
            load.store(u32::try_from(in_flight + queued).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// The memberships of a client go online or offline with it.
    pub(super) fn set_members_online(&mut self, client: Key, filters: &[Arc<str>], online: bool) {
        let member = member_id(self.id, client);
        for filter in filters {
            let filter = self.effective_filter(client, filter);
            self.node.features.groups.set_online(&filter, member, online);
        }
    }

    /// Whether a client is connected now.
    pub(super) fn is_online(&mut self, client: Key) -> bool {
        self.clients.get_mut(client).is_some_and(|client| matches!(client.state, ClientState::Online(_)))
    }
}

/// Whether a filter is that of a group.
pub(super) fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/") || filter.starts_with("$queue/")
}
