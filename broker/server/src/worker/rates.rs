//! Clients that send more than they may: they are not read for a while, and TCP's own flow control, or QUIC's, holds them back.
//!
//! `allowance → read and parsed within it → charged → waits, when there is more → goes on, its session told that it was not silent`
//!
//! Bytes are looked at before a read: without any the socket is not read. Messages are looked at packet by packet: without any the
//! connection stops at its next PUBLISH, keeps what it has read, of which there is little, and reads no more. So nothing is lost or
//! passes something else, and a client that has no PUBLISH waiting is answered at once.
//!
//! For a limit of its own a connection waits until its bucket says. For one of its listener the connections of a worker wait in line:
//! when there is something, each in its turn gets a share, so that one that sends much does not keep the others from sending a little.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use raftmq_session::{Bucket, SessionLimits};
use tokio::sync::Notify;

use super::meter::{Meters, set};
use super::receive::wants_bytes;
use super::wheel::Key;
use super::{READ_BUFFER, Worker};
use crate::metrics::Throttle;

/// How often those who wait are looked at. So late, at most, goes on who may.
pub(super) const PERIOD: Duration = Duration::from_millis(5);
/// A longer wait is made of several: what is not there any more is forgotten then.
const LONGEST_WAIT_MS: u64 = 1_000;
/// What is read at once of a connection with limits, at least …
const SMALLEST_READ: usize = 2 * 1024;
/// … and for each message that it may send.
const READ_A_MESSAGE: usize = 512;
/// How often it is said in the log that a connection waits.
const SAID_EVERY_MS: u64 = 60_000;

/// Of a connection that has limits, or whose listener has.
#[derive(Default)]
pub(super) struct Rates {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Since when it waits, and for what.
    waits: Option<(u64, Throttle)>,
    /// Which of its places among those that wait for limits of their own counts.
    due_ms: u64,
    /// It is about to end, and read to its end: what it uses is only counted.
    ending: bool,
    /// When it was last said that it waits.
    said_ms: Option<u64>,
}

/// Connections of a worker that wait.
#[derive(Default)]
pub(super) struct Throttled {
    /// For limits of their own, by when these may be over.
    own: BinaryHeap<Reverse<(u64, Key)>>,
    /// For those of their listeners, by its number: for messages, for bytes.
    lines: Vec<[VecDeque<Key>; 2]>,
    /// Whose turn it is.
    turn: Option<Key>,
    /// Wakes the task that looks at them.
    pub(super) begun: Rc<Notify>,
}

impl Throttled {
    pub(super) fn new(listeners: usize) -> Self {
        Self { lines: (0..listeners).map(|_| Default::default()).collect(), ..Self::default() }
    }

    fn line(&mut self, listener: u16, what: What) -> Option<&mut VecDeque<Key>> {
        self.lines.get_mut(usize::from(listener)).map(|lines| &mut lines[what as usize])
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Messages,
    Bytes,
}

impl Rates {
    fn own(&mut self, what: What) -> Option<&mut Bucket> {
        match what {
            What::Messages => self.messages.as_mut(),
            What::Bytes => self.bytes.as_mut(),
        }
    }
}

impl Worker {
    /// Gives a connection the limits that it has from now on.
    pub(super) fn set_rates(&mut self, key: Key) {
        let now_ms = self.node.clock.ms();
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let by_listener =
            self.listeners.get(usize::from(conn.listener)).is_some_and(|one| one.rates.measures_clients());
        let SessionLimits { message_rate, byte_rate, .. } = **conn.session.limits();
        if !by_listener && message_rate.is_none() && byte_rate.is_none() {
            self.go_on(key);
            if let Some(conn) = self.conns.get_mut(key) {
                conn.rates = None;
            }
            return;
        }
        let rates = conn.rates.get_or_insert_default();
        set(&mut rates.messages, message_rate, now_ms);
        set(&mut rates.bytes, byte_rate, now_ms);
    }

    /// What a connection may use of something now. `u64::MAX`: it has no such limit. None is for those that are not connected yet: they
    /// have a time to be that, and who comes is limited by itself.
    fn allowance(&mut self, key: Key, what: What, now_ms: u64) -> u64 {
        let Some(conn) = self.conns.get_mut(key) else {
            return u64::MAX;
        };
        let Some(rates) = conn.rates.as_deref_mut() else {
            return u64::MAX;
        };
        if rates.ending {
            return u64::MAX;
        }
        let own = rates.own(what).map_or(u64::MAX, |bucket| bucket.available(now_ms));
        let Some(meters) = self.listeners.get(usize::from(conn.listener)).map(|listener| &listener.rates) else {
            return own;
        };
        let meter = what.of(meters);
        if own == 0 || !meter.is_set() {
            return own;
        }
        let has_turn = self.throttled.turn == Some(key);
        let waiting = self.throttled.line(conn.listener, what).map_or(0, |line| line.len() as u64);
        if waiting > 0 && !has_turn {
            // Behind them.
            return 0;
        }
        own.min(meter.available(now_ms).div_ceil(waiting + 1))
    }

