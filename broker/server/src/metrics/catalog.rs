//! Every metric of the broker, declared once.
//!
//! Names follow Prometheus's rules: base units, `_total` for counters. A name or a label, once released, keeps its
//! meaning.

use std::fmt::Write;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by size.
    Histogram,
}

impl Kind {
    /// The name in the text format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, stable.
    pub name: &'static str,
    /// What it says, one sentence or more.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

macro_rules! catalog {
    ($($section:literal { $($id:ident = $kind:ident $name:literal [$($label:literal)*] $help:literal;)* })*) => {
        $($(
            #[doc = $help]
            pub static $id: Metric = Metric {
                name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*],
            };
        )*)*

        /// All metrics by section, in the order of the documentation.
        pub static SECTIONS: &[(&str, &[&Metric])] = &[$(($section, &[$(&$id),*])),*];
    };
}

catalog! {
    "Clients" {
        CONNECTIONS = Gauge "raftmq_connections" [] "Open sockets of clients, before and after their CONNECT.";
        CONNECTIONS_OPENED = Counter "raftmq_connections_opened_total" [] "Sockets of clients accepted.";
        CONNECTIONS_REFUSED = Counter "raftmq_connections_refused_total" ["reason"] "Connections that ended before their CONNECT was accepted, by reason: authentication, not_authorized, protocol, timeout, limit, not_serving, proxy_header, tls_handshake, websocket_upgrade, banned, overload.";
        CLIENTS = Gauge "raftmq_clients" [] "Clients whose CONNECT was accepted and who are connected.";
        SESSIONS = Gauge "raftmq_sessions" [] "Sessions in the memory of this node: of clients that are connected; without shards also of those that may come back, which are in raftmq_shard_sessions else.";
        DISCONNECTED = Counter "raftmq_clients_disconnected_total" ["reason"] "Clients whose CONNECT had been accepted and who are gone, by reason: disconnect (their own DISCONNECT), closed (the socket, without one), keep_alive, malformed_packet, packet_too_large, transport (TLS or WebSocket broken by the client), protocol_error, taken_over, slow_consumer (it did not keep up, and its limits end it then), server.";
        PROTOCOL_ERRORS = Counter "raftmq_protocol_errors_total" [] "Connected clients that were disconnected because they broke the protocol, MQTT or one below it; those of which nothing was heard do not count.";
        SUBSCRIPTIONS = Gauge "raftmq_subscriptions" [] "Subscriptions of the clients of this node.";
        SUBSCRIBED = Counter "raftmq_subscriptions_added_total" [] "Subscriptions added, those that replaced one not counted.";
        UNSUBSCRIBED = Counter "raftmq_subscriptions_removed_total" [] "Subscriptions removed, by UNSUBSCRIBE or by the end of their session.";
        LISTENER_CONNECTIONS = Gauge "raftmq_listener_connections" ["listener" "transport"] "Open connections of clients by listener, with what carries MQTT on it: tcp, tls, ws, wss, quic.";
        LISTENER_MAX_CONNECTIONS = Gauge "raftmq_listener_max_connections" ["listener" "transport"] "Connections that the listener keeps at a time; 0 for no limit of its own.";
        CERTIFICATE_END = Gauge "raftmq_listener_certificate_not_after_seconds" ["listener"] "When the first of the listener's certificates ends, in seconds since 1970.";
        CERTIFICATE_RELOADS = Counter "raftmq_listener_certificate_reloads_total" ["listener" "result"] "Changed files of certificates that were read again, by result: ok, error (the former ones stay).";
        BANS = Gauge "raftmq_bans" ["kind"] "Bans in force on this node, by kind: clientid, username, address.";
        BANS_REFUSED = Counter "raftmq_bans_refused_total" ["kind"] "Connections refused by a ban, by its kind: clientid, username, address.";
        BANS_CLOSED = Counter "raftmq_bans_closed_total" ["kind"] "Connected clients whose connection was closed because they were banned, by the kind of the ban: clientid, username, address.";
        FLAPPING = Counter "raftmq_flapping_clients_total" ["result"] "Clients that this node found to connect too often, by result: banned, failed (no ban could be made, as without a leader or room in the list).";
        CLIENT_RECEIVED_BYTES = Counter "raftmq_client_received_bytes_total" [] "Bytes read from sockets of clients, of all packets.";
        CLIENT_SENT_BYTES = Counter "raftmq_client_sent_bytes_total" [] "Bytes written to sockets of clients, of all packets.";
    }
    "Messages" {
        MESSAGES_RECEIVED = Counter "raftmq_messages_received_total" ["qos"] "PUBLISH packets received from clients, by QoS.";
        MESSAGES_RECEIVED_BYTES = Counter "raftmq_messages_received_bytes_total" ["qos"] "Bytes of the PUBLISH packets received from clients, by QoS.";
        MESSAGES_SENT = Counter "raftmq_messages_sent_total" ["qos"] "PUBLISH packets sent to clients, by the QoS of the delivery.";
        MESSAGES_SENT_BYTES = Counter "raftmq_messages_sent_bytes_total" ["qos"] "Bytes of the PUBLISH packets sent to clients, by the QoS of the delivery.";
        MESSAGES_DROPPED = Counter "raftmq_messages_dropped_total" ["reason"] "Deliveries that did not happen, by reason: slow_consumer, session_queue_full, worker_queue_full, link_queue_full, expired, packet_too_large, disconnected, not_serving, no_member, overload (QoS 0 messages shed as they came, once for each).";
        MESSAGES_REFUSED = Counter "raftmq_messages_refused_total" ["reason"] "Messages not taken from their publisher, by reason: topic, not_authorized, quota. A retained message over quota of an MQTT 3 client, or with QoS 0, is delivered and not kept.";
        LIMITS_MET = Counter "raftmq_limits_met_total" ["limit"] "Requests of clients refused for a limit of their listener's, by limit: qos, retain, wildcard, shared, subscription_identifier, topic, subscriptions, user_properties, receive_maximum, packet_size, client_id.";
        THROTTLED = Counter "raftmq_throttled_total" ["limit" "scope"] "How often a rate made somebody wait, by what is limited (messages, bytes, connections) and for whom (client, listener): a client's connection was not read, or one more connection not accepted, for a while.";
        THROTTLED_SECONDS = Counter "raftmq_throttled_seconds_total" ["limit" "scope"] "How long they waited in all; of connections that were not accepted, those that were the next one.";
        THROTTLED_CONNECTIONS = Gauge "raftmq_throttled_connections" [] "Connections of clients that are not read at this time because of a rate.";
        MESSAGES_UNMATCHED = Counter "raftmq_messages_unmatched_total" [] "Messages that nobody had subscribed to; not those that the node publishes itself.";
        RETAINED = Gauge "raftmq_retained_messages" [] "Retained messages in the memory of this node: with shards those of $SYS; all others are in raftmq_shard_retained_messages then.";
        RETAINED_BYTES = Gauge "raftmq_retained_bytes" [] "Bytes of the retained messages of this node.";
        RETAINED_CHANGES = Counter "raftmq_retained_changes_total" ["change"] "Retained messages by what became of them: stored, cleared, expired, refused.";
        DELAYED = Gauge "raftmq_delayed_messages" [] "Messages of $delayed/ topics that wait for their time in the memory of this node: none with shards, see raftmq_shard_delayed_messages.";
        DELAYED_BYTES = Gauge "raftmq_delayed_bytes" [] "Bytes of the messages that wait for their time.";
        DELAYED_CHANGES = Counter "raftmq_delayed_changes_total" ["change"] "Messages of $delayed/ topics in the memory of this node, not those in shards, by what became of them: accepted, published, expired, refused.";
        WILLS_PUBLISHED = Counter "raftmq_wills_published_total" [] "Wills published by this node: not those that shards decide.";
        WILLS_WAITING = Gauge "raftmq_wills_waiting" [] "Wills that wait for their delay in the memory of this node: none with shards.";
    }
    "Shared and exclusive subscriptions" {
        SHARED_GROUPS = Gauge "raftmq_shared_groups" [] "Groups of shared subscriptions with members on this node.";
        SHARED_MEMBERS = Gauge "raftmq_shared_members" [] "Members of groups on this node.";
        SHARED_DISPATCHES = Counter "raftmq_shared_dispatches_total" [] "Messages that a member of this node was chosen for.";
        SHARED_REDISPATCHES = Counter "raftmq_shared_redispatches_total" [] "Messages that another member was looked for, because the one before did not take them, did not acknowledge in time, or has left.";
        EXCLUSIVE = Gauge "raftmq_exclusive_subscriptions" [] "Exclusive subscriptions of this node.";
    }
    "Cluster" {
        MEMBERS = Gauge "raftmq_members" ["state"] "Members of the cluster as this node knows them, by state: up, down, leaving.";
        ROUTES = Gauge "raftmq_routes" ["filter"] "Filters in this node's route table, by kind: exact, wildcard.";
        LEASE_HELD = Gauge "raftmq_lease_held" [] "1 while this node holds a serving lease, otherwise 0.";
        LEASE_REMAINING = Gauge "raftmq_lease_remaining_seconds" [] "Time left of the serving lease; 0 without one.";
        LEASE_LOSSES = Counter "raftmq_lease_losses_total" [] "How often the serving lease ran out.";
        FENCED_SECONDS = Counter "raftmq_fenced_seconds_total" [] "Time without a serving lease, from the end of one to the next.";
        FENCED_CLIENTS = Counter "raftmq_fenced_clients_total" [] "Clients that were connected when a serving lease ended.";
        SERVING_LOCAL = Gauge "raftmq_serving_local" [] "1 while this node serves without a lease what needs no quorum (cluster.onQuorumLoss: serveLocal), otherwise 0.";
        SERVING_LOCAL_SECONDS = Counter "raftmq_serving_local_seconds_total" [] "Time that this node served so.";
        FORWARDED = Counter "raftmq_forwarded_messages_total" ["direction"] "Messages between this node and others, one for each node that gets it: sent, received.";
        FORWARDS_DROPPED = Counter "raftmq_forwarded_messages_dropped_total" [] "Messages that were not handed to a node's link: its queue was full, or its address is not known.";
        FORWARDS_PAST = Counter "raftmq_forwarded_messages_past_total" [] "Messages of other nodes that were meant for an earlier start of this node, or for the time before it lost its lease.";
        FORWARDS_LOST = Counter "raftmq_forwarded_messages_lost_total" [] "Messages of other nodes that a worker of this node did not get: its queue was full.";
        BARRIERS = Counter "raftmq_subscribe_barriers_total" ["result"] "Subscriptions that waited until every serving node knew them, by result: reached, failed.";
        MEMBERSHIP_STEPS = Counter "raftmq_membership_steps_total" [] "Changes of group memberships that this node drove as a leader.";
        READY = Gauge "raftmq_ready" ["condition"] "1 where the condition of /readyz holds, otherwise 0: member, caught_up, lease, listeners.";
        DISCOVERY_PEERS = Gauge "raftmq_discovery_peers" [] "Peers that discovery found last.";
        DISCOVERY_REFRESHES = Counter "raftmq_discovery_refreshes_total" ["result"] "Look-ups of discovery, by result: ok, error.";
    }
    "Raft groups" {
        RAFT_TERM = Gauge "raftmq_raft_term" ["group"] "Current term of the group.";
        RAFT_LEADER = Gauge "raftmq_raft_leader" ["group"] "Raft id of the leader that this node knows; 0 for none, and on a node without a lease.";
        RAFT_IS_LEADER = Gauge "raftmq_raft_is_leader" ["group"] "1 where this node leads the group, otherwise 0.";
        RAFT_LAST_LOG = Gauge "raftmq_raft_last_log_index" ["group"] "Index of the last entry in this node's log.";
        RAFT_COMMITTED = Gauge "raftmq_raft_committed_index" ["group"] "Index up to which this node knows the log to be committed.";
        RAFT_APPLIED = Gauge "raftmq_raft_applied_index" ["group"] "Index up to which this node has applied the log.";
        RAFT_SNAPSHOT = Gauge "raftmq_raft_snapshot_index" ["group"] "Index that this node's last snapshot covers.";
        RAFT_PURGED = Gauge "raftmq_raft_purged_index" ["group"] "Index up to which this node's log was purged.";
        RAFT_VOTERS = Gauge "raftmq_raft_voters" ["group"] "Voters of the group.";
        RAFT_LEARNERS = Gauge "raftmq_raft_learners" ["group"] "Learners of the group.";
        RAFT_FAILED = Gauge "raftmq_raft_failed" ["group"] "1 where an error stopped this node's replica, otherwise 0.";
        RAFT_FOLLOWER_LAG = Gauge "raftmq_raft_follower_lag_entries" ["group" "follower"] "On the leader: entries that the member (by Raft id) is not known to have.";
    }
    "Shards" {
        SHARDS = Gauge "raftmq_shards" ["state"] "Shards of the cluster, as this node knows them, by state: formed, forming.";
        SHARD_REPLICAS = Gauge "raftmq_shard_replicas" ["role"] "Replicas of shards on this node, by role: leader, follower, learner, candidate.";
        SHARD_CLIENTS = Gauge "raftmq_shard_clients" [] "Clients in the registry, in the shards that this node leads.";
        SHARD_SESSIONS = Gauge "raftmq_shard_sessions" [] "Durable sessions in the shards that this node leads.";
        SHARD_SUBSCRIPTIONS = Gauge "raftmq_shard_subscriptions" [] "Subscriptions of durable sessions in the shards that this node leads.";
        SHARD_MESSAGES = Gauge "raftmq_shard_messages" [] "Messages in the shards that this node leads, each once, whatever the number of queues.";
        SHARD_QUEUED = Gauge "raftmq_shard_queued_messages" [] "Messages in the queues of durable sessions, in the shards that this node leads.";
        SHARD_QUEUED_BYTES = Gauge "raftmq_shard_queued_bytes" [] "Bytes of these.";
        SHARD_RETAINED = Gauge "raftmq_shard_retained_messages" [] "Topics with a retained message, in the shards that this node leads.";
        SHARD_DELAYED = Gauge "raftmq_shard_delayed_messages" [] "Delayed messages that wait for their time, in the shards that this node leads.";
        SHARD_DROPPED = Counter "raftmq_shard_messages_dropped_total" ["reason"] "Messages that a durable session did not get, counted by the shard's leader, by reason: expired; queue_full: it was full, the new message was not taken; oldest: it was full, the oldest went.";
        SHARD_COMPARISONS = Counter "raftmq_shard_comparisons_total" ["result"] "Comparisons of the state of another node's replica with this node's, the leader's, by result: same; different, which is an error in the program.";
        SHARD_OPERATIONS = Counter "raftmq_shard_operations_total" [] "Operations of this node's workers that shards have committed and answered.";
    }
    "Write-ahead log" {
        WAL_FSYNC = Histogram "raftmq_wal_fsync_seconds" [] "Time of the log's syncs to disk.";
        WAL_WRITTEN = Counter "raftmq_wal_written_bytes_total" [] "Bytes written to the log, padding included.";
        WAL_RECORDS = Counter "raftmq_wal_records_total" [] "Records written to the log.";
        WAL_ENTRIES = Counter "raftmq_wal_entries_total" [] "Raft entries written to the log.";
        WAL_COPIED = Counter "raftmq_wal_copied_entries_total" [] "Entries copied forward so that an old segment could go.";
        WAL_SEGMENTS = Gauge "raftmq_wal_segments" [] "Segments of the log on disk.";
        WAL_QUEUED_RECORDS = Gauge "raftmq_wal_queued_records" [] "Records that wait to be written.";
        WAL_QUEUED_BYTES = Gauge "raftmq_wal_queued_bytes" [] "Bytes that wait to be written.";
        WAL_REFUSED = Counter "raftmq_wal_refused_total" [] "Appends refused because the disk is nearly full.";
        WAL_DISK_FULL = Gauge "raftmq_wal_disk_full" [] "1 while appends are refused because the disk is nearly full, otherwise 0.";
    }
    "Node links" {
        LINK_PEERS = Gauge "raftmq_link_peers" ["state"] "Peers that this node dials: connected (straight), relayed (by way of another node, since they do not reach each other), disconnected.";
        LINK_INBOUND = Gauge "raftmq_link_inbound_connections" [] "Connections from peers that are open.";
        LINK_RELAYED = Gauge "raftmq_link_relayed_connections" [] "Connections between other nodes, which do not reach each other, that this node passes on.";
        LINK_REFUSED = Counter "raftmq_link_refused_total" [] "Handshakes between nodes that this node refused.";
        LINK_FRAMES_SENT = Counter "raftmq_link_frames_sent_total" ["class"] "Frames written to peers, repeats included, by class: control, log, bulk, data.";
        LINK_FRAMES_RECEIVED = Counter "raftmq_link_frames_received_total" ["class"] "Frames read from peers, by class.";
        LINK_BYTES_SENT = Counter "raftmq_link_sent_bytes_total" ["class"] "Bytes of frames written to peers, before TLS, by class.";
        LINK_BYTES_RECEIVED = Counter "raftmq_link_received_bytes_total" ["class"] "Bytes of frames read from peers, after TLS, by class.";
        LINK_WRITES = Counter "raftmq_link_writes_total" ["class"] "Writes to sockets of peers: one for all frames that waited, by class.";
        LINK_QUEUE_BYTES = Gauge "raftmq_link_queue_bytes" ["class"] "Bytes that wait in queues to peers, unacknowledged frames included, by class.";
        LINK_RECONNECTS = Counter "raftmq_link_reconnects_total" ["class"] "Connections to peers made again after one was lost, by class.";
        LINK_DROPPED = Counter "raftmq_link_dropped_frames_total" ["reason"] "Frames given up, by reason: queue_full, too_large, peer_restarted, forgotten, duplicate, busy.";
        LINK_PEER_QUEUE_BYTES = Gauge "raftmq_link_peer_queue_bytes" ["peer"] "Bytes that wait for the peer, by its advertised address.";
        LINK_PEER_RTT = Gauge "raftmq_link_peer_round_trip_seconds" ["peer"] "Round trip to the peer, where one was measured, by its advertised address.";
    }
    "Process" {
        BUILD_INFO = Gauge "raftmq_build_info" ["version" "architecture"] "Always 1; the labels say what is running.";
        OVERLOAD_LEVEL = Gauge "raftmq_overload_level" [] "What is refused because the node has too much to do: 0 nothing, 1 new connections, 2 messages with QoS 0 as well.";
        OVERLOAD_MEMORY = Gauge "raftmq_overload_memory_bytes" [] "Resident memory as measured for the overload level, a few times a second; 0 where it is not known.";
        OVERLOAD_MEMORY_LIMIT = Gauge "raftmq_overload_memory_limit_bytes" [] "The memory of which the overload settings are shares; 0 without a limit.";
        WORKER_LOOP_DELAY = Histogram "raftmq_worker_loop_delay_seconds" ["worker"] "By how much each worker's loop was late, some eight times a second.";
        WORKERS = Gauge "raftmq_workers" [] "Worker threads.";
        PROCESS_CPU = Counter "raftmq_process_cpu_seconds_total" ["mode"] "Processor time used, by mode: user, system.";
        PROCESS_RESIDENT = Gauge "raftmq_process_resident_memory_bytes" [] "Memory in use.";
        PROCESS_VIRTUAL = Gauge "raftmq_process_virtual_memory_bytes" [] "Address space in use.";
        PROCESS_THREADS = Gauge "raftmq_process_threads" [] "Threads.";
        TASKS = Gauge "raftmq_tasks" ["runtime"] "Tasks that are alive, by runtime: workers (one for each connection, and some of their own), control (HTTP, cluster), quic.";
        PROCESS_START = Gauge "raftmq_process_start_time_seconds" [] "When the process started, in seconds since 1970.";
        PROCESS_OPEN_FDS = Gauge "raftmq_process_open_fds" [] "Open file descriptors.";
        PROCESS_MAX_FDS = Gauge "raftmq_process_max_fds" [] "Limit of open file descriptors.";
    }
}

/// All metrics.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|(_, metrics)| metrics.iter().copied())
}

/// The text of `docs/metrics.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         Every node serves them at `/metrics` of its metrics port (9100) in the Prometheus text format. Names and labels are\n\
         stable. Counters count from the start of the process.\n\n\
         A node without a cluster has none of those under *Cluster* (but for `raftmq_ready`), *Raft groups*, *Write-ahead log* and *Node links*. Elsewhere\n\
         a metric is absent while there is nothing to say: those of discovery with a static list, the indices of snapshots and purges before the\n\
         first snapshot, those of certificates where no listener has TLS.\n",
    );
    for (section, metrics) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n## {section}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(|name| format!("`{name}`")).collect();
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                metric.name,
                metric.kind.name(),
                labels.join(", "),
                metric.help
            );
        }
    }
    out
}
