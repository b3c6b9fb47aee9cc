//! What happens on one connection: from its start to its end, what its session asks for, bytes out.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use raftmq_mqtt::{QoS, ReasonCode};
use raftmq_session::{Action, CloseReason, Connection, DropReason as Lost, Flushed};
use raftmq_transport::PeerInfo;

use super::outlet::{Layered, Outlet};
use super::receive::wants_bytes;
use super::socket::Socket;
use super::task::Next;
use super::wheel::Key;
use super::{CLOSING_MS, Conn, Worker};
use crate::metrics::{DropReason, PublishQos, RefuseReason};

/// A connection that goes to another worker: where to, and all that it has besides its socket.
pub(crate) struct Move {
    pub(crate) worker: u16,
    pub(crate) rest: Rest,
}

/// What a connection has besides its socket, before it has a session.
pub(crate) struct Rest {
    /// The listener that it came in by.
    pub(crate) listener: u16,
    pub(crate) peer: Box<PeerInfo>,
    pub(crate) layered: Option<Box<Layered>>,
    /// What was read from it and not yet answered: the CONNECT packet first.
    pub(crate) bytes: Vec<u8>,
    /// The client has ended its stream behind it.
    pub(crate) ended: bool,
}

impl Worker {
    /// Takes a socket in.
    pub(super) fn add(&mut self, socket: Rc<Socket>, rest: Rest) -> Key {
        let now = self.node.clock.now();
        let Rest { listener, peer, layered, bytes, ended } = rest;
        let limits = self.listeners.get(usize::from(listener)).map_or(&self.node.limits, |listener| &listener.limits);
        let session = Connection::new(Arc::clone(limits), now, rand::random());
        let key = self.conns.insert(Conn {
            session,
            socket,
            peer,
            outlet: Outlet::adopt(layered),
            held: !bytes.is_empty(),
            ended,
            partial: bytes,
            waker: None,
            client: None,
            listener,
            dirty: false,
            stalled: false,
            retaining: None,
            throttled: false,
            deaf: false,
            rates: None,
            sent: 0,
            closing: None,
            watched: None,
            moving: None,
            reason: None,
            username: None,
            connected_at_ms: 0,
            exchange: None,
            reserves: false,
            overload: false,
            stale: false,
            last_word: false,
        });
        self.set_rates(key);
        self.watch(key);
        if self.conns.get_mut(key).is_some_and(|conn| !conn.outlet.is_empty()) {
            // The layers' answers that were not written on the worker that it comes from.
            self.mark_dirty(key);
        }
        key
    }

