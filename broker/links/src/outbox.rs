//! One-way frames of one peer, from hand-over to acknowledgement. No I/O.
//!
//! Frames have consecutive sequence numbers within an *epoch*, a random number. An epoch belongs to one boot of the peer, and
//! ends early only when the peer has forgotten it. Within an epoch the peer's last handled number decides after a
//! reconnect where to go on, so nothing is lost and nothing handled twice.

use std::collections::VecDeque;

use bytes::Bytes;
use thiserror::Error;

use crate::frame::{self, FrameType};
use crate::io::Batch;

/// Counted for each frame besides its payload, so that a bound in bytes bounds empty frames too.
const ENTRY_BYTES: usize = 64;

#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum OutboxError {
    #[error("acknowledged frame {acknowledged}, the last one written is {written}")]
    NeverWritten { acknowledged: u64, written: u64 },
}

/// Frames with their kind.
pub(crate) type Frames = Vec<(u16, Bytes)>;

/// The answer to an acknowledged opening.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Go on.
    Ready,
    /// The peer does not know the epoch any more: these frames were dropped, open again.
    Again { dropped: Frames },
}

#[derive(Debug)]
pub(crate) struct Outbox {
    entries: VecDeque<(u16, Bytes)>,
    /// Sequence number of the first entry.
    first: u64,
    /// Entries from the front that were written to the connection of now.
    written: usize,
    /// Entries from the front that were written to any connection in this epoch: the peer may have handled them.
    ever_written: usize,
    bytes: usize,
    max_bytes: usize,
    epoch: u64,
    /// Incarnation and boot that the epoch belongs to.
    identity: Option<(u128, u64)>,
}

impl Outbox {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Outbox {
            entries: VecDeque::new(),
            first: 1,
            written: 0,
            ever_written: 0,
            bytes: 0,
            max_bytes,
            epoch: 0,
            identity: None,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Written on this connection and not acknowledged.
    pub(crate) fn is_waiting(&self) -> bool {
        self.written > 0
    }

    /// False when it is full. One frame fits always.
    pub(crate) fn push(&mut self, kind: u16, payload: Bytes) -> bool {
        let cost = payload.len() + ENTRY_BYTES;
        if self.bytes + cost > self.max_bytes && !self.entries.is_empty() {
            return false;
        }
        self.bytes += cost;
        self.entries.push_back((kind, payload));
        true
    }

    /// A connection to this boot of the peer is there. Returns the frames that were dropped because they were for
    /// another one, which may have handled them.
    pub(crate) fn connected(&mut self, identity: (u128, u64), fresh_epoch: u64) -> Frames {
        self.written = 0;
        if self.identity == Some(identity) {
            return Frames::new();
        }
        self.identity = Some(identity);
        self.restart(fresh_epoch)
    }

    /// The epoch, and whether the peer may have seen some of it, for the opening.
    pub(crate) fn opening(&self) -> (u64, bool) {
        (self.epoch, self.ever_written > 0 || self.first > 1)
    }

    /// The peer answered the opening with the last number that it handled, or it knows nothing of the epoch any more.
    pub(crate) fn opened(&mut self, last: Option<u64>, fresh_epoch: u64) -> Result<Opened, OutboxError> {
        let known = last.filter(|last| last.saturating_add(1) >= self.first);
        let Some(last) = known else {
            let dropped = self.restart(fresh_epoch);
            return Ok(Opened::Again { dropped });
        };
        self.take_off(last, self.ever_written)?;
        Ok(Opened::Ready)
    }

    /// Everything up to `last` was handled.
    pub(crate) fn acknowledged(&mut self, last: u64) -> Result<(), OutboxError> {
        self.take_off(last, self.written)
    }

    /// Appends frames that this connection has not seen, until the batch is full.
    pub(crate) fn fill(&mut self, batch: &mut Batch) {
        while !batch.is_full() {
            let Some((kind, payload)) = self.entries.get(self.written) else {
                break;
            };
            let sequence = self.first + self.written as u64;
            frame::encode_header(batch.header(), FrameType::Send, *kind, 0, sequence, payload.len());
            batch.payload(payload.clone());
            self.written += 1;
        }
        self.ever_written = self.ever_written.max(self.written);
    }

