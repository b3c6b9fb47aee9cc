//! Bans, held against who comes and against who is there.

use std::net::SocketAddr;
use std::sync::Arc;

use raftmq_meta::{Ban, Seen};
use raftmq_mqtt::ReasonCode;

use super::wheel::Key;
use super::{ClientState, Conn, Worker};
use crate::bans::{Bans, InForce};
use crate::metrics::RefuseReason;

impl Conn {
    /// Where its client is now: one of QUIC may have moved.
    fn address(&self) -> SocketAddr {
        self.socket.moved_to().unwrap_or(self.peer.address)
    }
}

impl Worker {
    /// Other bans are in force. Returns the connections that have to be looked at by [`Self::enforce`].
    pub(super) fn bans_changed(&mut self, now: Arc<InForce>) -> Vec<Key> {
        // Who missed a change looks at all bans.
        let missed = now.number != self.bans.number + 1;
        self.bans = now;
        let looked_at = self.looked_at(missed);
        let only_clients =
            looked_at.count(raftmq_meta::BanKind::Username) == 0 && looked_at.count(raftmq_meta::BanKind::Address) == 0;
        if only_clients {
            // The usual case, and cheap however many connections there are.
            let found: Vec<Key> = looked_at.client_ids().filter_map(|id| self.by_id.get(id).copied()).collect();
            return found.into_iter().filter_map(|client| self.connection_of(client)).collect();
        }
        self.conns.keys()
    }

    fn looked_at(&self, missed: bool) -> &raftmq_meta::BanIndex {
        if missed { &self.bans.all } else { &self.bans.fresh }
    }

    pub(super) fn connection_of(&mut self, client: Key) -> Option<Key> {
        match self.clients.get_mut(client)?.state {
            ClientState::Online(key) => Some(key),
            ClientState::Offline { .. } => None,
        }
    }

    /// Closes a connection if it is under a ban. Its client is told by DISCONNECT, where it knows reasons: Administrative action, since
    /// Banned is one of CONNACK only (MQTT 5, table 3-13). Its will is published `[MQTT-3.1.2-8]`, its session stays for as long as it asked for.
    pub(super) fn enforce(&mut self, key: Key) {
        let bans = Arc::clone(&self.bans);
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.closing.is_none() && conn.moving.is_none()) else {
            return;
        };
        if conn.outlet.awaits_proxy() {
            // Its address is the balancer's. It is looked at once the header is there.
            return;
        }
        let address = conn.address();
        let seen = if conn.client.is_some() {
            let client_id: &str = conn.session.client_id();
            Seen { client_id: Some(client_id), username: conn.username.as_deref(), address: Some(address.ip()) }
        } else {
            // The rest is looked at with its CONNECT.
            Seen { address: Some(address.ip()), ..Seen::default() }
        };
        let Some(ban) = bans.all.find(seen).cloned() else {
            return;
        };
        if conn.client.is_none() {
            return self.turn_away(key, &ban);
        }
        // It may have said that it leaves.
        self.read_last(key);
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.closing.is_none()) else {
            return;
        };
        self.node.bans.counters.closed(ban.target.kind());
        if self.node.bans.may_log() {
            let client = conn.session.client_id();
            tracing::info!(%client, %address, ban = %ban.target, reason = ban.reason, "connection closed: banned");
        }
        self.close_by_server(key, ReasonCode::AdministrativeAction);
    }

    /// Whether a CONNECT is to be refused.
    pub(super) fn is_banned(&mut self, key: Key, client_id: &str, username: Option<&str>) -> bool {
        let Some(conn) = self.conns.get_mut(key) else {
            return false;
        };
        let address = conn.address();
        let seen = Seen { client_id: Some(client_id), username, address: Some(address.ip()) };
        let Some(ban) = self.bans.all.find(seen) else {
            return false;
        };
        note_refused(&self.node.bans, ban, address, client_id);
        true
    }

    /// Whether a connection is to be refused before anything is read of it. Behind a balancer its address is not known yet.
    pub(super) fn refuses(&self, listener: u16, address: SocketAddr) -> bool {
        let knows = self.listeners.get(usize::from(listener)).is_none_or(|listener| !listener.has_proxy());
        let Some(ban) = self.bans.all.find_address(address.ip()).filter(|_| knows) else {
            return false;
        };
        note_refused(&self.node.bans, ban, address, "");
        true
    }

    /// The balancer has said where a connection comes from. True: it is over.
    pub(super) fn turned_away(&mut self, key: Key) -> bool {
        let address = self.conns.get_mut(key).map(|conn| conn.peer.address.ip());
        let ban = address.and_then(|address| self.bans.all.find_address(address)).cloned();
        ban.inspect(|ban| self.turn_away(key, ban)).is_some()
    }

    /// Ends a connection without a word, before its CONNECT.
    fn turn_away(&mut self, key: Key, ban: &Ban) {
        if let Some(conn) = self.conns.get_mut(key) {
            note_refused(&self.node.bans, ban, conn.address(), "");
        }
        self.counters.refused(RefuseReason::Banned);
        self.lost(key);
    }

    /// A CONNECT that is not banned has come to the worker of its client.
    pub(super) fn count_connect(&self, client_id: &Arc<str>) {
        if let Some(flapping) = &self.node.flapping {
            flapping.connected(client_id, self.node.clock.ms());
        }
    }
}

/// A connection is refused, by whichever part of the node.
pub(super) fn note_refused(bans: &Bans, ban: &Ban, address: SocketAddr, client: &str) {
    bans.counters.refused(ban.target.kind());
    if bans.may_log() {
        tracing::info!(client, %address, ban = %ban.target, reason = ban.reason, "connection refused: banned");
    }
}
