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

/// The answer to an acknowledged opening.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Go on.
    Ready,
    /// The peer does not know the epoch any more: so many frames were dropped, open again.
    Again { dropped: u64 },
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

    /// A connection to this boot of the peer is there. Returns how many frames were dropped because they were for
    /// another one.
    pub(crate) fn connected(&mut self, identity: (u128, u64), fresh_epoch: u64) -> u64 {
        self.written = 0;
        if self.identity == Some(identity) {
            return 0;
        }
        self.identity = Some(identity);
        self.restart(fresh_epoch)
    }

    /// Epoch and sequence number of the next frame, for the opening.
    pub(crate) fn opening(&self) -> (u64, u64) {
        (self.epoch, self.first)
    }

    /// The peer answered the opening with the last number that it handled.
    pub(crate) fn opened(&mut self, last: u64, fresh_epoch: u64) -> Result<Opened, OutboxError> {
        if last.saturating_add(1) < self.first {
            let dropped = self.restart(fresh_epoch);
            return Ok(Opened::Again { dropped });
        }
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
            frame::encode_header(
                batch.header(),
                FrameType::Send,
                *kind,
                0,
                sequence,
                payload.len(),
            );
            batch.payload(payload.clone());
            self.written += 1;
        }
        self.ever_written = self.ever_written.max(self.written);
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) -> u64 {
        let dropped = self.entries.len() as u64;
        *self = Outbox {
            identity: self.identity,
            ..Outbox::new(self.max_bytes)
        };
        dropped
    }

    fn restart(&mut self, fresh_epoch: u64) -> u64 {
        let dropped = self.ever_written;
        for (_, payload) in self.entries.drain(..dropped) {
            self.bytes -= payload.len() + ENTRY_BYTES;
        }
        self.epoch = fresh_epoch;
        self.first = 1;
        self.written = 0;
        self.ever_written = 0;
        dropped as u64
    }

    fn take_off(&mut self, last: u64, written: usize) -> Result<(), OutboxError> {
        let last_written = self.first + written as u64 - 1;
        if last > last_written {
            return Err(OutboxError::NeverWritten {
                acknowledged: last,
                written: last_written,
            });
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
