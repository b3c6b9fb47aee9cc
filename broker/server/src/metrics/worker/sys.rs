//! The workers' numbers as the `$SYS` tree wants them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use raftmq_features::sys::{MosquittoCounters, SysCounters, SysSnapshot};
use raftmq_mqtt::PacketType;

use super::{Count, DropReason, PublishRefusal, RefuseReason, Shared};

/// What the workers' numbers say for the `$SYS` tree.
pub(in crate::metrics) fn sys(workers: &[Arc<Shared>]) -> SysSnapshot {
    let sum = |field: &dyn Fn(&Shared) -> &AtomicU64| -> u64 {
        workers.iter().map(|worker| field(worker).load(Relaxed)).sum()
    };
    let counted = |what: Count| sum(&|worker| &worker.counts[what as usize]);
    let dropped = |reason: DropReason| sum(&|worker| &worker.dropped[reason as usize]);
    let refused = |reason: RefuseReason| sum(&|worker| &worker.refused[reason as usize]);
    let publish_refused = |reason: PublishRefusal| sum(&|worker| &worker.publish_refused[reason as usize]);
    let mut snapshot = SysSnapshot::default();
    for packet in PacketType::ALL {
        snapshot.packets_received.add(packet, sum(&|worker| &worker.packets_in[packet as usize]));
        snapshot.packets_sent.add(packet, sum(&|worker| &worker.packets_out[packet as usize]));
    }
    let received = |qos: usize| sum(&|worker| &worker.messages_in[qos]);
    let sent = |qos: usize| sum(&|worker| &worker.messages_out[qos]);
    snapshot.counters = SysCounters {
        bytes_received: sum(&|worker| &worker.bytes_in),
        bytes_sent: sum(&|worker| &worker.bytes_out),
        qos0_received: received(0),
        qos0_sent: sent(0),
        qos1_received: received(1),
        qos1_sent: sent(1),
        qos2_received: received(2),
        qos2_sent: sent(2),
        published: counted(Count::Routed),
        dropped_no_subscribers: counted(Count::Unmatched),
        retained: counted(Count::Retained),
        forwarded: counted(Count::Forwarded),
        delivered: sent(0) + sent(1) + sent(2),
        acked: snapshot.packets_received.of(PacketType::PubAck) + snapshot.packets_received.of(PacketType::PubComp),
        delivery_no_local: counted(Count::NotLocal),
        delivery_too_large: dropped(DropReason::PacketTooLarge),
        delivery_qos0: dropped(DropReason::SlowConsumer) + dropped(DropReason::Disconnected),
        delivery_queue_full: dropped(DropReason::SessionQueueFull),
        delivery_expired: dropped(DropReason::Expired),
        connack_errors: refused(RefuseReason::Protocol)
            + refused(RefuseReason::Authentication)
            + refused(RefuseReason::NotAuthorized)
            + refused(RefuseReason::NotServing),
        connack_auth_errors: refused(RefuseReason::Authentication) + refused(RefuseReason::NotAuthorized),
        publish_errors: PublishRefusal::ALL.map(publish_refused).iter().sum(),
        publish_auth_errors: publish_refused(PublishRefusal::NotAuthorized),
        subscribe_errors: counted(Count::SubscribeRefused),
        clients_connected: counted(Count::ClientConnected),
        clients_disconnected: counted(Count::ClientDisconnected),
        client_subscribes: sum(&|worker| &worker.subscribed),
        client_unsubscribes: counted(Count::Unsubscribed),
        sessions_created: counted(Count::SessionCreated),
        sessions_resumed: counted(Count::SessionResumed),
        sessions_taken_over: counted(Count::SessionTakenOver),
        sessions_discarded: counted(Count::SessionDiscarded),
        sessions_terminated: counted(Count::SessionEnded),
        // Not the workers': filled in by who knows.
        dropped_expired: 0,
        delayed: 0,
    };
    snapshot.mosquitto = MosquittoCounters {
        sockets_opened: sum(&|worker| &worker.opened),
        clients_expired: counted(Count::SessionExpired),
        publish_bytes_received: (0..3).map(|qos| sum(&|worker| &worker.message_bytes_in[qos])).sum(),
        publish_bytes_sent: (0..3).map(|qos| sum(&|worker| &worker.message_bytes_out[qos])).sum(),
    };
    snapshot.gauges.clients_connected = sum(&|worker| &worker.clients);
    snapshot.gauges.subscriptions = sum(&|worker| &worker.subscriptions);
    snapshot.gauges.subscribers = counted(Count::Subscribers);
    snapshot.gauges.stored_messages = counted(Count::Stored);
    snapshot
}
