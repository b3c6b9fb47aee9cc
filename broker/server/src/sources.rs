//! Where the numbers of `/metrics` come from, besides the workers' own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use raftmq_cluster::{Cluster, ClusterCounters, Phase};
use raftmq_meta::MemberStatus;

use crate::http::health::ReadinessSource;
use crate::metrics::sources::{self, CertificateNumbers, ClusterNumbers, FeatureNumbers, ListenerNumbers};
use crate::metrics::{Encoder, Metrics, catalog};
use crate::shard_numbers;
use crate::worker::{ListenerState, NodeShared};

/// Tells the metrics whom to ask.
pub(crate) fn add(
    metrics: &Metrics,
    shared: &Arc<NodeShared>,
    cluster: Option<&Cluster>,
    listeners: Vec<ListenerState>,
    readiness: Arc<dyn ReadinessSource>,
) {
    metrics.add_source(move |out: &mut Encoder| {
        listeners.iter().for_each(|one| sources::listener(&numbers(one), out));
        let sum = |count: fn(&ListenerState) -> &AtomicU64| {
            listeners.iter().map(|one| count(one).load(Ordering::Relaxed)).sum()
        };
        sources::accept_waits(sum(|one| &one.rates.waits), sum(|one| &one.rates.waited_ms), out);
    });
    metrics.add_source(move |out: &mut Encoder| sources::readiness(&readiness.readiness(), out));
    let features = Arc::clone(shared);
    metrics.add_source(move |out: &mut Encoder| sources::features(&feature_numbers(&features), out));
    let overload = Arc::clone(&shared.overload);
    metrics.add_source(move |out: &mut Encoder| overload.report(out));
    let bans = Arc::clone(&shared.bans);
    metrics.add_source(move |out: &mut Encoder| crate::bans::report(&bans, out));
    let Some(cluster) = cluster.cloned() else {
        return;
    };
    let shared = Arc::clone(shared);
    metrics.add_source(move |out: &mut Encoder| collect(&cluster, &shared, out));
}

fn feature_numbers(shared: &NodeShared) -> FeatureNumbers {
    let features = &shared.features;
    let retained = features.retained().counters();
    let (delayed, delayed_bytes, delayed_counts) = features.delayed.counts();
    let (groups, members) = features.groups.counts();
    FeatureNumbers {
        sessions: shared.registry.len() as u64,
        retained,
        delayed: delayed as u64,
        delayed_bytes: delayed_bytes as u64,
        delayed_counts,
        groups: groups as u64,
        members: members as u64,
        exclusive: features.exclusive().len() as u64,
    }
}

fn numbers(listener: &ListenerState) -> ListenerNumbers {
    let certificates = listener.tls.as_ref().map(|tls| {
        let (reloads, failures) = tls.reloads();
        let not_after = tls.current().not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        CertificateNumbers { not_after, reloads, failures }
    });
    ListenerNumbers {
        name: listener.name.clone(),
        transport: listener.transport.as_str(),
        connections: u64::from(listener.connections.load(Ordering::Relaxed)),
        max_connections: Some(u64::from(listener.max_connections.load(Ordering::Relaxed))),
        certificates,
    }
}

fn collect(cluster: &Cluster, shared: &NodeShared, out: &mut Encoder) {
    let status = cluster.status();
    let counters = cluster.counters();
    let routes = shared.routes.counts();
    let count = |wanted: fn(&raftmq_meta::Member) -> bool| {
        status.meta.members.values().filter(|member| wanted(member)).count() as u64
    };
    let numbers = ClusterNumbers {
        members_up: count(|member| member.status == MemberStatus::Active && member.up),
        members_down: count(|member| member.status == MemberStatus::Active && !member.up),
        members_leaving: count(|member| member.status != MemberStatus::Active),
        routes_exact: routes.exact as u64,
        routes_wildcard: routes.wild as u64,
        lease_remaining: (status.phase == Phase::Serving).then_some(status.lease_left),
        lease_losses: counters.fenced.load(Ordering::Relaxed),
    };
    sources::cluster(&numbers, out);
    shared.healings.report(shared.is_local(), out);
    if let Some(shards) = &shared.shards {
        shard_numbers::report(shards, &shared.shard_drops, out);
    }
    for (name, group) in &status.groups {
        sources::group(name, group, status.phase == Phase::Serving, out);
    }
    sources::wal(&cluster.wal().metrics(), out);
    let links = cluster.links();
    sources::links(&links.metrics(), &status.peers, out);
    counted(counters, shared.forwards_lost.load(Ordering::Relaxed), out);
}

/// What the cluster counts; `lost` are forwarded messages that a worker's full queue did not take.
pub(crate) fn counted(counters: &ClusterCounters, lost: u64, out: &mut Encoder) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.counter(&catalog::FORWARDED, &["sent"], read(&counters.forwards_out));
    out.counter(&catalog::FORWARDED, &["received"], read(&counters.forwards_in));
    out.counter(&catalog::FORWARDS_PAST, &[], read(&counters.forwards_past));
    out.counter(&catalog::FORWARDS_DROPPED, &[], read(&counters.forwards_dropped));
    out.counter(&catalog::FORWARDS_LOST, &[], lost);
    out.counter(&catalog::BARRIERS, &["reached"], read(&counters.barriers));
    out.counter(&catalog::BARRIERS, &["failed"], read(&counters.barriers_failed));
    out.counter(&catalog::SHARD_COMPARISONS, &["same"], read(&counters.replicas_same));
    out.counter(&catalog::SHARD_COMPARISONS, &["different"], read(&counters.replicas_differ));
    out.counter(&catalog::MEMBERSHIP_STEPS, &[], read(&counters.membership_steps));
}
