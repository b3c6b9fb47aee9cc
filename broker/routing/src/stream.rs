//! The sending end of a node's stream of batches: a window, and go-back-N when an answer is missing.

use std::collections::VecDeque;

use crate::{
    key::RouteKey,
    machine::{RoutesCommand, RoutesResponse},
};

/// A batch to be proposed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchToSend {
    /// The stream's number within the boot, to be given back with the result.
    pub stream: u64,
    /// The batch's number, to be given back with the result.
    pub seq: u64,
    /// What to propose.
    pub command: RoutesCommand,
}

/// What the owner has to do after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Ask [`crate::LocalRoutes::next_batch`] again. After a failed proposal, after some delay.
    Continue,
    /// The stream is closed: open a later one with [`crate::LocalRoutes::reopen`].
    Reopen,
    /// The node's id belongs to another incarnation, or another program version is at work: no stream can be opened.
    Refused,
}

/// Batches not answered yet, in order. `sent` of them are on their way.
#[derive(Default)]
pub(crate) struct Stream {
    node: u64,
    boot: u64,
    stream: u64,
    state: State,
    next: u64,
    window: VecDeque<Batch>,
    sent: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Opening,
    Open,
}

pub(crate) struct Batch {
    seq: u64,
    pub(crate) add: Vec<RouteKey>,
    pub(crate) remove: Vec<RouteKey>,
}

impl Stream {
    pub(crate) fn reopen(&mut self, node: u64, incarnation: u128, boot: u64, stream: u64) -> RoutesCommand {
        *self = Self { node, boot, stream, state: State::Opening, next: 1, ..Self::default() };
        RoutesCommand::Open { node, incarnation, boot, stream }
    }

    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.window.clear();
        self.sent = 0;
    }

    /// The number of the stream, if it is opening or open.
    pub(crate) fn current(&self) -> Option<u64> {
        (self.state != State::Closed).then_some(self.stream)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether another batch may be made.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        self.is_open() && self.window.len() < window
    }

    pub(crate) fn on_opened(&mut self, stream: u64, response: &RoutesResponse) -> Outcome {
        if self.state != State::Opening || stream != self.stream {
            return Outcome::Continue;
        }
        match response {
            RoutesResponse::Ok { .. } => {
                self.state = State::Open;
                Outcome::Continue
            }
            RoutesResponse::Closed { .. } | RoutesResponse::Gap { .. } => {
                self.close();
                Outcome::Reopen
            }
            RoutesResponse::WrongIncarnation
            | RoutesResponse::Malformed
            | RoutesResponse::UnknownFormat { .. }
            | RoutesResponse::OtherGeneration { .. } => {
                self.close();
                Outcome::Refused
            }
        }
    }

    pub(crate) fn push(&mut self, add: Vec<RouteKey>, remove: Vec<RouteKey>) {
        self.window.push_back(Batch { seq: self.next, add, remove });
        self.next += 1;
    }

    /// The next batch that is not on its way.
    pub(crate) fn send(&mut self) -> Option<BatchToSend> {
        if !self.is_open() {
            return None;
        }
        let batch = self.window.get(self.sent)?;
        self.sent += 1;
        Some(BatchToSend {
            stream: self.stream,
            seq: batch.seq,
            command: RoutesCommand::Batch {
                node: self.node,
                boot: self.boot,
                stream: self.stream,
                seq: batch.seq,
                add: batch.add.clone(),
                remove: batch.remove.clone(),
            },
        })
    }

    /// Takes an answer; `None` is a proposal that failed or whose result is not known. Calls `applied` for every batch that
    /// is known to be applied now.
    pub(crate) fn on_result(
        &mut self,
        stream: u64,
        seq: u64,
        response: Option<&RoutesResponse>,
        mut applied: impl FnMut(Batch),
    ) -> Outcome {
        if self.state != State::Open || stream != self.stream {
            return Outcome::Continue;
        }
        match response {
            None => {
                self.go_back(seq);
                Outcome::Continue
            }
            // A batch is applied only after all before it: their answers may come later or never.
            Some(RoutesResponse::Ok { .. }) => {
                self.applied_through(seq, &mut applied);
                Outcome::Continue
            }
            Some(&RoutesResponse::Gap { expected }) => {
                // Batches that travel side by side overtake each other, and so do their answers: one that expects a batch
                // which was answered since is only late. What the machine expects never goes down within a stream.
                let late = self.window.front().is_none_or(|first| expected < first.seq);
                if late {
                    self.go_back(seq);
                } else {
                    self.applied_through(expected - 1, &mut applied);
                    self.go_back(expected);
                }
                Outcome::Continue
            }
            Some(RoutesResponse::Closed { .. }) => {
                self.close();
                Outcome::Reopen
            }
            Some(
                RoutesResponse::WrongIncarnation
                | RoutesResponse::Malformed
                | RoutesResponse::UnknownFormat { .. }
                | RoutesResponse::OtherGeneration { .. },
            ) => {
                self.close();
                Outcome::Refused
            }
        }
    }

    fn applied_through(&mut self, seq: u64, applied: &mut impl FnMut(Batch)) {
        while self.window.front().is_some_and(|batch| batch.seq <= seq) {
            let batch = self.window.pop_front().expect("there is a front");
            self.sent = self.sent.saturating_sub(1);
            applied(batch);
        }
    }

    fn go_back(&mut self, seq: u64) {
        let before = self.window.iter().take_while(|batch| batch.seq < seq).count();
        self.sent = self.sent.min(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_gap_sends_again_and_closes_nothing() {
        let mut stream = Stream::default();
        stream.reopen(1, 2, 3, 4);
        assert_eq!(stream.on_opened(4, &RoutesResponse::Ok { next: 1 }), Outcome::Continue);
        for _ in 0..3 {
            stream.push(Vec::new(), Vec::new());
        }
        let sent: Vec<u64> = std::iter::from_fn(|| stream.send()).map(|batch| batch.seq).collect();
        assert_eq!(sent, [1, 2, 3]);
        // The second overtook the first: its gap was answered when the first was not there, and comes after the first's Ok.
        let mut applied = 0;
        assert_eq!(stream.on_result(4, 1, Some(&RoutesResponse::Ok { next: 2 }), |_| applied += 1), Outcome::Continue);
        assert_eq!(
            stream.on_result(4, 2, Some(&RoutesResponse::Gap { expected: 1 }), |_| applied += 1),
            Outcome::Continue
        );
        assert_eq!(applied, 1);
        let again: Vec<u64> = std::iter::from_fn(|| stream.send()).map(|batch| batch.seq).collect();
        assert_eq!(again, [2, 3]);
    }
}
