//! What a topic filter is to the routes: plain, exclusive, or a group's; and the key by which nodes know it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{hash::route_hash, index::is_wild};

const SHARE: &str = "$share/";
const QUEUE: &str = "$queue/";
const EXCLUSIVE: &str = "$exclusive/";
/// The share name of `$queue/…`.
const QUEUE_GROUP: &str = "$queue";

/// A valid topic filter by what it means (MQTT 5, 4.8.2, and two prefixes that brokers share).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterKind<'a> {
    /// Each subscriber gets each message. The filter is what topics are matched against: without `$exclusive/`, which says who may
    /// subscribe and nothing about what is matched.
    Plain(&'a str),
    /// One subscriber of the group gets each message.
    Shared {
        /// The share name; `$queue` for `$queue/filter`.
        group: &'a str,
        /// What topics are matched against.
        filter: &'a str,
        /// Written as `$queue/filter`. `$share/$queue/filter` is the same group by another name, as EMQX has it.
        queue: bool,
    },
}

impl<'a> FilterKind<'a> {
    /// Tells what a valid filter is. One that only looks like a group's and has no share name or filter is plain.
    #[must_use]
    pub fn of(full: &'a str) -> Self {
        if !full.starts_with('$') {
            return Self::Plain(full);
        }
        if let Some((group, filter)) = full.strip_prefix(SHARE).and_then(|rest| rest.split_once('/'))
            && !group.is_empty()
            && !filter.is_empty()
        {
            return Self::Shared { group, filter, queue: false };
        }
        match (full.strip_prefix(QUEUE), full.strip_prefix(EXCLUSIVE)) {
            (Some(filter), _) if !filter.is_empty() => Self::Shared { group: QUEUE_GROUP, filter, queue: true },
            (_, Some(filter)) if !filter.is_empty() => Self::Plain(filter),
            _ => Self::Plain(full),
        }
    }
}

/// The name of the group that a filter makes its subscribers members of: `$share/name/filter`, for `$queue/filter` too. `None` for a
/// filter that is not shared. Groups of one share name and different filters have nothing to do with each other (MQTT 5, 4.8.2).
#[must_use]
pub fn group_key(full: &str) -> Option<Arc<str>> {
    match FilterKind::of(full) {
        FilterKind::Plain(_) => None,
        FilterKind::Shared { queue: false, .. } => Some(full.into()),
        FilterKind::Shared { queue: true, filter, .. } => Some(format!("{SHARE}{QUEUE_GROUP}/{filter}").into()),
    }
}

/// The filter of a group's key; `None` if it is none.
pub(crate) fn filter_of_group(key: &str) -> Option<&str> {
    match FilterKind::of(key) {
        FilterKind::Shared { filter, queue: false, .. } => Some(filter),
        _ => None,
    }
}

/// What the routes group knows of a filter: the hash of one without wildcards, the text of one with, the name of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKey {
    /// [`crate::route_hash`] of a filter without wildcards.
    Exact(u64),
    /// A filter with wildcards.
    Wild(Arc<str>),
    /// A group of subscribers that share their messages. In the log and in snapshots from format 2 on.
    Shared {
        /// Its [`group_key`].
        group: Arc<str>,
        /// The node has at least [`members_of_rank`] members. What routes by it is rank 0; the others tell how many.
        rank: u8,
    },
}

impl RouteKey {
    /// The key of a valid topic filter; of a group: that the node has members at all.
    #[must_use]
    pub fn of(filter: &str) -> Self {
        group_key(filter).map_or_else(|| Self::of_shard(filter), |group| Self::Shared { group, rank: 0 })
    }

    /// The key by which a shard gets messages for a valid topic filter: of a group, whose queue the shard keeps, that of the group's filter.
    #[must_use]
    pub fn of_shard(filter: &str) -> Self {
        match FilterKind::of(filter) {
            FilterKind::Plain(filter) | FilterKind::Shared { filter, .. } if is_wild(filter) => {
                Self::Wild(filter.into())
            }
            FilterKind::Plain(filter) | FilterKind::Shared { filter, .. } => Self::Exact(route_hash(filter)),
        }
    }

