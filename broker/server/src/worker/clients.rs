//! Clients and their sessions: who is connected, who comes back, who is gone.

use std::sync::Arc;

use raftmq_mqtt::ReasonCode;
use raftmq_session::{Action, AuthStep, CloseReason, Connection, OpenRequest, OpenResult, SessionState};

use super::wheel::Key;
use super::{Client, ClientState, Worker};

impl Worker {
    /// No authentication method is known here `[MQTT-4.12.0-1]`.
    pub(super) fn authenticate(&mut self, key: Key, actions: &mut Vec<Action>) {
        let now = self.node.clock.now();
        if let Some(conn) = self.conns.get_mut(key) {
            let out = conn.outlet.buffer(&mut self.spares);
            let refused = AuthStep::Refused(ReasonCode::BadAuthenticationMethod);
            conn.session.on_authenticated(now, refused, out, actions);
        }
    }

    /// Decides about a CONNECT.
    pub(super) fn open(&mut self, key: Key, request: &OpenRequest, unread: &[u8], actions: &mut Vec<Action>) {
        if !self.node.is_serving() {
            return self.answer(key, OpenResult::Refused(ReasonCode::ServerUnavailable), actions);
        }
        let home = self.node.registry.claim(&request.client_id, u16::from(self.id));
        if home != u16::from(self.id) {
            // The session is another worker's: the connection goes there, and the CONNECT is read again.
            if let Some(conn) = self.conns.get_mut(key) {
                conn.moving = Some((home, unread.to_vec()));
            }
            return self.wake(key);
        }
        let known = self.by_id.get(&request.client_id).copied();
        let old = known.and_then(|client| self.detach(client));
        let client = known.unwrap_or_else(|| {
            let id = Arc::clone(&request.client_id);
            let client =
                self.clients.insert(Client { id: Arc::clone(&id), state: ClientState::Online(key), watched: None });
            self.by_id.insert(id, client);
            client
        });
        let session = match old {
            Some(old) if request.clean_start => {
                self.drop_subscriptions(client, &old);
                None
            }
            old => old,
        };
        if let Some(entry) = self.clients.get_mut(client) {
            entry.state = ClientState::Online(key);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.client = Some(client);
        }
        self.counters.client_connected();
        tracing::debug!(client = %request.client_id, version = ?request.version, resumed = session.is_some(), "connected");
        self.answer(key, OpenResult::Accepted { session }, actions);
        self.watch(key);
    }

    fn answer(&mut self, key: Key, result: OpenResult, actions: &mut Vec<Action>) {
        let now = self.node.clock.now();
        if let Some(conn) = self.conns.get_mut(key) {
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_opened(now, result, out, actions);
        }
    }

    /// Takes the session of a client out of where it is; an older connection is closed first. `None` if the session
    /// ends now.
    fn detach(&mut self, client: Key) -> Option<Box<SessionState>> {
        let now = self.node.clock.now();
        let entry = self.clients.get_mut(client)?;
        match &mut entry.state {
            ClientState::Offline { state, .. } => Some(std::mem::take(state)),
            ClientState::Online(older) => {
                let older = *older;
                self.close(older, CloseReason::Server(ReasonCode::SessionTakenOver));
                let conn = self.conns.get_mut(older)?;
                conn.client = None;
                self.counters.client_disconnected();
                // What stays behind only writes the last packet.
                let mut rest = Connection::new(Arc::clone(&self.node.limits), now, [0; 16]);
                rest.close(CloseReason::Lost, &mut Vec::new());
                let (_, state) = std::mem::replace(&mut conn.session, rest).into_state()?;
                if state.expiry_s() == 0 {
                    // It would have ended with its connection.
                    self.drop_subscriptions(client, &state);
                    return None;
                }
                Some(state)
            }
        }
    }

    /// The connection of a client has ended: keeps the session for as long as it asked for.
    pub(super) fn park(&mut self, client: Key, state: Box<SessionState>) {
        let expiry_s = state.expiry_s();
        if expiry_s == 0 {
            return self.forget(client, &state);
        }
        let expires_ms =
            (expiry_s != u32::MAX).then(|| self.node.clock.ms().saturating_add(u64::from(expiry_s) * 1000));
        if let Some(entry) = self.clients.get_mut(client) {
            entry.state = ClientState::Offline { state, expires_ms };
        }
        self.watch_expiry(client);
    }

    /// Puts the end of a session into the wheel, unless an entry is there that fires before it.
    fn watch_expiry(&mut self, client: Key) {
        if let Some(entry) = self.clients.get_mut(client)
            && let ClientState::Offline { expires_ms: Some(deadline), .. } = entry.state
            && entry.watched.is_none_or(|watched| deadline < watched)
        {
            entry.watched = Some(deadline);
            self.expiries.insert(client, deadline);
        }
    }

    /// The end of a session that is not connected may have come.
    pub(super) fn on_expiry(&mut self, client: Key) {
        let now = self.node.clock.ms();
        let Some(entry) = self.clients.get_mut(client) else {
            return;
        };
        if entry.watched.is_some_and(|watched| watched > now) {
            return;
        }
        entry.watched = None;
        let ClientState::Offline { state, expires_ms: Some(expires_ms) } = &mut entry.state else {
            return;
        };
        if *expires_ms > now {
            // It was connected in between; this was the end of an earlier absence.
            return self.watch_expiry(client);
        }
        let state = std::mem::take(state);
        self.forget(client, &state);
    }

    /// The session ends.
    fn forget(&mut self, client: Key, state: &SessionState) {
        self.drop_subscriptions(client, state);
        if let Some(entry) = self.clients.remove(client) {
            self.by_id.remove(&entry.id);
            self.node.registry.release(&entry.id, u16::from(self.id));
        }
    }

    fn drop_subscriptions(&mut self, client: Key, state: &SessionState) {
        let filters: Vec<Arc<str>> =
            state.subscriptions().iter().map(|subscription| Arc::clone(&subscription.filter)).collect();
        self.remove_from_index(client, &filters);
    }

    /// Takes subscriptions of a client out of the index and out of the node's routes.
    pub(super) fn remove_from_index(&mut self, client: Key, filters: &[Arc<str>]) {
        let mut removed: Vec<Arc<str>> = Vec::with_capacity(filters.len());
        for filter in filters {
            if self.index.remove(filter, client.slot).is_some() {
                removed.push(Arc::clone(filter));
            }
        }
        if !removed.is_empty() {
            self.counters.unsubscribed(removed.len() as u64);
            self.node.router.unsubscribe(self.id, &removed);
        }
    }

    /// Closes every connection: the node shuts down, or may not serve any more.
    pub(super) fn close_all(&mut self, reason: ReasonCode) {
        for key in self.conns.keys() {
            self.close(key, CloseReason::Server(reason));
        }
    }

    /// The node lost its right to serve long ago: who is connected must go elsewhere. What was not written before the lease
    /// ran out is not written at all.
    pub(super) fn close_unserved(&mut self) {
        for key in self.conns.keys() {
            match self.conns.get_mut(key) {
                Some(conn) if conn.client.is_some() && conn.closing.is_none() && !conn.outlet.is_empty() => {
                    self.lost(key)
                }
                _ => self.close(key, CloseReason::Server(ReasonCode::UseAnotherServer)),
            }
        }
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.conns.len()
    }
}
