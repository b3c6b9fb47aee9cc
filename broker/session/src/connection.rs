//! The state machine of a connection: phases, dispatch, time, the way out.

use std::sync::Arc;

use raftmq_mqtt::{DecodeError, Origin, Packet, ReasonCode, Version, encode};

use crate::{
    Action, CloseReason, Limit, SessionLimits, SessionState,
    alias::Aliases,
    alias_out::OutAliases,
    auth::Exchange,
    connect::{Opening, refuse_undecoded},
    durable::Durable,
    inbound::Inbound,
    subscribe::Pending,
    tickets::Tickets,
};

/// The time, on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds of a clock that never jumps: for deadlines.
    pub ms: u64,
    /// Milliseconds since the Unix epoch: for what outlives the process.
    pub unix_ms: u64,
}

/// Names new messages. Each worker has one, with numbers that no other worker of the node gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origins {
    /// Raft id of the node.
    pub node: u64,
    /// The number of the next message.
    pub next: u64,
}

impl Origins {
    pub(crate) fn take(&mut self) -> Origin {
        let origin = Origin { node: self.node, sequence: self.next };
        self.next += 1;
        origin
    }
}

/// One client's connection. An idle one takes some 330 bytes and its identifier: what few clients use is in boxes.
#[derive(Debug)]
pub struct Connection {
    pub(crate) limits: Arc<SessionLimits>,
    pub(crate) phase: Phase,
    pub(crate) version: Version,
    /// The socket takes no more, or a pump stopped early: nothing is sent before [`Connection::on_writable`].
    pub(crate) congested: bool,
    /// The client's receive maximum or the own limit, whichever is lower.
    pub(crate) window: u16,
    /// Request Problem Information: whether the client wants to read reasons `[MQTT-3.1.2-29]`.
    pub(crate) explain: bool,
    /// CONNECT asked for a session that outlives the connection.
    pub(crate) expiry_asked: bool,
    /// The client's.
    pub(crate) max_packet_size: u32,
    /// 1.5 keep-alives; 0 for none.
    pub(crate) silence_ms: u32,
    heard_ms: u64,
    pub(crate) client_id: Arc<str>,
    pub(crate) inbound: Inbound,
    /// The client's topic aliases.
    pub(crate) aliases: Option<Box<Aliases>>,
    /// The topic aliases towards it, if it takes any.
    pub(crate) aliases_out: Option<Box<OutAliases>>,
    /// There if CONNECT named an authentication method.
    pub(crate) auth: Option<Box<Exchange>>,
    /// There if the session's queue is in a shard.
    pub(crate) durable: Option<Box<Durable>>,
    /// There once it was given anything by [`Connection::deliver_ticket`].
    pub(crate) tickets: Option<Box<Tickets>>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) state: SessionState,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// CONNECT must come until the deadline. The random bits become the identifier of a client that has none.
    Connect {
        deadline_ms: u64,
        random: [u8; 16],
    },
    /// The server decides about the CONNECT.
    Opening(Box<Opening>),
    Open,
    Closed {
        opened: bool,
    },
}

impl Connection {
    /// A new connection. `random` must be 16 unpredictable bytes, from which the identifier of a client without one is made.
    #[must_use]
    pub fn new(limits: Arc<SessionLimits>, now: Now, random: [u8; 16]) -> Self {
        let deadline_ms = now.ms.saturating_add(limits.connect_timeout_ms);
        Self {
            limits,
            phase: Phase::Connect { deadline_ms, random },
            version: Version::V3_1_1,
            congested: false,
            explain: true,
            expiry_asked: false,
            window: 1,
            max_packet_size: u32::MAX,
            silence_ms: 0,
            heard_ms: now.ms,
            client_id: Arc::default(),
            inbound: Inbound::default(),
            aliases: None,
            aliases_out: None,
            auth: None,
            durable: None,
            tickets: None,
            pending: Vec::new(),
            state: SessionState::default(),
        }
    }

    /// What the client may use.
    #[must_use]
    pub fn limits(&self) -> &Arc<SessionLimits> {
        &self.limits
    }

    /// Puts other limits in the place of those that there were: [`SessionLimits::renewed`] says which of them a client that is
    /// connected can be given.
    pub fn set_limits(&mut self, limits: Arc<SessionLimits>) {
        self.limits = limits;
    }

