//! How a connection ends, and why.

use std::sync::Arc;

use raftmq_mqtt::{Disconnect, Packet, PacketType, Properties, PropertiesBuf, Property, ReasonCode, Version};

use crate::{
    Action, Connection, SessionState,
    connection::{Phase, put},
    durable::Durable,
    inbound::Inbound,
};

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent DISCONNECT, with this reason (0x00 from MQTT 3 clients).
    Client(ReasonCode),
    /// The socket was closed or failed.
    Lost,
    /// The client broke a protocol below MQTT, such as TLS or WebSocket, which has told it so.
    Broken,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The CONNECT was refused, or what came first is no CONNECT.
    Refused(ReasonCode),
    /// The client broke a rule, or nothing was heard of it ([`ReasonCode::KeepAliveTimeout`]).
    Fault(ReasonCode),
    /// The server ends it: [`ReasonCode::SessionTakenOver`], [`ReasonCode::ServerShuttingDown`], [`ReasonCode::ServerBusy`],
    /// [`ReasonCode::AdministrativeAction`]…
    Server(ReasonCode),
}

impl CloseReason {
    /// Whether the will, if there is one, is to be published (at once or after its delay) `[MQTT-3.1.2-8]` `[MQTT311-3.1.2-8]`. A client
    /// that says goodbye has none any more `[MQTT-3.14.4-3]` `[MQTT311-3.14.4-3]`.
    #[must_use]
    pub fn publishes_will(self) -> bool {
        match self {
            Self::Client(reason) => reason != ReasonCode::NORMAL_DISCONNECTION,
            Self::Lost | Self::Broken | Self::Fault(_) | Self::Server(_) => true,
            Self::ConnectTimeout | Self::Refused(_) => false,
        }
    }

    /// The reason to tell an MQTT 5 client by DISCONNECT; `None` if nothing is to be sent.
    pub(crate) fn to_send(self) -> Option<ReasonCode> {
        match self {
            Self::Client(_) | Self::Lost | Self::Broken | Self::ConnectTimeout | Self::Refused(_) => None,
            Self::Fault(reason) | Self::Server(reason) => Some(reason),
        }
    }
}

impl Connection {
    /// The server ends the connection: an MQTT 5 client is told by DISCONNECT, or by CONNACK before it is connected.
    /// No [`Action::Close`] comes of it. Does nothing if the connection is over: nothing follows a DISCONNECT `[MQTT-3.14.4-1]`.
    pub fn close(&mut self, reason: CloseReason, out: &mut Vec<u8>) {
        self.close_saying(reason, None, out);
    }

    /// `detail` is for people; without it they get the name of the reason.
    pub(crate) fn close_saying(&mut self, reason: CloseReason, detail: Option<&str>, out: &mut Vec<u8>) {
        match &self.phase {
            Phase::Closed { .. } => return,
            Phase::Connect { .. } => {}
            // [MQTT-3.14.0-1]
            Phase::Opening(_) => {
                if let Some(reason) = reason.to_send() {
                    self.write_refusal(reason, out);
                }
            }
            Phase::Open => {
                // MQTT 3 servers have no DISCONNECT to send.
                if let (Version::V5, Some(reason)) = (self.version, reason.to_send()) {
                    // [MQTT-3.14.2-1]
                    let reason =
                        if reason.allowed_in(PacketType::Disconnect) { reason } else { ReasonCode::UnspecifiedError };
                    self.write_disconnect(reason, detail, out);
                }
            }
        }
        let opened = self.is_open();
        self.phase = Phase::Closed { opened };
        self.pending = Vec::new();
        self.inbound = Inbound::default();
        self.aliases = None;
        self.aliases_out = None;
        self.auth = None;
        self.tickets = None;
        if let Some(durable) = &mut self.durable {
            **durable = Durable::default();
        }
    }

    /// Without a session expiry interval `[MQTT-3.14.2-2]` and user properties `[MQTT-3.14.2-4]`.
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

    /// The session at the end of the connection, to which it lasted `[MQTT-4.1.0-1]` `[MQTT311-4.1.0-1]` `[MQTT311-4.1.0-2]`, with the
    /// client identifier: `None` if the client was never connected.
    ///
    /// Whether it is to be kept says [`SessionState::expiry_s`]; in any case its subscriptions are still in the
    /// server's index. Messages with QoS 0 that waited for the socket are dropped as those that come from now on, unless the limits
    /// want them kept: [`SessionState::take_dropped_qos0`] says how many.
    #[must_use]
    pub fn into_state(mut self) -> Option<(Arc<str>, Box<SessionState>)> {
        match self.phase {
            Phase::Open | Phase::Closed { opened: true } => {
                if !self.limits.queue_qos0_offline {
                    self.state.drop_qos0();
                }
                Some((self.client_id, Box::new(self.state)))
            }
            Phase::Connect { .. } | Phase::Opening(_) | Phase::Closed { opened: false } => None,
        }
    }

    pub(crate) fn on_disconnect(&mut self, disconnect: &Disconnect<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if let Some(expiry_s) = disconnect.properties.session_expiry_interval() {
            // It may not be set now if it was 0 (MQTT 5, 3.14.2.2.2).
            if !self.expiry_asked && expiry_s != 0 {
                return self.fault(ReasonCode::ProtocolError, out, actions);
            }
            self.state.expiry_s = self.limits.session_expiry_s(expiry_s);
        }
        self.end(CloseReason::Client(disconnect.reason), out, actions);
    }

    /// The client broke a rule.
    pub(crate) fn fault(&mut self, reason: ReasonCode, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.end(CloseReason::Fault(reason), out, actions);
    }

    /// The socket is closed, whatever was sent `[MQTT-3.14.4-2]` `[MQTT-4.13.2-1]`.
    pub(crate) fn end(&mut self, reason: CloseReason, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if !self.is_closed() {
            self.close(reason, out);
            actions.push(Action::Close { reason });
        }
    }
}
