//! Bugs that are planted on purpose: a checker of histories is believed when it finds them (tests/faults/plants).
//!
//! Each is a condition where the real code does the right thing:
//!
//! ```
//! # use raftmq_planted::{Bug, planted};
//! # let committed = true;
//! if committed || planted(Bug::AckBeforeCommit) { /* acknowledge */ }
//! ```
//!
//! Without the feature `possible`, which no release has, [`planted`] is a constant, and nothing of such a condition is left. With it one bug, or none, is chosen
//! when the process starts.

/// Whether this build has the bugs at all.
pub const POSSIBLE: bool = cfg!(feature = "possible");

/// The environment variable that chooses one, by its name.
pub const VARIABLE: &str = "RAFTMQ_PLANT";

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// PUBACK, or PUBREC to a clean session, is sent when the message was handed to its shards, not when they have committed it.
    AckBeforeCommit = 1,
    /// A shard does not know which of a worker's operations it has applied: what is proposed again is applied again.
    ForgetStream,
    /// A node's identity is its name: with an empty disk it votes under the Raft id that it had.
    ReuseId,
    /// SUBACK does not wait until every serving node knows the subscription.
    SkipBarrier,
    /// An operation on a client is applied whatever connection it came from.
    DropEpoch,
    /// PUBCOMP is sent before the release of the identifier of a QoS 2 message is committed.
    ReleaseBeforeCommit,
    /// A snapshot says that it covers less than it does, so that entries which are in it are applied to it again.
    ApplyTwice,
    /// A node serves on when its lease is over.
    ServePastLease,
    /// A will that waits for its delay is sent when its client comes back in time.
    WillWhileUp,
    /// What is not acknowledged is sent again under another packet identifier.
    ResendOtherId,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::AckBeforeCommit,
        Self::ForgetStream,
        Self::ReuseId,
        Self::SkipBarrier,
        Self::DropEpoch,
        Self::ReleaseBeforeCommit,
        Self::ApplyTwice,
        Self::ServePastLease,
        Self::WillWhileUp,
        Self::ResendOtherId,
    ];

    /// As the environment variable has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack-before-commit",
            Self::ForgetStream => "forget-stream",
            Self::ReuseId => "reuse-id",
            Self::SkipBarrier => "skip-barrier",
            Self::DropEpoch => "drop-epoch",
            Self::ReleaseBeforeCommit => "release-before-commit",
            Self::ApplyTwice => "apply-twice",
            Self::ServePastLease => "serve-past-lease",
            Self::WillWhileUp => "will-while-up",
            Self::ResendOtherId => "resend-other-id",
        }
    }

    /// The bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

pub use chosen::{choose, planted};

#[cfg(feature = "possible")]
mod chosen {
    use super::Bug;
    use std::sync::atomic::{AtomicU8, Ordering};

    /// The bug that was chosen; 0: none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Whether the code that asks has this bug.
    #[inline(always)]
    pub fn planted(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as u8
    }

    /// Chooses a bug for the whole process, before anything is done that could have it.
    pub fn choose(bug: Bug) {
        CHOSEN.store(bug as u8, Ordering::Relaxed);
    }
}

#[cfg(not(feature = "possible"))]
mod chosen {
    use super::Bug;

    /// Whether the code that asks has this bug: never in this build.
    #[inline(always)]
    pub const fn planted(_: Bug) -> bool {
        false
    }

    /// Chooses a bug: none can be had in this build, and nothing changes.
    pub const fn choose(_: Bug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the choice is the process's.
    #[test]
    fn one_is_there_where_they_are_possible_and_none_else() {
        assert!(Bug::ALL.iter().all(|bug| !planted(*bug)));
        for chosen in Bug::ALL {
            choose(chosen);
            for bug in Bug::ALL {
                assert_eq!(planted(bug), POSSIBLE && bug == chosen, "{bug:?} with {chosen:?}");
            }
        }
    }

    #[cfg(not(feature = "possible"))]
    #[test]
    fn the_compiler_knows_that_there_are_none() {
        const { assert!(!planted(Bug::AckBeforeCommit)) };
    }

    #[test]
    fn names_are_of_one_bug_each() {
        for bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(bug));
        }
        assert_eq!(Bug::named("none"), None);
    }

    /// What is tested and released is without: this fails where somebody makes it a default.
    #[test]
    fn they_are_asked_for() {
        for manifest in [include_str!("../Cargo.toml"), include_str!("../../server/Cargo.toml")] {
            assert!(!manifest.contains("\ndefault ="));
        }
    }
}