    /// About the bytes that the key takes in a command.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Exact(_) => 11,
            Self::Wild(filter) => filter.len() + 4,
            Self::Shared { group, .. } => group.len() + 5,
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared { .. })
    }
}

/// The numbers of members that nodes tell each other of: each up to 8, then two in each doubling. A group of a thousand
/// members costs a node 22 routes, and a member more or less costs a proposal only now and then.
const RANKS: [u32; 22] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];

/// How many ranks there are.
pub(crate) const RANK_COUNT: usize = RANKS.len();

/// The least number of members that a node with a route of this rank has; 0 for no rank.
#[must_use]
pub fn members_of_rank(rank: u8) -> u32 {
    RANKS.get(usize::from(rank)).copied().unwrap_or(0)
}

/// The rank that a node reaches with exactly this many members.
pub(crate) fn rank_reached(members: u32) -> Option<u8> {
    RANKS.binary_search(&members).ok().map(|rank| rank as u8)
}

/// The number of members that others know of a node that has this many.
pub(crate) fn told(members: usize) -> u32 {
    let below = RANKS.partition_point(|&least| usize::try_from(least).is_ok_and(|least| least <= members));
    below.checked_sub(1).map_or(0, |rank| RANKS[rank])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let shared = |group, filter, queue| FilterKind::Shared { group, filter, queue };
        let table = [
            ("a/b", FilterKind::Plain("a/b"), None),
            ("$SYS/#", FilterKind::Plain("$SYS/#"), None),
            ("$share/g/a/+", shared("g", "a/+", false), Some("$share/g/a/+")),
            // [MQTT-4.8.2-1, 4.8.2-2]: a share name of at least one character, a `/`, a filter; the filter may begin with a `/`.
            ("$share/g//a", shared("g", "/a", false), Some("$share/g//a")),
            ("$share/g/$SYS/#", shared("g", "$SYS/#", false), Some("$share/g/$SYS/#")),
            ("$share/g", FilterKind::Plain("$share/g"), None),
            ("$share/g/", FilterKind::Plain("$share/g/"), None),
            ("$share//a", FilterKind::Plain("$share//a"), None),
            ("$sharex/g/a", FilterKind::Plain("$sharex/g/a"), None),
            ("$queue/a/#", shared("$queue", "a/#", true), Some("$share/$queue/a/#")),
            ("$share/$queue/a/#", shared("$queue", "a/#", false), Some("$share/$queue/a/#")),
            ("$queue/", FilterKind::Plain("$queue/"), None),
            ("$exclusive/a/+", FilterKind::Plain("a/+"), None),
            ("$exclusive/", FilterKind::Plain("$exclusive/"), None),
            ("$share/g/$exclusive/a", shared("g", "$exclusive/a", false), Some("$share/g/$exclusive/a")),
        ];
        for (full, kind, key) in table {
            assert_eq!(FilterKind::of(full), kind, "{full}");
            assert_eq!(group_key(full).as_deref(), key, "{full}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(RouteKey::of("$exclusive/a"), RouteKey::of("a"));
        assert_eq!(RouteKey::of("$exclusive/a/+"), RouteKey::Wild("a/+".into()));
        assert_eq!(RouteKey::of("$queue/a"), RouteKey::of("$share/$queue/a"));
        assert_ne!(RouteKey::of("$share/g/a"), RouteKey::of("$share/h/a"));
        for (filter, plain) in
            [("a", "a"), ("a/+", "a/+"), ("$share/g/a/+", "a/+"), ("$queue/a", "a"), ("$exclusive/a", "a")]
        {
            assert_eq!(RouteKey::of_shard(filter), RouteKey::of(plain), "{filter}");
        }
        assert_eq!(RouteKey::of("$share/g"), RouteKey::Exact(route_hash("$share/g")));
    }

    #[test]
    fn ranks() {
        assert!(RANKS.is_sorted());
        for members in 1..2_000_u32 {
            let told = told(members as usize);
            assert!(told <= members && told * 3 / 2 >= members.min(1024), "{members}: {told}");
            match rank_reached(members) {
                Some(rank) => assert_eq!((members_of_rank(rank), told), (members, members)),
                None => assert_ne!(told, members),
            }
        }
        assert_eq!((members_of_rank(200), told(0)), (0, 0));
    }
}
