//! Where the replicas of each shard shall be.

use std::collections::BTreeSet;

use super::chain::{Move, Moves};
use super::table::ShardTable;
use crate::MAX_MEMBERS;

/// How long a member is waited for that is down: its replicas have most of what they need when it returns, a new one has nothing.
pub const DOWN_GRACE_MS: u64 = 10 * 60 * 1000;

/// A member, as far as the placement is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its Raft id.
    pub id: u64,
    /// What fails together with it. Members whose zone is empty are in one.
    pub zone: String,
    /// Whether it takes part and stays: one that leaves or was replaced gives up all replicas.
    pub active: bool,
    /// Whether it is alive: only then it gets further replicas.
    pub up: bool,
    /// For how many milliseconds it has not been; its replicas are placed elsewhere from [`DOWN_GRACE_MS`] on.
    pub down_for_ms: u64,
}

/// The shards whose replicas shall be elsewhere than the table wants them, with their new places. By these rules, the first one before the next:
///
/// 1. A shard has as many replicas as the table's replication says, or one on each active member.
/// 2. They are on active members that are alive, or have been down for less than the grace. Where these are too few, they are on all of
///    these and the rest stays where it is.
/// 3. They are spread over zones: no zone has more of a shard's replicas than it must.
/// 4. Members have the same number of replicas within one, as far as the zones allow. What is on a member that is down is left there.
/// 5. As few replicas move as possible.
///
/// What comes out depends on the arguments alone and not on the order of the members; once it is what the table wants, nothing comes out.
#[must_use]
pub fn place(members: &[Candidate], table: &ShardTable) -> Vec<(u16, BTreeSet<u64>)> {
    let Some(mut placement) = Placement::new(members, table) else {
        return Vec::new();
    };
    if placement.usable.count_ones() as usize >= placement.replication {
        placement.spread();
        placement.fill();
        placement.even_out();
    } else {
        placement.make_do();
    }
    let placed = table.iter().zip(&placement.shards);
    let placed = placed.map(|((number, shard), mask)| (number, shard.wanted(), placement.ids(*mask)));
    placed.filter(|(_, old, new)| *old != new).map(|(number, _, new)| (number, new)).collect()
}

/// Members by their place in the order of ids, a bit each.
type Mask = u64;
const _: () = assert!(MAX_MEMBERS <= Mask::BITS as usize);

fn bit(member: usize) -> Mask {
    1 << member
}

fn members_of(mask: Mask) -> impl Iterator<Item = usize> {
    (0..Mask::BITS as usize).filter(move |member| mask & bit(*member) != 0)
}

struct Placement {
    ids: Vec<u64>,
    /// The members of each zone that are usable.
    zones: Vec<Mask>,
    zone_of: Vec<usize>,
    /// Active members.
    active: Mask,
    /// Those of them that may keep replicas.
    usable: Mask,
    /// Those of them that may get some.
    up: Mask,
    /// Replicas of each shard.
    replication: usize,
    /// Most replicas of one shard in a zone.
    most: u32,
    /// Who has each shard.
    shards: Vec<Mask>,
    /// Who had it before.
    before: Vec<Mask>,
    load: Vec<u32>,
}

impl Placement {
    /// The replicas that stay; `None` when there is nothing to place or nowhere to.
    fn new(members: &[Candidate], table: &ShardTable) -> Option<Self> {
        let mut active: Vec<&Candidate> = members.iter().filter(|m| m.active).collect();
        active.sort_by_key(|m| m.id);
        active.dedup_by_key(|m| m.id);
        active.truncate(MAX_MEMBERS);
        let replication = usize::from(table.replication()).min(active.len());
        if replication == 0 {
            return None;
        }
        let mask = |which: &dyn Fn(&Candidate) -> bool| {
            active.iter().enumerate().filter(|(_, m)| which(m)).fold(0, |mask, (at, _)| mask | bit(at))
        };
        let (all, up) = (mask(&|_| true), mask(&|m| m.up));
        let usable = mask(&|m| m.up || m.down_for_ms < DOWN_GRACE_MS);
        let names: BTreeSet<&str> = active.iter().map(|m| m.zone.as_str()).collect();
        let zones: Vec<Mask> = names.iter().map(|name| usable & mask(&|m| m.zone == *name)).collect();
        let zone_of = |m: &&Candidate| names.iter().position(|name| *name == m.zone);
        let ids: Vec<u64> = active.iter().map(|m| m.id).collect();
        let at = |id: &u64| ids.binary_search(id).ok();
        let before: Vec<Mask> = table
            .iter()
            .map(|(_, shard)| shard.wanted().iter().filter_map(at).fold(0, |mask, member| mask | bit(member)))
            .collect();
        let mut placement = Self {
            zone_of: active.iter().filter_map(zone_of).collect(),
            most: most_in_a_zone(&zones, replication),
            active: all,
            load: vec![0; ids.len()],
            shards: before.iter().map(|mask| mask & usable).collect(),
            ids,
            zones,
            usable,
            up,
            replication,
            before,
        };
        for shard in 0..placement.shards.len() {
            for member in members_of(placement.shards[shard]) {
                placement.load[member] += 1;
            }
        }
        Some(placement)
    }

