//! What there is once in a shard.

use crate::{
    NodeBoot,
    codec::{CodecError, Put, Reader},
    command::{node, put_node},
    slot::SlotSet,
};

/// The format of the whole state: a program that does not know it does not start.
pub(crate) const FORMAT: u8 = 1;

/// The most sweeps that are read.
const MAX_SWEEPS: usize = 1 << 20;

/// A node's death whose clients are disconnected step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// The node with its last boot that this is about.
    pub(crate) node: NodeBoot,
    /// When it was declared down: that is when its clients' connections ended.
    pub(crate) at_ms: u64,
}

/// Counters, time and place of the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The index of the last entry applied.
    pub(crate) applied: u64,
    /// A hash over all indexes and answers.
    pub(crate) rolling: u64,
    /// The shard's time.
    pub(crate) now_ms: u64,
    /// The latest wall clock of a leader.
    pub(crate) wall_ms: u64,
    /// What is switched on.
    pub(crate) level: u32,
    /// The epoch of the map of slots.
    pub(crate) map_epoch: u64,
    /// The shard's slots.
    pub(crate) slots: SlotSet,
    /// The last epoch of a connection, or number of a session: one counter, nothing is given twice.
    pub(crate) last_epoch: u64,
    /// The last number of a message.
    pub(crate) last_message: u64,
    /// The last number of an entry that waited to be routed.
    pub(crate) last_entry: u64,
    /// The last number of a change of the shard's routes, and up to which they have been announced.
    pub(crate) last_route: u64,
    pub(crate) announced: u64,
    /// The term of the leader by whose clock the time was moved last, and what that clock said.
    pub(crate) clock_term: u64,
    pub(crate) clock_ms: u64,
    /// Nodes that are down, in the order of their being declared so.
    pub(crate) sweeps: Vec<Sweep>,
    /// Numbers of records, for metrics.
    pub(crate) clients: u64,
    pub(crate) sessions: u64,
    pub(crate) subscriptions: u64,
    pub(crate) messages: u64,
    pub(crate) queued: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) retained: u64,
    pub(crate) retained_bytes: u64,
    pub(crate) delayed: u64,
    pub(crate) delayed_bytes: u64,
    /// The last number of a change of a retained message.
    pub(crate) last_retained: u64,
    /// Numbers of ended sessions whose subscriptions, and whose queue, have not all been removed: most of the time there is none, and
    /// that is known without asking the store.
    pub(crate) ended_subscriptions: u64,
    pub(crate) ended_queues: u64,
    /// Messages dropped, by reason.
    pub(crate) dropped: [u64; 3],
}

impl Meta {
    pub(crate) fn new() -> Self {
        Self {
            applied: 0,
            rolling: 0,
            now_ms: 0,
            wall_ms: 0,
            level: 0,
            map_epoch: 0,
            slots: SlotSet::EMPTY,
            last_epoch: 0,
            last_message: 0,
            last_entry: 0,
            last_route: 0,
            announced: 0,
            clock_term: 0,
            clock_ms: 0,
            sweeps: Vec::new(),
            clients: 0,
            sessions: 0,
            subscriptions: 0,
            messages: 0,
            queued: 0,
            queued_bytes: 0,
            retained: 0,
            retained_bytes: 0,
            delayed: 0,
            delayed_bytes: 0,
            last_retained: 0,
            ended_subscriptions: 0,
            ended_queues: 0,
            dropped: [0; 3],
        }
    }

    fn numbers(&mut self) -> [&mut u64; 28] {
        let [d0, d1, d2] = &mut self.dropped;
        [
            &mut self.applied,
            &mut self.rolling,
            &mut self.now_ms,
            &mut self.wall_ms,
            &mut self.map_epoch,
            &mut self.last_epoch,
            &mut self.last_message,
            &mut self.last_entry,
            &mut self.last_route,
            &mut self.announced,
            &mut self.clock_term,
            &mut self.clock_ms,
            &mut self.clients,
            &mut self.sessions,
            &mut self.subscriptions,
            &mut self.messages,
            &mut self.queued,
            &mut self.queued_bytes,
            &mut self.retained,
            &mut self.retained_bytes,
            &mut self.delayed,
            &mut self.delayed_bytes,
            &mut self.last_retained,
            &mut self.ended_subscriptions,
            &mut self.ended_queues,
            d0,
            d1,
            d2,
        ]
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        self.clone().numbers().into_iter().for_each(|number| out.number(*number));
        out.number(self.level.into());
        self.slots.words().iter().for_each(|word| out.number(*word));
        out.count(self.sweeps.len());
        for sweep in &self.sweeps {
            put_node(&mut out, sweep.node);
            out.number(sweep.at_ms);
        }
        out
    }

    /// Reads what is behind the format.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let mut meta = Self::new();
        for number in meta.numbers() {
            *number = reader.number("counter")?;
        }
        meta.level = reader.small("level")?;
        let mut words = [0; 64];
        for word in &mut words {
            *word = reader.number("slots")?;
        }
        meta.slots = SlotSet::from_words(words);
        meta.sweeps = reader
            .list("sweeps", MAX_SWEEPS, |reader| Ok(Sweep { node: node(reader)?, at_ms: reader.number("time")? }))?;
        reader.end()?;
        Ok(meta)
    }
}
