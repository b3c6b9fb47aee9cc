//! A worker's lane against a shard, over a network that loses, doubles, delays and reorders: everything is applied once and in order, and answered.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use raftmq_mqtt::QoS;
use raftmq_shard::{
    Answer, Command, Lane, LaneOptions, NodeBoot, Op, OpAnswer, Proposal, Sent, SlotSet, Ticket, Verdict, stamped,
};

use common::{MemoryStore, Random, Replica, claim, message, name, subscription};

const NODE: NodeBoot = NodeBoot { node: 1, boot: 1 };
const SMALL: LaneOptions = LaneOptions { max_ops: 20, max_bytes: 3_000, batch_ops: 4, batch_bytes: 600, window: 2 };

/// The shard, with a session that gets everything that is published.
struct Shard {
    replica: Replica,
    index: u64,
    map_epoch: u64,
}

impl Shard {
    fn new() -> Self {
        let mut shard = Self { replica: Replica::new(MemoryStore::default(), 1 << 20), index: 0, map_epoch: 0 };
        shard.next_map();
        let mut lane = Lane::new(NodeBoot { node: 9, boot: 1 }, 0, LaneOptions::default());
        lane.push(Op::Claim(Box::new(claim("all"))), ()).unwrap();
        let filters = vec![subscription("#", QoS::AtLeastOnce)];
        lane.push(Op::Subscribe { client: name("all"), epoch: 1, filters }, ()).unwrap();
        while let Some(Proposal { command, ticket }) = lane.next(1) {
            let answer = shard.apply(&command);
            lane.on_answer(ticket, answer, |(), _| {});
        }
        assert!(lane.is_idle());
        shard
    }

    fn apply(&mut self, command: &Command) -> Answer {
        self.index += 1;
        let entry = stamped(1, self.index, &command.encode());
        Answer::decode(&self.replica.apply(self.index, &entry).0).unwrap()
    }

    fn next_map(&mut self) {
        self.map_epoch += 1;
        let epoch = self.map_epoch;
        self.apply(&Command::Place { epoch, slots: SlotSet::ALL });
    }

    /// What was published, in the order of the log.
    fn published(&mut self) -> Vec<String> {
        self.apply(&Command::Open { node: NodeBoot { node: 9, boot: 1 }, lane: 7 });
        let mut published = Vec::new();
        let mut next = 0;
        loop {
            let up_to = published.len() as u64 + 4_000;
            let ops = vec![Op::Grant { client: name("all"), epoch: 1, up_to }];
            let node = NodeBoot { node: 9, boot: 1 };
            let batch = raftmq_shard::Batch { node, lane: 7, first: next, map_epoch: self.map_epoch, ops };
            self.apply(&Command::Batch(batch));
            next += 1;
            let after = published.len() as u64;
            let part = self.replica.machine.deliveries(&name("all"), after, 4_000, usize::MAX).unwrap().unwrap();
            if part.sent.is_empty() {
                return published;
            }
            published.extend(part.sent.into_iter().map(|delivery| match delivery.sent {
                Sent::Publish { message, .. } => String::from_utf8(message.payload().to_vec()).unwrap(),
                Sent::Release => panic!(),
            }));
        }
    }
}

/// What is on its way: to the shard, and back.
#[derive(Default)]
struct Network {
    there: Vec<Proposal>,
    back: Vec<(Ticket, Option<Answer>)>,
}

