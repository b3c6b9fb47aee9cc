//! From what the other crates know to samples. Each is a function to be called by a [`super::MetricsSource`] that has the
//! value at hand; nothing here keeps state.

use std::time::Duration;

use raftmq_discovery::PeerSet;
use raftmq_features::delayed::DelayCounts;
use raftmq_links::{Class, DropReason, LinkMetrics, PeerStatus};
use raftmq_raft::GroupStatus;
use raftmq_routing::RetainedCounters;
use raftmq_storage::wal::{FSYNC_BUCKETS_SECONDS, WalMetrics};

use super::Encoder;
use super::catalog as c;
use crate::http::health::Readiness;

/// What a node knows about its part in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterNumbers {
    /// Members that are held to be alive.
    pub members_up: u64,
    /// Members that are not.
    pub members_down: u64,
    /// Members on their way out.
    pub members_leaving: u64,
    /// Filters without wildcards in the route table.
    pub routes_exact: u64,
    /// Filters with wildcards in the route table.
    pub routes_wildcard: u64,
    /// What is left of the serving lease; `None` without one.
    pub lease_remaining: Option<Duration>,
    /// How often the lease ran out.
    pub lease_losses: u64,
}

/// Members, routes, lease.
pub fn cluster(numbers: &ClusterNumbers, out: &mut Encoder) {
    out.gauge(&c::MEMBERS, &["up"], numbers.members_up);
    out.gauge(&c::MEMBERS, &["down"], numbers.members_down);
    out.gauge(&c::MEMBERS, &["leaving"], numbers.members_leaving);
    out.gauge(&c::ROUTES, &["exact"], numbers.routes_exact);
    out.gauge(&c::ROUTES, &["wildcard"], numbers.routes_wildcard);
    out.gauge(&c::LEASE_HELD, &[], u64::from(numbers.lease_remaining.is_some()));
    let remaining = numbers.lease_remaining.unwrap_or_default().as_secs_f64();
    out.gauge_f64(&c::LEASE_REMAINING, &[], remaining);
    out.counter(&c::LEASE_LOSSES, &[], numbers.lease_losses);
}

/// What a node has besides publish and subscribe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeatureNumbers {
    /// Sessions of clients, connected or not.
    pub sessions: u64,
    /// Retained messages.
    pub retained: RetainedCounters,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Their bytes.
    pub delayed_bytes: u64,
    /// What became of such messages.
    pub delayed_counts: DelayCounts,
    /// Groups with members here.
    pub groups: u64,
    /// Their members here.
    pub members: u64,
    /// Exclusive subscriptions.
    pub exclusive: u64,
}

/// Sessions, retained and delayed messages, groups, exclusive subscriptions.
pub fn features(numbers: &FeatureNumbers, out: &mut Encoder) {
    out.gauge(&c::SESSIONS, &[], numbers.sessions);
    let retained = &numbers.retained;
    out.gauge(&c::RETAINED, &[], retained.messages as u64);
    out.gauge(&c::RETAINED_BYTES, &[], retained.bytes as u64);
    for (change, count) in [
        ("stored", retained.stored),
        ("cleared", retained.cleared),
        ("expired", retained.expired),
        ("refused", retained.refused),
    ] {
        out.counter(&c::RETAINED_CHANGES, &[change], count);
    }
    out.gauge(&c::DELAYED, &[], numbers.delayed);
    out.gauge(&c::DELAYED_BYTES, &[], numbers.delayed_bytes);
    let delayed = &numbers.delayed_counts;
    for (change, count) in [
        ("accepted", delayed.accepted),
        ("published", delayed.published),
        ("expired", delayed.expired),
        ("refused", delayed.refused),
    ] {
        out.counter(&c::DELAYED_CHANGES, &[change], count);
    }
    out.gauge(&c::SHARED_GROUPS, &[], numbers.groups);
    out.gauge(&c::SHARED_MEMBERS, &[], numbers.members);
    out.gauge(&c::EXCLUSIVE, &[], numbers.exclusive);
}

/// What is known of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerNumbers {
    /// Its name.
    pub name: String,
    /// What carries MQTT on it.
    pub transport: &'static str,
    /// Its open connections.
    pub connections: u64,
    /// How many it may have.
    pub max_connections: Option<u64>,
    /// Of its certificates, where it has some.
    pub certificates: Option<CertificateNumbers>,
}

/// Connections that waited to be accepted, over all listeners: how many, and how many milliseconds.
pub fn accept_waits(waits: u64, waited_ms: u64, out: &mut Encoder) {
    let labels = &["connections", "listener"];
    out.counter(&c::THROTTLED, labels, waits);
    out.counter_f64(&c::THROTTLED_SECONDS, labels, waited_ms as f64 / 1_000.0);
}

/// What is known of a listener's certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CertificateNumbers {
    /// When the first of them ends, after 1970.
    pub not_after: Duration,
    /// Changed files that are in use.
    pub reloads: u64,
    /// Changed files that could not be used.
    pub failures: u64,
}

/// One listener.
pub fn listener(numbers: &ListenerNumbers, out: &mut Encoder) {
    let name = numbers.name.as_str();
    let labels = &[name, numbers.transport];
    out.gauge(&c::LISTENER_CONNECTIONS, labels, numbers.connections);
    out.gauge(&c::LISTENER_MAX_CONNECTIONS, labels, numbers.max_connections.unwrap_or(0));
    if let Some(certificates) = &numbers.certificates {
        out.gauge(&c::CERTIFICATE_END, &[name], certificates.not_after.as_secs());
        out.counter(&c::CERTIFICATE_RELOADS, &[name, "ok"], certificates.reloads);
        out.counter(&c::CERTIFICATE_RELOADS, &[name, "error"], certificates.failures);
    }
}

