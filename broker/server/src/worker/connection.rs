//! What happens on one connection: bytes in, packets to the session, actions out, bytes out.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use raftmq_mqtt::{Decoded, Packet, QoS, ReasonCode, connect_version, decode};
use raftmq_session::{Action, CloseReason, Connection, DropReason as Lost, Flushed};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::net::TcpStream;

use super::outlet::Outlet;
use super::task::Next;
use super::wheel::Key;
use super::{CLOSING_MS, Conn, Worker};
use crate::metrics::{DropReason, PublishQos, RefuseReason};

/// Reads of what a client sent after the end of its connection.
const UNREAD_CHUNKS: usize = 16;

/// A connection that goes to another worker: where to, and what was read of it.
pub(crate) struct Move {
    pub(crate) worker: u16,
    pub(crate) bytes: Vec<u8>,
    pub(crate) listener: u16,
}

impl Worker {
    /// Takes a socket in. `bytes` were read from it already.
    pub(super) fn add(&mut self, socket: Rc<TcpStream>, listener: u16, bytes: Vec<u8>) -> Key {
        let now = self.node.clock.now();
        let session = Connection::new(Arc::clone(&self.node.limits), now, rand::random());
        let key = self.conns.insert(Conn {
            session,
            socket,
            outlet: Outlet::default(),
            held: !bytes.is_empty(),
            partial: bytes,
            waker: None,
            client: None,
            listener,
            dirty: false,
            stalled: false,
            closing: None,
            watched: None,
            moving: None,
            reason: None,
            username: None,
            connected_at_ms: 0,
            exchange: None,
        });
        self.watch(key);
        key
    }

