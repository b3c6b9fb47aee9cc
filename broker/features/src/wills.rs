//! What becomes of a will, and wills that wait for their delay (MQTT 5, 3.1.2.5, 3.1.3.2.2 and 3.1.4).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use ahash::RandomState;

/// How the connection of a client with a will ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// By DISCONNECT with reason 0x00, or any DISCONNECT of MQTT 3.
    Normal,
    /// In any other way: the network, the keep-alive, a protocol error, DISCONNECT with reason 0x04, …
    Lost,
    /// A new connection of the client identifier takes over.
    TakenOver {
        /// It continues the session: its Clean Start is 0.
        resumes: bool,
    },
    /// The session ends with it, by an administrator for example.
    SessionEnds,
}

/// What becomes of the will of a connection that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum WillFate {
    /// It is never published.
    Discard,
    /// It is published now.
    Publish,
    /// It is published later, unless the client comes back and continues its session; at once if the session ends before.
    Wait {
        /// Above 0.
        seconds: u32,
    },
}

impl WillFate {
    /// Decides. `delay` is the will delay interval (0 before MQTT 5) and `session_expiry` the session expiry interval when the
    /// connection ended, that of a DISCONNECT included, both in seconds.
    ///
    /// - A DISCONNECT that says that all is well removes the will (`[MQTT-3.14.4-3]`, `[MQTT-3.1.2-10]`, `[MQTT311-3.14.4-3]`).
    /// - Otherwise it is published when the delay is over or the session ends, whichever comes first
    ///   (`[MQTT-3.1.2-8]`, `[MQTT311-3.1.2-8]`).
    /// - A new connection that continues the session within the delay, a take-over included, removes it
    ///   (`[MQTT-3.1.3-9]`). Without a delay there is no such time: the will is published at a take-over. The same when the
    ///   take-over ends the session: Clean Start 1, or the session did not outlive its connection (3.1.4, the comment to
    ///   `[MQTT-3.1.4-3]`).
    pub fn of(end: ConnectionEnd, delay: u32, session_expiry: u32) -> Self {
        let wait = delay.min(session_expiry);
        match end {
            ConnectionEnd::Normal => Self::Discard,
            ConnectionEnd::SessionEnds | ConnectionEnd::TakenOver { resumes: false } => Self::Publish,
            ConnectionEnd::Lost | ConnectionEnd::TakenOver { .. } if wait == 0 => Self::Publish,
            ConnectionEnd::TakenOver { resumes: true } => Self::Discard,
            ConnectionEnd::Lost => Self::Wait { seconds: wait },
        }
    }
}

/// How many wills may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillSettings {
    /// How many wills, one a client.
    pub max_wills: usize,
    /// How many bytes of them, with what is needed for each.
    pub max_bytes: usize,
}

impl Default for WillSettings {
    fn default() -> Self {
        Self { max_wills: 1_000_000, max_bytes: 256 << 20 }
    }
}

/// What a will costs besides its own bytes: an entry of the table and two of the heap, one of them stale.
const OVERHEAD: usize = 192;

/// Wills that wait for their delay, one a client identifier. `W` is the will as the caller keeps it: it becomes a message when
/// it is published, since its message expiry counts from then (MQTT 5, 3.1.3.2.4).
///
/// Bounded. When there is no room for a will, those that are due first are given back to be published at once, the new
/// one perhaps among them: too early is better than never. A will that is larger than all the room is given back itself.
///
/// Times are milliseconds of any one clock.
#[derive(Debug)]
pub struct PendingWills<W> {
    by_client: HashMap<Arc<str>, Pending<W>, RandomState>,
    /// May hold entries of wills that are gone: they are known by their number.
    order: BinaryHeap<Reverse<(u64, u64, Arc<str>)>>,
    next: u64,
    bytes: usize,
    settings: WillSettings,
}

#[derive(Debug)]
struct Pending<W> {
    number: u64,
    cost: usize,
    will: W,
}

impl<W> PendingWills<W> {
    /// No wills.
    #[must_use]
    pub fn new(settings: WillSettings) -> Self {
        Self { by_client: HashMap::default(), order: BinaryHeap::new(), next: 0, bytes: 0, settings }
    }

    /// Keeps the will of a client until `due_ms`. `bytes` is its size.
    ///
    /// A will of the client that waits already is removed: there was a connection since (`[MQTT-3.1.3-9]`). Returns what
    /// must be published at once because there is no room.
    #[must_use]
    pub fn schedule(&mut self, client: &Arc<str>, will: W, bytes: usize, due_ms: u64) -> Vec<W> {
        self.remove(client);
        let cost = bytes.saturating_add(client.len()).saturating_add(OVERHEAD);
        if cost > self.settings.max_bytes {
            // There will never be room: nobody else's will makes way for it.
            return vec![will];
        }
        let number = self.next;
        self.next += 1;
        self.bytes += cost;
        self.by_client.insert(client.clone(), Pending { number, cost, will });
        self.order.push(Reverse((due_ms, number, client.clone())));
        let mut early = Vec::new();
        while self.by_client.len() > self.settings.max_wills || self.bytes > self.settings.max_bytes {
            let Some(will) = self.pop_due(u64::MAX) else { break };
            early.push(will);
        }
        early
    }

    /// The client is back and continues its session: its will is not published (`[MQTT-3.1.3-9]`). Whether one waited.
    pub fn cancel(&mut self, client: &str) -> bool {
        self.remove(client).is_some()
    }

    /// The session of the client ends, by a connection with Clean Start 1 or in any other way: a will that waits is to be
    /// published now (`[MQTT-3.1.2-8]`).
    pub fn session_ended(&mut self, client: &str) -> Option<W> {
        self.remove(client)
    }

    /// The next will whose time has come. Call it until it returns `None`; with `u64::MAX` for all of them, when the
    /// server and thereby its sessions end.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<W> {
        while let Some(Reverse((due_ms, number, client))) = self.order.peek() {
            let gone = self.by_client.get(client).is_none_or(|pending| pending.number != *number);
            if !gone && *due_ms > now_ms {
                return None;
            }
            let Reverse((_, _, client)) = self.order.pop()?;
            if !gone {
                return self.remove(&client);
            }
        }
        None
    }

    /// When to call [`pop_due`](Self::pop_due) next. A will that is gone may be the reason for it: then nothing is due.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.order.peek().map(|Reverse((due_ms, ..))| *due_ms)
    }

    /// How many wills wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// How many bytes they take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, client: &str) -> Option<W> {
        let pending = self.by_client.remove(client)?;
        self.bytes -= pending.cost;
        self.tidy();
        Some(pending.will)
    }

    /// Clients that come back before their wills are due must not fill the heap.
    fn tidy(&mut self) {
        if self.order.len() > 2 * self.by_client.len() + 64 {
            let by_client = &self.by_client;
            self.order.retain(|Reverse((_, number, client))| {
                by_client.get(client).is_some_and(|pending| pending.number == *number)
            });
            self.order.shrink_to(2 * self.order.len());
            if self.by_client.capacity() > 4 * self.by_client.len() + 1024 {
                self.by_client.shrink_to(2 * self.by_client.len());
            }
        }
    }
}

#[cfg(test)]
mod tests;
