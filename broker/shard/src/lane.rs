//! The proposer's side of a stream: numbers, batches, what is repeated when a leader is lost, and which answer belongs to what.
//!
//! A [`Lane`] has operations of one worker for one shard, each with a token by which the caller knows it. It says what to propose
//! ([`Lane::next`]), and is told what came of it ([`Lane::on_answer`], [`Lane::on_failure`]). A batch whose fate is not known is proposed again, perhaps
//! together with what came later: the shard knows operations by their numbers. Nothing in here knows of leaders, tasks or time.
//!
//! What a caller must keep to: proposals go to one leader in the order in which they were given out, as far as it can tell; where it
//! cannot, the shard answers [`Answer::Gap`], and what is missing comes again.

use std::collections::VecDeque;

use crate::NodeBoot;
use crate::answer::{Answer, OpAnswer};
use crate::command::{Batch, Command, Op};

/// Bounds of a lane.
#[derive(Debug, Clone, Copy)]
pub struct LaneOptions {
    /// The most operations that wait or are not answered.
    pub max_ops: usize,
    /// The most bytes of them, about; one operation always fits into an empty lane.
    pub max_bytes: usize,
    /// The most operations of a batch.
    pub batch_ops: usize,
    /// No further operation goes into a batch that has so many bytes, about.
    pub batch_bytes: usize,
    /// The most batches whose fate is not known.
    pub window: usize,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self { max_ops: 8_192, max_bytes: 16 << 20, batch_ops: 1_024, batch_bytes: 512 << 10, window: 2 }
    }
}

/// Operations of a worker for a shard.
#[derive(Debug)]
pub struct Lane<T> {
    node: NodeBoot,
    lane: u16,
    options: LaneOptions,
    state: State,
    /// Operations from number `first` on that are not answered, or wait behind one that is not.
    ops: VecDeque<Slot<T>>,
    first: u64,
    /// The number up to which (not included) operations are in batches that were given out.
    sent: u64,
    /// Batches that were given out.
    flying: usize,
    /// Counts how often everything was to be proposed again: answers to earlier batches count, but open no window.
    round: u64,
    bytes: usize,
    /// The highest epoch of a map that something was proposed with.
    map_epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The stream has to be opened.
    Closed,
    /// It was asked for.
    Opening,
    Open,
    /// The shard has closed it, for good.
    Over,
}

#[derive(Debug)]
struct Slot<T> {
    op: Op,
    bytes: usize,
    /// `None`: it was given up.
    token: Option<T>,
    /// Kept until those before it are answered.
    answer: Option<OpAnswer>,
}

/// Something to propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The command.
    pub command: Command,
    /// What the answer is to be given back with.
    pub ticket: Ticket,
}

/// Which proposal an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    round: u64,
    /// `None`: the opening.
    first: Option<u64>,
}

/// What an answer means for the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Goes,
    /// The map of slots that the operations were made with is older than the shard's, which has the one with this epoch. What was not applied, and
    /// cannot be any more, is in the list of [`Lane::take_from`] and goes where a newer map says.
    WrongShard {
        /// The epoch.
        epoch: u64,
        /// The first number that was not applied.
        next: u64,
    },
    /// The shard has not come to the map that the operations were made with: they are to be proposed again, in a moment.
    Behind,
    /// The shard has closed the stream: the node was declared down, or a later boot of it is there. What was not answered may have
    /// been applied; nothing more is taken.
    Over,
    /// The shard does not understand the program, or the program the shard.
    Unknown,
}

impl<T> Lane<T> {
    /// A lane of a node, with nothing in it; its stream is opened before the first batch.
    #[must_use]
    pub fn new(node: NodeBoot, lane: u16, options: LaneOptions) -> Self {
        Self {
            node,
            lane,
            options,
            state: State::Closed,
            ops: VecDeque::new(),
            first: 0,
            sent: 0,
            flying: 0,
            round: 0,
            bytes: 0,
            map_epoch: 0,
        }
    }

    /// Adds an operation.
    ///
    /// # Errors
    /// The lane is full or over: the operation and the token come back.
    pub fn push(&mut self, op: Op, token: T) -> Result<(), (Op, T)> {
        let bytes = op.size();
        let full = self.ops.len() >= self.options.max_ops
            || (!self.ops.is_empty() && self.bytes + bytes > self.options.max_bytes);
        if full || self.state == State::Over {
            return Err((op, token));
        }
        self.bytes += bytes;
        self.ops.push_back(Slot { op, bytes, token: Some(token), answer: None });
        Ok(())
    }