/// The conditions of `/readyz`.
pub fn readiness(readiness: &Readiness, out: &mut Encoder) {
    for (condition, state) in readiness.conditions() {
        out.gauge(&c::READY, &[condition], u64::from(state.is_ok()));
    }
}

/// One group, by its name (`meta`, `routes`). Indexes of an empty log are left out. `serves`: without a lease a node does not know of a leader any more, itself included.
pub fn group(name: &str, status: &GroupStatus, serves: bool, out: &mut Encoder) {
    let label = &[name];
    out.gauge(&c::RAFT_TERM, label, status.term);
    out.gauge(&c::RAFT_LEADER, label, status.leader.filter(|_| serves).unwrap_or(0));
    out.gauge(&c::RAFT_IS_LEADER, label, u64::from(serves && status.is_leader()));
    for (metric, index) in [
        (&c::RAFT_LAST_LOG, status.last_log),
        (&c::RAFT_COMMITTED, status.committed),
        (&c::RAFT_APPLIED, status.applied),
        (&c::RAFT_SNAPSHOT, status.snapshot),
        (&c::RAFT_PURGED, status.purged),
    ] {
        if let Some(index) = index {
            out.gauge(metric, label, index);
        }
    }
    out.gauge(&c::RAFT_VOTERS, label, status.voters.len() as u64);
    out.gauge(&c::RAFT_LEARNERS, label, status.learners.len() as u64);
    out.gauge(&c::RAFT_FAILED, label, u64::from(status.failure.is_some()));
    // Indexes begin at 0, so a log up to index n has n + 1 entries.
    let entries = |index: Option<u64>| index.map_or(0, |index| index.saturating_add(1));
    for (id, follower) in &status.followers {
        let lag = entries(status.last_log).saturating_sub(entries(follower.matched));
        out.gauge(&c::RAFT_FOLLOWER_LAG, &[name, &id.to_string()], lag);
    }
}

/// The write-ahead log.
pub fn wal(wal: &WalMetrics, out: &mut Encoder) {
    out.histogram(&c::WAL_FSYNC, &[], &FSYNC_BUCKETS_SECONDS, &wal.fsync_buckets, wal.fsync_time.as_secs_f64());
    out.counter(&c::WAL_WRITTEN, &[], wal.bytes_written);
    out.counter(&c::WAL_RECORDS, &[], wal.records);
    out.counter(&c::WAL_ENTRIES, &[], wal.entries);
    out.counter(&c::WAL_COPIED, &[], wal.copied);
    out.gauge(&c::WAL_SEGMENTS, &[], wal.segments);
    out.gauge(&c::WAL_QUEUED_RECORDS, &[], wal.queued_records);
    out.gauge(&c::WAL_QUEUED_BYTES, &[], wal.queued_bytes);
    out.counter(&c::WAL_REFUSED, &[], wal.refused_disk_full);
    out.gauge(&c::WAL_DISK_FULL, &[], u64::from(wal.disk_full));
}

/// Links and the peers they dial.
pub fn links(metrics: &LinkMetrics, peers: &[PeerStatus], out: &mut Encoder) {
    use std::sync::atomic::Ordering::Relaxed;
    for class in Class::ALL {
        let (label, numbers) = (&[class.name()], metrics.class(class));
        out.counter(&c::LINK_FRAMES_SENT, label, numbers.frames_out.load(Relaxed));
        out.counter(&c::LINK_FRAMES_RECEIVED, label, numbers.frames_in.load(Relaxed));
        out.counter(&c::LINK_BYTES_SENT, label, numbers.bytes_out.load(Relaxed));
        out.counter(&c::LINK_BYTES_RECEIVED, label, numbers.bytes_in.load(Relaxed));
        out.counter(&c::LINK_WRITES, label, numbers.writes.load(Relaxed));
        out.gauge(&c::LINK_QUEUE_BYTES, label, numbers.queue_bytes.load(Relaxed));
        out.counter(&c::LINK_RECONNECTS, label, numbers.reconnects.load(Relaxed));
    }
    for reason in DropReason::ALL {
        out.counter(&c::LINK_DROPPED, &[reason.name()], metrics.dropped(reason));
    }
    out.counter(&c::LINK_REFUSED, &[], metrics.refused.load(Relaxed));
    out.gauge(&c::LINK_INBOUND, &[], metrics.inbound.load(Relaxed));
    out.gauge(&c::LINK_RELAYED, &[], metrics.relayed.load(Relaxed));
    let connected = peers.iter().filter(|peer| peer.is_connected()).count();
    let relayed = peers.iter().filter(|peer| peer.via.is_some()).count();
    out.gauge(&c::LINK_PEERS, &["connected"], (connected - relayed) as u64);
    out.gauge(&c::LINK_PEERS, &["relayed"], relayed as u64);
    out.gauge(&c::LINK_PEERS, &["disconnected"], (peers.len() - connected) as u64);
    for peer in peers {
        let label = &[peer.address.as_str()];
        out.gauge(&c::LINK_PEER_QUEUE_BYTES, label, peer.queue_bytes as u64);
        if let Some(rtt) = peer.rtt {
            out.gauge_f64(&c::LINK_PEER_RTT, label, rtt.as_secs_f64());
        }
    }
}

/// Discovery.
pub fn discovery(set: &PeerSet, out: &mut Encoder) {
    out.gauge(&c::DISCOVERY_PEERS, &[], set.peers.len() as u64);
    out.counter(&c::DISCOVERY_REFRESHES, &["ok"], set.refreshes);
    out.counter(&c::DISCOVERY_REFRESHES, &["error"], set.failures);
}
