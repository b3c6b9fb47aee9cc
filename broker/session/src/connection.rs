//! The state machine of a connection: phases, dispatch, time, the way out.

use std::sync::Arc;

use raftmq_mqtt::{
    Ack, DecodeError, Disconnect, Message, Origin, Packet, PacketType, Properties, PropertiesBuf,
    Property, QoS, ReasonCode, Version, encode,
};

use crate::{
    Action, CloseReason, Delivery, DropReason, Flushed, Forms, SessionLimits, SessionState,
    SubscriptionInfo,
    connect::{Opening, refuse_undecoded},
    inbound::Inbound,
    outbound::{OutMessage, Terms, effective_qos, effective_retain},
    subscribe::Pending,
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
        let origin = Origin {
            node: self.node,
            sequence: self.next,
        };
        self.next += 1;
        origin
    }
}

/// A pump stops after this many bytes and goes on when they are written, so that a long queue does not fill the memory.
const PUMP_BYTES: usize = 256 * 1024;

/// One client's connection. An idle one takes some 350 bytes.
#[derive(Debug)]
pub struct Connection {
    pub(crate) limits: Arc<SessionLimits>,
    pub(crate) phase: Phase,
    pub(crate) version: Version,
    /// The socket takes no more, or a pump stopped early: nothing is sent before [`Connection::on_writable`].
    congested: bool,
    /// The client's receive maximum or the own limit, whichever is lower.
    pub(crate) window: u16,
    /// Request Problem Information: whether the client wants to read reasons.
    pub(crate) explain: bool,
    /// The client's.
    pub(crate) max_packet_size: u32,
    /// 1.5 keep-alives; 0 for none.
    pub(crate) silence_ms: u32,
    heard_ms: u64,
    pub(crate) client_id: Arc<str>,
    pub(crate) inbound: Inbound,
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
            phase: Phase::Connect {
                deadline_ms,
                random,
            },
            version: Version::V3_1_1,
            congested: false,
            explain: true,
            window: 1,
            max_packet_size: u32::MAX,
            silence_ms: 0,
            heard_ms: now.ms,
            client_id: Arc::default(),
            inbound: Inbound::default(),
            pending: Vec::new(),
            state: SessionState::default(),
        }
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
    /// after the end, and not while an MQTT 3 client, which knows no receive maximum, has too many PUBLISH packets unacknowledged.
    #[must_use]
    pub fn can_read(&self) -> bool {
        match self.phase {
            Phase::Connect { .. } => true,
            Phase::Open => {
                self.version.is_v5()
                    || self.inbound.len() < usize::from(self.limits.receive_maximum)
            }
            Phase::Opening(_) | Phase::Closed { .. } => false,
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
            Phase::Open if self.silence_ms > 0 => {
                Some(self.heard_ms.saturating_add(u64::from(self.silence_ms)))
            }
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
                Packet::Connect(connect) => self.on_connect(&connect, random, out, actions),
                // [MQTT-3.1.0-1]
                _ => self.end(
                    CloseReason::Refused(ReasonCode::ProtocolError),
                    out,
                    actions,
                ),
            },
            Phase::Opening(_) => self.fault(ReasonCode::ProtocolError, out, actions),
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
            Packet::PubAck(ack) => {
                // An unknown one may be late: of a session that is gone.
                if self.state.outbound.acknowledge(ack.packet_id) {
                    self.pump(now, out, actions);
                }
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe, out, actions),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(&unsubscribe, out, actions),
            Packet::PingReq => self.send(&Packet::PingResp, out, actions),
            Packet::Disconnect(disconnect) => self.on_disconnect(&disconnect, out, actions),
            Packet::PubRec(ack) | Packet::PubComp(ack)
                if self.state.outbound.is_in_flight(ack.packet_id) =>
            {
                // The answer to a QoS 1 PUBLISH is PUBACK.
                self.fault(ReasonCode::ProtocolError, out, actions);
            }
            // Left over from a session with a broker that has QoS 2: bring it to an end.
            Packet::PubRec(ack) => self.send(&Packet::PubRel(not_found(&ack)), out, actions),
            Packet::PubRel(ack) => self.send(&Packet::PubComp(not_found(&ack)), out, actions),
            Packet::PubComp(_) => {}
            // A second CONNECT [MQTT-3.1.0-2], AUTH without an authentication method [MQTT-4.12.0-7], and what only a server sends.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp
            | Packet::Auth(_) => self.fault(ReasonCode::ProtocolError, out, actions),
        }
    }

    /// The bytes from the client are no packet. `buf_version` is what [`raftmq_mqtt::connect_version`] says about them if
    /// they were to be a CONNECT.
    pub fn on_decode_error(
        &mut self,
        error: &DecodeError,
        buf_version: Option<Version>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
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
        if self
            .next_deadline()
            .is_none_or(|deadline| deadline > now.ms)
        {
            return;
        }
        match self.phase {
            Phase::Connect { .. } => self.end(CloseReason::ConnectTimeout, out, actions),
            // A client that is not read cannot be blamed for its silence.
            Phase::Open if !self.can_read() => self.heard_ms = now.ms,
            // [MQTT-3.1.2-22]
            Phase::Open => self.fault(ReasonCode::KeepAliveTimeout, out, actions),
            Phase::Opening(_) | Phase::Closed { .. } => {}
        }
    }

    /// The client counts as heard: for a worker that did not read its socket for reasons of its own.
    pub fn excuse_silence(&mut self, now: Now) {
        self.heard_ms = now.ms;
    }

    /// The socket takes no more for now: messages are queued until [`Connection::on_writable`].
    pub fn set_congested(&mut self) {
        self.congested = true;
    }

    /// Whether [`Connection::on_writable`] is to be called once all that was in `out` is written.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// What was in `out` is written: waiting messages go on.
    pub fn on_writable(&mut self, now: Now, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.congested = false;
        if self.is_open() {
            self.pump(now, out, actions);
        }
    }

    /// Takes a message that matched a subscription of this client.
    pub fn deliver(
        &mut self,
        forms: &mut Forms,
        now: Now,
        info: SubscriptionInfo,
        out: &mut Vec<u8>,
    ) -> Delivery {
        if !self.is_open() {
            return self.state.deliver_offline(
                now,
                &self.limits,
                &self.client_id,
                forms.message(),
                info,
            );
        }
        let message = forms.message();
        if info.options.no_local && message.publisher() == &*self.client_id {
            return Delivery::Skipped;
        }
        if message.is_expired(now.unix_ms) {
            return Delivery::Dropped(DropReason::Expired);
        }
        let qos = effective_qos(message, info);
        let retain = effective_retain(message, info);
        let terms = self.terms();
        let outbound = &mut self.state.outbound;
        let now_free = match qos {
            QoS::AtMostOnce => outbound.may_send_qos0(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => outbound.may_send_qos1(terms),
        };
        if self.congested || !now_free {
            return outbound.enqueue(&self.limits, OutMessage::new(message, info));
        }
        let written = forms.with(terms.version, qos, retain, info.sub_id, |form| {
            if form.encoded_len() > terms.max_packet_size {
                return Delivery::Dropped(DropReason::TooLarge);
            }
            let id = (qos != QoS::AtMostOnce)
                .then(|| outbound.launch(OutMessage::new(form.message(), info)));
            form.write(out, id, false);
            Delivery::Sent(qos)
        });
        written.unwrap_or(Delivery::Dropped(DropReason::TooLarge))
    }

    /// The server ends the connection: an MQTT 5 client is told by DISCONNECT, or by CONNACK before it is connected.
    /// No [`Action::Close`] comes of it. Does nothing if the connection is over.
    pub fn close(&mut self, reason: CloseReason, out: &mut Vec<u8>) {
        self.close_saying(reason, None, out);
    }

    /// `detail` is for people; without it they get the name of the reason.
    fn close_saying(&mut self, reason: CloseReason, detail: Option<&str>, out: &mut Vec<u8>) {
        match &self.phase {
            Phase::Closed { .. } => return,
            Phase::Connect { .. } => {}
            Phase::Opening(_) => {
                if let Some(reason) = reason.to_send() {
                    self.write_refusal(reason, out);
                }
            }
            Phase::Open => {
                // MQTT 3 servers have no DISCONNECT to send.
                if let (Version::V5, Some(reason)) = (self.version, reason.to_send()) {
                    let reason = if reason.allowed_in(PacketType::Disconnect) {
                        reason
                    } else {
                        ReasonCode::UnspecifiedError
                    };
                    self.write_disconnect(reason, detail, out);
                }
            }
        }
        let opened = self.is_open();
        self.phase = Phase::Closed { opened };
        self.pending = Vec::new();
        self.inbound = Inbound::default();
    }

    fn write_disconnect(&self, reason: ReasonCode, detail: Option<&str>, out: &mut Vec<u8>) {
        let mut properties = PropertiesBuf::new();
        if self.explain {
            let name = reason.to_string();
            // A text that is too long is no loss.
            let _ = properties.push(Property::ReasonString(detail.unwrap_or(&name)));
        }
        for properties in [properties.as_properties(), Properties::EMPTY] {
            let packet = Packet::Disconnect(Disconnect { reason, properties });
            // [MQTT-3.14.2-3]: without the text if the packet were too large.
            if put(&packet, self.version, self.max_packet_size, out) {
                return;
            }
        }
    }

    /// The session at the end of the connection, with the client identifier: `None` if the client was never connected.
    ///
    /// Whether it is to be kept says [`SessionState::expiry_s`]; in any case its subscriptions are still in the
    /// server's index.
    #[must_use]
    pub fn into_state(self) -> Option<(Arc<str>, Box<SessionState>)> {
        match self.phase {
            Phase::Open | Phase::Closed { opened: true } => {
                Some((self.client_id, Box::new(self.state)))
            }
            Phase::Connect { .. } | Phase::Opening(_) | Phase::Closed { opened: false } => None,
        }
    }

    fn on_disconnect(
        &mut self,
        disconnect: &Disconnect<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        if let Some(expiry_s) = disconnect.properties.session_expiry_interval() {
            // It may not be set now if it was 0 [MQTT5 3.14.2.2.2].
            if self.state.expiry_s == 0 && expiry_s != 0 {
                return self.fault(ReasonCode::ProtocolError, out, actions);
            }
            self.state.expiry_s = expiry_s.min(self.limits.max_session_expiry_s);
        }
        self.end(CloseReason::Client(disconnect.reason), out, actions);
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms {
            version: self.version,
            window: usize::from(self.window),
            max_packet_size: usize::try_from(self.max_packet_size).unwrap_or(usize::MAX),
        }
    }

    /// Sends what waits, as far as window and socket go.
    pub(crate) fn pump(&mut self, now: Now, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if self.congested {
            return;
        }
        let (flushed, complete) = self.state.outbound.pump(self.terms(), now, PUMP_BYTES, out);
        self.congested = !complete;
        if flushed != Flushed::default() {
            actions.push(Action::Flushed(flushed));
        }
    }

    pub(crate) fn send(
        &mut self,
        packet: &Packet<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        if !put(packet, self.version, self.max_packet_size, out) {
            // [MQTT-3.1.2-24]: it may not be sent, and without it the client would wait for ever.
            self.fault(ReasonCode::PacketTooLarge, out, actions);
        }
    }

    pub(crate) fn fault(
        &mut self,
        reason: ReasonCode,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        self.end(CloseReason::Fault(reason), out, actions);
    }

    pub(crate) fn end(
        &mut self,
        reason: CloseReason,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_closed() {
            self.close(reason, out);
            actions.push(Action::Close { reason });
        }
    }
}

/// Appends a packet; `false`, and nothing appended, if it is larger than `max_packet_size`.
pub(crate) fn put(
    packet: &Packet<'_>,
    version: Version,
    max_packet_size: u32,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let written = encode(packet, version, out).is_ok();
    if !written || out.len() - start > max_packet_size as usize {
        out.truncate(start);
        return false;
    }
    true
}

fn not_found(ack: &Ack<'_>) -> Ack<'static> {
    Ack {
        packet_id: ack.packet_id,
        reason: ReasonCode::PacketIdentifierNotFound,
        properties: Properties::EMPTY,
    }
}

/// Makes the envelope; `None` if no message can carry it (a topic or publisher that is too long).
pub(crate) fn envelope(
    publish: &raftmq_mqtt::Publish<'_>,
    origins: &mut Origins,
    publisher: &str,
    now: Now,
) -> Option<Message> {
    let expires = publish.expires_at_ms(now.unix_ms);
    Message::new(publish, origins.take(), publisher, now.unix_ms, expires).ok()
}

#[cfg(test)]
mod tests;
