//! What other threads hand to a worker: a bounded queue with one wake-up a batch.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raftmq_mqtt::Message;
use tokio::sync::Notify;

/// Something for a worker from outside its thread.
pub(crate) enum Item {
    /// A message that some subscriber of this worker may want.
    Publish(Message),
    /// A connection whose session lives on this worker.
    Adopt(Adopted),
}

/// A connection on its way to the worker that holds its client's session.
pub(crate) struct Adopted {
    /// The socket, taken out of the other worker's reactor.
    pub(crate) socket: std::net::TcpStream,
    /// What was read from it and not yet answered: the CONNECT packet first.
    pub(crate) bytes: Vec<u8>,
    /// Milliseconds (the node's clock) when the connection was accepted.
    pub(crate) accepted_ms: u64,
    /// The listener that it came in by.
    pub(crate) listener: u16,
}

/// Limits of an [`Inbox`]: a worker that hangs must not take the node's memory.
const MAX_ITEMS: usize = 65_536;
const MAX_BYTES: usize = 64 << 20;

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

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::new(Queue::default()), ready: Notify::new() }
    }

    /// Hands over as many items from the front of `items` as fit, in order; the rest stays. Wakes the worker once.
    pub(crate) fn push(&self, items: &mut VecDeque<Item>) {
        let mut queue = self.lock();
        let was_empty = queue.items.is_empty();
        while let Some(item) = items.front() {
            let size = size_of_item(item);
            if queue.items.len() >= MAX_ITEMS || (queue.bytes + size > MAX_BYTES && !queue.items.is_empty()) {
                break;
            }
            queue.bytes += size;
            queue.items.extend(items.pop_front());
        }
        let wake = was_empty && !queue.items.is_empty();
        drop(queue);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Hands over one item, or gives it back when the queue is full.
    pub(crate) fn push_one(&self, item: Item) -> Result<(), Item> {
        let mut one = VecDeque::from([item]);
        self.push(&mut one);
        one.pop_front().map_or(Ok(()), Err)
    }

    /// Takes all that waits.
    pub(crate) fn take(&self, into: &mut VecDeque<Item>) {
        let mut queue = self.lock();
        queue.bytes = 0;
        std::mem::swap(&mut queue.items, into);
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
        Item::Adopt(adopted) => adopted.bytes.len() + 64,
    }
}
