//! Random commands: the machine answers, and can be read, as the simple reference; and so do replicas of it that are flushed,
//! started again and made from snapshots at random, with next to no memory.

#![allow(clippy::unwrap_used)]

mod common;
mod reference;

use std::sync::Arc;

use raftmq_mqtt::{Message, QoS};
use raftmq_shard::{
    Answer, Batch, Bounds, Claim, Command, DropPolicy, FilterCursor, HandedOn, How, Keep, Keeper, Kept, LIVE, Name,
    NodeBoot, Op, PageLimits, QueueLimits, SeqRange, SlotSet, Subscription, Will, WillEnd, slot, stamped,
};

use common::{MemoryStore, Random, Replica, message_of};
use reference::Reference;

const TOPICS: [&str; 9] = ["a", "a/b", "a/b/c", "a/c", "b", "b/b", "/", "$x/b", "a b/c"];
const FILTERS: [&str; 14] =
    ["a", "a/b", "a/+", "+/b", "#", "a/#", "+", "b/#", "+/+/c", "/", "$x/#", "+/b/#", "$share/g/a", "a/b#"];

/// What kind of commands come more often.
#[derive(Clone, Copy)]
struct Shape {
    clients: u64,
    max_messages: u32,
    ops: u64,
    commands: u64,
    publish: u64,
}

/// Few clients that meet all the time.
const SMALL: Shape = Shape { clients: 4, max_messages: 6, ops: 4, commands: 250, publish: 20 };
/// More clients than what is done in a step.
const WIDE: Shape = Shape { clients: 300, max_messages: 5, ops: 40, commands: 150, publish: 5 };
/// Queues of many blocks.
const LONG: Shape = Shape { clients: 3, max_messages: 1_500, ops: 80, commands: 120, publish: 70 };

#[test]
fn few_clients() {
    run(SMALL, 60);
}

#[test]
fn many_clients() {
    run(WIDE, 4);
}

#[test]
fn long_queues() {
    run(LONG, 4);
}

/// `SEEDS=from..to` chooses other seeds, `FACTOR=n` more of them.
fn run(shape: Shape, seeds: u64) {
    let factor: u64 = std::env::var("FACTOR").map_or(1, |factor| factor.parse().unwrap());
    let range = std::env::var("SEEDS").ok().map(|range| {
        let (from, to) = range.split_once("..").unwrap();
        from.parse().unwrap()..to.parse().unwrap()
    });
    for seed in range.unwrap_or(0..seeds * factor) {
        let guard = Seed(seed);
        sequence(shape, seed);
        std::mem::forget(guard);
    }
}

/// Says which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("failed with seed {0}: SEEDS={0}..{1}", self.0, self.0 + 1);
    }
}

struct Cluster {
    reference: Reference,
    /// Everything in memory, never flushed.
    plain: Replica,
    /// Flushed and started again.
    flushed: Replica,
    /// Made from a snapshot of the one before.
    young: Option<Replica>,
    log: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    /// Term and time of whoever leads.
    clock: (u64, u64),
}

