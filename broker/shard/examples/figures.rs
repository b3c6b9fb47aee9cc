//! What a shard costs: `cargo run --release -p raftmq-shard --example figures`.
//!
//! CPU time of publishing a message of 256 B to one durable session and acknowledging it, with commands encoded and decoded as in a log;
//! memory of 100,000 durable sessions with a subscription each, and of a session with a million messages, over a store that is in this process too
//! (a map; its bytes are counted apart).

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use raftmq_mqtt::QoS;
use raftmq_shard::{Batch, Claim, Command, Name, Op, SeqRange, SlotSet};

use common::{LIMITS, MemoryStore, NODE, Replica, message_of, subscription};

/// As the server would: a flush for so much that has changed, and a cache of so much.
const FLUSH_BYTES: usize = 32 << 20;
const CACHE_BYTES: usize = 32 << 20;

fn main() {
    rate();
    sessions();
    queue();
}

struct Shard {
    replica: Replica,
    index: u64,
    next: u64,
}

impl Shard {
    fn new() -> Self {
        let mut shard = Self { replica: Replica::new(MemoryStore::default(), CACHE_BYTES), index: 0, next: 0 };
        shard.apply(&Command::Place { epoch: 1, slots: SlotSet::ALL }.encode());
        shard.apply(&Command::Open { node: NODE, lane: 0 }.encode());
        shard
    }

    fn batch(&mut self, ops: Vec<Op>) -> Vec<u8> {
        let count = ops.len() as u64;
        let command = Command::Batch(Batch { node: NODE, lane: 0, first: self.next, map_epoch: 1, ops });
        self.next += count;
        command.encode()
    }

    fn apply(&mut self, command: &[u8]) {
        self.index += 1;
        self.replica.machine.apply(self.index, command, &mut Vec::new()).unwrap();
        if self.replica.machine.dirty_bytes() > FLUSH_BYTES {
            self.replica.flush();
        }
    }

    fn ops(&mut self, ops: Vec<Op>) {
        let command = self.batch(ops);
        self.apply(&command);
    }

    /// A durable session with a subscription.
    fn session(&self, n: u64) -> [Op; 2] {
        let client = Name::new(0, &format!("device-{n}"));
        let claim = Claim {
            client: client.clone(),
            clean_start: true,
            expiry_s: 3_600,
            will: None,
            limits: LIMITS,
            durable: true,
            yields: false,
        };
        let filters = vec![subscription(&format!("devices/{n}/commands"), QoS::AtLeastOnce)];
        [Op::Claim(Box::new(claim)), Op::Subscribe { client, epoch: n + 1, filters }]
    }
}

fn publish(n: u64) -> Op {
    let topic = format!("devices/{n}/commands");
    Op::Publish { namespace: 0, message: message_of(&topic, "service", QoS::AtLeastOnce, false, &[b'x'; 256], None) }
}

fn rate() {
    const SESSIONS: u64 = 10_000;
    const ROUNDS: u64 = 100;
    const BATCH: u64 = 100;
    let mut shard = Shard::new();
    for n in 0..SESSIONS {
        let mut ops = shard.session(n).to_vec();
        ops.push(Op::Grant { client: Name::new(0, &format!("device-{n}")), epoch: n + 1, up_to: 4_000 });
        shard.ops(ops);
    }
    // Made before, as a leader gets them.
    let mut commands = Vec::new();
    for round in 1..=ROUNDS {
        for first in (0..SESSIONS).step_by(BATCH as usize) {
            let of = first..first + BATCH;
            commands.push(shard.batch(of.clone().map(publish).collect()));
            let ack = |n| Op::Ack {
                client: Name::new(0, &format!("device-{n}")),
                epoch: n + 1,
                seqs: vec![SeqRange { first: round, last: round }],
            };
            commands.push(shard.batch(of.map(ack).collect()));
        }
    }
    let start = Instant::now();
    let mut flushing = std::time::Duration::ZERO;
    for command in &commands {
        shard.index += 1;
        shard.replica.machine.apply(shard.index, command, &mut Vec::new()).unwrap();
        if shard.replica.machine.dirty_bytes() > FLUSH_BYTES {
            let begin = Instant::now();
            shard.replica.flush();
            flushing += begin.elapsed();
        }
    }
    let took = start.elapsed() - flushing;
    let messages = SESSIONS * ROUNDS;
    println!(
        "{messages} messages of 256 B published to a session and acknowledged, {BATCH} operations a batch: {} ns a message \
         ({} ns an operation), flushes besides: {} ns",
        took.as_nanos() / u128::from(messages),
        took.as_nanos() / u128::from(2 * messages),
        flushing.as_nanos() / u128::from(messages)
    );
    assert_eq!(shard.replica.machine.numbers().queued, 0);
}

fn sessions() {
    const SESSIONS: u64 = 100_000;
    let before = resident();
    let mut shard = Shard::new();
    for n in 0..SESSIONS {
        let ops = shard.session(n).to_vec();
        shard.ops(ops);
    }
    shard.replica.flush();
    report(&format!("{SESSIONS} durable sessions with one subscription"), before, &shard.replica);
}

fn queue() {
    const MESSAGES: u64 = 1_000_000;
    let before = resident();
    let mut shard = Shard::new();
    let ops = shard.session(0).to_vec();
    shard.ops(ops);
    for _ in 0..MESSAGES / 100 {
        let ops = (0..100).map(|_| publish(0)).collect();
        shard.ops(ops);
    }
    shard.replica.flush();
    report(&format!("{MESSAGES} queued messages of 256 B"), before, &shard.replica);
}

fn report(what: &str, before: usize, replica: &Replica) {
    let machine = &replica.machine;
    println!(
        "{what}: the store has {} MB in {} records; in memory {} MB of records (dirty at most {} MB more); the process grew by {} MB, \
         that store included",
        replica.store.bytes() / 1_000_000,
        replica.store.len(),
        machine.clean_bytes() / 1_000_000,
        FLUSH_BYTES / 1_000_000,
        resident().saturating_sub(before) / 1_000_000
    );
}

/// Bytes of memory of this process; 0 where /proc does not say.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}
