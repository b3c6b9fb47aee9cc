//! How the entries of meta's log change the table. An entry that is refused changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::slots::{SlotRun, SlotRuns};
use super::table::{Reported, Shard, ShardTable};
use super::{MAX_REPLICATION, MAX_SHARDS, MAX_ZONE};
use crate::command::{MetaCommand, Refusal};
use crate::state::Member;
use crate::{MAX_MEMBERS, voters_for};

impl ShardTable {
    pub(crate) fn apply(&mut self, command: MetaCommand, members: &BTreeMap<u64, Member>) -> Result<(), Refusal> {
        match command {
            MetaCommand::CreateShards { count, replication } => self.create(count, replication),
            MetaCommand::PlaceShards { epoch, moves } => self.place(epoch, moves, members),
            MetaCommand::FormShard { shard, generation, voters } => self.form(shard, generation, voters, members),
            MetaCommand::ShardFormed { shard, generation } => self.formed(shard, generation),
            MetaCommand::ShardReplicas { shard, generation, index, voters, learners } => {
                self.replicas(shard, generation, Reported { index, voters, learners })
            }
            MetaCommand::MoveSlots { epoch, runs } => self.move_slots(epoch, runs),
            MetaCommand::Zone { id, zone } => self.set_zone(id, zone, members),
            MetaCommand::RenewShard { shard, generation } => self.renew(shard, generation),
            _ => Err(Refusal::Invalid("not a command of the shards".into())),
        }
    }

    fn create(&mut self, count: u16, replication: u8) -> Result<(), Refusal> {
        if !self.shards.is_empty() {
            let same = self.count() == count && self.replication == replication;
            let there = Refusal::ShardsExist { count: self.count(), replication: self.replication };
            return if same { Ok(()) } else { Err(there) };
        }
        if count == 0 || count > MAX_SHARDS {
            return Err(Refusal::Invalid(format!("{count} shards; there may be 1 to {MAX_SHARDS}")));
        }
        if replication == 0 || replication > MAX_REPLICATION {
            return Err(Refusal::Invalid(format!("replication {replication}; it may be 1 to {MAX_REPLICATION}")));
        }
        self.replication = replication;
        self.slots = SlotRuns::even(1, count);
        self.shards = (0..count).map(|_| Arc::new(Shard::new())).collect();
        Ok(())
    }

    fn place(
        &mut self,
        epoch: u64,
        moves: Vec<(u16, BTreeSet<u64>)>,
        members: &BTreeMap<u64, Member>,
    ) -> Result<(), Refusal> {
        self.created()?;
        if epoch != self.placed {
            return Err(Refusal::Epoch { epoch, current: self.placed });
        }
        if moves.is_empty() || moves.len() > self.shards.len() {
            return Err(Refusal::Invalid(format!("a placement of {} shards", moves.len())));
        }
        let mut seen = BTreeSet::new();
        for (shard, replicas) in &moves {
            self.shard(*shard)?;
            if !seen.insert(*shard) {
                return Err(Refusal::Invalid(format!("shard {shard} is placed twice")));
            }
            if replicas.is_empty() || replicas.len() > usize::from(self.replication) {
                let count = replicas.len();
                return Err(Refusal::Invalid(format!("shard {shard}: {count} replicas of {}", self.replication)));
            }
            are_active(replicas, members)?;
        }
        for (shard, replicas) in moves {
            self.shard_mut(shard)?.wanted = replicas;
        }
        self.placed += 1;
        Ok(())
    }

    fn form(
        &mut self,
        shard: u16,
        generation: u32,
        voters: BTreeSet<u64>,
        members: &BTreeMap<u64, Member>,
    ) -> Result<(), Refusal> {
        let there = self.of_generation(shard, generation)?;
        if !there.initial.is_empty() {
            // Only the first counts: its voters may have begun already.
            return if there.initial == voters { Ok(()) } else { Err(Refusal::ShardForms { shard }) };
        }
        let count = voters_for(there.wanted.len());
        if voters.is_empty() || voters.len() != count || !voters.is_subset(&there.wanted) {
            return Err(Refusal::Invalid(format!(
                "shard {shard} is formed by {count} of {:?}, not by {:?}",
                there.wanted,
                voters.iter().take(MAX_MEMBERS).collect::<Vec<_>>(),
            )));
        }
        are_active(&voters, members)?;
        self.shard_mut(shard)?.initial = voters;
        Ok(())
    }

