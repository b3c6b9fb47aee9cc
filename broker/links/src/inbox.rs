//! The receiver's memory of one-way streams: which frame of which epoch was handled last. No I/O.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ahash::AHashMap;
use thiserror::Error;

/// Streams remembered. Those without a connection are forgotten first, the oldest first; a sender whose stream was
/// forgotten is told so and begins a new epoch.
const MAX_STREAMS: usize = 4096;
/// Incarnations whose highest boot is remembered.
const MAX_SENDERS: usize = 4096;

#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum InboxError {
    #[error("frame {got} after {last}")]
    Gap { last: u64, got: u64 },
    #[error("the stream was opened on another connection")]
    Superseded,
    #[error("boot {boot} of this node sends no more: boot {seen} was here")]
    OldBoot { boot: u64, seen: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    incarnation: u128,
    boot: u64,
    epoch: u64,
}

/// One epoch of one sender. Its lock is held while a frame is handled: a second connection of the same epoch
/// waits until the first is done, and then the first can do nothing more.
#[derive(Debug, Default)]
pub(crate) struct InStream {
    last: u64,
    owner: u64,
}

impl InStream {
    /// True: handle it, and say so when it is taken. False: a repeat.
    pub(crate) fn accepts(&self, owner: u64, sequence: u64) -> Result<bool, InboxError> {
        if self.owner != owner {
            return Err(InboxError::Superseded);
        }
        if sequence <= self.last {
            return Ok(false);
        }
        if sequence != self.last + 1 {
            return Err(InboxError::Gap { last: self.last, got: sequence });
        }
        Ok(true)
    }

    /// A frame that is accepted was taken.
    pub(crate) fn handled(&mut self, sequence: u64) {
        self.last = sequence;
    }

    #[cfg(test)]
    pub(crate) fn accept(&mut self, owner: u64, sequence: u64) -> Result<bool, InboxError> {
        let accepts = self.accepts(owner, sequence);
        if accepts == Ok(true) {
            self.handled(sequence);
        }
        accepts
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

/// A connection's right to feed a stream.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) stream: Arc<Mutex<InStream>>,
    pub(crate) owner: u64,
    /// Last frame handled when it was opened.
    pub(crate) last: u64,
    /// False: the epoch is not known, and the sender was told so.
    pub(crate) known: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    streams: AHashMap<Key, Arc<Mutex<InStream>>>,
    order: VecDeque<Key>,
    boots: AHashMap<u128, u64>,
    boot_order: VecDeque<u128>,
}

impl Inbox {
    /// A sender opens a stream. An unknown epoch of which frames were written before is not kept: they may have been handled, and
    /// the sender begins another.
    pub(crate) fn open(&mut self, sender: (u128, u64), epoch: u64, resumed: bool) -> Result<Claim, InboxError> {
        self.note_boot(sender)?;
        let key = Key { incarnation: sender.0, boot: sender.1, epoch };
        let (stream, known) = match self.streams.get(&key) {
            Some(stream) => (Arc::clone(stream), true),
            None => {
                let stream = Arc::default();
                if !resumed {
                    self.keep(key, &stream);
                }
                (stream, !resumed)
            }
        };
        let (owner, last) = {
            let mut inner = stream.lock().unwrap_or_else(PoisonError::into_inner);
            inner.owner += 1;
            (inner.owner, inner.last)
        };
        Ok(Claim { stream, owner, last, known })
    }

    fn note_boot(&mut self, (incarnation, boot): (u128, u64)) -> Result<(), InboxError> {
        match self.boots.get_mut(&incarnation) {
            Some(seen) if *seen > boot => return Err(InboxError::OldBoot { boot, seen: *seen }),
            Some(seen) if *seen == boot => {}
            Some(seen) => {
                *seen = boot;
                self.streams.retain(|key, _| key.incarnation != incarnation || key.boot >= boot);
                let streams = &self.streams;
                self.order.retain(|key| streams.contains_key(key));
            }
            None => {
                if self.boots.len() >= MAX_SENDERS
                    && let Some(oldest) = self.boot_order.pop_front()
                {
                    self.boots.remove(&oldest);
                }
                self.boots.insert(incarnation, boot);
                self.boot_order.push_back(incarnation);
            }
        }
        Ok(())
    }

    fn keep(&mut self, key: Key, stream: &Arc<Mutex<InStream>>) {
        if self.streams.len() >= MAX_STREAMS {
            let streams = &self.streams;
            let unused =
                self.order.iter().position(|key| streams.get(key).is_none_or(|stream| Arc::strong_count(stream) == 1));
            if let Some(oldest) = self.order.remove(unused.unwrap_or(0)) {
                self.streams.remove(&oldest);
            }
        }
        self.streams.insert(key, Arc::clone(stream));
        self.order.push_back(key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_connection_takes_the_stream_over() {
        let mut inbox = Inbox::default();
        let first = inbox.open((1, 1), 9, false).unwrap();
        assert_eq!(first.stream.lock().unwrap().accept(first.owner, 1), Ok(true));
        let second = inbox.open((1, 1), 9, false).unwrap();
        assert_eq!(second.last, 1);
        let mut stream = second.stream.lock().unwrap();
        assert_eq!(
            stream.accept(first.owner, 2),
            Err(InboxError::Superseded),
            "what the old connection still holds must not be handled"
        );
        assert_eq!(stream.accept(second.owner, 1), Ok(false));
        assert_eq!(stream.accept(second.owner, 2), Ok(true));
        let gap = InboxError::Gap { last: 2, got: 4 };
        assert_eq!(stream.accept(second.owner, 4), Err(gap));
    }

    #[test]
    fn earlier_boots_send_no_more() {
        let mut inbox = Inbox::default();
        inbox.open((1, 1), 9, false).unwrap();
        inbox.open((1, 2), 10, false).unwrap();
        let refused = inbox.open((1, 1), 9, false).unwrap_err();
        assert_eq!(refused, InboxError::OldBoot { boot: 1, seen: 2 });
        assert_eq!(inbox.streams.len(), 1);
        assert_eq!(inbox.order.len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_streams_in_use_stay() {
        let mut inbox = Inbox::default();
        let used = inbox.open((0, 1), 1, false).unwrap();
        used.stream.lock().unwrap().accept(used.owner, 1).unwrap();
        for n in 0..2 * MAX_STREAMS as u64 {
            inbox.open((u128::from(n) + 1, 1), n, false).unwrap();
        }
        assert!(inbox.streams.len() <= MAX_STREAMS);
        assert!(inbox.order.len() <= MAX_STREAMS);
        assert!(inbox.boots.len() <= MAX_SENDERS && inbox.boot_order.len() <= MAX_SENDERS);
        assert_eq!(inbox.open((0, 1), 1, true).unwrap().last, 1);
    }
}
