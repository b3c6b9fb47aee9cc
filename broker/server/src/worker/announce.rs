//! Events of clients (docs/events.md): made only when somebody has subscribed to them.

use raftmq_features::events::{ConnectedWith, DisconnectReason, EventClient, Events};
use raftmq_features::{ServerMessage, topic_level};
use raftmq_mqtt::{ReasonCode, Version};
use raftmq_session::{CloseReason, SubscribeItem};

use super::publish::Reach;
use super::wheel::Key;
use super::{Conn, Worker, limits_of, mount};

impl Worker {
    /// A CONNECT was accepted.
    pub(super) fn announce_connected(&mut self, key: Key, with: ConnectedWith) {
        if self.node.features.event_settings.connected {
            self.announce(key, "/connected", |events, client, now| events.connected(client, with, now));
        }
    }

    /// A connection whose CONNECT was accepted has ended. To be called while it is there.
    pub(super) fn announce_disconnected(&mut self, key: Key, reason: DisconnectReason) {
        if self.node.features.event_settings.disconnected {
            self.announce(key, "/disconnected", |events, client, now| events.disconnected(client, reason, now));
        }
    }

    pub(super) fn announce_subscribed(&mut self, key: Key, item: &SubscribeItem) {
        if !self.node.features.event_settings.subscribed {
            return;
        }
        let filter = self.as_written(key, &item.filter);
        let sub_id = Some(item.sub_id).filter(|id| *id != 0);
        self.announce(key, "/subscribed", |events, client, now| {
            events.subscribed(client, &filter, item.options, sub_id, item.is_new(), now)
        });
    }

    pub(super) fn announce_unsubscribed(&mut self, key: Key, filter: &str) {
        if !self.node.features.event_settings.unsubscribed {
            return;
        }
        let filter = self.as_written(key, filter);
        self.announce(key, "/unsubscribed", |events, client, now| events.unsubscribed(client, &filter, now));
    }

    /// A filter of a session without the listener's mount point.
    fn as_written(&mut self, key: Key, filter: &str) -> String {
        let listener = self.conns.get_mut(key).map_or(0, |conn| conn.listener);
        let limits = limits_of(&self.node, &self.listeners, listener);
        mount::client_filter(limits.mount_point.as_deref(), filter).into_owned()
    }

    fn announce(
        &mut self,
        key: Key,
        name: &str,
        make: impl FnOnce(&Events, &EventClient<'_>, u64) -> Option<ServerMessage>,
    ) {
        let features = &self.node.features;
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let topic = [&features.event_prefix, &*topic_level(conn.session.client_id()), name].concat();
        // Each client has topics of its own: remembered, they would drive out those of messages.
        if self.cache.lookup_once(&topic).is_empty() {
            return;
        }
        let now = self.node.clock.now();
        let local_port = self.listeners.get(usize::from(conn.listener)).map_or(0, |listener| listener.port);
        let event = make(&features.events, &event_client(conn, local_port), now.unix_ms);
        if let Some(event) = event {
            self.publish_own(&event, Reach::Cluster);
        }
    }
}

fn event_client(conn: &Conn, local_port: u16) -> EventClient<'_> {
    EventClient {
        client_id: conn.session.client_id(),
        username: conn.username.as_deref(),
        peer: conn.peer.address,
        local_port,
        version: conn.session.version().unwrap_or(Version::V5),
        connected_at_ms: conn.connected_at_ms,
    }
}

/// Why a connection ended, by its name in events.
pub(super) const fn disconnect_reason(reason: CloseReason) -> DisconnectReason {
    match reason {
        CloseReason::Client(ReasonCode::Success) => DisconnectReason::Normal,
        CloseReason::Lost | CloseReason::Broken => DisconnectReason::ConnectionClosed,
        CloseReason::Fault(ReasonCode::KeepAliveTimeout) => DisconnectReason::KeepAliveTimeout,
        CloseReason::Server(ReasonCode::SessionTakenOver) => DisconnectReason::TakenOver,
        CloseReason::Client(reason)
        | CloseReason::Fault(reason)
        | CloseReason::Server(reason)
        | CloseReason::Refused(reason) => DisconnectReason::Code(reason),
        CloseReason::ConnectTimeout => DisconnectReason::Internal,
    }
}
