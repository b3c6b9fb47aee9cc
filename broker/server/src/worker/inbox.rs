//! What other threads hand to a worker: a bounded queue with one wake-up a batch.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raftmq_mqtt::Message;
use tokio::sync::Notify;

use super::connection::Rest;
use super::sharing::Shared;
use super::socket::Loose;
use crate::metrics::RefuseReason;

/// Something for a worker from outside its thread.
pub(crate) enum Item {
    /// A message that some subscriber of this worker may want.
    Publish(Message),
    /// A message of a group, for a member that this worker has or has to choose.
    Shared(Box<Shared>),
    /// A connection whose session lives on this worker.
    Adopt(Box<Adopted>),
    /// A new connection, of a listener whose sockets are not the workers'.
    Accept(Box<Adopted>),
    /// A connection that such a listener refused.
    Refused(RefuseReason),
    /// Makes the worker panic: for the test of what becomes of the node.
    #[cfg(test)]
    Panic,
    /// The worker stands still until the other end says or is gone: for tests of what comes in the meantime.
    #[cfg(test)]
    Hold(std::sync::mpsc::Receiver<()>),
}

/// A connection on its way to a worker.
pub(crate) struct Adopted {
    /// The socket, in no reactor.
    pub(crate) socket: Loose,
    pub(crate) rest: Rest,
}

/// Limits of an [`Inbox`]: a worker that hangs must not take the node's memory.
const MAX_ITEMS: usize = 65_536;
const MAX_BYTES: usize = 64 << 20;
/// From here on the publishers of an [`Outgoing`] are not read until it is handed over.
const LONG_ITEMS: usize = 8_192;
const LONG_BYTES: usize = 8 << 20;
/// A queue that grew beyond this gives its memory back.
const KEPT_CAPACITY: usize = 4_096;

/// The queue in front of one worker.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Queue {
    /// One item always fits, however large it is.
    fn has_room(&self, size: usize) -> bool {
        self.items.is_empty() || (self.items.len() < MAX_ITEMS && self.bytes + size <= MAX_BYTES)
    }

    fn add(&mut self, item: Item, size: usize) {
        self.bytes += size;
        self.items.push_back(item);
    }
}

/// What a worker has for another one, until it is handed over.
#[derive(Default)]
pub(crate) struct Outgoing {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Outgoing {
    pub(crate) fn push(&mut self, item: Item) {
        self.bytes += size_of_item(&item);
        self.items.push_back(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether who adds to it should wait: many messages are as bad as large ones.
    pub(crate) fn is_long(&self) -> bool {
        self.items.len() > LONG_ITEMS || self.bytes > LONG_BYTES
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::new(Queue::default()), ready: Notify::new() }
    }

    /// Hands over as many items from the front of `outgoing` as fit, in order; the rest stays. Wakes the worker once.
    pub(crate) fn push(&self, outgoing: &mut Outgoing) {
        let mut queue = self.lock();
        let was_empty = queue.items.is_empty();
        while let Some(item) = outgoing.items.pop_front() {
            let size = size_of_item(&item);
            if !queue.has_room(size) {
                outgoing.items.push_front(item);
                break;
            }
            outgoing.bytes -= size;
            queue.add(item, size);
        }
        let wake = was_empty && !queue.items.is_empty();
        drop(queue);
        if outgoing.items.is_empty() && outgoing.items.capacity() > KEPT_CAPACITY {
            outgoing.items = VecDeque::new();
        }
        if wake {
            self.ready.notify_one();
        }
    }

    /// Hands over all of `outgoing`, in order, whatever room there is: its publishers wait when it is long, so that it is bounded by
    /// what one turn adds.
    pub(crate) fn push_all(&self, outgoing: &mut Outgoing) {
        if outgoing.is_empty() {
            return;
        }
        let mut queue = self.lock();
        let wake = queue.items.is_empty();
        queue.bytes += std::mem::take(&mut outgoing.bytes);
        queue.items.append(&mut outgoing.items);
        drop(queue);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Hands over one item; false, and the item is gone, when the queue is full.
    pub(crate) fn push_one(&self, item: Item) -> bool {
        let size = size_of_item(&item);
        let mut queue = self.lock();
        if !queue.has_room(size) {
            return false;
        }
        let wake = queue.items.is_empty();
        queue.add(item, size);
        drop(queue);
        if wake {
            self.ready.notify_one();
        }
        true
    }

    /// Takes all that waits.
    pub(crate) fn take(&self, into: &mut VecDeque<Item>) {
        let mut queue = self.lock();
        queue.bytes = 0;
        std::mem::swap(&mut queue.items, into);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Nobody hands over or takes anything while this is held.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.lock()
    }

    /// Hands over one item without waking the worker.
    #[cfg(test)]
    pub(crate) fn push_unseen(&self, item: Item) {
        let size = size_of_item(&item);
        self.lock().add(item, size);
    }

    /// Something else is there for the worker.
    pub(crate) fn wake(&self) {
        self.ready.notify_one();
    }

    /// Waits until something may have come.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A queue is whole between any two operations on it, whoever panicked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_of_item(item: &Item) -> usize {
    match item {
        Item::Publish(message) => message.wire_len() + 64,
        Item::Shared(shared) => shared.message.wire_len() + 256,
        Item::Adopt(adopted) | Item::Accept(adopted) => adopted.rest.bytes.len() + 4_096,
        Item::Refused(_) => 64,
        #[cfg(test)]
        Item::Panic | Item::Hold(_) => 64,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_mqtt::{Origin, Properties, Publish, QoS};

    pub(in super::super) fn message(number: u64, payload: &[u8]) -> Item {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "t",
            packet_id: std::num::NonZeroU16::new(1),
            properties: Properties::EMPTY,
            payload,
        };
        Item::Publish(Message::new(&publish, Origin { node: 1, sequence: number }, "p", 0, None).unwrap())
    }

    fn numbers(items: &VecDeque<Item>) -> Vec<u64> {
        items
            .iter()
            .map(|item| match item {
                Item::Publish(message) => message.origin().sequence,
                _ => unreachable!(),
            })
            .collect()
    }

    #[test]
    fn what_does_not_fit_stays_in_order_and_is_handed_over_later() {
        let inbox = Inbox::new();
        let mut outgoing = Outgoing::default();
        let large = vec![0; 1 << 20];
        for number in 0..100 {
            outgoing.push(message(number, &large));
        }
        inbox.push(&mut outgoing);
        assert!(!outgoing.is_empty() && outgoing.is_long());
        assert!(!inbox.push_one(message(1_000, &large)), "it is full");
        let mut all = Vec::new();
        let mut taken = VecDeque::new();
        while !outgoing.is_empty() {
            inbox.take(&mut taken);
            all.extend(numbers(&taken));
            taken.clear();
            inbox.push(&mut outgoing);
        }
        inbox.take(&mut taken);
        all.extend(numbers(&taken));
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(!outgoing.is_long() && outgoing.bytes == 0);
    }

    #[test]
    fn publishers_wait_by_messages_and_by_bytes() {
        let mut outgoing = Outgoing::default();
        let large = vec![0; 1 << 20];
        let mut count = 0;
        while !outgoing.is_long() {
            outgoing.push(message(count, &large));
            count += 1;
        }
        assert_eq!(count, 8, "8 MiB");
        let mut outgoing = Outgoing::default();
        let mut count = 0;
        while !outgoing.is_long() {
            outgoing.push(message(count, b"x"));
            count += 1;
        }
        assert_eq!(count as usize, LONG_ITEMS + 1);
    }
}
