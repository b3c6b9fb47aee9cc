//! Which member of a node.

use super::{Ask, GroupStrategy, Member, MemberId, MemberKey};
use crate::hash::{mix, route_hash};

/// The most members whose messages in flight are counted for one message.
const LOOKED_AT: usize = 64;

/// What a group remembers of its choices. Members are remembered, not positions, so that nobody is passed over or asked twice when others
/// join or leave.
#[derive(Default)]
pub(super) struct Turns {
    last: Option<MemberKey>,
    sticky: Option<MemberKey>,
}

impl Turns {
    /// A member left: it is nobody's favourite when it comes back.
    pub(super) fn left(&mut self, key: MemberKey) {
        if self.sticky == Some(key) {
            self.sticky = None;
        }
    }

    /// The position of a member that is not excluded; `None` if all are.
    pub(super) fn pick<O>(
        &mut self,
        list: &[Member<O>],
        group: &str,
        ask: &Ask<'_>,
        mut in_flight: impl FnMut(MemberId, &O) -> u32,
    ) -> Option<usize> {
        let free = |at: &usize| !ask.excluded.contains(&list[*at].key.id);
        let from = |start: usize| (start..list.len()).chain(0..start);
        let next = self.last.map_or(0, |last| list.partition_point(|member| member.key <= last));
        match ask.strategy {
            GroupStrategy::RoundRobin | GroupStrategy::LocalFirst => {
                let at = from(next).find(free)?;
                self.last = Some(list[at].key);
                Some(at)
            }
            GroupStrategy::Random => from(random_below(ask.random, list.len())).find(free),
            GroupStrategy::Sticky => {
                let sticky = self.sticky.and_then(|key| list.binary_search_by_key(&key, |member| member.key).ok());
                if let Some(at) = sticky.filter(free) {
                    return Some(at);
                }
                let at = from(random_below(ask.random, list.len())).find(free)?;
                // One that refuses a message is still the group's for the next ones.
                if sticky.is_none() {
                    self.sticky = Some(list[at].key);
                }
                Some(at)
            }
            GroupStrategy::HashClient | GroupStrategy::HashTopic => {
                let hash = hash_of(group, ask);
                (0..list.len()).filter(free).max_by_key(|&at| {
                    let MemberKey { id, queue } = list[at].key;
                    // The numbers of members are small and alike: mixed on their own first.
                    mix(hash, mix(id.client, (u64::from(id.worker) << 1) | u64::from(queue)))
                })
            }
            GroupStrategy::LeastInFlight => {
                let at = from(next)
                    .filter(free)
                    .take(LOOKED_AT)
                    .min_by_key(|&at| in_flight(list[at].key.id, &list[at].options))?;
                self.last = Some(list[at].key);
                Some(at)
            }
        }
    }
}

/// The same on each node: what a strategy by hash goes by.
pub(super) fn hash_of(group: &str, ask: &Ask<'_>) -> u64 {
    let by = match ask.strategy {
        GroupStrategy::HashClient => route_hash(ask.client),
        GroupStrategy::HashTopic => route_hash(ask.topic),
        _ => 0,
    };
    mix(by, route_hash(group))
}

/// A number below `end`, of random bits; 0 if there is none.
pub(super) fn random_below(random: u64, end: usize) -> usize {
    ((u128::from(random) * end as u128) >> 64) as usize
}
