//! Which node.

use smallvec::SmallVec;

use super::{
    Ask, GroupStrategy,
    pick::{hash_of, random_below},
};
use crate::{hash::mix, set::GroupNode};

/// What a group remembers of its choices between nodes.
#[derive(Default)]
pub(super) struct Places {
    /// How far each node is ahead of its share (less than 0) or behind it.
    credits: SmallVec<[(u64, i64); 4]>,
    sticky: Option<u64>,
}

/// The node for a message: this one, if it has online members (`own`: itself, and how many members others are told that it has), or one of
/// `untried`, of which there is at least one. `all` are the nodes with members, for what is to be remembered.
pub(super) fn choose(
    places: &mut Option<Box<Places>>,
    group: &str,
    own: Option<(GroupNode, u32)>,
    untried: &[GroupNode],
    all: &[GroupNode],
    ask: &Ask<'_>,
) -> u64 {
    let here = own.map(|(own, _)| own);
    let mut candidates: SmallVec<[GroupNode; 8]> = here.into_iter().chain(untried.iter().copied()).collect();
    if let [only] = candidates[..] {
        return only.node;
    }
    match ask.strategy {
        GroupStrategy::RoundRobin | GroupStrategy::LocalFirst | GroupStrategy::LeastInFlight => {
            places.get_or_insert_default().in_turns(&candidates)
        }
        GroupStrategy::Random => {
            // Other bits than those that choose the member.
            let total: u64 = candidates.iter().map(weight).sum();
            let mut left = random_below(mix(ask.random, 1), usize::try_from(total).unwrap_or(usize::MAX)) as u64;
            for place in &candidates {
                match left.checked_sub(weight(place)) {
                    Some(rest) => left = rest,
                    None => return place.node,
                }
            }
            candidates[0].node
        }
        GroupStrategy::HashClient | GroupStrategy::HashTopic | GroupStrategy::Sticky => {
            // Each node must see the same numbers to choose the same one.
            if let (Some((_, told)), Some(own)) = (own, candidates.first_mut()) {
                own.members = told;
            }
            if ask.strategy == GroupStrategy::Sticky {
                places.get_or_insert_default().sticky(&candidates, group, all, ask)
            } else {
                by_hash(&candidates, hash_of(group, ask))
            }
        }
    }
}

impl Places {
    /// Smooth weighted round robin: in any stretch of messages each node gets its share, one off at most, and not in one go.
    fn in_turns(&mut self, candidates: &[GroupNode]) -> u64 {
        self.credits.retain(|(node, _)| candidates.iter().any(|place| place.node == *node));
        let total: u64 = candidates.iter().map(weight).sum();
        let mut best: Option<(usize, i64)> = None;
        for place in candidates {
            let at = self.credits.iter().position(|(node, _)| *node == place.node).unwrap_or_else(|| {
                self.credits.push((place.node, 0));
                self.credits.len() - 1
            });
            let credit = self.credits[at].1.saturating_add_unsigned(weight(place));
            self.credits[at].1 = credit;
            if best.is_none_or(|(_, most)| credit > most) {
                best = Some((at, credit));
            }
        }
        let Some((at, credit)) = best else {
            return 0;
        };
        self.credits[at].1 = credit.saturating_sub_unsigned(total);
        self.credits[at].0
    }

    fn sticky(&mut self, candidates: &[GroupNode], group: &str, all: &[GroupNode], ask: &Ask<'_>) -> u64 {
        let is_among = |nodes: &[GroupNode], node| nodes.iter().any(|place| place.node == node);
        if let Some(node) = self.sticky.filter(|&node| is_among(candidates, node)) {
            return node;
        }
        // By a hash, so that nodes which begin with the same members choose the same one.
        let node = by_hash(candidates, hash_of(group, ask));
        // One that has had this message is still the group's for the next ones.
        if !self.sticky.is_some_and(|node| is_among(all, node)) {
            self.sticky = Some(node);
        }
        node
    }
}

fn weight(place: &GroupNode) -> u64 {
    u64::from(place.members.max(1))
}

/// Weighted rendezvous hashing: each node is chosen in proportion to its members, and when one comes or goes nothing moves between the others.
fn by_hash(candidates: &[GroupNode], hash: u64) -> u64 {
    candidates
        .iter()
        .map(|place| (distance(mix(hash, mix(place.node, 1)), weight(place)), place.node))
        .min()
        .map_or(0, |(_, node)| node)
}

/// `-log2(hash / 2^64) / weight`, in whole numbers, the same on each platform.
fn distance(hash: u64, weight: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    // 16 bits after the leading one, and the logarithm between powers of two, less than a hundredth off.
    let fraction = (hash << zeros) << 1 >> 48;
    let curved = fraction + ((((fraction * ((1 << 16) - fraction)) >> 16) * 22_544) >> 16);
    let logarithm = (u64::from(63 - zeros) << 16) + curved;
    (((64 << 16) - logarithm) << 32) / weight
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn nodes(members: &[(u64, u32)]) -> Vec<GroupNode> {
        members.iter().map(|&(node, members)| GroupNode { node, members }).collect()
    }

    #[test]
    fn turns_are_in_proportion_and_spread() {
        let candidates = nodes(&[(1, 3), (2, 1), (3, 2)]);
        let mut places = Places::default();
        let order: Vec<u64> = (0..12).map(|_| places.in_turns(&candidates)).collect();
        for round in order.chunks(6) {
            let count = |node| round.iter().filter(|&&n| n == node).count();
            assert_eq!((count(1), count(2), count(3)), (3, 1, 2), "{order:?}");
        }
        assert!(order.windows(3).all(|w| w[0] != w[1] || w[1] != w[2]), "{order:?}");
        // A node that goes and comes has no debts and no claims.
        let fewer = nodes(&[(2, 1), (3, 2)]);
        places.in_turns(&fewer);
        assert_eq!(places.credits.len(), 2);
    }

    #[test]
    fn hashes_are_in_proportion_and_steady() {
        let candidates = nodes(&[(1, 8), (2, 1), (3, 2), (77, 5)]);
        let mut counts: HashMap<u64, u32> = HashMap::new();
        for i in 0..40_000 {
            let hash = mix(i, 99);
            let node = by_hash(&candidates, hash);
            *counts.entry(node).or_default() += 1;
            if node != 1 {
                assert_eq!(by_hash(&candidates[1..], hash), node, "who was not on the node that left stays");
            }
        }
        for place in &candidates {
            let expected = place.members * 40_000 / 16;
            assert!(counts[&place.node].abs_diff(expected) < expected / 10, "{counts:?}");
        }
    }
}