    fn ids(&self, mask: Mask) -> BTreeSet<u64> {
        members_of(mask).map(|member| self.ids[member]).collect()
    }

    fn put(&mut self, shard: usize, member: usize) {
        self.shards[shard] |= bit(member);
        self.load[member] += 1;
    }

    fn take(&mut self, shard: usize, member: usize) {
        self.shards[shard] &= !bit(member);
        self.load[member] -= 1;
    }

    fn in_zone(&self, shard: usize, zone: usize) -> u32 {
        (self.shards[shard] & self.zones[zone]).count_ones()
    }

    /// Whom to take a replica from that must go: in the fullest zone, then with the most replicas.
    fn least_needed(&self, shard: usize, among: Mask) -> Option<usize> {
        members_of(self.shards[shard] & among)
            .max_by_key(|m| (self.in_zone(shard, self.zone_of[*m]), self.up & bit(*m) == 0, self.load[*m], *m))
    }

    /// Whom to give a replica to: in the emptiest zone, then with the fewest replicas. Among equals another one for each shard, so that what
    /// was on one member is not all together on another one.
    fn most_welcome(&self, shard: usize, among: Mask) -> Option<usize> {
        members_of(among & !self.shards[shard]).min_by_key(|m| {
            let over = (self.in_zone(shard, self.zone_of[*m]) + 1).saturating_sub(self.most);
            (over, self.load[*m], mix(shard, self.ids[*m]), *m)
        })
    }

    /// Takes from zones that have too many replicas of a shard, where another one may have more.
    fn spread(&mut self) {
        for shard in 0..self.shards.len() {
            for zone in 0..self.zones.len() {
                while self.in_zone(shard, zone) > self.most {
                    let room = |z: &usize| self.in_zone(shard, *z) < self.most;
                    let rooms = (0..self.zones.len()).filter(room).fold(0, |mask, z| mask | self.zones[z]);
                    let from = self.least_needed(shard, self.zones[zone]);
                    let (Some(from), Some(to)) = (from, self.most_welcome(shard, rooms & self.up)) else {
                        break;
                    };
                    self.take(shard, from);
                    self.put(shard, to);
                }
            }
        }
    }

    /// Gives each shard the replicas that it lacks, on members that are down only when there are no others.
    fn fill(&mut self) {
        for shard in 0..self.shards.len() {
            while (self.shards[shard].count_ones() as usize) < self.replication {
                let up = self.most_welcome(shard, self.up);
                let Some(member) = up.or_else(|| self.most_welcome(shard, self.usable)) else {
                    break;
                };
                self.put(shard, member);
            }
        }
    }

    fn even_out(&mut self) {
        loop {
            let up: Vec<usize> = members_of(self.up).collect();
            let load: Vec<u32> = up.iter().map(|member| self.load[*member]).collect();
            let uneven = load.iter().max().zip(load.iter().min()).is_some_and(|(most, least)| *most >= least + 2);
            let Some(chain) = uneven.then(|| self.moves(&up).next(&load)).flatten() else {
                return;
            };
            for (from, to, shard) in chain {
                self.take(shard, up[from]);
                self.put(shard, up[to]);
            }
        }
    }

    /// What could move between members that are up. A replica that is where it was before costs one.
    fn moves(&self, up: &[usize]) -> Moves {
        let mut moves = Moves::between(up.len());
        for (shard, has) in self.shards.iter().enumerate() {
            for (from, member) in up.iter().enumerate().filter(|(_, member)| has & bit(**member) != 0) {
                let cost = u32::from(self.before[shard] & bit(*member) != 0);
                for (to, other) in up.iter().enumerate().filter(|(_, other)| has & bit(**other) == 0) {
                    let zone = self.zone_of[*other];
                    if zone == self.zone_of[*member] || self.in_zone(shard, zone) < self.most {
                        moves.add(from, to, Move { cost, thing: shard });
                    }
                }
            }
        }
        moves
    }

    /// Too few are usable: each of them has a replica of everything, the rest waits for those that are down.
    fn make_do(&mut self) {
        for shard in 0..self.shards.len() {
            let missing = |mask: Mask, p: &Self| p.replication.saturating_sub(mask.count_ones() as usize);
            let mut mask = self.usable;
            mask |= members_of(self.before[shard] & !mask).take(missing(mask, self)).fold(0, |m, at| m | bit(at));
            mask |= members_of(self.active & !mask).take(missing(mask, self)).fold(0, |m, at| m | bit(at));
            self.shards[shard] = mask;
        }
    }
}

/// The least number of a shard's replicas that some zone has to have.
fn most_in_a_zone(zones: &[Mask], replication: usize) -> u32 {
    let room = |most: u32| zones.iter().map(|zone| zone.count_ones().min(most) as usize).sum::<usize>();
    (1..=replication as u32).find(|most| room(*most) >= replication).unwrap_or(replication as u32)
}

/// Some number of a shard and a member.
pub(super) fn mix(shard: usize, id: u64) -> u64 {
    let mut hash = (shard as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