    /// Whether an operation would be taken now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.state != State::Over && self.ops.len() < self.options.max_ops && self.bytes < self.options.max_bytes
    }

    /// Whether everything is answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    /// Whether the shard has closed the stream.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// What to propose now, made with the map of slots of this epoch. To be asked until there is nothing.
    pub fn next(&mut self, map_epoch: u64) -> Option<Proposal> {
        // Never back: what was proposed with a newer map may still come to the shard, and be applied there.
        self.map_epoch = self.map_epoch.max(map_epoch);
        match self.state {
            State::Over | State::Opening => None,
            State::Closed if self.ops.is_empty() => None,
            State::Closed => {
                self.state = State::Opening;
                let command = Command::Open { node: self.node, lane: self.lane };
                Some(Proposal { command, ticket: Ticket { round: self.round, first: None } })
            }
            State::Open => self.next_batch(),
        }
    }

    fn next_batch(&mut self) -> Option<Proposal> {
        let begin = usize::try_from(self.sent - self.first).ok()?;
        if begin >= self.ops.len() || self.flying >= self.options.window.max(1) {
            return None;
        }
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for slot in self.ops.range(begin..) {
            if !ops.is_empty() && (ops.len() >= self.options.batch_ops || bytes >= self.options.batch_bytes) {
                break;
            }
            bytes += slot.bytes;
            ops.push(slot.op.clone());
        }
        let first = self.sent;
        self.sent += ops.len() as u64;
        self.flying += 1;
        let batch = Batch { node: self.node, lane: self.lane, first, map_epoch: self.map_epoch, ops };
        let ticket = Ticket { round: self.round, first: Some(first) };
        Some(Proposal { command: Command::Batch(batch), ticket })
    }

    /// A proposal was answered. `done` gets tokens with their answers, in the order of the operations: an answer waits for those before it.
    pub fn on_answer(&mut self, ticket: Ticket, answer: Answer, mut done: impl FnMut(T, OpAnswer)) -> Verdict {
        if self.state == State::Over {
            return Verdict::Over;
        }
        let current = ticket.round == self.round;
        if current && ticket.first.is_some() {
            self.flying = self.flying.saturating_sub(1);
        }
        match answer {
            Answer::Opened { next } => {
                if current && self.state == State::Opening {
                    // Of this lane; more than was ever sent is another one's that has the same name.
                    if next > self.first + self.ops.len() as u64 {
                        return self.end();
                    }
                    self.state = State::Open;
                    self.again();
                }
                Verdict::Goes
            }
            Answer::Batch(answers) => {
                let Some(first) = ticket.first else { return Verdict::Unknown };
                for (number, answer) in (first..).zip(answers) {
                    let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
                    let Some(slot) = at.and_then(|at| self.ops.get_mut(at)) else { continue };
                    if slot.answer.is_some() {
                        continue;
                    }
                    self.bytes -= std::mem::take(&mut slot.bytes);
                    slot.op = Op::Skip;
                    slot.answer = Some(answer);
                }
                while let Some(slot) = self.ops.pop_front_if(|slot| slot.answer.is_some()) {
                    self.first += 1;
                    if let Some((token, answer)) = slot.token.zip(slot.answer) {
                        done(token, answer);
                    }
                }
                self.sent = self.sent.max(self.first);
                Verdict::Goes
            }
            Answer::Gap { .. } => {
                if current {
                    self.again();
                }
                Verdict::Goes
            }
            Answer::WrongShard { epoch, next } => {
                if !current {
                    return Verdict::Goes;
                }
                self.again();
                if epoch <= self.map_epoch {
                    return Verdict::Behind;
                }
                Verdict::WrongShard { epoch, next }
            }
            Answer::Closed { .. } => self.end(),
            Answer::Done | Answer::Digest { .. } | Answer::Malformed | Answer::Unknown { .. } => Verdict::Unknown,
        }
    }

    /// A proposal has no answer: nobody leads, or the answer was lost. Everything that is not answered is proposed again.
    pub fn on_failure(&mut self, ticket: Ticket) {
        if ticket.round == self.round && self.state != State::Over {
            if self.state == State::Opening {
                self.state = State::Closed;
            }
            self.again();
        }
    }

    /// Nothing was heard of any proposal for too long: everything that is not answered is proposed again.
    pub fn time_out(&mut self) {
        if self.state == State::Opening {
            self.state = State::Closed;
        }
        if self.state != State::Over {
            self.again();
        }
    }

    /// Nobody waits for this operation any more. Its number stays used: whoever it was proposed to may have taken it. What its message occupied is free.
    /// Says whether it was there.
    pub fn give_up(&mut self, mut which: impl FnMut(&T) -> bool) -> bool {
        let Some(slot) = self.ops.iter_mut().find(|slot| slot.token.as_ref().is_some_and(&mut which)) else {
            return false;
        };
        slot.token = None;
        slot.op = Op::Skip;
        self.bytes -= std::mem::take(&mut slot.bytes);
        true
    }

    /// This operation is not wanted any more, but what became of it is: it is not proposed again. Its answer is its own if an earlier proposal has been applied, or
    /// will be; else that of [`Op::Skip`]. Says whether it was there.
    pub fn withdraw(&mut self, mut which: impl FnMut(&T) -> bool) -> bool {
        let Some(slot) = self.ops.iter_mut().find(|slot| slot.token.as_ref().is_some_and(&mut which)) else {
            return false;
        };
        if slot.answer.is_none() {
            slot.op = Op::Skip;
            self.bytes -= std::mem::take(&mut slot.bytes);
        }
        true
    }

    /// Takes out the operations from a number on, for another shard: after [`Verdict::WrongShard`], when they were not applied and cannot be any more under the
    /// map that they were proposed with. Those that were given up are gone with them. The ones before stay: their answers are on the way.
    pub fn take_from(&mut self, next: u64) -> Vec<(Op, T)> {
        self.again();
        let keep = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.ops.len());
        let taken = self.ops.split_off(keep);
        self.bytes -= taken.iter().map(|slot| slot.bytes).sum::<usize>();
        taken.into_iter().filter_map(|slot| slot.token.map(|token| (slot.op, token))).collect()
    }

    /// Ends the lane: nothing more is taken. The tokens of what was not answered, which may have been applied or not.
    pub fn close(&mut self) -> Vec<T> {
        self.end();
        self.bytes = 0;
        std::mem::take(&mut self.ops).into_iter().filter_map(|slot| slot.token).collect()
    }

    fn again(&mut self) {
        self.round += 1;
        self.flying = 0;
        self.sent = self.first;
    }

    fn end(&mut self) -> Verdict {
        self.state = State::Over;
        self.again();
        Verdict::Over
    }
}