    /// The version to decode with; `None` before CONNECT.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        (!matches!(self.phase, Phase::Connect { .. })).then_some(self.version)
    }

    /// The client identifier; empty before CONNECT.
    #[must_use]
    pub fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// Whether the client is connected: CONNACK was sent and nothing closed the connection since.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the connection is over: the worker writes what it has and closes the socket.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. })
    }

    /// Whether packets may be given to [`Connection::on_packet`] now. Not while the server decides about the CONNECT, not
    /// after the end `[MQTT-3.1.4-6]` `[MQTT311-3.1.4-5]`, not while the server has too many messages of an MQTT 3 client in hand,
    /// which knows no receive maximum, and not while too many of its PUBRELs wait for a shard.
    #[must_use]
    pub fn can_read(&self) -> bool {
        match self.phase {
            Phase::Connect { .. } => true,
            // [MQTT-4.9.0-3]: a client that keeps to the receive maximum is always read.
            Phase::Open => {
                let most = self.limits.receive_maximum;
                (self.version.is_v5() || self.inbound.len() < usize::from(most.max(1)))
                    && self.durable.as_ref().is_none_or(|durable| !durable.is_full(most))
            }
            Phase::Opening(_) => self.awaits_auth(),
            Phase::Closed { .. } => false,
        }
    }

    /// The session of the open connection.
    #[must_use]
    pub fn session(&self) -> &SessionState {
        &self.state
    }

    /// When [`Connection::on_timer`] must be called, in [`Now::ms`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Connect { deadline_ms, .. } => Some(deadline_ms),
            Phase::Open if self.silence_ms > 0 => Some(self.heard_ms.saturating_add(u64::from(self.silence_ms))),
            Phase::Opening(ref opening) if self.awaits_auth() => Some(opening.deadline_ms),
            Phase::Opening(_) | Phase::Open | Phase::Closed { .. } => None,
        }
    }

    /// Takes a packet. [`Connection::can_read`] must have said so.
    pub fn on_packet(
        &mut self,
        now: Now,
        origins: &mut Origins,
        packet: Packet<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        self.heard_ms = now.ms;
        match self.phase {
            Phase::Closed { .. } => {}
            Phase::Connect { random, .. } => match packet {
                Packet::Connect(connect) => self.on_connect(now, &connect, random, out, actions),
                // [MQTT-3.1.0-1], [MQTT311-3.1.0-1]
                _ => self.end(CloseReason::Refused(ReasonCode::ProtocolError), out, actions),
            },
            Phase::Opening(_) => self.on_opening_packet(&packet, out, actions),
            Phase::Open => self.on_open_packet(now, origins, packet, out, actions),
        }
    }

    fn on_open_packet(
        &mut self,
        now: Now,
        origins: &mut Origins,
        packet: Packet<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        match packet {
            Packet::Publish(publish) => self.on_publish(now, origins, publish, out, actions),
            Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_) => self.on_ack(now, &packet, out, actions),
            Packet::PubRel(ack) => self.on_pubrel(&ack, out, actions),
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe, out, actions),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(&unsubscribe, out, actions),
            // [MQTT-3.12.4-1], [MQTT311-3.12.4-1]
            Packet::PingReq => self.send(&Packet::PingResp, out, actions),
            Packet::Disconnect(disconnect) => self.on_disconnect(&disconnect, out, actions),
            Packet::Auth(auth) => self.on_auth(&auth, out, actions),
            // A second CONNECT [MQTT-3.1.0-2], [MQTT311-3.1.0-2], and what only a server sends.
            Packet::Connect(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.fault(ReasonCode::ProtocolError, out, actions);
            }
        }
    }

    /// The bytes from the client are no packet: the connection ends `[MQTT-4.13.1-1]` `[MQTT311-4.8.0-1]`. `buf_version` is what [`raftmq_mqtt::connect_version`] says about them if
    /// they were to be a CONNECT.
    pub fn on_decode_error(
        &mut self,
        error: &DecodeError,
        buf_version: Option<Version>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        if let DecodeError::PacketTooLarge { .. } = error {
            actions.push(Action::LimitMet(Limit::PacketSize));
        }
        if let Phase::Connect { .. } = self.phase {
            let reason = refuse_undecoded(error, buf_version, out);
            self.end(CloseReason::Refused(reason), out, actions);
        } else {
            let reason = CloseReason::Fault(error.reason_code());
            if !self.is_closed() {
                self.close_saying(reason, Some(&error.to_string()), out);
                actions.push(Action::Close { reason });
            }
        }
    }

    /// A deadline has passed, or not: it may be called at any time.
    pub fn on_timer(&mut self, now: Now, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if self.next_deadline().is_none_or(|deadline| deadline > now.ms) {
            return;
        }
        match self.phase {
            Phase::Connect { .. } | Phase::Opening(_) => self.end(CloseReason::ConnectTimeout, out, actions),
            // A client that is not read cannot be blamed for its silence.
            Phase::Open if !self.can_read() => self.heard_ms = now.ms,
            // [MQTT-3.1.2-22], [MQTT311-3.1.2-24]
            Phase::Open => self.fault(ReasonCode::KeepAliveTimeout, out, actions),
            Phase::Closed { .. } => {}
        }
    }

    /// The client counts as heard: for a worker that did not read its socket for reasons of its own.
    pub fn excuse_silence(&mut self, now: Now) {
        self.heard_ms = now.ms;
    }

    pub(crate) fn send(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if !put(packet, self.version, self.max_packet_size, out) {
            // [MQTT-3.1.2-24]: it may not be sent, and without it the client would wait for ever.
            self.fault(ReasonCode::PacketTooLarge, out, actions);
        }
    }
}

/// Appends a packet; `false`, and nothing appended, if it is larger than `max_packet_size`.
pub(crate) fn put(packet: &Packet<'_>, version: Version, max_packet_size: u32, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let written = encode(packet, version, out).is_ok();
    if !written || out.len() - start > max_packet_size as usize {
        out.truncate(start);
        return false;
    }
    true
}

#[cfg(test)]
mod tests;
