//! Streams: the operations of a worker, each once and in order, whatever is proposed twice or lost on the way.
//!
//! A proposer that does not know what became of a batch proposes it again, perhaps cut differently and to another leader. An operation
//! that was applied gets the answer that it got then, from a window of the last ones, which is part of the state.

use super::ShardMachine;
use crate::NodeBoot;
use crate::answer::{Answer, OpAnswer};
use crate::codec::Reader;
use crate::command::Batch;
use crate::effect::Effect;
use crate::key;
use crate::record::{ANSWERS, Answers, Node, Stream, Sweep};
use crate::store::{Store, StoreError};

/// At least so many of a stream's last answers are kept.
pub(crate) const KEPT_ANSWERS: u64 = 4_096;

impl<S: Store> ShardMachine<S> {
    pub(super) fn open(&mut self, from: NodeBoot, lane: u16) -> Result<Answer, StoreError> {
        let key = key::node(from.node);
        let known = self.cache.get::<Node>(&key)?.cloned();
        let mut node = known.clone().unwrap_or(Node { boot: from.boot, ..Node::default() });
        if from.boot < node.boot || node.down.is_some_and(|down| from.boot <= down) {
            return Ok(Answer::Closed { boot: Some(node.boot) });
        }
        if from.boot > node.boot {
            self.close_streams(from.node, &mut node)?;
            node.boot = from.boot;
            self.effects.push(Effect::Boot { node: from.node });
        }
        let stream = key::stream(from.node, lane);
        let next = match node.lanes.binary_search(&lane) {
            Ok(_) => self.cache.get::<Stream>(&stream)?.map_or(0, |stream| stream.next),
            Err(at) => {
                node.lanes.insert(at, lane);
                self.cache.take::<Stream>(&stream)?;
                self.cache.put(&stream, Stream { next: 0 });
                0
            }
        };
        if known.as_ref() != Some(&node) {
            self.cache.put(&key, node);
        }
        Ok(Answer::Opened { next })
    }

    pub(super) fn batch(&mut self, batch: Batch) -> Result<Answer, StoreError> {
        let Batch { node: from, lane, first, map_epoch, ops } = batch;
        let boot = self.cache.get::<Node>(&key::node(from.node))?.map(|node| node.boot);
        let key = key::stream(from.node, lane);
        let (Some(stream), true) = (self.cache.get::<Stream>(&key)?, boot == Some(from.boot)) else {
            return Ok(Answer::Closed { boot });
        };
        let next = stream.next;
        if first > next {
            return Ok(Answer::Gap { expected: next });
        }
        let repeated = usize::try_from(next - first).unwrap_or(usize::MAX).min(ops.len());
        if repeated < ops.len() && map_epoch != self.meta.map_epoch {
            return Ok(Answer::WrongShard { epoch: self.meta.map_epoch, next });
        }
        let mut answers = Vec::with_capacity(ops.len());
        self.repeat(from.node, lane, next, first, repeated, &mut answers)?;
        if repeated == ops.len() {
            return Ok(Answer::Batch(answers));
        }
        let mut number = next;
        let mut bytes = Vec::new();
        let mut chunk = self.chunk(from.node, lane, number)?;
        for op in ops.into_iter().skip(repeated) {
            let answer = self.op(from, op)?;
            bytes.clear();
            answer.encode(&mut bytes);
            answers.push(answer);
            chunk.push(&bytes);
            number += 1;
            if number.is_multiple_of(ANSWERS) {
                self.cache.put(&key::answers(from.node, lane, number / ANSWERS - 1), std::mem::take(&mut chunk));
                self.forget(from.node, lane, number)?;
            }
        }
        if !number.is_multiple_of(ANSWERS) {
            self.cache.put(&key::answers(from.node, lane, number / ANSWERS), chunk);
        }
        self.cache.take::<Stream>(&key)?;
        self.cache.put(&key, Stream { next: number });
        Ok(Answer::Batch(answers))
    }

    /// Whatever was applied of the stream, this batch is what comes next: only planted bugs do that.
    pub(super) fn forget_applied(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let key = key::stream(batch.node.node, batch.lane);
        if self.cache.take::<Stream>(&key)?.is_some() {
            self.cache.put(&key, Stream { next: batch.first });
        }
        Ok(())
    }