    /// What the connection's task is to wait for.
    pub(super) fn next(&mut self, key: Key, waker: &Waker) -> Next {
        let serving = self.is_serving();
        let limit = self.answers_limit();
        let ready = |conn: &mut Conn| {
            conn.held && !conn.stalled && conn.moving.is_none() && conn.session.can_read() && conn.outlet.len() <= limit
        };
        if self.conns.get_mut(key).is_some_and(|conn| ready(conn) && (serving || conn.client.is_none())) {
            self.parse_held(key);
        }
        let now = self.node.clock.ms();
        let Some(conn) = self.conns.get_mut(key) else {
            return Next::End;
        };
        if conn.moving.is_some() {
            return Next::End;
        }
        if let Some(deadline) = conn.closing
            && (conn.outlet.is_empty() || now >= deadline)
        {
            return Next::End;
        }
        if !conn.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            conn.waker = Some(waker.clone());
        }
        let write = conn.outlet.blocked;
        // What is not served is not read: the client's own flow control holds it back. Before CONNECT it is read, to be refused.
        let read = conn.closing.is_none()
            && !conn.stalled
            && !conn.held
            && conn.session.can_read()
            && conn.outlet.len() <= limit
            && (conn.client.is_none() || serving);
        Next::Wait { read, write }
    }

    /// The socket has bytes.
    pub(super) fn readable(&mut self, key: Key) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let Some(conn) = self.conns.get_mut(key) else {
            self.read_buffer = buffer;
            return;
        };
        match conn.socket.try_read(&mut buffer) {
            Ok(0) => self.lost(key),
            Ok(count) => {
                self.counters.bytes_in(count);
                let mut partial = std::mem::take(&mut conn.partial);
                if partial.is_empty() {
                    let taken = self.parse(key, &buffer[..count]);
                    self.keep(key, buffer[taken..count].to_vec());
                } else {
                    // The rest of a packet: it grows by what has come, not by what it says that will come.
                    partial.extend_from_slice(&buffer[..count]);
                    self.parse_kept(key, partial);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.lost(key),
        }
        self.read_buffer = buffer;
    }

    /// The socket has room again.
    pub(super) fn writable(&mut self, key: Key) -> bool {
        self.write(key);
        self.conns.get_mut(key).is_some_and(|conn| !conn.outlet.blocked)
    }

    /// The connection's task ends: everything of it goes, but a session that is to be kept. A connection that moves
    /// stays counted.
    pub(super) fn ended(&mut self, key: Key) -> Option<Move> {
        self.announce_end(key);
        let conn = self.conns.remove(key)?;
        if let Some((worker, bytes)) = conn.moving {
            return Some(Move { worker, bytes, listener: conn.listener });
        }
        hang_up(&conn.socket, &mut self.read_buffer);
        self.gone(conn.listener);
        if let Some(client) = conn.client {
            self.disconnected(client, conn);
        }
        None
    }

    /// A socket that was counted is closed.
    pub(super) fn gone(&self, listener: u16) {
        if let Some(listener) = self.listeners.get(usize::from(listener)) {
            listener.closed();
        }
        self.counters.connection_closed();
    }

    /// A deadline of the connection may have passed.
    pub(super) fn on_deadline(&mut self, key: Key) {
        let now = self.node.clock.now();
        let serving = self.is_serving();
        let limit = self.answers_limit();
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.watched.is_some_and(|watched| watched > now.ms) {
            // An entry from before the deadline came earlier: the other one will fire.
            return;
        }
        conn.watched = None;
        if conn.closing.is_some() {
            self.wake(key);
            return self.watch(key);
        }
        if conn.client.is_some()
            && (!serving || conn.stalled || (conn.outlet.len() <= limit && has_unread(&conn.socket)))
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
            conn.watched = Some(deadline);
            self.wheel.insert(key, deadline);
        }
    }

    /// The server ends a connection.
    pub(super) fn close(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        conn.reason.get_or_insert(reason);
        let out = conn.outlet.buffer(&mut self.spares);
        conn.session.close(reason, out);
        self.finish(key);
    }

    /// Nothing is read from the connection any more; it ends when what is left for the client is written.
    fn finish(&mut self, key: Key) {
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

    fn keep(&mut self, key: Key, rest: Vec<u8>) {
        // What comes after a CONNECT that moves travels with it.
        if let Some(conn) = self.conns.get_mut(key)
            && conn.closing.is_none()
            && conn.moving.is_none()
        {
            conn.partial = rest;
        }
    }

    fn parse_held(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let bytes = std::mem::take(&mut conn.partial);
        conn.held = false;
        self.parse_kept(key, bytes);
    }

    /// Parses bytes that were kept. What is still no whole packet stays where it is: copied at each read, a large
    /// packet in small pieces would cost the square of its size.
    fn parse_kept(&mut self, key: Key, mut bytes: Vec<u8>) {
        let taken = self.parse(key, &bytes);
        bytes.drain(..taken);
        if bytes.is_empty() {
            bytes = Vec::new();
        } else if taken > 0 {
            bytes.shrink_to_fit();
        }
        self.keep(key, bytes);
    }

    /// Gives the complete packets of `bytes` to the session; returns how many bytes that were.
    fn parse(&mut self, key: Key, bytes: &[u8]) -> usize {
        let node = Arc::clone(&self.node);
        let now = node.clock.now();
        // After the read and before anything is matched: what was read without a lease waits.
        let serving = self.is_serving();
        let limit = self.answers_limit();
        let mut actions = std::mem::take(&mut self.actions);
        let mut at = 0;
        while let Some(conn) = self.conns.get_mut(key) {
            if conn.closing.is_some() || conn.moving.is_some() || at == bytes.len() {
                break;
            }
            if conn.stalled
                || !conn.session.can_read()
                || conn.outlet.len() > limit
                || (conn.client.is_some() && !serving)
            {
                conn.held = true;
                break;
            }
            let out = conn.outlet.buffer(&mut self.spares);
            match decode(&bytes[at..], conn.session.version(), &node.codec) {
                Ok(Decoded::Incomplete { .. }) => break,
                Ok(Decoded::Packet { packet, consumed }) => {
                    self.counters.packet_in(packet.packet_type());
                    if let Packet::Publish(publish) = &packet {
                        self.counters.message_in(count_as(publish.qos), consumed);
                    }
                    conn.session.on_packet(now, &mut self.origins, packet, out, &mut actions);
                    self.act(key, &bytes[at..], &mut actions);
                    at += consumed;
                }
                Err(error) => {
                    let version = connect_version(&bytes[at..]);
                    conn.session.on_decode_error(&error, version, out, &mut actions);
                    self.act(key, &[], &mut actions);
                    at = bytes.len();
                }
            }
        }
        self.actions = actions;
        self.mark_dirty(key);
        self.note_load(key);
        self.resume_replays();
        at
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
                Action::Authenticate(request) => self.authenticate(key, &request, unread, actions),
                Action::Open(request) => self.open(key, request, unread, actions),
                Action::Subscribe { packet_id, items } => self.subscribe(key, Some(packet_id), items, actions),
                Action::Unsubscribe { packet_id, filters } => self.unsubscribe(key, packet_id, &filters, actions),
                Action::Close { reason } => self.closed_by_session(key, reason),
            }
        }
        actions.clear();
    }

    fn closed_by_session(&mut self, key: Key, reason: CloseReason) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.reason.get_or_insert(reason);
        }
        match reason {
            CloseReason::ConnectTimeout => self.counters.refused(RefuseReason::Timeout),
            CloseReason::Refused(ReasonCode::ServerUnavailable) => self.counters.refused(RefuseReason::NotServing),
            CloseReason::Refused(_) => self.counters.refused(RefuseReason::Protocol),
            CloseReason::Fault(reason) => {
                self.counters.protocol_error();
                if let Some(conn) = self.conns.get_mut(key) {
                    tracing::debug!(client = %conn.session.client_id(), %reason, "connection ended by the broker");
                }
            }
            CloseReason::Client(_) | CloseReason::Lost | CloseReason::Server(_) => {}
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

    /// Writes what waits for a connection, and lets its session go on when the socket took all.
    pub(super) fn write(&mut self, key: Key) {
        let serving = self.is_serving();
        let limit = self.answers_limit();
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        conn.dirty = false;
        if !serving && conn.client.is_some() && conn.closing.is_none() {
            // Nothing is acknowledged or delivered without a lease: it waits, until all look again.
            conn.outlet.blocked = false;
            return;
        }
        let was_full = conn.outlet.len() > limit;
        conn.outlet.count_packets(|packet| self.counters.packet_out(packet));
        match conn.outlet.write(&conn.socket, &mut self.spares) {
            Ok(count) => {
                self.counters.bytes_out(count);
                if conn.outlet.is_empty() {
                    if conn.session.is_congested() && conn.closing.is_none() {
                        self.uncongest(key);
                    }
                } else if conn.outlet.len() > self.node.max_outbound {
                    conn.session.set_congested();
                }
                let conn = self.conns.get_mut(key);
                if conn.is_some_and(|conn| {
                    conn.outlet.blocked
                        || (conn.closing.is_some() && conn.outlet.is_empty())
                        || (was_full && conn.outlet.len() <= limit)
                }) {
                    self.wake(key);
                }
            }
            Err(_) => self.lost(key),
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
        self.resume_replays();
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
            } else {
                self.write(key);
            }
        }
        if self.dirty.is_empty() {
            // Its memory is used again.
            self.dirty = dirty;
        }
    }
}

/// Whether bytes of the client wait in the socket. Asked of the kernel: the reactor may not have run since they came.
fn has_unread(socket: &TcpStream) -> bool {
    let mut byte = [0u8];
    matches!(recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((1.., _)))
}

/// Ends the stream to the client, then drops what is left of the stream from it: a socket closed over unread bytes would
/// reset the connection, and the client might never see the packet that says why it is closed.
fn hang_up(socket: &TcpStream, buffer: &mut [u8]) {
    // Errors: it is gone already.
    let _ = shutdown(socket, Shutdown::Write);
    for _ in 0..UNREAD_CHUNKS {
        if !matches!(recv(socket, &mut *buffer, RecvFlags::DONTWAIT), Ok((1.., _))) {
            break;
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
