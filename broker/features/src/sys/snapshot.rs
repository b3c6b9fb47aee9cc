//! What the `$SYS` tree is made of: plain counts, which whoever calls gathers from its workers.

use raftmq_mqtt::PacketType;

/// How many packets of each type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketCounts([u64; 16]);

impl PacketCounts {
    /// Counts packets of a type.
    pub const fn add(&mut self, packet: PacketType, count: u64) {
        let index = packet as usize;
        self.0[index] = self.0[index].saturating_add(count);
    }

    /// How many of a type.
    #[must_use]
    pub const fn of(&self, packet: PacketType) -> u64 {
        self.0[packet as usize]
    }

    /// How many of all types.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }
}

macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident $topic:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl $name {
            /// Adds the counts of another worker.
            pub fn merge(&mut self, other: &Self) {
                $(self.$field = self.$field.saturating_add(other.$field);)+
            }

            /// The topics, below their part of EMQX's tree, with their values.
            pub(super) fn topics(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$(($topic, self.$field),)+].into_iter()
            }
        }
    };
}

counters! {
    /// What happened since the start of the node.
    pub struct SysCounters {
        /// Bytes read from sockets of clients.
        bytes_received "bytes/received",
        /// Bytes written to sockets of clients.
        bytes_sent "bytes/sent",
        /// PUBLISH packets received with QoS 0.
        qos0_received "messages/qos0/received",
        /// PUBLISH packets sent with QoS 0.
        qos0_sent "messages/qos0/sent",
        /// PUBLISH packets received with QoS 1.
        qos1_received "messages/qos1/received",
        /// PUBLISH packets sent with QoS 1.
        qos1_sent "messages/qos1/sent",
        /// PUBLISH packets received with QoS 2.
        qos2_received "messages/qos2/received",
        /// PUBLISH packets sent with QoS 2.
        qos2_sent "messages/qos2/sent",
        /// Messages handed to routing: those of clients, wills, delayed messages when their time comes.
        published "messages/publish",
        /// Messages that matched no subscription.
        dropped_no_subscribers "messages/dropped/no_subscribers",
        /// Delayed messages that expired before their time came.
        dropped_expired "messages/dropped/expired",
        /// Messages handed to other nodes.
        forwarded "messages/forward",
        /// Messages kept as retained ones.
        retained "messages/retained",
        /// Messages that began to wait for their time.
        delayed "messages/delayed",
        /// Deliveries to clients, QoS 0 included.
        delivered "messages/delivered",
        /// Deliveries that clients acknowledged.
        acked "messages/acked",
        /// Deliveries that did not happen because the subscription says No Local.
        delivery_no_local "delivery/dropped/no_local",
        /// Deliveries that did not happen because the packet was larger than the client takes.
        delivery_too_large "delivery/dropped/too_large",
        /// Deliveries that did not happen because the client was not connected, or too slow, and the QoS was 0.
        delivery_qos0 "delivery/dropped/qos0_msg",
        /// Deliveries that did not happen because the queue of the session was full.
        delivery_queue_full "delivery/dropped/queue_full",
        /// Deliveries that did not happen because the message expired in the session's queue.
        delivery_expired "delivery/dropped/expired",
        /// CONNACK packets with an error.
        connack_errors "packets/connack/error",
        /// CONNACK packets that refuse user name, password or authorization.
        connack_auth_errors "packets/connack/auth_error",
        /// PUBLISH packets refused, with an answer or without.
        publish_errors "packets/publish/error",
        /// PUBLISH packets refused because the client may not.
        publish_auth_errors "packets/publish/auth_error",
        /// Filters in SUBSCRIBE refused.
        subscribe_errors "packets/subscribe/error",
        /// Clients whose CONNECT was accepted.
        clients_connected "client/connected",
        /// Connected clients whose connection ended.
        clients_disconnected "client/disconnected",
        /// Filters subscribed to.
        client_subscribes "client/subscribe",
        /// Filters that clients unsubscribed from; not those that ended with their session.
        client_unsubscribes "client/unsubscribe",
        /// Sessions made.
        sessions_created "session/created",
        /// Sessions continued.
        sessions_resumed "session/resumed",
        /// Sessions continued by a connection that took over another one.
        sessions_taken_over "session/takenover",
        /// Sessions discarded by a connection with Clean Start 1.
        sessions_discarded "session/discarded",
        /// Sessions ended, by expiry or in any other way.
        sessions_terminated "session/terminated",
    }
}

/// What there is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SysGauges {
    /// Sessions, of connected clients and of others.
    pub sessions: u64,
    /// Clients that are connected.
    pub clients_connected: u64,
    /// Filters in the route table of this node.
    pub topics: u64,
    /// Subscriptions of this node's sessions.
    pub subscriptions: u64,
    /// Those of them that are shared.
    pub shared_subscriptions: u64,
    /// Sessions with a subscription.
    pub subscribers: u64,
    /// Retained messages.
    pub retained: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Messages that wait in sessions, sent and not acknowledged ones included, and retained messages.
    pub stored_messages: u64,
    /// The bytes of the retained ones.
    pub stored_bytes: u64,
}

/// What the Mosquitto tree says and the EMQX tree does not, since the start of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MosquittoCounters {
    /// Sockets of clients accepted.
    pub sockets_opened: u64,
    /// Sessions that expired.
    pub clients_expired: u64,
    /// Bytes of the PUBLISH packets received.
    pub publish_bytes_received: u64,
    /// Bytes of the PUBLISH packets sent.
    pub publish_bytes_sent: u64,
}

/// Everything the tree is made of, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SysSnapshot {
    /// The names of the nodes that serve, this one included.
    pub nodes: Vec<String>,
    /// What there is now.
    pub gauges: SysGauges,
    /// What happened.
    pub counters: SysCounters,
    /// What happened, for the Mosquitto tree.
    pub mosquitto: MosquittoCounters,
    /// Packets received from clients.
    pub packets_received: PacketCounts,
    /// Packets sent to clients.
    pub packets_sent: PacketCounts,
}

impl SysSnapshot {
    /// PUBLISH packets received.
    pub(super) const fn messages_received(&self) -> u64 {
        self.packets_received.of(PacketType::Publish)
    }

    /// PUBLISH packets sent.
    pub(super) const fn messages_sent(&self) -> u64 {
        self.packets_sent.of(PacketType::Publish)
    }

    /// Messages dropped before they were routed to anybody.
    pub(super) const fn messages_dropped(&self) -> u64 {
        self.counters.dropped_no_subscribers.saturating_add(self.counters.dropped_expired)
    }

    /// Deliveries that did not happen.
    pub(super) const fn deliveries_dropped(&self) -> u64 {
        let counters = &self.counters;
        counters
            .delivery_no_local
            .saturating_add(counters.delivery_too_large)
            .saturating_add(counters.delivery_qos0)
            .saturating_add(counters.delivery_queue_full)
            .saturating_add(counters.delivery_expired)
    }
}
