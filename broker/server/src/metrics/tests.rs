#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raftmq_cluster::ClusterCounters;
use raftmq_discovery::PeerSet;
use raftmq_links::{LinkMetrics, PeerStatus};
use raftmq_raft::{FollowerStatus, GroupStatus, Role};
use raftmq_storage::{GroupId, WalMetrics};

use super::*;
use crate::http::health::Readiness;

/// A process with two workers and every source there is.
fn everything() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let (one, two) = (metrics.worker(), metrics.worker());
    for worker in [&one, &two] {
        worker.connection_opened();
        worker.client_connected();
        worker.subscribed(3);
        worker.unsubscribed(1);
        worker.message_in(PublishQos::AtLeastOnce, 100);
        worker.messages_out(PublishQos::AtMostOnce, 5, 500);
        worker.dropped(DropReason::SlowConsumer, 2);
        worker.refused(RefuseReason::Authentication);
        worker.bytes_in(7);
        worker.bytes_out(8);
        worker.protocol_error();
        worker.routed(false);
        worker.publish_refused(PublishRefusal::Quota);
        worker.shared_redispatched();
        worker.beat(Duration::from_millis(30));
    }
    two.connection_closed();
    two.client_disconnected(EndReason::KeepAlive);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(runtime.spawn(std::future::pending::<()>()));
    for name in ["workers", "workers", "control"] {
        metrics.add_runtime(name, runtime.metrics());
    }
    metrics.add_source(|out: &mut Encoder| {
        sources::cluster(&sources::ClusterNumbers::default(), out);
        crate::healing::Healings::default().report(false, out);
        crate::shard_numbers::write(&[], 16, 0, &crate::shard_numbers::ShardDrops::default(), out);
        out.counter(&catalog::SHARD_OPERATIONS, &[], 0);
        sources::readiness(&Readiness::default(), out);
        sources::features(&sources::FeatureNumbers { groups: 2, ..Default::default() }, out);
        crate::bans::report(&crate::bans::Bans::none(), out);
        crate::overload::Overload::new(&raftmq_config::Overload::default()).report(out);
        let certificates = Some(sources::CertificateNumbers { reloads: 3, ..Default::default() });
        let listener =
            sources::ListenerNumbers { name: "mqtts".into(), transport: "tls", connections: 5, ..Default::default() };
        sources::listener(&sources::ListenerNumbers { certificates, ..listener }, out);
        sources::accept_waits(3, 1_500, out);
        sources::wal(&WalMetrics::default(), out);
        sources::discovery(&PeerSet::default(), out);
        for name in ["meta", "routes"] {
            sources::group(name, &group(), true, out);
        }
        sources::links(&LinkMetrics::default(), &[peer()], out);
        crate::sources::counted(&ClusterCounters::default(), 0, out);
    });
    metrics
}

fn group() -> GroupStatus {
    let follower = FollowerStatus { matched: Some(7), ..FollowerStatus::default() };
    GroupStatus {
        group: GroupId { number: 1, generation: 1 },
        node: 1,
        role: Role::Leader,
        term: 3,
        leader: Some(1),
        last_log: Some(9),
        committed: Some(8),
        applied: Some(8),
        snapshot: Some(5),
        purged: Some(4),
        voters: BTreeSet::from([1, 2, 3]),
        learners: BTreeSet::new(),
        membership_index: Some(0),
        membership_settled: true,
        change_unfinished: false,
        followers: BTreeMap::from([(2, follower), (3, FollowerStatus::default())]),
        quorum_acked: None,
        failure: None,
    }
}

fn peer() -> PeerStatus {
    PeerStatus {
        address: "raftmq-1:9883".to_owned(),
        hello: None,
        connected: [true, false, false, false],
        via: None,
        rtt: Some(Duration::from_millis(2)),
        queue_bytes: 12,
        last_error: None,
        refused: false,
    }
}