    pub(super) fn node_down(&mut self, down: NodeBoot) -> Result<Answer, StoreError> {
        let key = key::node(down.node);
        let mut node = self.cache.take::<Node>(&key)?.unwrap_or_default();
        if node.down.is_some_and(|known| down.boot <= known) {
            self.cache.put(&key, node);
            return Ok(Answer::Done);
        }
        if node.boot <= down.boot {
            self.close_streams(down.node, &mut node)?;
        }
        node.down = Some(down.boot);
        self.cache.put(&key, node);
        self.meta.sweeps.push(Sweep { node: down, at_ms: self.meta.now_ms });
        Ok(Answer::Done)
    }

    /// When the node was declared down, if it was.
    pub(crate) fn down_since(&mut self, node: NodeBoot) -> Result<Option<u64>, StoreError> {
        let down = self.cache.get::<Node>(&key::node(node.node))?.and_then(|node| node.down);
        if down.is_none_or(|down| node.boot > down) {
            return Ok(None);
        }
        let mut sweeps = self.meta.sweeps.iter();
        let sweep = sweeps.find(|sweep| sweep.node.node == node.node && node.boot <= sweep.node.boot);
        Ok(Some(sweep.map_or(self.meta.now_ms, |sweep| sweep.at_ms)))
    }

    /// The record that the answer of this number goes into, to be put back.
    fn chunk(&mut self, node: u64, lane: u16, number: u64) -> Result<Answers, StoreError> {
        let key = key::answers(node, lane, number / ANSWERS);
        // The first of a record: there is none, without asking the store.
        if number.is_multiple_of(ANSWERS) {
            Ok(Answers::default())
        } else {
            Ok(self.cache.take(&key)?.unwrap_or_default())
        }
    }

    /// The answers to operations that were applied before.
    fn repeat(
        &mut self,
        node: u64,
        lane: u16,
        next: u64,
        first: u64,
        count: usize,
        answers: &mut Vec<OpAnswer>,
    ) -> Result<(), StoreError> {
        let oldest = oldest_chunk(next) * ANSWERS;
        let end = first + count as u64;
        let mut number = first;
        while number < end && number < oldest {
            answers.push(OpAnswer::Forgotten);
            number += 1;
        }
        while number < end {
            let chunk_end = (number / ANSWERS + 1) * ANSWERS;
            let chunk = self.cache.get::<Answers>(&key::answers(node, lane, number / ANSWERS))?;
            let skipped = (number % ANSWERS) as usize;
            let wanted = (end.min(chunk_end) - number) as usize;
            let kept = chunk.into_iter().flat_map(Answers::iter).skip(skipped).take(wanted);
            answers.extend(kept.map(|bytes| OpAnswer::decode(&mut Reader::new(bytes)).unwrap_or(OpAnswer::Forgotten)));
            number = end.min(chunk_end);
        }
        Ok(())
    }

    /// Removes the record that fell out of the window when `next` reached a new one.
    fn forget(&mut self, node: u64, lane: u16, next: u64) -> Result<(), StoreError> {
        if let Some(old) = oldest_chunk(next).checked_sub(1) {
            let key = key::answers(node, lane, old);
            if self.cache.has::<Answers>(&key)? {
                self.cache.remove(&key);
            }
        }
        Ok(())
    }

    fn close_streams(&mut self, id: u64, node: &mut Node) -> Result<(), StoreError> {
        for lane in std::mem::take(&mut node.lanes) {
            let key = key::stream(id, lane);
            let next = self.cache.get::<Stream>(&key)?.map_or(0, |stream| stream.next);
            self.cache.remove(&key);
            for chunk in oldest_chunk(next)..next.div_ceil(ANSWERS) {
                let key = key::answers(id, lane, chunk);
                if self.cache.has::<Answers>(&key)? {
                    self.cache.remove(&key);
                }
            }
        }
        Ok(())
    }
}

/// The first record of answers that is kept when `next` is expected.
fn oldest_chunk(next: u64) -> u64 {
    (next / ANSWERS).saturating_sub(KEPT_ANSWERS / ANSWERS)
}