    /// Messages that a connection may send now.
    pub(super) fn messages_allowed(&mut self, key: Key, now_ms: u64) -> u64 {
        self.allowance(key, What::Messages, now_ms)
    }

    /// How much may be read of a connection at once now. `None`: nothing, and it waits.
    pub(super) fn bytes_allowed(&mut self, key: Key) -> Option<usize> {
        if self.conns.get_mut(key).is_none_or(|conn| conn.rates.is_none() || conn.client.is_none()) {
            return Some(READ_BUFFER);
        }
        let now_ms = self.node.clock.ms();
        let bytes = self.allowance(key, What::Bytes, now_ms);
        if bytes == 0 {
            self.throttle(key, What::Bytes, now_ms);
            return None;
        }
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let by_messages = size(self.allowance(key, What::Messages, now_ms)).saturating_mul(READ_A_MESSAGE);
        Some(size(bytes).min(by_messages).clamp(SMALLEST_READ, READ_BUFFER))
    }

    /// A connection has used so much.
    pub(super) fn charge(&mut self, key: Key, what: What, units: u64) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Some(rates) = conn.rates.as_deref_mut() else {
            return;
        };
        if let Some(bucket) = rates.own(what) {
            bucket.take(units);
        }
        if let Some(listener) = self.listeners.get(usize::from(conn.listener)) {
            what.of(&listener.rates).take(units);
        }
    }

