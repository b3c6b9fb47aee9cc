//! Enhanced authentication: AUTH at CONNECT and again later (MQTT 5, 4.12).

use raftmq_mqtt::{Auth, Disconnect, Packet, PropertiesBuf, Property, ReasonCode};

use crate::{Action, AuthKind, AuthRequest, AuthStep, CloseReason, Connection, Now, Secret, connection::Phase};

/// The authentication of a connection whose CONNECT named a method.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The same for the whole connection `[MQTT-4.12.0-5]` `[MQTT-4.12.1-1]`.
    pub(crate) method: Box<str>,
    pub(crate) turn: Turn,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nobody's: the client is authenticated.
    Nobody,
    /// The server was asked.
    Server,
    /// The client was sent an AUTH and has to answer.
    Client,
}

impl Connection {
    /// The server's answer to [`Action::Authenticate`]. Ignored if nothing was asked.
    pub fn on_authenticated(&mut self, now: Now, step: AuthStep, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let opening = match &mut self.phase {
            Phase::Opening(opening) => Some(opening),
            Phase::Open => None,
            Phase::Connect { .. } | Phase::Closed { .. } => return,
        };
        let Some(auth) = self.auth.as_mut().filter(|auth| auth.turn == Turn::Server) else {
            return;
        };
        match (step, opening) {
            (AuthStep::Continue(data), opening) => {
                auth.turn = Turn::Client;
                if let Some(opening) = opening {
                    opening.deadline_ms = now.ms.saturating_add(self.limits.connect_timeout_ms);
                }
                // [MQTT-4.12.0-2]
                self.send_auth(ReasonCode::ContinueAuthentication, &data, out, actions);
            }
            (AuthStep::Success(data), Some(opening)) => {
                auth.turn = Turn::Nobody;
                opening.auth_data = data;
                if let Some(request) = opening.request.take() {
                    actions.push(Action::Open(request));
                }
            }
            (AuthStep::Success(data), None) => {
                auth.turn = Turn::Nobody;
                self.send_auth(ReasonCode::Success, &data, out, actions);
            }
            (AuthStep::Refused(reason), Some(_)) => {
                // [MQTT-4.12.0-1], [MQTT-4.12.0-4]
                self.write_refusal(reason, out);
                self.end(CloseReason::Refused(reason), out, actions);
            }
            // [MQTT-4.12.1-2]
            (AuthStep::Refused(reason), None) => self.end(CloseReason::Server(reason), out, actions),
        }
    }

    /// A packet between CONNECT and CONNACK: only the answer to AUTH `[MQTT-3.1.2-30]` `[MQTT-4.12.0-3]`, or the end.
    pub(crate) fn on_opening_packet(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        match packet {
            Packet::Auth(packet) => self.on_auth(packet, out, actions),
            Packet::Disconnect(Disconnect { reason, .. }) => self.end(CloseReason::Client(*reason), out, actions),
            _ => self.fault(ReasonCode::ProtocolError, out, actions),
        }
    }

    /// AUTH from the client: of the same method, and only when it is its turn; without a method in CONNECT never
    /// `[MQTT-4.12.0-7]`.
    pub(crate) fn on_auth(&mut self, packet: &Auth<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let method = packet.properties.authentication_method();
        let open = self.is_open();
        let known = self.auth.as_mut().filter(|auth| method == Some(&*auth.method));
        let step = known.and_then(|auth| {
            let kind = match (packet.reason, auth.turn) {
                (ReasonCode::ContinueAuthentication, Turn::Client) => AuthKind::Continue,
                (ReasonCode::ReAuthenticate, Turn::Nobody) if open => AuthKind::Reauthenticate,
                _ => return None,
            };
            auth.turn = Turn::Server;
            Some((auth.method.clone(), kind))
        });
        let Some((method, kind)) = step else {
            return self.fault(ReasonCode::ProtocolError, out, actions);
        };
        let data = Secret::new(packet.properties.authentication_data().unwrap_or_default());
        let client_id = self.client_id.clone();
        actions.push(Action::Authenticate(Box::new(AuthRequest { client_id, method, data, kind })));
    }

    /// Whether the client has to answer an AUTH before it is connected.
    pub(crate) fn awaits_auth(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.turn == Turn::Client)
    }

    /// Without reason string and user properties `[MQTT-3.15.2-2]` `[MQTT-3.15.2-3]`.
    fn send_auth(&mut self, reason: ReasonCode, data: &Secret, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let Some(auth) = &self.auth else {
            return;
        };
        let mut properties = PropertiesBuf::new();
        let mut pushed = properties.push(Property::AuthenticationMethod(&auth.method));
        if !data.expose().is_empty() {
            pushed = pushed.and_then(|()| properties.push(Property::AuthenticationData(data.expose())));
        }
        if pushed.is_err() {
            // Data of more than 65,535 bytes.
            return self.fault(ReasonCode::ImplementationSpecificError, out, actions);
        }
        self.send(&Packet::Auth(Auth { reason, properties: properties.as_properties() }), out, actions);
    }
}