    /// Shows each frame that was not acknowledged, with whether the peer may have handled it, and sends what it gives in the
    /// frame's place.
    pub(crate) fn revise(&mut self, mut revise: impl FnMut(u16, &Bytes, bool) -> Option<Bytes>) {
        for (at, (kind, payload)) in self.entries.iter_mut().enumerate() {
            if let Some(new) = revise(*kind, payload, at < self.ever_written) {
                self.bytes = self.bytes - payload.len() + new.len();
                *payload = new;
            }
        }
    }

    /// Drops everything; gives the frames, and how many of the first of them the peer may have handled.
    pub(crate) fn clear(&mut self) -> (Frames, usize) {
        let written = self.ever_written;
        let cleared = Outbox { identity: self.identity, ..Outbox::new(self.max_bytes) };
        (std::mem::replace(self, cleared).entries.into(), written)
    }

    fn restart(&mut self, fresh_epoch: u64) -> Frames {
        let dropped: Frames = self.entries.drain(..self.ever_written).collect();
        for (_, payload) in &dropped {
            self.bytes -= payload.len() + ENTRY_BYTES;
        }
        self.epoch = fresh_epoch;
        self.first = 1;
        self.written = 0;
        self.ever_written = 0;
        dropped
    }

    fn take_off(&mut self, last: u64, written: usize) -> Result<(), OutboxError> {
        let last_written = self.first + written as u64 - 1;
        if last > last_written {
            return Err(OutboxError::NeverWritten { acknowledged: last, written: last_written });
        }
        while self.first <= last {
            let Some((_, payload)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= payload.len() + ENTRY_BYTES;
            self.first += 1;
            self.written = self.written.saturating_sub(1);
            self.ever_written = self.ever_written.saturating_sub(1);
        }
        if self.entries.is_empty() && self.entries.capacity() > 1024 {
            self.entries = VecDeque::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::{Decoded, decode};
    use crate::inbox::{Claim, Inbox};
    use bytes::BytesMut;
    use proptest::prelude::*;

    /// The peer's side, with a connection whose bytes may be cut anywhere.
    #[derive(Default)]
    struct PeerModel {
        inbox: Inbox,
        boot: u64,
        handled: Vec<(u64, u16)>,
        claim: Option<Claim>,
        /// Frames on the wire, and acknowledgements on the way back.
        wire: VecDeque<u64>,
        kinds: VecDeque<u16>,
        acks: VecDeque<u64>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Write,
        /// The peer handles so many frames of the wire.
        Handle(u8),
        Acknowledge,
        DeliverAck,
        Reconnect,
        Restart,
        /// The peer forgets its streams (they are bounded).
        Forget,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u8..6).prop_map(Step::Push),
            4 => Just(Step::Write),
            4 => (1u8..8).prop_map(Step::Handle),
            3 => Just(Step::Acknowledge),
            3 => Just(Step::DeliverAck),
            2 => Just(Step::Reconnect),
            1 => Just(Step::Restart),
            1 => Just(Step::Forget),
        ]
    }

    struct World {
        outbox: Outbox,
        peer: PeerModel,
        epoch: u64,
        pushed: u16,
        dropped: u64,
    }

    impl World {
        fn reconnect(&mut self) {
            self.peer.wire.clear();
            self.peer.kinds.clear();
            self.peer.acks.clear();
            self.epoch += 1;
            self.dropped += self.outbox.connected((7, self.peer.boot), self.epoch).len() as u64;
            loop {
                let (epoch, resumed) = self.outbox.opening();
                let claim = self.peer.inbox.open((1, 1), epoch, resumed).unwrap();
                self.epoch += 1;
                let last = claim.known.then_some(claim.last);
                match self.outbox.opened(last, self.epoch).unwrap() {
                    Opened::Ready => {
                        assert!(claim.known);
                        self.peer.claim = Some(claim);
                        return;
                    }
                    Opened::Again { dropped } => {
                        assert!(!claim.known);
                        self.dropped += dropped.len() as u64;
                    }
                }
            }
        }

        fn write(&mut self) {
            let mut batch = Batch::default();
            self.outbox.fill(&mut batch);
            let mut bytes = BytesMut::from(batch.bytes_for_tests());
            while let Decoded::Frame(frame) = decode(&mut bytes, 1 << 20).unwrap() {
                self.peer.wire.push_back(frame.id);
                self.peer.kinds.push_back(frame.kind);
            }
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Push(count) => {
                    for _ in 0..*count {
                        assert!(self.outbox.push(self.pushed, Bytes::from_static(b"x")));
                        self.pushed += 1;
                    }
                }
                Step::Write => self.write(),
                Step::Handle(count) => {
                    let claim = self.peer.claim.as_ref().unwrap();
                    for _ in 0..*count {
                        let Some(sequence) = self.peer.wire.pop_front() else {
                            return;
                        };
                        let kind = self.peer.kinds.pop_front().unwrap();
                        let mut stream = claim.stream.lock().unwrap();
                        if stream.accept(claim.owner, sequence).unwrap() {
                            self.peer.handled.push((self.peer.boot, kind));
                        }
                    }
                }
                Step::Acknowledge => {
                    let claim = self.peer.claim.as_ref().unwrap();
                    let last = claim.stream.lock().unwrap().last();
                    self.peer.acks.push_back(last);
                }
                Step::DeliverAck => {
                    if let Some(last) = self.peer.acks.pop_front() {
                        self.outbox.acknowledged(last).unwrap();
                    }
                }
                Step::Reconnect => self.reconnect(),
                Step::Restart => {
                    self.peer.boot += 1;
                    self.peer.inbox = Inbox::default();
                    self.reconnect();
                }
                Step::Forget => {
                    self.peer.inbox = Inbox::default();
                    self.reconnect();
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn once_in_order_and_only_counted_ones_missing(steps in prop::collection::vec(any_step(), 0..120)) {
            let mut world = World {
                outbox: Outbox::new(1 << 20),
                peer: PeerModel { boot: 1, ..PeerModel::default() },
                epoch: 0,
                pushed: 0,
                dropped: 0,
            };
            world.reconnect();
            for step in &steps {
                world.step(step);
            }
            let lossless = !steps.iter().any(|s| matches!(s, Step::Restart | Step::Forget));
            // The connection stays from here on: everything arrives.
            world.write();
            world.step(&Step::Handle(255));
            world.step(&Step::Handle(255));
            world.step(&Step::Handle(255));
            world.peer.acks.clear();
            world.step(&Step::Acknowledge);
            world.step(&Step::DeliverAck);
            prop_assert!(world.outbox.is_empty());
            prop_assert_eq!(world.outbox.bytes(), 0);
            let kinds: Vec<u16> = world.peer.handled.iter().map(|(_, kind)| *kind).collect();
            prop_assert!(kinds.is_sorted_by(|a, b| a < b), "{:?}", kinds);
            if lossless {
                prop_assert_eq!(world.dropped, 0);
                prop_assert_eq!(kinds.len(), usize::from(world.pushed));
            } else {
                let missing = u64::from(world.pushed) - kinds.len() as u64;
                prop_assert!(missing <= world.dropped, "{} missing, {} counted", missing, world.dropped);
            }
        }
    }

    #[test]
    fn revised_frames_keep_their_numbers() {
        let mut outbox = Outbox::new(1000);
        outbox.connected((1, 1), 5);
        assert_eq!(outbox.opened(Some(0), 6), Ok(Opened::Ready));
        for payload in [&b"aa"[..], b"bb"] {
            assert!(outbox.push(1, Bytes::from_static(payload)));
        }
        outbox.fill(&mut Batch::default());
        assert!(outbox.push(1, Bytes::from_static(b"ccc")));
        let mut seen = Vec::new();
        outbox.revise(|_, payload, handled| {
            seen.push((payload.clone(), handled));
            (payload == "bb").then(|| Bytes::from_static(b"b"))
        });
        assert_eq!(
            seen,
            [(Bytes::from_static(b"aa"), true), (Bytes::from_static(b"bb"), true), (Bytes::from_static(b"ccc"), false)]
        );
        assert_eq!(outbox.bytes(), 3 * ENTRY_BYTES + 2 + 1 + 3);
        assert_eq!(outbox.acknowledged(2), Ok(()));
        // Another boot: the third was never written and is for it.
        assert_eq!(outbox.connected((1, 2), 7), []);
        let (left, written) = outbox.clear();
        assert_eq!((left, written), (vec![(1, Bytes::from_static(b"ccc"))], 0));
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn acknowledging_what_was_never_written_is_an_error() {
        let mut outbox = Outbox::new(1000);
        outbox.connected((1, 1), 5);
        assert_eq!(outbox.opened(Some(0), 6), Ok(Opened::Ready));
        assert!(outbox.push(1, Bytes::new()));
        assert!(outbox.acknowledged(1).is_err());
        outbox.fill(&mut Batch::default());
        assert!(outbox.acknowledged(2).is_err());
        assert_eq!(outbox.acknowledged(1), Ok(()));
        assert!(outbox.opened(Some(u64::MAX), 7).is_err());
    }
}
