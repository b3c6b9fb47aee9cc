//! The list as the meta group keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Ban, BanOrigin, BanTarget};

/// Most bans. Half of them at most come from flapping clients, so that these leave room for what an operator asks for.
pub const MAX_BANS: usize = 10_000;
/// Most bytes of all bans; half for those of flapping clients.
pub const MAX_BAN_BYTES: usize = 4 << 20;
/// Most bans in one entry of the log.
pub const MAX_BATCH: usize = 64;

/// The bans that are in force, by whom they are of. A copy shares the bans until one of the two changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BanList {
    bans: Arc<BTreeMap<BanTarget, Ban>>,
    /// What all of them take, and those of flapping clients.
    all: Size,
    flapping: Size,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    count: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, ban: &Ban) {
        self.count += 1;
        self.bytes += ban.size();
    }

    fn remove(&mut self, ban: &Ban) {
        self.count -= 1;
        self.bytes -= ban.size();
    }
}

/// There is no room for another ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl BanList {
    /// The bans, by target.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    /// The ban of a target.
    #[must_use]
    pub fn get(&self, target: &BanTarget) -> Option<&Ban> {
        self.bans.get(target)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// Whether some ban is over at this time (milliseconds since the Unix epoch).
    #[must_use]
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.iter().any(|ban| is_over(ban, now_ms))
    }

    /// Adds bans, or replaces those of the same targets. What a node found never takes the place of what an operator asked for, nor
    /// shortens it. Those for which there is no room are left out: says how many; an error if that is all of them.
    ///
    /// # Errors
    /// What is wrong with one of the bans, and then nothing has changed; or that the list is full.
    pub fn add(&mut self, bans: Vec<Ban>) -> Result<usize, BanRefusal> {
        if bans.len() > MAX_BATCH {
            return Err(BanRefusal::Invalid(format!("{} bans at once; at most {MAX_BATCH}", bans.len())));
        }
        bans.iter().try_for_each(Ban::check).map_err(BanRefusal::Invalid)?;
        let some = !bans.is_empty();
        let mut refused = 0;
        let all = bans.len();
        for ban in bans {
            refused += usize::from(self.add_one(ban).is_err());
        }
        if some && refused == all { Err(BanRefusal::Full) } else { Ok(refused) }
    }

    fn add_one(&mut self, ban: Ban) -> Result<(), Full> {
        let flapping = ban.origin == BanOrigin::Flapping;
        let old = self.bans.get(&ban.target);
        if flapping && old.is_some_and(|old| old.origin == BanOrigin::Operator || ends(old) >= ends(&ban)) {
            return Ok(());
        }
        // What there would be, before anything is changed: a copy of the list is not to be had for nothing.
        let (mut all, mut of_flapping) = (self.all, self.flapping);
        if let Some(old) = old {
            all.remove(old);
            if old.origin == BanOrigin::Flapping {
                of_flapping.remove(old);
            }
        }
        all.add(&ban);
        if flapping {
            of_flapping.add(&ban);
        }
        let fits = |size: Size, share| size.count <= MAX_BANS / share && size.bytes <= MAX_BAN_BYTES / share;
        if !fits(all, 1) || (flapping && !fits(of_flapping, 2)) {
            return Err(Full);
        }
        (self.all, self.flapping) = (all, of_flapping);
        Arc::make_mut(&mut self.bans).insert(ban.target.clone(), ban);
        Ok(())
    }

    /// Ends a ban. Whether there was one.
    pub fn remove(&mut self, target: &BanTarget) -> bool {
        if !self.bans.contains_key(target) {
            return false;
        }
        let Some(ban) = Arc::make_mut(&mut self.bans).remove(target) else {
            return false;
        };
        self.all.remove(&ban);
        if ban.origin == BanOrigin::Flapping {
            self.flapping.remove(&ban);
        }
        true
    }

    fn count(&mut self, ban: &Ban) {
        self.all.add(ban);
        if ban.origin == BanOrigin::Flapping {
            self.flapping.add(ban);
        }
    }

    /// Ends all that are over at this time.
    pub fn expire(&mut self, now_ms: u64) {
        if self.is_over(now_ms) {
            *self = self.iter().filter(|ban| !is_over(ban, now_ms)).cloned().collect();
        }
    }
}

/// Why bans were not added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BanRefusal {
    /// What is wrong.
    Invalid(String),
    /// There is no room.
    Full,
}

fn ends(ban: &Ban) -> u64 {
    ban.until_ms.unwrap_or(u64::MAX)
}

fn is_over(ban: &Ban, now_ms: u64) -> bool {
    ban.until_ms.is_some_and(|until| until <= now_ms)
}

impl FromIterator<Ban> for BanList {
    /// Whatever its size: of a list that was kept.
    fn from_iter<I: IntoIterator<Item = Ban>>(bans: I) -> Self {
        let bans: BTreeMap<BanTarget, Ban> = bans.into_iter().map(|ban| (ban.target.clone(), ban)).collect();
        let mut list = Self::default();
        bans.values().for_each(|ban| list.count(ban));
        list.bans = Arc::new(bans);
        list
    }
}

impl Serialize for BanList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'a> Deserialize<'a> for BanList {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Ban>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of_client(id: &str, origin: BanOrigin, until_ms: u64) -> Ban {
        let target = BanTarget::ClientId(id.into());
        Ban { target, reason: String::new(), by: "n".into(), origin, since_ms: 1, until_ms: Some(until_ms) }
    }

    /// An entry of the log may replace many bans of a long list.
    #[test]
    fn nothing_is_copied_to_replace_or_refuse_a_ban() {
        let mut list: BanList = (0..MAX_BANS).map(|n| of_client(&n.to_string(), BanOrigin::Operator, 9)).collect();
        let place = |list: &BanList| Arc::as_ptr(&list.bans);
        let before = place(&list);
        // One at a time: of two copies the second is where the list was first.
        list.add(vec![of_client("7", BanOrigin::Operator, 10)]).unwrap();
        assert_eq!(place(&list), before);
        let full = list.add(vec![of_client("other", BanOrigin::Operator, 9)]);
        assert_eq!((full, place(&list)), (Err(BanRefusal::Full), before));
        assert_eq!(list.iter().filter(|ban| ban.until_ms == Some(10)).count(), 1);
        // What is counted is what counting it anew finds.
        assert_eq!(list, list.iter().cloned().collect());
    }
}