#[test]
fn everything_once_and_in_order_whatever_the_network_does() {
    let mut withheld = 0;
    for seed in 0..150 {
        let mut random = Random(seed);
        let mut shard = Shard::new();
        let mut lane = Lane::new(NODE, 0, SMALL);
        let mut network = Network::default();
        let (mut pushed, mut done, mut given_up, mut withdrawn) = (0_u64, BTreeMap::new(), Vec::new(), Vec::new());
        let (mut changes, mut closed, mut known) = (0, false, 1);
        let mut highest = 1;
        let calm_after = 1_500;
        for step in 0..calm_after + 600 {
            let calm = step >= calm_after;
            if !calm && random.chance(60) && lane.has_room() {
                let payload = format!("{pushed}");
                let sent = lane.push(Op::Publish { namespace: 0, message: message("a", &payload) }, pushed);
                if sent.is_ok() {
                    pushed += 1;
                }
            }
            if !calm && random.chance(2) {
                let which = pushed.saturating_sub(random.below(6));
                if lane.give_up(|token| *token == which) {
                    given_up.push(which);
                }
            }
            if !calm && random.chance(2) {
                let which = pushed.saturating_sub(random.below(6));
                if lane.withdraw(|token| *token == which) {
                    withdrawn.push(which);
                }
            }
            if !calm && changes < 40 && random.chance(3) {
                shard.next_map();
                changes += 1;
            }
            // A worker that has not heard of the newest map uses the one before, and one that is ahead of the shard the next one.
            if !calm && random.chance(30) {
                known = shard.map_epoch + u64::from(random.chance(50));
            }
            highest = highest.max(known);
            if calm {
                // Which comes to it in the end.
                (shard.map_epoch..highest).for_each(|_| shard.next_map());
                known = shard.map_epoch;
            }
            let map = known;
            while let Some(proposal) = lane.next(map) {
                if !calm && random.chance(10) {
                    network.there.push(proposal.clone());
                }
                network.there.push(proposal);
            }
            while !network.there.is_empty() && random.chance(70) {
                // Mostly in order.
                let at = if calm || random.chance(90) { 0 } else { random.below(network.there.len() as u64) as usize };
                let proposal = network.there.remove(at);
                if !calm && random.chance(8) {
                    if random.chance(70) {
                        network.back.push((proposal.ticket, None));
                    }
                    // Or it comes much later, when the lane has long proposed it again.
                    network.there.push(proposal);
                    continue;
                }
                let answer = shard.apply(&proposal.command);
                let lost = !calm && random.chance(8);
                network.back.push((proposal.ticket, (!lost).then_some(answer)));
            }
            while !network.back.is_empty() && random.chance(70) {
                let at = if calm || random.chance(90) { 0 } else { random.below(network.back.len() as u64) as usize };
                let (ticket, answer) = network.back.remove(at);
                let Some(answer) = answer else {
                    lane.on_failure(ticket);
                    continue;
                };
                let verdict = lane.on_answer(ticket, answer, |token, answer| {
                    let applied = matches!(answer, OpAnswer::Published { matched: 1, .. });
                    assert!(applied || (answer == OpAnswer::Done && withdrawn.contains(&token)), "{token}: {answer:?}");
                    assert!(
                        done.last_key_value().is_none_or(|(last, _)| *last < token),
                        "seed {seed}: {token} too late"
                    );
                    assert!(done.insert(token, applied).is_none(), "seed {seed}: {token} was answered twice");
                });
                match verdict {
                    Verdict::Goes | Verdict::Behind => {}
                    Verdict::WrongShard { next, .. } => {
                        // To where the newer map says: here it is the same shard, through the same lane, in the same order.
                        for (op, token) in lane.take_from(next) {
                            lane.push(op, token).unwrap();
                        }
                    }
                    Verdict::Over | Verdict::Unknown => closed = true,
                }
            }
            // Nobody answers for long: what was lost altogether is given up by its deadline.
            if random.chance(if calm { 5 } else { 1 }) && network.back.is_empty() && network.there.is_empty() {
                lane.time_out();
            }
        }
        assert!(!closed && lane.is_idle(), "seed {seed}: {lane:?}");
        let published = shard.published();
        let mut expected: Vec<String> = (0..pushed).map(|token| token.to_string()).collect();
        // What was given up was published or not, and once at most; what was withdrawn, as its answer says.
        expected.retain(|text| {
            let token: u64 = text.parse().unwrap();
            if given_up.contains(&token) { published.contains(text) } else { done[&token] }
        });
        withheld += done.values().filter(|applied| !**applied).count();
        assert_eq!(published, expected, "seed {seed}");
        assert_eq!(done.len() + given_up.len(), pushed as usize, "seed {seed}");
        assert!(pushed > 150, "seed {seed}: {pushed}");
    }
    assert!(withheld > 100, "{withheld}");
}