    /// What the connection's task is to wait for.
    pub(super) fn next(&mut self, key: Key, waker: &Waker) -> Next {
        let serving = self.serves(key);
        self.parse_if_held(key);
        if self
            .conns
            .get_mut(key)
            .is_some_and(|conn| conn.ended && !conn.held && conn.moving.is_none() && conn.closing.is_none())
        {
            self.hung_up(key);
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return Next::End;
        };
        if conn.moving.is_some() {
            return Next::End;
        }
        if let Some(deadline) = conn.closing
            && (conn.outlet.is_done() || self.node.clock.ms() >= deadline)
        {
            return Next::End;
        }
        if !conn.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            conn.waker = Some(waker.clone());
        }
        let write = conn.outlet.blocked;
        Next::Wait { read: wants_bytes(conn, serving), write }
    }

    /// Parses what was held back, if it may go on. True: there was something.
    pub(super) fn parse_if_held(&mut self, key: Key) -> bool {
        let serving = self.serves(key);
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.held) else {
            return false;
        };
        let ready = !conn.waits()
            && !conn.throttled
            && conn.moving.is_none()
            && conn.session.can_read()
            && !conn.owes_reading()
            && (serving || conn.client.is_none());
        if ready {
            self.parse_held(key);
        }
        true
    }

    /// The socket has room again. False: it has none after all, and says when it has.
    pub(super) fn writable(&mut self, key: Key) -> bool {
        let waiting = |worker: &mut Self| worker.conns.get_mut(key).map_or(0, |conn| conn.outlet.len());
        let before = waiting(self);
        self.write(key);
        let has_readiness = self.conns.get_mut(key).is_none_or(|conn| conn.socket.has_readiness());
        has_readiness || waiting(self) != before
    }

    /// The connection's task ends: everything of it goes, but a session that is to be kept. A connection that moves
    /// stays counted.
    pub(super) fn ended(&mut self, key: Key) -> Option<Move> {
        self.announce_end(key);
        self.end_reservation(key);
        let conn = self.conns.remove(key)?;
        if let Some((worker, bytes)) = conn.moving {
            let (listener, peer, ended) = (conn.listener, conn.peer, conn.ended);
            let rest = Rest { listener, peer, layered: conn.outlet.into_layered(), bytes, ended };
            return Some(Move { worker, rest });
        }
        self.forget_throttled(&conn);
        self.hang_up(&conn);
        self.gone(conn.listener);
        if let Some(client) = conn.client {
            self.disconnected(client, conn);
        }
        None
    }

    /// Every connection ends, whatever is left for its client.
    pub(super) fn end_all(&mut self) {
        for key in self.conns.keys() {
            // One that was to move has no session yet, and nowhere to go.
            drop(self.ended(key));
        }
    }

    /// A socket that was counted is closed.
    pub(super) fn gone(&self, listener: u16) {
        if let Some(listener) = self.listeners.get(usize::from(listener)) {
            listener.closed();
        }
        self.counters.connection_closed();
    }

    /// A connection was closed as soon as it was there.
    pub(super) fn refused(&self, listener: u16, address: SocketAddr, reason: RefuseReason) {
        self.say_refused(listener, address, reason);
        self.count_refused(reason);
    }

    fn say_refused(&self, listener: u16, address: SocketAddr, reason: RefuseReason) {
        let listener = self.listeners.get(usize::from(listener)).map_or("", |listener| &*listener.name);
        tracing::debug!(listener, %address, reason = reason.name(), "connection refused");
    }

    /// The same of one that was told of elsewhere.
    pub(super) fn count_refused(&self, reason: RefuseReason) {
        self.counters.connection_opened();
        self.counters.refused(reason);
        self.counters.connection_closed();
    }

    /// A deadline of the connection may have passed.
    pub(super) fn on_deadline(&mut self, key: Key) {
        let now = self.node.clock.now();
        let serving = self.serves(key);
        if self.conns.get_mut(key).is_some_and(|conn| !conn.socket.has_readiness() && wants_bytes(conn, serving)) {
            // What is there already speaks for the client; its task waits for what comes then.
            self.readable(key, &mut Context::from_waker(Waker::noop()));
            self.wake(key);
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.watched.is_some_and(|watched| watched > now.ms) {
            // An entry from before the deadline came earlier: the other one will fire.
            return;
        }
        conn.watched = None;
        if conn.closing.is_none() && conn.session.next_deadline().is_none_or(|deadline| deadline > now.ms) {
            // It has moved, or was further than the wheel goes.
            return self.watch(key);
        }
        if conn.closing.is_some() {
            self.wake(key);
            return self.watch(key);
        }
        if conn.client.is_some()
            && (!serving || conn.waits() || (!conn.owes_reading() && (conn.throttled || conn.socket.has_unread())))
        {
            // A client that is not read cannot be blamed for its silence, nor for that of this thread or of the whole
            // process. One that leaves its answers unread is.
            conn.session.excuse_silence(now);
        }
        let mut actions = std::mem::take(&mut self.actions);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_timer(now, out, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.mark_dirty(key);
        self.watch(key);
    }

    /// Puts the connection's next deadline into the wheel, unless an entry is there that fires before it.
    pub(super) fn watch(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if let Some(deadline) = conn.closing.or_else(|| conn.session.next_deadline())
            && conn.watched.is_none_or(|watched| deadline < watched)
        {
            conn.watched = Some(self.wheel.insert(key, deadline));
        }
    }

    /// The server ends a connection.
    pub(super) fn close(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        conn.reason.get_or_insert(reason);
        conn.last_word |= conn.closing.is_none() && conn.outlet.is_empty();
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.close(reason, out);
        self.finish(key);
    }

    /// The server closes a connection. Without a lease, what waited for it is not written at all.
    pub(super) fn close_by_server(&mut self, key: Key, reason: ReasonCode) {
        if self.may_finish(key) {
            self.close(key, CloseReason::Server(reason));
        } else {
            self.close_unserved(key, reason);
        }
    }

    /// The same where the node may not serve the client any more.
    pub(super) fn close_unserved(&mut self, key: Key, reason: ReasonCode) {
        match self.conns.get_mut(key) {
            Some(conn) if conn.client.is_some() && conn.closing.is_none() => self.close_instead(key, reason),
            _ => self.close(key, CloseReason::Server(reason)),
        }
    }

    /// Closes a connection, and says why instead of what waits for the client. Where the socket has a part of a packet nothing can follow: that ends without
    /// a word.
    pub(super) fn close_instead(&mut self, key: Key, reason: ReasonCode) {
        let waits = self.conns.get_mut(key).is_some_and(|conn| {
            conn.outlet.drop_unbegun();
            !conn.outlet.is_empty()
        });
        if waits {
            self.lost(key);
        } else {
            self.close(key, CloseReason::Server(reason));
        }
    }

    /// Nothing is read from the connection any more; it ends when what is left for the client is written.
    pub(super) fn finish(&mut self, key: Key) {
        let deadline = self.node.clock.ms() + CLOSING_MS;
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        conn.closing.get_or_insert(deadline);
        conn.partial = Vec::new();
        conn.held = false;
        self.watch(key);
        self.mark_dirty(key);
        self.wake(key);
    }

    /// The socket is of no use any more.
    pub(super) fn lost(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.reason.get_or_insert(CloseReason::Lost);
            conn.session.close(CloseReason::Lost, &mut Vec::new());
            conn.outlet.clear();
        }
        self.finish(key);
    }

    /// Carries out what the session asks for. `unread` are the bytes from the packet in hand on.
    pub(super) fn act(&mut self, key: Key, unread: &[u8], actions: &mut Vec<Action>) {
        // Answers to an action may bring new ones: they go to the end of the list.
        let mut at = 0;
        while at < actions.len() {
            let action = std::mem::replace(&mut actions[at], Action::Flushed(Flushed::default()));
            at += 1;
            match action {
                Action::Publish { message, token } => self.publish(key, message, token, actions),
                Action::Flushed(flushed) => self.count_flushed(flushed),
                Action::LimitMet(limit) => self.counters.limit_met(limit),
                Action::Authenticate(request) => self.authenticate(key, &request, unread, actions),
                Action::Open(request) => self.open(key, request, unread, actions),
                Action::Subscribe { packet_id, items } => self.subscribe(key, Some(packet_id), items, actions),
                Action::Unsubscribe { packet_id, filters } => self.unsubscribe(key, packet_id, &filters, actions),
                Action::Close { reason } => self.closed_by_session(key, reason),
                Action::Received { packet_id, message, token } => {
                    self.receive_durable(key, packet_id, message, token, actions);
                }
                Action::Released { packet_id } => self.release_durable(key, packet_id),
                Action::Settled { packet_id, what } => self.settled(key, packet_id, what),
                Action::Answered { ticket } => self.guest_answered(key, ticket),
            }
        }
        actions.clear();
    }

    fn closed_by_session(&mut self, key: Key, reason: CloseReason) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.reason.get_or_insert(reason);
        }
        if let Some(mut refused) = refused_by_session(reason) {
            if let Some(conn) = self.conns.get_mut(key) {
                if conn.overload && refused == RefuseReason::Protocol {
                    refused = RefuseReason::Overload;
                }
                let (listener, address) = (conn.listener, conn.peer.address);
                self.say_refused(listener, address, refused);
            }
            self.counters.refused(refused);
        }
        match reason {
            CloseReason::ConnectTimeout | CloseReason::Refused(_) => {}
            CloseReason::Fault(reason) => {
                if reason != ReasonCode::KeepAliveTimeout {
                    self.counters.protocol_error();
                }
                if let Some(conn) = self.conns.get_mut(key) {
                    tracing::debug!(client = %conn.session.client_id(), %reason, "connection ended by the broker");
                }
            }
            CloseReason::Client(_) | CloseReason::Lost | CloseReason::Broken | CloseReason::Server(_) => {}
        }
        self.finish(key);
    }

    pub(super) fn count_flushed(&mut self, flushed: Flushed) {
        // Their bytes were counted with the socket's.
        self.counters.messages_out(PublishQos::AtMostOnce, u64::from(flushed.sent_qos0), 0);
        self.counters.messages_out(PublishQos::AtLeastOnce, u64::from(flushed.sent_qos1), 0);
        self.counters.messages_out(PublishQos::ExactlyOnce, u64::from(flushed.sent_qos2), 0);
        self.counters.dropped(DropReason::Expired, u64::from(flushed.expired));
        self.counters.dropped(DropReason::PacketTooLarge, u64::from(flushed.too_large));
    }

    /// Writes what waits for a connection, and lets its session go on when the socket took all. True: the connection's task has to
    /// look again.
    fn write(&mut self, key: Key) -> bool {
        let serving = self.serves(key);
        if !serving && !self.may_finish(key) {
            self.drop_rest(key);
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return false;
        };
        conn.dirty = false;
        if conn.deaf {
            conn.outlet.clear();
            return conn.closing.is_some();
        }
        if !serving && conn.client.is_some() && conn.closing.is_none() {
            // Nothing is acknowledged or delivered without a lease: it waits, until all look again.
            conn.outlet.blocked = false;
            return false;
        }
        if conn.sent > self.handed_over {
            // Handed over before it is acknowledged: the writing task comes back when it has. In the meantime what waits is bounded like
            // that of a client that does not read.
            conn.outlet.blocked = false;
            self.mark_dirty(key);
            return false;
        }
        let was_full = conn.owes_reading();
        let closing = conn.closing.is_some();
        conn.outlet.count_packets(|packet| self.counters.packet_out(packet));
        match conn.outlet.write(&conn.socket, conn.waker.as_ref(), closing, &mut self.spares) {
            Ok(count) => {
                self.counters.bytes_out(count);
                if conn.outlet.is_empty() {
                    if conn.session.is_congested() && conn.closing.is_none() {
                        self.uncongest(key);
                    }
                } else if conn.outlet.len() > conn.session.limits().max_outbound_bytes {
                    conn.session.set_congested();
                }
                let Some(conn) = self.conns.get_mut(key) else {
                    return false;
                };
                let look_again = conn.outlet.blocked
                    || (conn.closing.is_some() && conn.outlet.is_done())
                    || (was_full && !conn.owes_reading());
                let client = conn.client;
                self.resume_replays(client);
                look_again
            }
            Err(_) => {
                // It takes nothing any more; it may have said that it leaves.
                self.read_last(key);
                self.unwritable(key);
                false
            }
        }
    }

    /// The lease has ended since a connection was closed, by whoever: what is left for its client comes where that is served now.
    fn drop_rest(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.client.is_some() && conn.closing.is_some())
            && !conn.last_word
        {
            conn.outlet.clear();
        }
    }

    /// Nothing can be written to a connection any more. One that waits because of a rate has sent something before it went that is still to
    /// be read, its DISCONNECT perhaps: its end is where its stream ends.
    fn unwritable(&mut self, key: Key) {
        match self.conns.get_mut(key) {
            Some(conn) if conn.throttled && conn.closing.is_none() => {
                conn.deaf = true;
                conn.outlet.clear();
            }
            _ => self.lost(key),
        }
    }

    fn uncongest(&mut self, key: Key) {
        let now = self.node.clock.now();
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.on_writable(now, out, &mut actions);
        self.act(key, &[], &mut actions);
        self.actions = actions;
        self.note_load(key);
        self.unblock(key);
        // Also without anything new: then the buffer goes back.
        self.mark_dirty(key);
    }

    /// Writes for all connections that have something, once for a turn.
    pub(super) fn flush_all(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(key)
                && conn.outlet.blocked
            {
                // Its own task waits for room.
                conn.dirty = false;
            } else if self.write(key) {
                self.wake(key);
            }
        }
        if self.dirty.is_empty() {
            // Its memory is used again.
            self.dirty = dirty;
        }
    }
}

