//! Groups over nodes and workers: each message to exactly one member, whatever comes and goes meanwhile.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{tests::ask, *};
use crate::{LocalRoutes, LocalRoutesOptions, Progress, RoutesCommand, RoutesMachine, SharedRoutes, Targets};

const NODES: u64 = 4;
const FILTER: &str = "$share/g/t/+";
const TOPIC: &str = "t/1";

/// A member's node and its id there.
type Who = (u64, MemberId);

struct Node {
    id: u64,
    local: LocalRoutes,
    /// This node's copy of the routes.
    machine: RoutesMachine,
    groups: NodeGroups<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    online: bool,
    full: bool,
    /// Its route was committed and applied everywhere: its SUBACK was sent.
    announced: bool,
}

#[derive(Debug)]
struct Flying {
    message: usize,
    from: Option<u64>,
    at: u64,
    tried: Tried,
    hops: usize,
}

#[derive(Debug, Default)]
struct Message {
    /// Members that were there all the time and took messages, and those of them that were online.
    able: BTreeSet<Who>,
    able_online: BTreeSet<Who>,
    given: Vec<(Who, bool)>,
    /// Its node died with it.
    lost: bool,
}

struct Cluster {
    strategy: GroupStrategy,
    now: u64,
    nodes: BTreeMap<u64, Node>,
    members: BTreeMap<Who, State>,
    flying: Vec<Flying>,
    messages: Vec<Message>,
    random: u64,
}

impl Cluster {
    fn new(strategy: GroupStrategy) -> Self {
        let mut cluster = Self {
            strategy,
            now: 0,
            nodes: BTreeMap::new(),
            members: BTreeMap::new(),
            flying: Vec::new(),
            messages: Vec::new(),
            random: 1,
        };
        for id in 1..=NODES {
            let shared = SharedRoutes::new();
            shared.set_own_node(id);
            let options = LocalRoutesOptions { linger_ms: 3, ..LocalRoutesOptions::default() };
            let local = LocalRoutes::new(shared.clone(), options);
            cluster
                .nodes
                .insert(id, Node { id, local, machine: RoutesMachine::new(shared), groups: NodeGroups::new() });
        }
        for id in 1..=NODES {
            let open = cluster.nodes.get_mut(&id).unwrap().local.reopen(id, 1, 1, 1, &mut Progress::default());
            let response = cluster.apply(&open);
            cluster.nodes.get_mut(&id).unwrap().local.on_opened(1, &response);
        }
        cluster
    }

    fn apply(&mut self, command: &RoutesCommand) -> crate::RoutesResponse {
        let bytes = command.encode();
        let answers: Vec<_> = self.nodes.values_mut().map(|node| node.machine.apply(1, &bytes)).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
        crate::RoutesResponse::decode(&answers[0])
    }

