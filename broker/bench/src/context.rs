//! What packets change besides their client: the thread's counts, windows and lists.

use std::sync::atomic::Ordering;

use crate::client::{Publisher, Tracks};
use crate::counters::{Counts, Live, Outcome};
use crate::failure::Failure;
use crate::pace::Pace;
use crate::plan::{Plan, Side};
use crate::shared::Shared;
use crate::stamp::{self, Stamp};
use crate::track::{Arrival, Track};

/// Most senders that `sub --stamps` keeps apart for one subscriber.
const MAX_SENDERS: usize = 65_536;
/// Bytes that may wait for a socket before its publisher stops.
const HIGH_WATER: usize = 64 << 10;

/// A thread's state besides its clients.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) me: usize,
    pub(crate) counts: Counts,
    pub(crate) outcome: Outcome,
    /// Messages due from then on are measured.
    pub(crate) measure: u64,
    /// Clients with something to send.
    pub(crate) dirty: Vec<u32>,
    /// Publishers that can go on.
    pub(crate) runnable: Vec<u32>,
    /// The publisher whose packets are being read can go on.
    pub(crate) own_runnable: bool,
    /// Publishers of other threads whose window is open again, by thread.
    pub(crate) opened: Vec<Vec<u32>>,
    /// What follows the stamp in each payload.
    pub(crate) rest: Vec<u8>,
    /// Publishers may send.
    pub(crate) sending: bool,
    /// `None`: as fast as the window allows.
    pub(crate) pace: Option<Pace>,
    /// Of the thread's messages, how many are due.
    pub(crate) due: u64,
}

impl<'a> Context<'a> {
    pub(crate) fn new(shared: &'a Shared, me: usize) -> Self {
        let plan = &shared.plan;
        let rest = if plan.payload >= stamp::LENGTH { plan.payload - stamp::LENGTH } else { plan.payload };
        Self {
            shared,
            me,
            counts: Counts::default(),
            outcome: Outcome::new(),
            measure: u64::MAX,
            dirty: Vec::new(),
            runnable: Vec::new(),
            own_runnable: false,
            opened: (0..plan.threads).map(|_| Vec::new()).collect(),
            rest: filler(rest),
            sending: false,
            pace: None,
            due: 0,
        }
    }