    fn formed(&mut self, shard: u16, generation: u32) -> Result<(), Refusal> {
        if self.of_generation(shard, generation)?.initial.is_empty() {
            return Err(Refusal::Invalid(format!("nobody was named who forms shard {shard}")));
        }
        self.shard_mut(shard)?.formed = true;
        Ok(())
    }

    fn replicas(&mut self, shard: u16, generation: u32, reported: Reported) -> Result<(), Refusal> {
        let there = self.of_generation(shard, generation)?;
        if !there.formed {
            return Err(Refusal::Invalid(format!("shard {shard} has not been formed")));
        }
        let Reported { index, voters, learners } = &reported;
        if voters.is_empty() || voters.len() + learners.len() > MAX_MEMBERS || !voters.is_disjoint(learners) {
            let (voters, learners) = (voters.len(), learners.len());
            return Err(Refusal::Invalid(format!("shard {shard} has {voters} voters and {learners} learners")));
        }
        // Reports overtake each other, and the log is one.
        if there.reported.as_ref().is_some_and(|old| old.index >= *index) {
            return Ok(());
        }
        self.shard_mut(shard)?.reported = Some(reported);
        Ok(())
    }

    fn move_slots(&mut self, epoch: u64, runs: Vec<SlotRun>) -> Result<(), Refusal> {
        self.created()?;
        let current = self.slots.epoch();
        if current.checked_add(1) != Some(epoch) {
            return Err(Refusal::Epoch { epoch, current });
        }
        self.slots = SlotRuns::of(epoch, runs, self.shards.len()).map_err(Refusal::Invalid)?;
        Ok(())
    }

    fn set_zone(&mut self, id: u64, zone: String, members: &BTreeMap<u64, Member>) -> Result<(), Refusal> {
        if !members.contains_key(&id) {
            return Err(Refusal::NotMember { id });
        }
        if zone.len() > MAX_ZONE || zone.chars().any(char::is_control) {
            let length = zone.len();
            return Err(Refusal::Invalid(format!("a zone of {length} bytes; it is plain text of at most {MAX_ZONE}")));
        }
        if zone.is_empty() {
            self.forget(id);
        } else if self.zone(id) != zone {
            Arc::make_mut(&mut self.zones).insert(id, zone);
        }
        Ok(())
    }

    /// The zone of a member that has gone. Its replicas stay in the table until they have another place.
    pub(crate) fn forget(&mut self, id: u64) {
        if self.zones.contains_key(&id) {
            Arc::make_mut(&mut self.zones).remove(&id);
        }
    }

    /// The group begins anew under the next generation. What the one before held is gone.
    fn renew(&mut self, shard: u16, generation: u32) -> Result<(), Refusal> {
        let there = self.shard(shard)?;
        // Repeated, and nothing came of it since.
        if there.generation.checked_sub(1) == Some(generation) && there.renewed > 0 && there.initial.is_empty() {
            return Ok(());
        }
        let there = self.of_generation(shard, generation)?;
        let next = Shard {
            generation: generation
                .checked_add(1)
                .ok_or_else(|| Refusal::Invalid(format!("shard {shard} has no further generation")))?,
            wanted: there.wanted.clone(),
            renewed: there.renewed.saturating_add(1),
            ..Shard::new()
        };
        *self.shard_mut(shard)? = next;
        Ok(())
    }

    fn created(&self) -> Result<(), Refusal> {
        if self.shards.is_empty() { Err(Refusal::NoShards) } else { Ok(()) }
    }

    fn shard(&self, shard: u16) -> Result<&Shard, Refusal> {
        self.created()?;
        self.get(shard).ok_or(Refusal::NoSuchShard { shard })
    }

    fn shard_mut(&mut self, shard: u16) -> Result<&mut Shard, Refusal> {
        self.shards.get_mut(usize::from(shard)).map(Arc::make_mut).ok_or(Refusal::NoSuchShard { shard })
    }

    fn of_generation(&self, shard: u16, generation: u32) -> Result<&Shard, Refusal> {
        let there = self.shard(shard)?;
        if there.generation == generation {
            Ok(there)
        } else {
            Err(Refusal::Generation { shard, generation, current: there.generation })
        }
    }
}

fn are_active(ids: &BTreeSet<u64>, members: &BTreeMap<u64, Member>) -> Result<(), Refusal> {
    match ids.iter().find(|id| !members.get(id).is_some_and(Member::is_active)) {
        Some(&id) => Err(Refusal::NotMember { id }),
        None => Ok(()),
    }
}