fn sequence(shape: Shape, seed: u64) {
    let mut random = Random(seed);
    let cache = random.below(3_000) as usize;
    let mut cluster = Cluster {
        reference: Reference::new(),
        plain: Replica::new(MemoryStore::default(), 1 << 20),
        flushed: Replica::new(MemoryStore::default(), cache),
        young: None,
        log: Vec::new(),
        answers: Vec::new(),
        clock: (1, 0),
    };
    cluster.apply(Command::Place { epoch: 1, slots: SlotSet::ALL });
    for node in 1..=3 {
        cluster.apply(Command::Open { node: NodeBoot { node, boot: 1 }, lane: 0 });
    }
    for count in 0..shape.commands {
        let command = Generator { random: &mut random, shape, reference: &cluster.reference }.command();
        let time = match random.below(100) {
            _ if matches!(command, Command::Tick { .. }) => cluster.passes(random.below(1_400)),
            0..30 => cluster.passes(random.below(20)),
            // Another one leads.
            30..33 => {
                cluster.clock = (cluster.clock.0 + 1, random.below(700));
                Some(cluster.clock)
            }
            // One that leads no more, and a clock that went back.
            33 => Some((cluster.clock.0 - 1, random.below(100_000))),
            34 => Some((cluster.clock.0, cluster.clock.1 / 2)),
            // It slept for long.
            35 => cluster.passes(random.below(400_000)),
            _ => None,
        };
        cluster.apply_at(time, command);
        if random.chance(10) {
            cluster.flushed.flush();
            if random.chance(20) {
                cluster.young = Some(Replica::new(cluster.flushed.store.snapshot(), random.below(1_000) as usize));
            }
        }
        if random.chance(4) {
            cluster.flushed.restart(&cluster.log, &cluster.answers);
        }
        if random.chance(2)
            && let Some(young) = &mut cluster.young
        {
            young.restart(&cluster.log, &cluster.answers);
        }
        if count % 10 == 0 {
            cluster.read(&mut random, shape);
        }
        if random.chance(3) {
            cluster.compare(random.below(9) as u32 + 1);
        }
    }
    while !cluster.reference.is_settled() {
        cluster.apply(Command::Tick { wall_ms: 0 });
    }
    for _ in 0..200 {
        cluster.apply(Command::Tick { wall_ms: 0 });
    }
    cluster.read(&mut random, shape);
    cluster.compare(50);
    cluster.flushed.flush();
    cluster.plain.flush();
    assert_eq!(cluster.flushed.store.entries(), cluster.plain.store.entries());
    // Nothing is kept to which nothing refers.
    let numbers = cluster.plain.machine.numbers();
    assert_eq!(numbers.messages as usize, cluster.reference.messages());
    let kept = cluster.plain.store.entries().keys().filter(|key| key[0] == 10).count();
    assert_eq!(kept, cluster.reference.messages());
    let ended = cluster.plain.store.entries().keys().filter(|key| matches!(key[0], 16 | 17)).count();
    assert_eq!(ended, 0, "ended sessions that nothing removes any more");
}

impl Cluster {
    fn passes(&mut self, ms: u64) -> Option<(u64, u64)> {
        self.clock.1 += ms;
        Some(self.clock)
    }

    fn apply(&mut self, command: Command) {
        self.apply_at(None, command);
    }

    fn apply_at(&mut self, time: Option<(u64, u64)>, command: Command) {
        let mut entry = command.encode();
        assert_eq!(Command::decode(&entry).as_ref(), Ok(&command));
        if let Some((term, ms)) = time {
            entry = stamped(term, ms, &entry);
            self.reference.time(term, ms);
        }
        let answer = self.apply_to_all(&entry);
        let expected = self.reference.apply(command.clone());
        assert_eq!(Answer::decode(&answer).unwrap(), expected, "{command:?}");
    }

    fn apply_to_all(&mut self, entry: &[u8]) -> Vec<u8> {
        self.log.push(entry.to_vec());
        let index = self.log.len() as u64;
        let (answer, effects) = self.plain.apply(index, entry);
        let others = [Some(&mut self.flushed), self.young.as_mut()];
        for other in others.into_iter().flatten() {
            // A young one may be behind by what came since it was made.
            while other.machine.applied() + 1 < index {
                let next = other.machine.applied() as usize;
                other.apply(next as u64 + 1, &self.log[next]);
            }
            let (found, hints) = other.apply(index, entry);
            assert_eq!((&found, &hints), (&answer, &effects));
            assert_eq!(other.machine.rolling_hash(), self.plain.machine.rolling_hash());
        }
        self.answers.push(answer.clone());
        answer
    }

    /// Compares all records of the replicas.
    fn compare(&mut self, limit: u32) {
        let mut from = Vec::new();
        loop {
            let answer = self.apply_to_all(&Command::Digest { from, limit }.encode());
            match Answer::decode(&answer).unwrap() {
                Answer::Digest { next: Some(next), .. } => from = next,
                Answer::Digest { next: None, .. } => break,
                other => panic!("{other:?}"),
            }
        }
    }