    pub(crate) const fn plan(&self) -> &'a Plan {
        &self.shared.plan
    }

    /// Something went wrong.
    pub(crate) fn error(&mut self, failure: &Failure) {
        self.outcome.errors.add(failure);
        self.live().errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A client can be used (1), or not any more (-1).
    pub(crate) fn present(&self, side: Side, change: i64) {
        let live = self.live();
        let number = if side == Side::Publisher { &live.publishers } else { &live.subscribers };
        number.store(number.load(Ordering::Relaxed).saturating_add_signed(change), Ordering::Relaxed);
    }

    pub(crate) fn live(&self) -> &'a Live {
        &self.shared.threads[self.me].live
    }

    /// A subscriber has a message that it did not have before, by its packet.
    pub(crate) fn delivered(&mut self, tracks: &mut Tracks, payload: &[u8], now: u64) {
        let shared = self.shared.plan.shared;
        let stamp = if self.shared.plan.stamps { Stamp::read(payload) } else { None };
        let (publisher, track) = match (tracks, stamp) {
            (Tracks::None, _) => return self.counts.delivered += 1,
            (Tracks::Any(tracks), Some(stamp)) => {
                self.counts.delivered += 1;
                if stamp.due >= self.measure {
                    self.outcome.end_to_end.record(stamp.due, now);
                }
                if tracks.len() < MAX_SENDERS || tracks.contains_key(&stamp.sender) {
                    let track = tracks.entry(stamp.sender).or_default();
                    if track.is_new() {
                        track.begin_at(u64::from(stamp.sequence));
                    }
                    let number = track.expand(stamp.sequence);
                    self.arrived(track.arrive(number));
                }
                return;
            }
            (Tracks::One(only, track), stamp) => {
                let publisher = stamp.map_or(Some(*only), |stamp| self.publisher_of(stamp));
                if publisher != Some(*only) || payload.len() != self.shared.plan.payload {
                    return self.counts.foreign += 1;
                }
                (*only, track)
            }
            (Tracks::All(tracks), Some(stamp)) => {
                let publisher = self.publisher_of(stamp);
                let Some((publisher, track)) = publisher.and_then(|p| Some((p, tracks.get_mut(p as usize)?))) else {
                    return self.counts.foreign += 1;
                };
                (publisher, track)
            }
            (Tracks::Any(_) | Tracks::All(_), None) => return self.counts.foreign += 1,
        };
        // Without a stamp it is taken for the next one.
        let number = stamp.map_or_else(|| track.expected(), |stamp| track.expand(stamp.sequence));
        let arrival = if shared { Arrival::New { skipped: 0 } } else { track.arrive(number) };
        if !self.arrived(arrival) {
            return;
        }
        self.counts.delivered += 1;
        if let Some(stamp) = stamp
            && stamp.due >= self.measure
        {
            self.outcome.end_to_end.record(stamp.due, now);
        }
        match arrival {
            Arrival::New { skipped } => {
                // What was passed over will hardly come: nobody waits for it. More than a window is not in flight.
                for missing in number - skipped.min(u64::from(self.shared.plan.window))..=number {
                    self.open_window(publisher, missing);
                }
            }
            Arrival::Late | Arrival::Duplicate => {}
        }
    }

    fn publisher_of(&self, stamp: Stamp) -> Option<u32> {
        stamp::publisher_of(stamp.sender, self.shared.plan.run)
    }

    /// Counts it: whether it is a message that was not there before.
    fn arrived(&mut self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::New { .. } => {}
            Arrival::Late => self.counts.out_of_order += 1,
            Arrival::Duplicate => {
                self.counts.duplicates += 1;
                return false;
            }
        }
        true
    }

    fn open_window(&mut self, publisher: u32, number: u64) {
        if let Some(window) = self.shared.windows.get(publisher as usize)
            && window.deliver(number)
        {
            let list = if window.thread == self.me { &mut self.runnable } else { &mut self.opened[window.thread] };
            list.push(window.slot);
        }
    }

    /// A message is acknowledged for good.
    pub(crate) fn acknowledged(&mut self, due: u64, now: u64) {
        self.counts.acknowledged += 1;
        if due >= self.measure {
            self.outcome.acknowledge.record(due, now);
        }
    }

    /// Appends as many messages of a publisher as are due and its window has room for.
    pub(crate) fn publish(
        &mut self,
        publisher: &mut Publisher,
        index: u32,
        out: &mut Vec<u8>,
        waiting: usize,
        now: u64,
    ) {
        let plan = &self.shared.plan;
        publisher.runnable = false;
        publisher.more = false;
        if !self.sending {
            return;
        }
        let window = self.shared.windows.get(index as usize);
        let with_id = plan.qos != raftmq_mqtt::QoS::AtMostOnce;
        let target = match self.pace {
            Some(_) => publisher.turn.share(self.due).min(publisher.quota),
            None => publisher.quota,
        };
        let (start, before) = (out.len(), publisher.sent);
        while publisher.sent < target {
            if waiting + (out.len() - start) >= HIGH_WATER {
                publisher.more = true;
                break;
            }
            if (with_id && !publisher.flight.has_room())
                || window.is_some_and(|window| !window.has_room(publisher.sent))
            {
                if publisher.stuck_since == 0 || publisher.sent > before {
                    publisher.stuck_since = now;
                }
                break;
            }
            let due = self.pace.map_or(now, |pace| pace.time(publisher.turn.number(publisher.sent)));
            let id = if with_id { publisher.flight.publish(due) } else { None };
            let stamp = (plan.payload >= stamp::LENGTH).then(|| Stamp {
                sender: stamp::sender(plan.run, index),
                sequence: publisher.sent as u32,
                due,
            });
            if let Some(window) = window {
                window.send(publisher.sent);
            }
            publisher.form.write(id, stamp, &self.rest, out);
            publisher.sent += 1;
            publisher.stuck_since = 0;
        }
        self.counts.sent += publisher.sent - before;
    }

    /// What a subscriber keeps track of.
    pub(crate) fn tracks(&self, side: Side, index: u32) -> Tracks {
        let plan = self.plan();
        match (side, plan.kind.is_end_to_end(), plan.kind) {
            (Side::Publisher, ..) => Tracks::None,
            (_, true, crate::plan::Kind::Pair) => Tracks::One(index, Track::default()),
            (_, true, _) if plan.publishers == 1 => Tracks::One(0, Track::default()),
            (_, true, _) => Tracks::All(vec![Track::default(); plan.publishers as usize]),
            (_, false, crate::plan::Kind::Sub) if plan.stamps => Tracks::Any(std::collections::HashMap::new()),
            _ => Tracks::None,
        }
    }
}

/// Payload that does not compress to nothing.
fn filler(length: usize) -> Vec<u8> {
    let mut seed: u32 = 0x9E37_79B9;
    let byte = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..length).map(byte).collect()
}
