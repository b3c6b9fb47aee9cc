//! The numbers of the shards, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use raftmq_cluster::{ShardStatus, Shards};
use raftmq_raft::Role;
use raftmq_shard::{Dropped, Numbers};

use crate::metrics::{Encoder, catalog as c};

/// What queues did not take, or gave up, in the shards that this node led at that time.
#[derive(Debug, Default)]
pub(crate) struct ShardDrops([AtomicU64; 3]);

impl ShardDrops {
    /// Counts what was dropped; by the shard's leader only, since each replica applies the same.
    pub(crate) fn note(&self, reason: Dropped, count: u32) {
        self.0[reason as usize].fetch_add(count.into(), Ordering::Relaxed);
    }

    fn of(&self, reason: Dropped) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// Adds the numbers of the shards of a cluster that has some.
pub(crate) fn report(shards: &Shards, drops: &ShardDrops, out: &mut Encoder) {
    let unformed = shards.unformed().unwrap_or_default() as u64;
    let formed = u64::from(shards.count()) - unformed;
    write(&shards.replicas(), formed, unformed, drops, out);
    out.counter(&c::SHARD_OPERATIONS, &[], shards.answered());
}

pub(crate) fn write(replicas: &[ShardStatus], formed: u64, forming: u64, drops: &ShardDrops, out: &mut Encoder) {
    out.counter(&c::SHARD_DROPPED, &["expired"], drops.of(Dropped::Expired));
    out.counter(&c::SHARD_DROPPED, &["queue_full"], drops.of(Dropped::Full));
    out.counter(&c::SHARD_DROPPED, &["oldest"], drops.of(Dropped::Oldest));
    out.gauge(&c::SHARDS, &["formed"], formed);
    out.gauge(&c::SHARDS, &["forming"], forming);
    let roles = [
        ("leader", Role::Leader),
        ("follower", Role::Follower),
        ("learner", Role::Learner),
        ("candidate", Role::Candidate),
    ];
    for (name, role) in roles {
        let count = replicas.iter().filter(|replica| replica.group.role == role).count();
        out.gauge(&c::SHARD_REPLICAS, &[name], count as u64);
    }
    let led =
        || replicas.iter().filter(|replica| replica.group.is_leader()).filter_map(|replica| replica.numbers.as_ref());
    let sum = |of: fn(&Numbers) -> u64| led().map(of).sum();
    out.gauge(&c::SHARD_CLIENTS, &[], sum(|n| n.clients));
    out.gauge(&c::SHARD_SESSIONS, &[], sum(|n| n.sessions));
    out.gauge(&c::SHARD_SUBSCRIPTIONS, &[], sum(|n| n.subscriptions));
    out.gauge(&c::SHARD_MESSAGES, &[], sum(|n| n.messages));
    out.gauge(&c::SHARD_QUEUED, &[], sum(|n| n.queued));
    out.gauge(&c::SHARD_QUEUED_BYTES, &[], sum(|n| n.queued_bytes));
    out.gauge(&c::SHARD_RETAINED, &[], sum(|n| n.retained));
    out.gauge(&c::SHARD_DELAYED, &[], sum(|n| n.delayed));
}