    fn read(&mut self, random: &mut Random, shape: Shape) {
        let reference = &self.reference;
        for replica in [Some(&mut self.plain), Some(&mut self.flushed), self.young.as_mut()].into_iter().flatten() {
            let machine = &mut replica.machine;
            for number in 0..shape.clients {
                let name = client(number);
                let expected = reference.client(&name);
                let found = machine.client(&name).unwrap();
                assert_eq!(found.is_some(), expected.is_some(), "{name:?}");
                let (Some(found), Some(expected)) = (found, expected) else { continue };
                assert_eq!((found.owner, found.older), reference.seen(expected), "{name:?}");
                assert_eq!(
                    (found.epoch, found.ends_at_ms, found.will_at_ms),
                    (expected.epoch, expected.ends_at, expected.will_at)
                );
                let sent = machine.deliveries(&name, 0, usize::MAX, usize::MAX).unwrap();
                assert_eq!(sent.is_some(), expected.session.is_some());
                let (Some(session), Some(sent)) = (found.session, sent) else { continue };
                let of = &reference.sessions[&expected.session.unwrap()];
                assert_eq!(session.subscriptions as usize, of.subscriptions.len());
                let mut subscriptions = machine.subscriptions(&name, None, 2).unwrap();
                while let Some(last) = subscriptions.last().map(|last| Arc::clone(&last.filter)) {
                    let more = machine.subscriptions(&name, Some(&last), 2).unwrap();
                    if more.is_empty() {
                        break;
                    }
                    subscriptions.extend(more);
                }
                assert!(subscriptions.iter().eq(of.subscriptions.values()));
                assert_eq!((session.last, session.granted), (of.next - 1, of.granted));
                assert_eq!(session.dropped, of.dropped);
                assert_eq!(session.waiting as usize, of.queue.range(of.granted + 1..).count());
                let kept = of.queue.values().filter(|queued| !queued.received);
                assert_eq!(session.messages as usize, kept.clone().count());
                let bytes: usize = kept.map(|queued| queued.message.message.wire_len()).sum();
                assert_eq!(session.bytes, bytes as u64);
                let staged = |id: &u16| of.staged.iter().any(|(staged, ..)| staged == id);
                let inbound: Vec<u16> = of.inbound.iter().copied().filter(|id| !staged(id)).collect();
                assert_eq!(session.inbound, inbound);
                assert_eq!(sent.waits, of.first_waiting().is_some());
                let all: Vec<_> = sent.sent.into_iter().map(|delivery| (delivery.seq, delivery.sent)).collect();
                assert_eq!(all, reference.sent(&name).unwrap(), "{name:?}");
                // In parts it is the same.
                let (mut parts, mut after) = (Vec::new(), 0);
                loop {
                    let (max, max_bytes) = (random.below(5) as usize + 1, random.below(300) as usize + 1);
                    let part = machine.deliveries(&name, after, max, max_bytes).unwrap().unwrap().sent;
                    let Some(last) = part.last() else { break };
                    assert!(part.len() <= max);
                    after = last.seq;
                    parts.extend(part.into_iter().map(|delivery| (delivery.seq, delivery.sent)));
                }
                assert_eq!(parts, all);
            }
            for namespace in 0..2 {
                for filter in FILTERS {
                    let expected: Vec<_> = reference
                        .retained_matching(namespace, filter)
                        .into_iter()
                        .map(|kept| (kept.message.clone(), reference.left(kept)))
                        .collect();
                    let (mut found, mut cursor) = (Vec::new(), None);
                    loop {
                        let limits = PageLimits {
                            messages: random.below(3) as usize + 1,
                            bytes: random.below(300) as usize + 1,
                            steps: random.below(4) as usize + 1,
                        };
                        let page = machine.retained_matching(namespace, filter, cursor.as_ref(), limits).unwrap();
                        assert!(page.messages.len() <= limits.messages);
                        let before_last = page.messages.iter().rev().skip(1).map(|kept| kept.message.wire_len());
                        assert!(before_last.sum::<usize>() < limits.bytes);
                        found.extend(page.messages.into_iter().map(|kept| (kept.message, kept.lifetime_ms)));
                        cursor = page.next;
                        if cursor.is_none() {
                            break;
                        }
                    }
                    assert_eq!(found, expected, "{filter}");
                }
                for topic in TOPICS {
                    let expected = reference.retained_matching(namespace, topic);
                    let found = machine.retained(namespace, topic).unwrap().map(|kept| kept.message);
                    assert_eq!(found.as_ref(), expected.first().map(|kept| &kept.message));
                }
            }
            let decided = machine.unrouted(0, usize::MAX).unwrap();
            let expected = reference.unrouted.iter();
            assert!(
                decided
                    .iter()
                    .map(|entry| (entry.number, entry.namespace, &entry.message, entry.lifetime_ms))
                    .eq(expected.map(|(number, kept)| (*number, kept.namespace, &kept.message, reference.left(kept))))
            );
            let waiting: Vec<u32> = machine.destinations().unwrap().into_iter().map(|(to, _)| to).collect();
            let mut expected: Vec<u32> = reference.outbox.keys().map(|(to, _)| *to).collect();
            expected.dedup();
            assert_eq!(waiting, expected);
            for destination in [1, 2, LIVE] {
                let outbox = machine.outbox(destination, 0, usize::MAX).unwrap();
                let expected = reference.outbox.range((destination, 0)..=(destination, u64::MAX));
                let found = outbox.iter().map(|entry| {
                    (entry.number, entry.namespace, &entry.message, entry.lifetime_ms, entry.keep, entry.live)
                });
                assert!(found.eq(expected.map(|((_, number), kept)| (
                    *number,
                    kept.namespace,
                    &kept.message,
                    reference.left(kept),
                    reference.keep_of(destination, *number),
                    reference.is_live(destination, *number),
                ))));
                assert_eq!(machine.received_from(destination).unwrap(), reference.received_from(destination));
            }
            let (mut filters, mut cursor) = (Vec::new(), FilterCursor::default());
            loop {
                let (page, next) = machine.filters(&cursor, 3).unwrap();
                filters.extend(page.into_iter().map(|known| (known.namespace, known.filter)));
                match next {
                    Some(next) => cursor = next,
                    None => break,
                }
            }
            let living = reference.sessions.values().flat_map(|session| {
                session.subscriptions.keys().map(move |filter| (session.client.namespace, filter.clone()))
            });
            let ended = reference.ended.values();
            let ended = ended.flat_map(|(space, filters)| filters.iter().map(move |filter| (*space, filter.clone())));
            let mut expected: Vec<_> = living.chain(ended).collect();
            filters.sort();
            expected.sort();
            assert_eq!(filters, expected);
            let changes = machine.routes(0, usize::MAX).unwrap();
            let changes = changes.into_iter().map(|it| (it.number, (it.namespace, it.filter, it.added)));
            assert!(changes.eq(reference.routes.clone()));
            assert_eq!(machine.route_numbers(), (reference.last_route, reference.announced));
            let numbers = machine.numbers();
            expected.dedup();
            assert_eq!(numbers.filters, expected.len());
            assert_eq!(numbers.subscriptions as usize, filters.len());
            assert_eq!(numbers.now_ms, reference.now);
            assert_eq!(numbers.clients as usize, reference.clients.len());
            assert_eq!(numbers.sessions as usize, reference.sessions.len());
            assert_eq!(numbers.retained as usize, reference.retained.len());
            assert_eq!(numbers.dropped, reference.dropped);
            let queued = reference.sessions.values().flat_map(|session| session.queue.values());
            assert_eq!(numbers.queued as usize, queued.filter(|queued| !queued.received).count());
            for (node, known) in &reference.nodes {
                let boot = NodeBoot { node: *node, boot: known.boot };
                let mut owned = machine.owned(boot, None, 2).unwrap();
                while let Some(last) = owned.last().cloned() {
                    let more = machine.owned(boot, Some(&last), 2).unwrap();
                    if more.is_empty() {
                        break;
                    }
                    owned.extend(more);
                }
                let mentions = |client: &&reference::Client| {
                    client.owner == Some(boot) || client.older.iter().any(|(older, _)| older.node == boot)
                };
                assert_eq!(owned.len(), reference.clients.values().filter(mentions).count());
            }
        }
    }
}

