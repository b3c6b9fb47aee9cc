//! Requests of one class to one peer, from the call to its answer. No I/O.

use std::collections::VecDeque;
use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::LinkError;
use crate::frame::{self, FrameType};
use crate::io::Batch;

const ENTRY_BYTES: usize = 96;

pub(crate) type AnswerSender = oneshot::Sender<Result<Bytes, LinkError>>;

struct Queued {
    id: u64,
    kind: u16,
    payload: Bytes,
    deadline: Instant,
}

struct Waiter {
    answer: AnswerSender,
    /// By which connection the peer may have got it.
    written: Option<u64>,
}

pub(crate) struct Requests {
    queue: VecDeque<Queued>,
    waiting: AHashMap<u64, Waiter>,
    written: usize,
    bytes: usize,
    next_id: u64,
    connections: u64,
    max_bytes: usize,
    max_outstanding: usize,
}

/// What is in the way, and its bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) queued: usize,
    pub(crate) max: usize,
}

impl Requests {
    pub(crate) fn new(max_bytes: usize, max_outstanding: usize) -> Self {
        Requests {
            queue: VecDeque::new(),
            waiting: AHashMap::new(),
            written: 0,
            bytes: 0,
            next_id: 1,
            connections: 0,
            max_bytes,
            max_outstanding,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.written > 0
    }

    /// Whether an answer is to come by this connection, or one before it.
    pub(crate) fn is_waiting_on(&self, connection: u64) -> bool {
        self.written > 0 && self.waiting.values().any(|waiter| waiter.written.is_some_and(|by| by <= connection))
    }

    /// Another connection is there: its number.
    pub(crate) fn connected(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    /// Returns the id, for giving it up.
    pub(crate) fn push(
        &mut self,
        kind: u16,
        payload: Bytes,
        deadline: Instant,
        answer: AnswerSender,
    ) -> Result<u64, Full> {
        if self.waiting.len() >= self.max_outstanding {
            return Err(Full { queued: self.waiting.len(), max: self.max_outstanding });
        }
        let cost = payload.len() + ENTRY_BYTES;
        if self.bytes + cost > self.max_bytes {
            self.purge();
        }
        if self.bytes + cost > self.max_bytes && !self.queue.is_empty() {
            return Err(Full { queued: self.bytes, max: self.max_bytes });
        }
        let id = self.next_id;
        self.next_id += 1;
        self.bytes += cost;
        self.queue.push_back(Queued { id, kind, payload, deadline });
        let waiter = Waiter { answer, written: None };
        self.waiting.insert(id, waiter);
        Ok(id)
    }

    /// The caller does not wait any more.
    pub(crate) fn give_up(&mut self, id: u64) {
        self.take(id);
    }

    pub(crate) fn answer(&mut self, id: u64, result: Result<Bytes, LinkError>) {
        // Unknown: it was given up.
        if let Some(waiter) = self.take(id) {
            let _ = waiter.answer.send(result);
        }
    }

    /// Appends requests, which go by the last connection, until the batch is full.
    pub(crate) fn fill(&mut self, batch: &mut Batch, now: Instant) {
        while !batch.is_full() {
            let Some(request) = self.queue.pop_front() else {
                break;
            };
            self.bytes -= request.payload.len() + ENTRY_BYTES;
            let Some(waiter) = self.waiting.get_mut(&request.id) else {
                continue;
            };
            let left = request.deadline.saturating_duration_since(now).as_millis();
            let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
            waiter.written = Some(self.connections);
            self.written += 1;
            let out = batch.header();
            frame::encode_header(out, FrameType::Request, request.kind, 0, request.id, 4 + request.payload.len());
            out.extend_from_slice(&left.to_le_bytes());
            batch.payload(request.payload);
        }
    }

    /// The connection broke, as have those before it: the peer may have done what was written.
    pub(crate) fn fail_written(&mut self, connection: u64, error: &LinkError) {
        self.fail(|written| written.is_some_and(|by| by <= connection), error);
    }

    /// The peer cannot be reached: nothing of this was sent.
    pub(crate) fn fail_queued(&mut self, error: &LinkError) {
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.fail(|written| written.is_none(), error);
    }

    /// Nothing comes any more.
    pub(crate) fn fail_all(&mut self, error: &LinkError) {
        self.fail_queued(error);
        self.fail(|_| true, error);
    }

    fn fail(&mut self, which: impl Fn(Option<u64>) -> bool, error: &LinkError) {
        let failed: Vec<Waiter> =
            self.waiting.extract_if(|_, waiter| which(waiter.written)).map(|(_, waiter)| waiter).collect();
        self.written -= failed.iter().filter(|waiter| waiter.written.is_some()).count();
        for waiter in failed {
            let _ = waiter.answer.send(Err(error.clone()));
        }
    }

    fn take(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiting.remove(&id)?;
        if waiter.written.is_some() {
            self.written -= 1;
        }
        Some(waiter)
    }

    fn purge(&mut self) {
        let waiting = &self.waiting;
        self.queue.retain(|request| waiting.contains_key(&request.id));
        self.bytes = self.queue.iter().map(|request| request.payload.len() + ENTRY_BYTES).sum();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot::error::TryRecvError;

    fn push(requests: &mut Requests, size: usize) -> Result<(u64, oneshot::Receiver<Result<Bytes, LinkError>>), Full> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(9);
        let id = requests.push(1, Bytes::from(vec![0; size]), deadline, answer)?;
        Ok((id, answered))
    }

    #[test]
    fn given_up_requests_make_room_and_are_not_written() {
        let mut requests = Requests::new(1000, 100);
        let (first, _) = push(&mut requests, 400).unwrap();
        push(&mut requests, 300).map(drop).unwrap();
        assert!(push(&mut requests, 200).is_err());
        requests.give_up(first);
        push(&mut requests, 200).map(drop).unwrap();
        let mut batch = Batch::default();
        requests.fill(&mut batch, Instant::now());
        assert_eq!(batch.bytes_for_tests().len(), 2 * 21 + 300 + 200);
        assert_eq!(requests.bytes(), 0);
        assert!(requests.is_waiting());
    }

    #[test]
    fn a_broken_connection_fails_what_was_written_only() {
        let mut requests = Requests::new(1000, 100);
        let (id, mut written) = push(&mut requests, 1).unwrap();
        let first = requests.connected();
        requests.fill(&mut Batch::default(), Instant::now());
        let second = requests.connected();
        let (_, mut later) = push(&mut requests, 1).unwrap();
        requests.fill(&mut Batch::default(), Instant::now());
        let lost = LinkError::Disconnected("cut".to_owned());
        assert!(requests.is_waiting_on(first) && requests.is_waiting_on(second));
        requests.fail_written(first, &lost);
        assert_eq!(written.try_recv().unwrap(), Err(lost.clone()));
        assert!(
            later.try_recv().is_err() && !requests.is_waiting_on(first),
            "it may be answered by the other connection"
        );
        assert!(requests.is_waiting_on(second));
        requests.fail_written(second, &lost);
        assert_eq!(later.try_recv().unwrap(), Err(lost));
        let (_, mut queued) = push(&mut requests, 1).unwrap();
        requests.fail_written(second, &LinkError::Shutdown);
        assert_eq!(queued.try_recv(), Err(TryRecvError::Empty));
        assert!(!requests.is_waiting());
        // An answer that comes too late is nobody's.
        requests.answer(id, Ok(Bytes::new()));
        let gone = LinkError::Unreachable("gone".to_owned());
        requests.fail_queued(&gone);
        assert_eq!(queued.try_recv().unwrap(), Err(gone));
        assert_eq!(requests.bytes(), 0);
    }
}