pub(super) const fn count_as(qos: QoS) -> PublishQos {
    match qos {
        QoS::AtMostOnce => PublishQos::AtMostOnce,
        QoS::AtLeastOnce => PublishQos::AtLeastOnce,
        QoS::ExactlyOnce => PublishQos::ExactlyOnce,
    }
}

pub(super) const fn drop_reason(lost: Lost) -> DropReason {
    match lost {
        Lost::QueueFull => DropReason::SessionQueueFull,
        Lost::TooLarge => DropReason::PacketTooLarge,
        Lost::Expired => DropReason::Expired,
        Lost::Offline => DropReason::Disconnected,
    }
}

/// Of a session that ended before its CONNECT was accepted: what it is counted as. One that the client ended was not refused.
fn refused_by_session(reason: CloseReason) -> Option<RefuseReason> {
    Some(match reason {
        CloseReason::ConnectTimeout => RefuseReason::Timeout,
        CloseReason::Refused(ReasonCode::ServerUnavailable) => RefuseReason::NotServing,
        CloseReason::Refused(ReasonCode::BadAuthenticationMethod | ReasonCode::BadUserNameOrPassword) => {
            RefuseReason::Authentication
        }
        CloseReason::Refused(ReasonCode::Banned) => RefuseReason::Banned,
        CloseReason::Refused(ReasonCode::NotAuthorized) => RefuseReason::NotAuthorized,
        CloseReason::Refused(_) => RefuseReason::Protocol,
        _ => return None,
    })
}