fn client(number: u64) -> Name {
    Name::new((number % 5 == 3).into(), &format!("c{number}"))
}

struct Generator<'a> {
    random: &'a mut Random,
    shape: Shape,
    reference: &'a Reference,
}

impl Generator<'_> {
    fn command(&mut self) -> Command {
        let node = self.random.below(3) + 1;
        let boot = self.reference.nodes.get(&node).map_or(1, |known| known.boot);
        match self.random.below(100) {
            0..3 => Command::Open {
                node: NodeBoot { node, boot: (boot + self.random.below(4)).saturating_sub(1).max(1) },
                lane: self.random.below(2) as u16,
            },
            3..5 => {
                Command::NodeDown { node: NodeBoot { node, boot: (boot + 1).saturating_sub(self.random.below(3)) } }
            }
            5..25 => Command::Tick { wall_ms: self.random.below(9) },
            25 => self.place(),
            26 => Command::Jump {
                to_ms: self.reference.now + self.random.below(3_000) - self.random.below(900).min(self.reference.now),
            },
            27 => Command::Level { level: 1 },
            28..31 => Command::Lead {
                ops: (0..self.random.below(self.shape.ops) + 1)
                    .map(|_| match self.random.below(10) {
                        0 => self.op(NodeBoot { node, boot }),
                        1..4 => Op::Announced {
                            up_to: self.reference.announced
                                + self.random.below(2 + self.reference.last_route - self.reference.announced),
                        },
                        _ => {
                            let kind = 85 + self.random.below(14);
                            self.op_of_none(kind)
                        }
                    })
                    .collect(),
            },
            _ => self.batch(),
        }
    }

    fn place(&mut self) -> Command {
        let mut slots = SlotSet::ALL;
        if self.random.chance(50) {
            let away = client(self.random.below(self.shape.clients));
            let topic = slot(0, self.random.pick(&TOPICS).unwrap());
            let away = [slot(away.namespace, &away.id), topic];
            slots = SlotSet::EMPTY;
            (0..raftmq_shard::SLOTS).filter(|slot| !away.contains(slot)).for_each(|slot| slots.insert(slot));
        }
        Command::Place { epoch: (self.reference.map_epoch + 2).saturating_sub(self.random.below(3)), slots }
    }

    fn batch(&mut self) -> Command {
        let open: Vec<(u64, u16)> = self
            .reference
            .nodes
            .iter()
            .flat_map(|(node, known)| known.lanes.keys().map(|lane| (*node, *lane)))
            .collect();
        let Some(&(node, lane)) = self.random.pick(&open) else {
            let (node, known) = self.reference.nodes.last_key_value().unwrap();
            return Command::Open { node: NodeBoot { node: *node, boot: known.boot + 1 }, lane: 0 };
        };
        let known = &self.reference.nodes[&node];
        let next = known.lanes[&lane].len() as u64;
        let (first, boot) = match self.random.below(40) {
            0..4 => (next.saturating_sub(self.random.below(9)), known.boot),
            4 => (next.saturating_sub(self.random.below(100)), known.boot),
            5 => (next + 1 + self.random.below(3), known.boot),
            6 => (next, known.boot.saturating_sub(1)),
            _ => (next, known.boot),
        };
        let map_epoch = if self.random.chance(98) { self.reference.map_epoch } else { self.random.below(9) };
        let node = NodeBoot { node, boot };
        let ops = (0..self.random.below(self.shape.ops) + 1).map(|_| self.op(node)).collect();
        Command::Batch(Batch { node, lane, first, map_epoch, ops })
    }

    fn op(&mut self, from: NodeBoot) -> Op {
        if self.random.chance(self.shape.publish) {
            let (namespace, message) = (self.namespace(), self.message());
            if message.retain() && self.random.chance(70) {
                let (messages, bytes) = (self.random.below(12), self.random.below(2_000));
                return Op::Retain { namespace, message, bounds: Bounds { messages, bytes } };
            }
            return Op::Publish { namespace, message };
        }
        let mut client = client(self.random.below(self.shape.clients));
        let kind = self.random.below(100);
        if kind < 16 {
            return Op::Claim(Box::new(self.claim(client)));
        }
        if kind >= 78 {
            return self.op_of_none(kind);
        }
        // Mostly one that is connected there.
        for _ in 0..20 {
            if self.reference.client(&client).is_some_and(|known| known.owner == Some(from)) {
                break;
            }
            client = self::client(self.random.below(self.shape.clients));
        }
        let known = self.reference.client(&client).cloned().unwrap_or_default();
        let epoch = if self.random.chance(97) { known.epoch } else { self.random.below(30) };
        let session = known.session.and_then(|session| self.reference.sessions.get(&session));
        let next = session.map_or(1, |session| session.next);
        let granted = session.map_or(1, |session| session.granted);
        let oldest = session.and_then(|session| session.queue.keys().next().copied()).unwrap_or(next);
        match kind {
            16..22 => {
                let expiry_s = self.random.chance(30).then(|| self.expiry());
                let will = *self.random.pick(&[WillEnd::Keep, WillEnd::Keep, WillEnd::Drop, WillEnd::Publish]).unwrap();
                Op::Disconnect { client, epoch, expiry_s, will }
            }
            22..34 => {
                let filters = (0..self.random.below(4)).map(|_| self.subscription()).collect();
                Op::Subscribe { client, epoch, filters }
            }
            34 => Op::Older { client, epoch },
            35..37 => {
                let filters = (0..self.random.below(3)).map(|_| (*self.random.pick(&FILTERS).unwrap()).into());
                Op::Unsubscribe { client, epoch, filters: filters.collect() }
            }
            37..50 => Op::Ack { client, epoch, seqs: self.seqs(oldest, granted) },
            50..58 => Op::Rec { client, epoch, seqs: self.seqs(oldest, granted) },
            58..70 => {
                let up_to = match self.random.below(12) {
                    0 => next + self.random.below(4_200),
                    1 => self.random.below(5_000),
                    _ => granted + self.random.below((next - granted.min(next)) + 3),
                };
                Op::Grant { client, epoch, up_to }
            }
            70..74 => {
                let shard = self.random.below(2) as u32 + 1;
                let keep = self.random.chance(40).then(|| self.keep());
                let keeper = keep.map(|keep| Box::new(Keeper { shard, keep }));
                let destinations = self.destinations();
                let packet_id = self.random.below(4) as u16;
                Op::Receive2 { client, epoch, packet_id, message: self.message(), destinations, keeper }
            }
            74..76 => Op::Outcomes { client, epoch, packet_ids: (0..4).filter(|_| self.random.chance(80)).collect() },
            _ => Op::Release { client, epoch, packet_id: self.random.below(4) as u16 },
        }
    }

    fn op_of_none(&mut self, kind: u64) -> Op {
        match kind {
            78..83 => {
                // Mostly one for which somebody waits.
                let mut waited = self.reference.clients.iter().filter(|(_, client)| !client.older.is_empty());
                let count = waited.clone().count() as u64;
                match waited.nth(self.random.below(count) as usize) {
                    Some((key, known)) => {
                        let (older, _) = self.random.pick(&known.older).unwrap();
                        Op::Closed { client: Name::new(key.1, &key.2), epoch: older.epoch }
                    }
                    None => Op::Closed { client: client(0), epoch: 1 },
                }
            }
            83..85 => {
                let delay_ms = self.random.below(4_000);
                let bounds = Bounds { messages: 20, bytes: self.random.below(4_000) };
                Op::Delay { namespace: self.namespace(), message: self.message(), delay_ms, bounds }
            }
            85..91 => {
                let first = self.reference.unrouted.keys().next().copied().unwrap_or(1);
                let shard = self.random.below(2) as u32 + 1;
                let keeper = self.random.chance(30).then(|| Box::new(Keeper { shard, keep: self.keep() }));
                Op::Route { entry: first + self.random.below(2), destinations: self.destinations(), keeper }
            }
            91..95 => {
                let source = self.random.below(2) as u32 + 1;
                let number = self.reference.received_from(source) + self.random.below(3);
                let lifetime_ms = self.random.chance(30).then(|| self.random.below(3_000));
                let keep = self.random.chance(40).then(|| self.keep());
                Op::HandOff { source, number, namespace: self.namespace(), message: self.message(), lifetime_ms, keep }
            }
            95..99 => {
                let destination = self.destinations().first().copied().unwrap_or(1);
                let outbox = &self.reference.outbox;
                let first = outbox.range((destination, 0)..).next().map_or(0, |((_, number), _)| *number);
                let up_to = first + self.random.below(3);
                // Now and then one of which nothing is said.
                let mut kept = Vec::new();
                for number in first..=up_to {
                    if self.random.chance(90) {
                        let mut destinations = self.destinations();
                        destinations.retain(|to| *to != destination);
                        kept.push(HandedOn { number, kept: self.kept(), destinations });
                    }
                }
                Op::HandedOff { destination, up_to, kept }
            }
            _ => Op::Skip,
        }
    }

    fn claim(&mut self, client: Name) -> Claim {
        let durable = self.random.chance(85);
        Claim {
            client,
            yields: false,
            clean_start: self.random.chance(25),
            expiry_s: if durable && self.random.chance(90) { self.expiry() } else { 0 },
            will: self
                .random
                .chance(50)
                .then(|| Will { message: self.message(), delay_s: self.random.below(4) as u32 }),
            limits: QueueLimits {
                max_messages: self.random.below(self.shape.max_messages.into()) as u32 + 1,
                max_bytes: if self.random.chance(70) { 1 << 30 } else { self.random.below(600) },
                drop: if self.random.chance(50) { DropPolicy::Newest } else { DropPolicy::Oldest },
                max_subscriptions: self.random.below(8) as u32 + 1,
            },
            durable,
        }
    }

    fn expiry(&mut self) -> u32 {
        match self.random.below(6) {
            0 => 0,
            1 => u32::MAX,
            2 => 1,
            _ => self.random.below(20) as u32,
        }
    }

    fn subscription(&mut self) -> Subscription {
        Subscription {
            filter: (*self.random.pick(&FILTERS).unwrap()).into(),
            qos: QoS::from_u8(self.random.below(3) as u8).unwrap(),
            no_local: self.random.chance(20),
            retain_as_published: self.random.chance(40),
            identifier: self.random.below(4) as u32,
        }
    }

    fn seqs(&mut self, oldest: u64, granted: u64) -> Vec<SeqRange> {
        (0..self.random.below(3) + 1)
            .map(|_| {
                let first = (oldest + self.random.below((granted + 2).saturating_sub(oldest)))
                    .saturating_sub(self.random.below(2));
                let most = if self.random.chance(10) { 300 } else { 2 };
                SeqRange { first, last: first + self.random.below(most) }
            })
            .collect()
    }

    fn keep(&mut self) -> Keep {
        let bounds = Bounds { messages: self.random.below(20), bytes: self.random.below(4_000) };
        let how = match self.random.below(10) {
            0..6 => How::Retain { bounds },
            6..9 => How::Delay { delay_ms: self.random.below(4_000), bounds },
            _ => How::TooLong,
        };
        Keep { how, tell: self.random.chance(50) }
    }

    fn kept(&mut self) -> Kept {
        match self.random.below(10) {
            0..2 => Kept::NoRoom,
            2..4 => Kept::Unkept,
            _ => Kept::Done { change: self.random.below(9) },
        }
    }

    fn destinations(&mut self) -> Vec<u32> {
        (0..self.random.below(3)).map(|_| *self.random.pick(&[1, 2, LIVE]).unwrap()).collect()
    }

    fn namespace(&mut self) -> u32 {
        self.random.chance(20).into()
    }

    fn message(&mut self) -> Message {
        let topic = self.random.pick(&TOPICS).unwrap();
        let publisher = format!("c{}", self.random.below(self.shape.clients + 1));
        let qos = QoS::from_u8((self.random.below(5) as u8).div_ceil(2)).unwrap();
        let most = if self.random.chance(20) { 1 } else { 60 };
        let payload = vec![b'x'; self.random.below(most) as usize];
        let expiry_ms = self.random.chance(30).then(|| self.random.below(5_000));
        message_of(topic, &publisher, qos, self.random.chance(30), &payload, expiry_ms)
    }
}
