//! Clients and their sessions: who is connected, who comes back, who is gone.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use raftmq_features::events::{ConnectedWith, DisconnectReason};
use raftmq_features::wills::ConnectionEnd;
use raftmq_mqtt::ReasonCode;
use raftmq_session::{
    Action, AuthKind, AuthRequest, AuthStep, CloseReason, Connection, OpenRequest, OpenResult, Secret, SessionState,
    SubscriptionInfo,
};

use super::announce::disconnect_reason;
use super::claims::Owner;
use super::sharing::is_shared;
use super::wheel::Key;
use super::wills::connection_end;
use super::{Client, ClientState, Conn, Worker, limits_of};
use crate::authn::Step;
use crate::metrics::{DropReason, EndReason};
use crate::overload::Refusal;

impl Worker {
    /// A step of enhanced authentication. A method that is not known is refused `[MQTT-4.12.0-1]`.
    pub(super) fn authenticate(&mut self, key: Key, request: &AuthRequest, unread: &[u8], actions: &mut Vec<Action>) {
        if request.kind == AuthKind::Connect {
            if self.is_banned(key, &request.client_id, None) {
                let now = self.node.clock.now();
                if let Some(conn) = self.conns.get_mut(key) {
                    let out = conn.outlet.buffer(&mut self.spares);
                    conn.session.on_authenticated(now, AuthStep::Refused(ReasonCode::Banned), out, actions);
                }
                return;
            }
            if let Some(refusal) = self.refused_by_overload(key) {
                let now = self.node.clock.now();
                if let Some(conn) = self.conns.get_mut(key) {
                    let out = conn.outlet.buffer(&mut self.spares);
                    conn.session.on_authenticated(now, AuthStep::Refused(refusal.reason), out, actions);
                }
                return;
            }
            // What follows is said on one connection: it goes to its session's worker first, or makes this one that.
            let home = self.node.registry.reserve(&request.client_id, u16::from(self.id));
            if home != u16::from(self.id) {
                return self.move_to(home, key, unread);
            }
            self.count_connect(&request.client_id);
            if let Some(conn) = self.conns.get_mut(key) {
                conn.reserves = true;
                *self.authenticating.entry(Arc::clone(&request.client_id)).or_default() += 1;
            }
        }
        let now = self.node.clock.now();
        let node = Arc::clone(&self.node);
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if request.kind != AuthKind::Continue {
            let method = node.features.methods.find(&request.method);
            conn.exchange = method.map(|method| method.begin(&request.client_id, rand::random()));
        }
        let step = match &mut conn.exchange {
            None => AuthStep::Refused(ReasonCode::BadAuthenticationMethod),
            Some(exchange) => match exchange.step(request.data.expose()) {
                Step::Continue(data) => AuthStep::Continue(Secret::new(&data)),
                Step::Success(data) => AuthStep::Success(Secret::new(&data)),
                Step::Refused(reason) => AuthStep::Refused(reason),
            },
        };
        if !matches!(step, AuthStep::Continue(_)) {
            conn.exchange = None;
        }
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_authenticated(now, step, out, actions);
        self.watch(key);
    }

    /// The connection needs its client identifier no more than its session does.
    pub(super) fn end_reservation(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.reserves) else {
            return;
        };
        conn.reserves = false;
        let id = Arc::clone(conn.session.client_id());
        if let Entry::Occupied(mut entry) = self.authenticating.entry(Arc::clone(&id)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        self.release(&id);
    }

    /// Lets a client identifier go where there is neither a session nor who authenticates itself, or waits for a claim, for one.
    pub(super) fn release(&self, id: &Arc<str>) {
        let own = u16::from(self.id);
        let claiming = self.desk.as_ref().is_some_and(|desk| desk.claiming.contains_key(id));
        match (self.by_id.contains_key(id), claiming || self.authenticating.contains_key(id)) {
            (true, _) => {}
            (false, true) => self.node.registry.keep_reserved(id, own),
            (false, false) => self.node.registry.release(id, own),
        }
    }