#[test]
fn bounds() {
    let mut lane = Lane::new(NODE, 0, SMALL);
    let publish = |size| Op::Publish { namespace: 0, message: message("a", &"x".repeat(size)) };
    // One always fits, whatever its size.
    lane.push(publish(10_000), 0).unwrap();
    assert!(!lane.has_room());
    assert_eq!(lane.push(publish(1), 1).unwrap_err().1, 1);
    // What it occupied is free when nobody waits for it any more, its number is not.
    assert!(lane.give_up(|token| *token == 0) && !lane.give_up(|token| *token == 0));
    (1..20).for_each(|token| lane.push(Op::Skip, token).unwrap());
    assert!(lane.push(Op::Skip, 20).is_err());
}

#[test]
fn windows_and_batches() {
    let mut shard = Shard::new();
    let mut lane = Lane::new(NODE, 3, SMALL);
    assert_eq!(lane.next(1), None);
    (0..12).for_each(|token| lane.push(Op::Skip, token).unwrap());
    let open = lane.next(1).unwrap();
    assert_eq!(open.command, Command::Open { node: NODE, lane: 3 });
    assert_eq!(lane.next(1), None);
    let answer = shard.apply(&open.command);
    assert_eq!(lane.on_answer(open.ticket, answer, |_, _| {}), Verdict::Goes);
    let [first, second] = [lane.next(1).unwrap(), lane.next(1).unwrap()];
    let range = |proposal: &Proposal| match &proposal.command {
        Command::Batch(batch) => (batch.first, batch.ops.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!((range(&first), range(&second), lane.next(1)), ((0, 4), (4, 4), None));
    // The first is lost: both come again, and what was applied meanwhile is not applied again.
    lane.on_failure(first.ticket);
    lane.on_failure(second.ticket);
    let [first, second] = [lane.next(1).unwrap(), lane.next(1).unwrap()];
    let mut done = Vec::new();
    for proposal in [second, first.clone(), first] {
        let answer = shard.apply(&proposal.command);
        lane.on_answer(proposal.ticket, answer, |token, _| done.push(token));
    }
    assert_eq!(done, [0, 1, 2, 3]);
    assert_eq!(range(&lane.next(1).unwrap()), (4, 4));
}

#[test]
fn a_node_that_was_declared_down() {
    let mut shard = Shard::new();
    let mut lane = Lane::new(NODE, 0, SMALL);
    lane.push(Op::Skip, 7).unwrap();
    shard.apply(&Command::NodeDown { node: NODE });
    let open = lane.next(1).unwrap();
    let answer = shard.apply(&open.command);
    assert_eq!(lane.on_answer(open.ticket, answer, |_, _| {}), Verdict::Over);
    assert!(lane.is_over() && !lane.has_room());
    assert_eq!((lane.next(1), lane.push(Op::Skip, 8).is_err(), lane.close()), (None, true, vec![7]));
}

/// Two processes that take themselves for the same worker.
#[test]
fn a_stream_that_has_what_this_lane_never_sent() {
    let mut shard = Shard::new();
    let mut other = Lane::new(NODE, 0, SMALL);
    (0..4).for_each(|token| other.push(Op::Skip, token).unwrap());
    for _ in 0..2 {
        let Proposal { command, ticket } = other.next(1).unwrap();
        let answer = shard.apply(&command);
        other.on_answer(ticket, answer, |_, _| {});
    }
    let mut lane = Lane::new(NODE, 0, SMALL);
    lane.push(Op::Skip, 7).unwrap();
    let open = lane.next(1).unwrap();
    let answer = shard.apply(&open.command);
    assert_eq!(lane.on_answer(open.ticket, answer, |_, _| {}), Verdict::Over);
}