#[test]
fn workers_are_summed() {
    let text = everything().render();
    for line in [
        "raftmq_connections 1",
        "raftmq_connections_opened_total 2",
        "raftmq_clients 1",
        "raftmq_clients_disconnected_total{reason=\"keep_alive\"} 1",
        "raftmq_subscriptions 4",
        "raftmq_messages_received_total{qos=\"1\"} 2",
        "raftmq_messages_received_bytes_total{qos=\"1\"} 200",
        "raftmq_messages_sent_total{qos=\"0\"} 10",
        "raftmq_messages_dropped_total{reason=\"slow_consumer\"} 4",
        "raftmq_connections_refused_total{reason=\"authentication\"} 2",
        "raftmq_messages_unmatched_total 2",
        "raftmq_messages_refused_total{reason=\"quota\"} 2",
        "raftmq_shared_redispatches_total 2",
        "raftmq_worker_loop_delay_seconds_bucket{worker=\"1\",le=\"0.01\"} 0",
        "raftmq_worker_loop_delay_seconds_bucket{worker=\"1\",le=\"0.05\"} 1",
        "raftmq_worker_loop_delay_seconds_sum{worker=\"1\"} 0.03",
        "raftmq_shared_groups 2",
        "raftmq_listener_connections{listener=\"mqtts\",transport=\"tls\"} 5",
        "raftmq_listener_certificate_reloads_total{listener=\"mqtts\",result=\"ok\"} 3",
        "raftmq_raft_follower_lag_entries{group=\"meta\",follower=\"2\"} 2",
        "raftmq_raft_follower_lag_entries{group=\"meta\",follower=\"3\"} 10",
        "raftmq_raft_applied_index{group=\"routes\"} 8",
        "raftmq_link_peer_round_trip_seconds{peer=\"raftmq-1:9883\"} 0.002",
        "raftmq_wal_fsync_seconds_bucket{le=\"+Inf\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}

/// The name of the metric that a sample belongs to.
fn family(line: &str, types: &BTreeMap<&str, &str>) -> String {
    let name = line.split(['{', ' ']).next().unwrap();
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(stem) = name.strip_suffix(suffix)
            && types.get(stem) == Some(&"histogram")
        {
            return stem.to_owned();
        }
    }
    name.to_owned()
}

#[test]
fn every_metric_is_exported_with_help_and_type_and_every_exported_one_is_declared() {
    let text = everything().render();
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let helped: BTreeSet<&str> =
        text.lines().filter_map(|line| Some(line.strip_prefix("# HELP ")?.split_once(' ')?.0)).collect();
    let exported: BTreeSet<String> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| family(line, &types)).collect();
    let declared: BTreeSet<String> = catalog::all().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(exported, declared);
    assert!(exported.iter().all(|name| types.contains_key(name.as_str())));
    assert!(exported.iter().all(|name| helped.contains(name.as_str())));
}

#[test]
fn names_follow_the_rules() {
    let mut seen = BTreeSet::new();
    for metric in catalog::all() {
        assert!(seen.insert(metric.name), "{} is there twice", metric.name);
        assert!(metric.name.starts_with("raftmq_"), "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        for unit in ["_ms", "_milliseconds", "_kb", "_minutes", "_count", "_sum"] {
            assert!(!metric.name.ends_with(unit), "{}", metric.name);
        }
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(plain(metric.name) && metric.labels.iter().all(|label| plain(label)), "{}", metric.name);
    }
}

#[test]
fn the_reference_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    if std::env::var_os("RAFTMQ_BLESS").is_some() {
        std::fs::write(path, reference_markdown()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == reference_markdown(),
        "docs/metrics.md is not current: RAFTMQ_BLESS=1 cargo test -p raftmq the_reference_in_docs_is_current"
    );
}

#[test]
fn the_sys_tree_is_made_of_the_workers_sums() {
    let metrics = everything();
    let snapshot = metrics.sys();
    assert_eq!((snapshot.gauges.clients_connected, snapshot.gauges.subscriptions), (1, 4));
    let counters = snapshot.counters;
    assert_eq!((counters.qos1_received, counters.qos0_sent, counters.delivered), (2, 10, 10));
    assert_eq!((counters.published, counters.dropped_no_subscribers, counters.publish_errors), (2, 2, 2));
    assert_eq!((counters.clients_connected, counters.clients_disconnected), (2, 1));
}

#[test]
fn a_worker_that_stops_beating_is_seen() {
    let metrics = Metrics::new();
    let (alive, _silent) = (metrics.worker(), metrics.worker());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        alive.beat(Duration::ZERO);
        let beats = metrics.worker_beats();
        if beats[1] >= Duration::from_millis(50) {
            assert!(beats[0] < beats[1], "{beats:?}");
            return;
        }
        assert!(Instant::now() < deadline, "{beats:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_loop_is_late_by_its_last_tick_or_by_the_one_that_does_not_come() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.worker(), metrics.worker());
    let far = Duration::from_secs(3_600);
    assert_eq!(metrics.loop_delay(far), Duration::ZERO);
    one.beat(Duration::from_millis(300));
    two.beat(Duration::from_millis(20));
    assert_eq!(metrics.loop_delay(far), Duration::from_millis(300));
    one.beat(Duration::from_millis(5));
    assert_eq!(metrics.loop_delay(far), Duration::from_millis(20));
    let deadline = Instant::now() + Duration::from_secs(10);
    while metrics.loop_delay(Duration::from_millis(10)) < Duration::from_millis(100) {
        assert!(Instant::now() < deadline, "a tick that does not come is not seen");
        one.beat(Duration::ZERO);
        std::thread::yield_now();
    }
}