    /// A connection has more than it may send: it is not read from now on.
    pub(super) fn throttle(&mut self, key: Key, what: What, now_ms: u64) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.throttled) else {
            return;
        };
        let Some(rates) = conn.rates.as_deref_mut() else {
            return;
        };
        conn.throttled = true;
        let listener = conn.listener;
        let wait_ms = rates.own(what).map_or(0, |bucket| bucket.wait_ms());
        let reason = what.reason(wait_ms > 0);
        rates.waits = Some((now_ms, reason));
        if rates.said_ms.is_none_or(|said| now_ms >= said + SAID_EVERY_MS) {
            rates.said_ms = Some(now_ms);
            let name = self.listeners.get(usize::from(listener)).map_or("", |listener| &*listener.name);
            let (client, limit, scope) = (conn.session.client_id(), reason.limit(), reason.scope());
            tracing::debug!(%client, listener = name, limit, scope, "a client sends more than it may: it is read more slowly");
        }
        self.counters.throttled(reason);
        if wait_ms > 0 {
            rates.due_ms = now_ms + wait_ms.min(LONGEST_WAIT_MS);
            self.throttled.own.push(Reverse((rates.due_ms, key)));
        } else if let Some(line) = self.throttled.line(listener, what) {
            line.push_back(key);
        }
        self.throttled.begun.notify_one();
    }

    /// A connection waits no more, for whatever reason.
    pub(super) fn go_on(&mut self, key: Key) {
        let now = self.node.clock.now();
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.throttled) else {
            return;
        };
        conn.throttled = false;
        if let Some((since_ms, reason)) = conn.rates.as_mut().and_then(|rates| rates.waits.take()) {
            self.counters.throttled_no_more(reason, now.ms.saturating_sub(since_ms));
        }
        // What it has sent meanwhile waits in its socket.
        conn.session.excuse_silence(now);
        self.wake(key);
    }

    /// Looks at all that wait. False: none does.
    pub(super) fn look_at_throttled(&mut self) -> bool {
        let now_ms = self.node.clock.ms();
        while let Some(Reverse((due_ms, key))) = self.throttled.own.peek().copied() {
            if due_ms > now_ms {
                break;
            }
            self.throttled.own.pop();
            self.own_wait_over(key, due_ms, now_ms);
        }
        for listener in 0..u16::try_from(self.throttled.lines.len()).unwrap_or(u16::MAX) {
            for what in [What::Messages, What::Bytes] {
                self.give_turns(listener, what, now_ms);
            }
        }
        let lines = &self.throttled.lines;
        !self.throttled.own.is_empty() || lines.iter().flatten().any(|line| !line.is_empty())
    }

    fn own_wait_over(&mut self, key: Key, due_ms: u64, now_ms: u64) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.throttled) else {
            return;
        };
        let Some(rates) = conn.rates.as_deref_mut() else {
            return;
        };
        let what = match rates.waits {
            Some((_, Throttle::ClientMessages)) if rates.due_ms == due_ms => What::Messages,
            Some((_, Throttle::ClientBytes)) if rates.due_ms == due_ms => What::Bytes,
            // It waits for something else by now.
            _ => return,
        };
        let wait_ms = rates.own(what).map_or(0, |bucket| {
            bucket.available(now_ms);
            bucket.wait_ms()
        });
        if wait_ms > 0 {
            rates.due_ms = now_ms + wait_ms.min(LONGEST_WAIT_MS);
            self.throttled.own.push(Reverse((rates.due_ms, key)));
        } else {
            self.go_on(key);
        }
    }

    /// Each that waits in line has one turn, while there is something.
    fn give_turns(&mut self, listener: u16, what: What, now_ms: u64) {
        let waiting = self.throttled.line(listener, what).map_or(0, |line| line.len());
        for _ in 0..waiting {
            let there_is = self.listeners.get(usize::from(listener)).map(|one| what.of(&one.rates).available(now_ms));
            if there_is == Some(0) {
                break;
            }
            let Some(key) = self.throttled.line(listener, what).and_then(VecDeque::pop_front) else {
                break;
            };
            let waits = |conn: &super::Conn| conn.throttled && conn.rates.as_ref().is_some_and(|r| r.waits_for(what));
            if self.conns.get_mut(key).is_some_and(|conn| waits(conn)) {
                self.throttled.turn = Some(key);
                self.go_on(key);
                self.use_turn(key);
                self.throttled.turn = None;
            }
        }
        if let Some(line) = self.throttled.line(listener, what)
            && line.is_empty()
            && line.capacity() > 64
        {
            *line = VecDeque::new();
        }
    }

    /// At once, before another one takes it.
    fn use_turn(&mut self, key: Key) {
        if self.parse_if_held(key) {
            return;
        }
        let serving = self.serves(key);
        if self.conns.get_mut(key).is_some_and(|conn| wants_bytes(conn, serving)) {
            // Its task was woken, and waits for what comes then.
            self.readable(key, &mut Context::from_waker(Waker::noop()));
        }
    }

    /// A connection is to be read to its end, as far as that is here, because another one takes its place: that one pays for it.
    pub(super) fn read_unlimited(&mut self, key: Key) {
        if let Some(rates) = self.conns.get_mut(key).and_then(|conn| conn.rates.as_deref_mut()) {
            rates.ending = true;
        }
        self.go_on(key);
        self.parse_if_held(key);
    }

    /// A client that comes back at once has used what it has used.
    pub(super) fn inherit_rates(&mut self, key: Key, older: Key) {
        let now_ms = self.node.clock.ms();
        let Some(rates) = self.conns.get_mut(older).and_then(|conn| conn.rates.as_deref_mut()) else {
            return;
        };
        let (messages, bytes) = (rates.messages.take(), rates.bytes.take());
        let Some(rates) = self.conns.get_mut(key).and_then(|conn| conn.rates.as_deref_mut()) else {
            return;
        };
        for (own, spent) in [(&mut rates.messages, messages), (&mut rates.bytes, bytes)] {
            if let (Some(own), Some(mut spent)) = (own, spent) {
                spent.set_rate(own.rate(), now_ms);
                *own = spent;
            }
        }
    }

    /// A connection is gone.
    pub(super) fn forget_throttled(&mut self, conn: &super::Conn) {
        let Some((since_ms, reason)) = conn.rates.as_ref().and_then(|rates| rates.waits) else {
            return;
        };
        self.counters.throttled_no_more(reason, self.node.clock.ms().saturating_sub(since_ms));
        // Its place in a line goes when its turn comes, and before that when most of them are such.
        let what = match reason {
            Throttle::ListenerMessages => What::Messages,
            Throttle::ListenerBytes => What::Bytes,
            Throttle::ClientMessages | Throttle::ClientBytes => return,
        };
        let conns = &mut self.conns;
        if let Some(lines) = self.throttled.lines.get_mut(usize::from(conn.listener)) {
            let line = &mut lines[what as usize];
            if line.len() > 2 * conns.len() + 64 {
                line.retain(|key| conns.get_mut(*key).is_some_and(|conn| conn.throttled));
            }
        }
    }
}

impl Rates {
    fn waits_for(&self, what: What) -> bool {
        self.waits.is_some_and(|(_, reason)| reason == what.reason(false))
    }
}

impl What {
    fn of(self, meters: &Meters) -> &super::meter::Meter {
        match self {
            Self::Messages => &meters.messages,
            Self::Bytes => &meters.bytes,
        }
    }

    const fn reason(self, own: bool) -> Throttle {
        match (self, own) {
            (Self::Messages, true) => Throttle::ClientMessages,
            (Self::Messages, false) => Throttle::ListenerMessages,
            (Self::Bytes, true) => Throttle::ClientBytes,
            (Self::Bytes, false) => Throttle::ListenerBytes,
        }
    }
}