    /// The session is another worker's: the connection goes there, and the CONNECT is read again.
    fn move_to(&mut self, worker: u16, key: Key, unread: &[u8]) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.moving = Some((worker, unread.to_vec()));
        }
        self.wake(key);
    }

    /// Decides about a CONNECT.
    pub(super) fn open(&mut self, key: Key, request: Box<OpenRequest>, unread: &[u8], actions: &mut Vec<Action>) {
        self.decide(key, request, unread, actions);
        self.end_reservation(key);
    }

    fn decide(&mut self, key: Key, mut request: Box<OpenRequest>, unread: &[u8], actions: &mut Vec<Action>) {
        let local = !self.node.is_serving();
        if local && !self.node.is_local() {
            return self.answer(key, OpenResult::Refused(ReasonCode::ServerUnavailable), actions);
        }
        if let Some(Refusal { reason, detail }) = self.refused_by_overload(key) {
            // Who comes back is no less work than who is new.
            return self.answer(key, OpenResult::RefusedSaying(reason, detail), actions);
        }
        if self.is_banned(key, &request.client_id, request.username.as_deref()) {
            return self.answer(key, OpenResult::Refused(ReasonCode::Banned), actions);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.username = request.username.take();
        }
        let own = u16::from(self.id);
        let known_here = self.by_id.contains_key(&request.client_id);
        if !known_here {
            let home = self.node.registry.claim(&request.client_id, own);
            if home != own {
                if request.auth_method.is_some() {
                    // Not reached, since it is reserved: what was said is not to be said again elsewhere.
                    return self.answer(key, OpenResult::Refused(ReasonCode::ServerBusy), actions);
                }
                return self.move_to(home, key, unread);
            }
        }
        if request.auth_method.is_none() {
            // The others were counted when they began to authenticate themselves.
            self.count_connect(&request.client_id);
        }
        let mut will = request.will.take().map(Box::new);
        if let Some(will) = &mut will
            && let Err(reason) = self.check_will(key, will)
        {
            if !known_here {
                self.release(&request.client_id);
            }
            return self.answer(key, OpenResult::Refused(reason), actions);
        }
        if self.in_shards() {
            if !local {
                return self.begin_claim(key, request, will);
            }
            if !self.may_enter_alone(&request) {
                self.release(&request.client_id);
                return self.answer(key, OpenResult::Refused(ReasonCode::ServerUnavailable), actions);
            }
            self.unclaimed = true;
        }
        let listener = self.conns.get_mut(key).map_or(0, |conn| conn.listener);
        let known = self.by_id.get(&request.client_id).copied();
        let fresh = request.clean_start || known.is_some_and(|client| self.is_foreign(client, listener));
        let old = known.and_then(|client| self.detach(client, key, fresh));
        let client = known.unwrap_or_else(|| {
            let id = Arc::clone(&request.client_id);
            let client = self.clients.insert(Client::new(Arc::clone(&id), key, listener));
            self.by_id.insert(id, client);
            client
        });
        let session = match old {
            Some(old) if fresh => {
                self.end_session(client, *old);
                self.counters.session_discarded();
                None
            }
            old => old,
        };
        let mut shared: Vec<Arc<str>> = Vec::new();
        if let Some(session) = &session {
            self.cancel_will(&request.client_id);
            self.counters.session_resumed();
            shared = shared_filters(session);
        } else {
            self.will_of_session(&request.client_id);
            self.counters.session_created();
        }
        if let Some(entry) = self.clients.get_mut(client) {
            entry.state = ClientState::Online(key);
            entry.will = will;
            entry.listener = listener;
        }
        self.give_up_place(client);
        let unix_ms = self.node.clock.now().unix_ms;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.client = Some(client);
            conn.connected_at_ms = unix_ms;
        }
        self.set_members_online(client, &shared, true);
        self.resume_replays(Some(client));
        self.counters.client_connected();
        tracing::debug!(client = %request.client_id, version = ?request.version, resumed = session.is_some(), "connected");
        let result = if local { OpenResult::AcceptedLocal { session } } else { OpenResult::Accepted { session } };
        self.answer(key, result, actions);
        self.watch(key);
        let with = ConnectedWith {
            keep_alive: request.keep_alive_s,
            clean_start: request.clean_start,
            session_expiry: request.session_expiry_s,
        };
        self.announce_connected(key, with);
        self.subscribe_unasked(key, &request, actions);
    }

    /// A client whose claim its shard has committed.
    pub(super) fn admit_claimed(
        &mut self,
        key: Key,
        request: &OpenRequest,
        owner: Owner,
        result: OpenResult,
        actions: &mut Vec<Action>,
    ) {
        let listener = self.conns.get_mut(key).map_or(0, |conn| conn.listener);
        let id = Arc::clone(&request.client_id);
        let durable = owner.durable.is_some();
        let mut entry = Client::new(Arc::clone(&id), key, listener);
        entry.owner = Some(Box::new(owner));
        let client = self.clients.insert(entry);
        self.by_id.insert(Arc::clone(&id), client);
        // It was reserved only, if the claim ended an older connection on this worker.
        let home = self.node.registry.claim(&id, u16::from(self.id));
        debug_assert_eq!(home, u16::from(self.id), "the client's place was given to another worker");
        let unix_ms = self.node.clock.now().unix_ms;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.client = Some(client);
            conn.connected_at_ms = unix_ms;
        }
        let resumed = matches!(&result, OpenResult::Durable { session_present: true, .. });
        if resumed {
            self.counters.session_resumed();
        } else {
            self.counters.session_created();
        }
        self.counters.client_connected();
        tracing::debug!(client = %id, version = ?request.version, resumed, durable, "connected");
        self.answer(key, result, actions);
        self.watch(key);
        let with = ConnectedWith {
            keep_alive: request.keep_alive_s,
            clean_start: request.clean_start,
            session_expiry: request.session_expiry_s,
        };
        self.announce_connected(key, with);
        if resumed {
            self.take_up_subscriptions(client);
        }
        self.subscribe_unasked(key, request, actions);
        if durable {
            self.deliver_granted(client);
        }
    }

    /// The subscriptions of a session that was elsewhere: messages with QoS 0 find them here, too.
    fn take_up_subscriptions(&mut self, client: Key) {
        let filters: Vec<(Arc<str>, SubscriptionInfo)> = match self.clients.get_mut(client).map(|entry| &entry.state) {
            Some(ClientState::Online(key)) => {
                let key = *key;
                let session = self.conns.get_mut(key).map(|conn| conn.session.session().subscriptions().to_vec());
                session.into_iter().flatten().map(|entry| (entry.filter, entry.info)).collect()
            }
            _ => return,
        };
        let mut new = Vec::with_capacity(filters.len());
        for (filter, info) in filters {
            if self.add_effective(client, &filter, info) == Ok(true) {
                new.push(filter);
            }
        }
        self.counters.subscribed(new.len() as u64);
        if !new.is_empty() {
            // Nobody waits for it: what must not be missed comes from the shard.
            drop(self.node.router.subscribe(self.id, &new));
        }
    }

    /// Whether, and why, the connection is refused for want of memory or time.
    fn refused_by_overload(&mut self, key: Key) -> Option<Refusal> {
        let refusal = self.node.overload.refuses()?;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.overload = true;
        }
        Some(refusal)
    }

    /// Whether a client's session was made behind another mount point than that of a listener: what is in it is not for who comes
    /// in there, nor do its filters mean the same.
    fn is_foreign(&mut self, client: Key, listener: u16) -> bool {
        let mount = |listener| limits_of(&self.node, &self.listeners, listener).mount_point.as_deref().unwrap_or("");
        self.clients.get_mut(client).is_some_and(|client| mount(client.listener) != mount(listener))
    }

    /// The subscriptions that clients get without asking.
    fn subscribe_unasked(&mut self, key: Key, request: &OpenRequest, actions: &mut Vec<Action>) {
        if self.rules.auto_subscribe.is_empty() {
            return;
        }
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.session.is_open()) else {
            return;
        };
        let client = &request.client_id;
        let left_out = |left| tracing::debug!(%client, reason = %left, "an auto-subscription is left out");
        let filters = self.rules.auto_subscribe.filters(&conn.vars(), request.version, left_out);
        let mut items = Vec::with_capacity(filters.len());
        for (filter, options) in filters {
            match conn.session.subscribe_unasked(&filter, options) {
                Ok(item) => items.push(item),
                Err(reason) => tracing::debug!(%client, filter, %reason, "an auto-subscription is left out"),
            }
        }
        if !items.is_empty() {
            self.subscribe(key, None, items, actions);
        }
    }

    pub(super) fn answer(&mut self, key: Key, result: OpenResult, actions: &mut Vec<Action>) {
        let now = self.node.clock.now();
        if let Some(conn) = self.conns.get_mut(key) {
            let out = conn.outlet.buffer(&mut self.spares);
            conn.session.on_opened(now, result, out, actions);
        }
    }

    /// Takes the session of a client out of where it is, for a new connection; an older connection is closed first
    /// `[MQTT-3.1.4-3]`, `[MQTT311-3.1.4-2]`. `None` if the session ends now.
    fn detach(&mut self, client: Key, newer: Key, clean_start: bool) -> Option<Box<SessionState>> {
        let now = self.node.clock.now();
        let entry = self.clients.get_mut(client)?;
        let older = match &mut entry.state {
            ClientState::Offline { state, expires_ms } => {
                let state = std::mem::take(state);
                if expires_ms.is_some_and(|end| end <= now.ms) {
                    // Its end has come, only the wheel has not got there yet (MQTT 5, 3.1.2.11.2).
                    self.counters.session_expired();
                    self.end_session(client, *state);
                    return None;
                }
                return Some(state);
            }
            ClientState::Online(older) => *older,
        };
        // The client may have ended it: its DISCONNECT, or the rest of its connection, waits behind what came by another way.
        self.read_unlimited(older);
        self.read_last(older);
        self.inherit_rates(newer, older);
        let own_end = self.conns.get_mut(older).filter(|conn| conn.closing.is_some()).map(|conn| conn.reason);
        let own_end = own_end.map(|reason| reason.unwrap_or(CloseReason::Lost));
        let (reason, end) = match own_end {
            Some(reason) => (disconnect_reason(reason), connection_end(reason)),
            None => {
                self.close(older, CloseReason::Server(ReasonCode::SessionTakenOver));
                let reason = if clean_start { DisconnectReason::Discarded } else { DisconnectReason::TakenOver };
                (reason, ConnectionEnd::TakenOver { resumes: !clean_start })
            }
        };
        self.announce_disconnected(older, reason);
        let conn = self.conns.get_mut(older)?;
        conn.client = None;
        self.counters.client_disconnected(EndReason::TakenOver);
        // What stays behind only writes the last packet.
        let mut rest = Connection::new(Arc::clone(&self.node.limits), now, [0; 16]);
        rest.close(CloseReason::Lost, &mut Vec::new());
        let (_, mut state) = std::mem::replace(&mut conn.session, rest).into_state()?;
        self.counters.dropped(DropReason::Disconnected, u64::from(state.take_dropped_qos0()));
        self.will_of_ended(client, end, state.expiry_s());
        if state.expiry_s() == 0 {
            // It would have ended with its connection.
            self.end_session(client, *state);
            return None;
        }
        if !clean_start && own_end.is_none() {
            self.counters.session_taken_over();
        }
        Some(state)
    }

    /// A connection has ended.
    pub(super) fn disconnected(&mut self, client: Key, conn: Conn) {
        let reason = conn.reason.unwrap_or(CloseReason::Lost);
        self.counters.client_disconnected(reason.into());
        if let Some((_, mut state)) = conn.session.into_state() {
            self.counters.dropped(DropReason::Disconnected, u64::from(state.take_dropped_qos0()));
            if let Some(state) = self.disowned(client, reason, *state) {
                self.will_of_ended(client, connection_end(reason), state.expiry_s());
                self.park(client, Box::new(state));
            }
        }
        self.resume_replays(Some(client));
    }

    /// Says that the client of a connection is about to be gone.
    pub(super) fn announce_end(&mut self, key: Key) {
        let reason = self.conns.get_mut(key).filter(|conn| conn.client.is_some()).map(|conn| conn.reason);
        if let Some(reason) = reason {
            self.announce_disconnected(key, disconnect_reason(reason.unwrap_or(CloseReason::Lost)));
        }
    }

    /// The connection of a client has ended: keeps the session for as long as it asked for.
    fn park(&mut self, client: Key, state: Box<SessionState>) {
        let expiry_s = state.expiry_s();
        if expiry_s == 0 {
            return self.forget(client, *state);
        }
        let shared = shared_filters(&state);
        let expires_ms =
            (expiry_s != u32::MAX).then(|| self.node.clock.ms().saturating_add(u64::from(expiry_s) * 1000));
        if let Some(entry) = self.clients.get_mut(client) {
            entry.state = ClientState::Offline { state, expires_ms };
        }
        self.set_members_online(client, &shared, false);
        self.watch_expiry(client);
    }

    /// Puts the end of a session into the wheel, unless an entry is there that fires before it.
    fn watch_expiry(&mut self, client: Key) {
        if let Some(entry) = self.clients.get_mut(client)
            && let ClientState::Offline { expires_ms: Some(deadline), .. } = entry.state
            && entry.watched.is_none_or(|watched| deadline < watched)
        {
            entry.watched = Some(self.expiries.insert(client, deadline));
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
            // It was connected in between and this was the end of an earlier absence; or it is further than the wheel goes.
            return self.watch_expiry(client);
        }
        let state = std::mem::take(state);
        self.counters.session_expired();
        self.forget(client, *state);
    }

    /// The session ends, and nothing of the client is left.
    pub(super) fn forget(&mut self, client: Key, state: SessionState) {
        self.end_session(client, state);
        self.given.end(client);
        self.shard_replays.end(client);
        if let Some(entry) = self.clients.remove(client) {
            // Its place goes to another client, who would get what is meant for it.
            debug_assert_eq!(entry.subscriptions, 0, "subscriptions of a client that is forgotten");
            self.by_id.remove(&entry.id);
            raftmq_routing::shrink(&mut self.by_id);
            self.release(&entry.id);
            self.will_of_session(&entry.id);
        }
    }

    /// A session ends: its subscriptions go, and what it had for a group goes to another member.
    fn end_session(&mut self, client: Key, mut state: SessionState) {
        let mut shared = false;
        let filters: Vec<Arc<str>> = state
            .subscriptions()
            .iter()
            .inspect(|subscription| shared |= is_shared(&subscription.filter))
            .map(|subscription| Arc::clone(&subscription.filter))
            .collect();
        self.remove_from_index(client, &filters);
        self.counters.session_ended();
        if shared {
            let left = state.take_shared();
            self.redispatch_all(client, left);
        }
    }

    /// The node ends, and with it the sessions that it keeps: what they have for groups goes to members of other nodes.
    pub(super) fn leave_shared(&mut self) {
        for client in self.clients.keys() {
            let left = match self.clients.get_mut(client).map(|entry| &mut entry.state) {
                Some(ClientState::Offline { state, .. }) => state.take_shared(),
                _ => Vec::new(),
            };
            self.redispatch_all(client, left);
        }
    }

    /// The node shuts down. From here on none of this worker's clients is a member of a group, and what one was chosen for is given to its
    /// worker: when all workers are here, what they have is in their inboxes. What the clients have not acknowledged goes to others when
    /// they are closed.
    pub(super) fn begin_end(&mut self) {
        for client in self.clients.keys() {
            self.leave_groups(client);
        }
        self.hand_over_all();
        self.node.leaving.fetch_add(1, Ordering::AcqRel);
    }

    /// Closes every connection: the node shuts down, or may not serve any more. Without a lease, what was not written before it ran out is
    /// not written at all.
    pub(super) fn close_all(&mut self, reason: ReasonCode, leased: bool) {
        for key in self.conns.keys() {
            if leased {
                self.close_by_server(key, reason);
            } else {
                self.close_unserved(key, reason);
            }
        }
    }

    /// Clients that are connected, and are not being closed yet.
    pub(super) fn clients_open(&mut self) -> u64 {
        let mut open = 0;
        for key in self.conns.keys() {
            open += u64::from(self.conns.get_mut(key).is_some_and(|c| c.client.is_some() && c.closing.is_none()));
        }
        open
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.conns.len()
    }
}

/// The subscriptions of a session by which it is a member of groups.
pub(super) fn shared_filters(session: &SessionState) -> Vec<Arc<str>> {
    let subscriptions = session.subscriptions().iter();
    subscriptions.filter(|entry| is_shared(&entry.filter)).map(|entry| Arc::clone(&entry.filter)).collect()
}