    /// What is to be proposed is committed and applied by all.
    fn settle(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            while let Some(batch) = self.nodes.get_mut(&id).unwrap().local.next_batch(self.now) {
                let response = self.apply(&batch.command);
                let local = &mut self.nodes.get_mut(&id).unwrap().local;
                local.on_result(self.now, batch.stream, batch.seq, Some((1, &response)), &mut Progress::default());
            }
        }
        self.members.values_mut().for_each(|state| state.announced = true);
    }

    fn join(&mut self, who: Who, online: bool) {
        let Some(node) = self.nodes.get_mut(&who.0) else { return };
        if node.groups.join(FILTER, who.1, online, ()).unwrap().replaced.is_none() {
            node.local.worker_added(FILTER, who.1.worker);
            self.members.insert(who, State { online, full: false, announced: false });
        } else {
            self.set_online(who, online);
        }
    }

    fn leave(&mut self, who: Who) {
        let Some(node) = self.nodes.get_mut(&who.0) else { return };
        if node.groups.leave(FILTER, who.1).is_some() {
            node.local.worker_removed(self.now, FILTER, who.1.worker);
            self.members.remove(&who);
            self.unable(who);
        }
    }

    fn set_online(&mut self, who: Who, online: bool) {
        let Some(state) = self.members.get_mut(&who) else { return };
        state.online = online;
        assert!(self.nodes[&who.0].groups.set_online(FILTER, who.1, online));
        for message in self.messages.iter_mut().filter(|_| !online) {
            message.able_online.remove(&who);
        }
    }

    fn set_full(&mut self, who: Who, full: bool) {
        if let Some(state) = self.members.get_mut(&who) {
            state.full = full;
            if full {
                self.unable(who);
            }
        }
    }

    fn unable(&mut self, who: Who) {
        for message in &mut self.messages {
            message.able.remove(&who);
            message.able_online.remove(&who);
        }
    }

    /// A node dies. What was on its way to it goes back to the sender, as a link that knows what was acknowledged can do.
    fn die(&mut self, id: u64) {
        if self.nodes.len() == 1 || self.nodes.remove(&id).is_none() {
            return;
        }
        self.apply(&RoutesCommand::NodeDown { node: id, through: None });
        for who in self.members.keys().copied().filter(|who| who.0 == id).collect::<Vec<_>>() {
            self.members.remove(&who);
            self.unable(who);
        }
        for flying in std::mem::take(&mut self.flying) {
            match flying.from {
                _ if flying.at != id => self.flying.push(flying),
                Some(sender) if self.nodes.contains_key(&sender) => {
                    self.route(Flying { at: sender, from: None, ..flying })
                }
                _ => self.messages[flying.message].lost = true,
            }
        }
    }

    fn publish(&mut self, at: u64) {
        if !self.nodes.contains_key(&at) {
            return;
        }
        let able = |online: bool| {
            self.members
                .iter()
                .filter(|(_, state)| state.announced && !state.full && (state.online || !online))
                .map(|(who, _)| *who)
                .collect()
        };
        let message = Message { able: able(false), able_online: able(true), ..Message::default() };
        self.messages.push(message);
        self.route(Flying { message: self.messages.len() - 1, from: None, at, tried: Tried::new(), hops: 0 });
    }

    /// A node that has the message gives it to a member or sends it on.
    fn route(&mut self, flying: Flying) {
        assert!(flying.hops <= 2 * NODES as usize + 2, "it goes around: {flying:?}");
        let node = &self.nodes[&flying.at];
        let mut targets = Targets::default();
        node.machine.routes().lookup(TOPIC, &mut targets);
        let others = targets.shared().first().map_or(&[][..], |target| &target.nodes[..]);
        let mut excluded = Vec::new();
        loop {
            self.random = crate::hash::mix(self.random, 7);
            let ask = Ask {
                own: node.id,
                random: self.random,
                forwarded: flying.from.is_some(),
                tried: &flying.tried,
                excluded: &excluded,
                ..ask(self.strategy)
            };
            match node.groups.choose(&FILTER.into(), others, &ask, |_, ()| 0) {
                Choice::Member(chosen) => {
                    let who = (node.id, chosen.member);
                    let state = self.members[&who];
                    assert_eq!(state.online, chosen.online);
                    if state.full {
                        excluded.push(chosen.member);
                        continue;
                    }
                    return self.messages[flying.message].given.push((who, chosen.online));
                }
                Choice::Node { node: to, tried } => {
                    assert!(self.nodes.contains_key(&to));
                    let (from, hops) = (Some(node.id), flying.hops + 1);
                    return self.flying.push(Flying { from, at: to, tried, hops, message: flying.message });
                }
                Choice::Nobody => return,
            }
        }
    }

    fn arrive(&mut self, at: usize) {
        if at < self.flying.len() {
            let flying = self.flying.remove(at);
            self.route(flying);
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        while !self.flying.is_empty() {
            self.arrive(0);
        }
        for message in &self.messages {
            prop_assert!(message.given.len() <= 1, "given twice: {:?}", message);
            if message.lost {
                continue;
            }
            prop_assert!(message.able.is_empty() || message.given.len() == 1, "given to nobody: {:?}", message);
            let online = message.given.first().is_some_and(|(_, online)| *online);
            prop_assert!(message.able_online.is_empty() || online, "given to an offline one: {:?}", message);
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(Who, bool),
    Leave(Who),
    Online(Who, bool),
    Full(Who, bool),
    Die(u64),
    Settle(u64),
    Publish(u64),
    Arrive(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = (1..=NODES, 0_u8..2, 0_u64..2).prop_map(|(node, worker, client)| (node, MemberId { worker, client }));
    let step = prop_oneof![
        6 => (who.clone(), any::<bool>()).prop_map(|(who, online)| Step::Join(who, online)),
        4 => who.clone().prop_map(Step::Leave),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, online)| Step::Online(who, online)),
        2 => (who, any::<bool>()).prop_map(|(who, full)| Step::Full(who, full)),
        1 => (1..=NODES).prop_map(Step::Die),
        6 => (0_u64..4).prop_map(Step::Settle),
        8 => (1..=NODES).prop_map(Step::Publish),
        8 => (0_usize..3).prop_map(Step::Arrive),
    ];
    prop::collection::vec(step, 0..120)
}

fn strategies() -> impl Strategy<Value = GroupStrategy> {
    prop::sample::select(vec![
        GroupStrategy::RoundRobin,
        GroupStrategy::Random,
        GroupStrategy::Sticky,
        GroupStrategy::HashClient,
        GroupStrategy::HashTopic,
        GroupStrategy::LocalFirst,
        GroupStrategy::LeastInFlight,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn each_message_goes_to_exactly_one_member(strategy in strategies(), steps in steps()) {
        let mut cluster = Cluster::new(strategy);
        for step in steps {
            match step {
                Step::Join(who, online) => cluster.join(who, online),
                Step::Leave(who) => cluster.leave(who),
                Step::Online(who, online) => cluster.set_online(who, online),
                Step::Full(who, full) => cluster.set_full(who, full),
                Step::Die(node) => cluster.die(node),
                Step::Settle(time) => {
                    cluster.now += time;
                    cluster.settle();
                }
                Step::Publish(node) => cluster.publish(node),
                Step::Arrive(at) => cluster.arrive(at),
            }
        }
        cluster.check()?;
    }
}

#[test]
fn round_robin_over_nodes_is_even_over_members() {
    let mut cluster = Cluster::new(GroupStrategy::RoundRobin);
    let members: Vec<Who> = [(1, 0, 1), (1, 1, 1), (2, 0, 1), (3, 0, 1), (3, 0, 2), (3, 1, 3)]
        .map(|(node, worker, client)| (node, MemberId { worker, client }))
        .to_vec();
    members.iter().for_each(|&who| cluster.join(who, true));
    cluster.settle();
    for publisher in 1..=NODES {
        cluster.messages.clear();
        for _ in 0..60 {
            cluster.publish(publisher);
            cluster.arrive(0);
        }
        for who in &members {
            let given = cluster.messages.iter().filter(|message| message.given == [(*who, true)]).count();
            assert_eq!(given, 10, "{who:?} of what was published on {publisher}");
        }
    }
}

#[test]
fn hash_and_sticky_agree_on_all_nodes() {
    for strategy in [GroupStrategy::HashTopic, GroupStrategy::HashClient, GroupStrategy::Sticky] {
        let mut cluster = Cluster::new(strategy);
        for (node, client) in [(1, 1), (2, 1), (2, 2), (3, 1)] {
            cluster.join((node, MemberId { worker: 0, client }), true);
        }
        cluster.settle();
        for publisher in 1..=NODES {
            cluster.publish(publisher);
            cluster.arrive(0);
        }
        let given: BTreeSet<_> = cluster.messages.iter().map(|message| message.given.clone()).collect();
        assert_eq!(given.len(), 1, "{strategy:?}: {given:?}");
    }
}
