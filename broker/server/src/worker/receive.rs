//! Bytes of a client, on their way from the socket through the layers into packets for its session.

use std::io;
use std::sync::Arc;
use std::task::Context;

use raftmq_mqtt::{Decoded, Packet, PacketType, connect_version, decode};
use raftmq_session::CloseReason;
use raftmq_transport::{LayerError, Received};

use super::connection::count_as;
use super::rates::What;
use super::wheel::Key;
use super::{Conn, READ_BUFFER, Worker};
use crate::metrics::RefuseReason;

/// What is read at once of a client whose connection is about to end, on the stack: the worker's buffer may be in use.
const LAST_BUFFER: usize = 8 * 1024;
/// How often: with [`LAST_BUFFER`] as much as a client may have in flight that was not read for a moment.
const LAST_READS: usize = 32;

impl Worker {
    /// The socket has bytes. False: it has none after all, and says when it has.
    pub(super) fn readable(&mut self, key: Key, context: &mut Context<'_>) -> bool {
        let Some(most) = self.bytes_allowed(key) else {
            return true;
        };
        let Some(conn) = self.conns.get_mut(key) else {
            return true;
        };
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut progress = true;
        match conn.socket.try_read(context, &mut buffer[..most]) {
            Ok(0) => self.lost(key),
            Ok(count) => self.take_bytes(key, &buffer[..count]),
            // All that it had sent before nothing could be written to it any more is read.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && conn.deaf && !conn.socket.has_unread() => {
                self.lost(key);
            }
            // A reactor has to be asked again, to wake the task.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => progress = conn.socket.has_readiness(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.lost(key),
        }
        self.read_buffer = buffer;
        progress
    }

    /// Reads what the client has sent until now, before its connection ends for a reason of its own: a DISCONNECT that waits in
    /// the socket says how the client ended it. Of a client that is not read at this time nothing is, nor more than a few buffers.
    pub(super) fn read_last(&mut self, key: Key) {
        let mut buffer = [0; LAST_BUFFER];
        for _ in 0..LAST_READS {
            let serving = self.serves(key);
            let Some(conn) = self.conns.get_mut(key).filter(|conn| wants_bytes(conn, serving)) else {
                break;
            };
            match conn.socket.read_now(&mut buffer) {
                Ok(count @ 1..) => self.take_bytes(key, &buffer[..count]),
                // The end of its stream, or an error: it ends as it would have.
                _ => break,
            }
        }
        // What has no reactor has forgotten whom to wake.
        self.wake(key);
    }

    fn take_bytes(&mut self, key: Key, bytes: &[u8]) {
        self.counters.bytes_in(bytes.len());
        if self.conns.get_mut(key).is_some_and(|conn| conn.outlet.has_layers()) {
            self.received_layered(key, bytes);
        } else {
            self.received(key, bytes);
        }
    }

    /// Bytes of MQTT have come.
    fn received(&mut self, key: Key, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut partial = std::mem::take(&mut conn.partial);
        if conn.rates.is_some() {
            self.charge(key, What::Bytes, bytes.len() as u64);
        }
        if partial.is_empty() {
            let taken = self.parse(key, bytes);
            if taken < bytes.len() {
                self.keep(key, bytes[taken..].to_vec());
            }
        } else {
            // The rest of a packet: it grows by what has come, not by what it says that will come.
            partial.extend_from_slice(bytes);
            self.parse_kept(key, partial);
        }
    }

    /// Bytes have come that go through layers first.
    fn received_layered(&mut self, key: Key, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut plain = std::mem::take(&mut self.plain);
        let from = conn.peer.address;
        let result = conn.outlet.receive(bytes, &mut plain, &mut conn.peer, &mut self.spares);
        if conn.peer.address != from && self.turned_away(key) {
            plain.clear();
            self.plain = plain;
            return;
        }
        // What the layers answer.
        self.mark_dirty(key);
        if !plain.is_empty() {
            self.received(key, &plain);
        }
        plain.clear();
        plain.shrink_to(2 * READ_BUFFER);
        self.plain = plain;
        match result {
            Ok(Received::Open) => {}
            Ok(Received::Closed) => {
                if let Some(conn) = self.conns.get_mut(key) {
                    // What came before it may have to wait, and counts.
                    conn.ended = true;
                }
                self.wake(key);
            }
            Err(error) => self.broken(key, &error),
        }
    }

    /// The client broke a protocol below MQTT; the layers have told it what they can.
    fn broken(&mut self, key: Key, error: &LayerError) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let listener = self.listeners.get(usize::from(conn.listener)).map_or("", |listener| &*listener.name);
        tracing::debug!(listener, address = %conn.peer.address, transport = conn.peer.transport.as_str(), %error, "connection ended by the broker");
        if conn.closing.is_none() {
            if conn.client.is_some() {
                self.counters.protocol_error();
                conn.reason.get_or_insert(CloseReason::Broken);
            } else {
                self.counters.refused(match error {
                    LayerError::Proxy(_) => RefuseReason::ProxyHeader,
                    LayerError::Tls(_) => RefuseReason::TlsHandshake,
                    LayerError::Ws(_) => RefuseReason::WebsocketUpgrade,
                });
            }
        }
        self.hung_up(key);
    }

    /// The client is not there any more as far as MQTT goes; the layers may have last words for it.
    pub(super) fn hung_up(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.reason.get_or_insert(CloseReason::Lost);
            conn.session.close(CloseReason::Lost, &mut Vec::new());
            conn.outlet.clear_packets();
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

    pub(super) fn parse_held(&mut self, key: Key) {
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
        self.read_at = now;
        // After the read and before anything is matched: what was read without a lease waits.
        let serving = self.serves(key);
        let mut actions = std::mem::take(&mut self.actions);
        let mut at = 0;
        let limited = self.conns.get_mut(key).is_some_and(|conn| conn.rates.is_some());
        let mut messages = if limited { self.messages_allowed(key, now.ms) } else { u64::MAX };
        let mut used = 0;
        while let Some(conn) = self.conns.get_mut(key) {
            if conn.closing.is_some() || conn.moving.is_some() || at == bytes.len() {
                break;
            }
            if conn.waits() || !conn.session.can_read() || conn.owes_reading() || (conn.client.is_some() && !serving) {
                conn.held = true;
                break;
            }
            if messages == 0 && conn.client.is_some() && is_publish(bytes[at]) {
                conn.held = true;
                self.charge(key, What::Messages, std::mem::take(&mut used));
                self.throttle(key, What::Messages, now.ms);
                break;
            }
            let codec = conn.session.limits().codec();
            let out = conn.outlet.buffer(&mut self.spares);
            match decode(&bytes[at..], conn.session.version(), &codec) {
                Ok(Decoded::Incomplete { .. }) => break,
                Ok(Decoded::Packet { packet, consumed }) => {
                    self.counters.packet_in(packet.packet_type());
                    if let Packet::Publish(publish) = &packet {
                        self.counters.message_in(count_as(publish.qos), consumed);
                        messages = messages.saturating_sub(1);
                        used += 1;
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
        if limited {
            self.charge(key, What::Messages, used);
        }
        self.mark_dirty(key);
        self.note_load(key);
        let client = self.conns.get_mut(key).and_then(|conn| conn.client);
        if let Some(client) = client {
            self.resume_guest(client);
        }
        self.resume_replays(client);
        at
    }
}

/// Whether a packet that begins so is a PUBLISH.
const fn is_publish(first: u8) -> bool {
    first >> 4 == PacketType::Publish as u8
}

/// Whether the client is to be read. What is not served is not read: the client's own flow control holds it back. Before CONNECT
/// it is read, to be refused.
pub(super) fn wants_bytes(conn: &Conn, serving: bool) -> bool {
    conn.closing.is_none()
        && !conn.ended
        && !conn.waits()
        && !conn.throttled
        && !conn.held
        && conn.session.can_read()
        && !conn.owes_reading()
        && (conn.client.is_none() || serving)
}
