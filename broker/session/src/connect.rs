//! CONNECT (MQTT 5, 3.1): what is taken, what is refused, and how.

use std::sync::Arc;

use raftmq_mqtt::{
    ConnAck, Connect, DecodeError, Packet, PacketType, Properties, PropertiesBuf, Property, ReasonCode, Version, Will,
    encode,
};

use crate::{
    Action, AuthKind, AuthRequest, CloseReason, Connection, Limit, Now, OpenRequest, OwnedWill, Secret,
    alias_out::OutAliases,
    auth::{Exchange, Turn},
    connection::{Phase, put},
    filter::mounted_topic,
    limits::Refusal,
};

/// A CONNECT that is not answered yet.
#[derive(Debug)]
pub(crate) struct Opening {
    /// What the server is asked when the client is authenticated.
    pub(crate) request: Option<Box<OpenRequest>>,
    /// The last data of the authentication method, for CONNACK.
    pub(crate) auth_data: Secret,
    /// Until when the client must have answered AUTH.
    pub(crate) deadline_ms: u64,
    pub(crate) assigned: bool,
    pub(crate) clean_start: bool,
    /// What the session's expiry will be, and whether the client asked for another one.
    pub(crate) expiry_s: u32,
    pub(crate) expiry_changed: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) keep_alive_changed: bool,
    /// It asked for response information.
    pub(crate) wants_response_information: bool,
}

impl Connection {
    pub(crate) fn on_connect(
        &mut self,
        now: Now,
        connect: &Connect<'_>,
        random: [u8; 16],
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        self.version = connect.version;
        if let Err(refusal) = self.check_connect(connect) {
            let reason = refusal.noted(actions);
            self.write_refusal(reason, out);
            return self.end(CloseReason::Refused(reason), out, actions);
        }
        let v5 = connect.version.is_v5();
        let properties = connect.properties;
        let assigned = connect.client_id.is_empty();
        // What the session is found by [MQTT-3.1.3-2], [MQTT311-3.1.3-2]; [MQTT-3.1.3-6], [MQTT311-3.1.3-6].
        self.client_id = if assigned { assigned_id(random) } else { Arc::from(connect.client_id) };
        self.max_packet_size = properties.maximum_packet_size().unwrap_or(u32::MAX);
        self.explain = properties.request_problem_information() != Some(0);
        // 4,096 so that an identifier is always free, and the search for one short.
        let own_window = self.limits.max_in_flight.clamp(1, 4_096);
        self.window = properties.receive_maximum().unwrap_or(u16::MAX).min(own_window);
        // [MQTT-3.1.2-27]: 0 if it is absent.
        let aliases = properties.topic_alias_maximum().unwrap_or(0).min(self.limits.max_topic_aliases_out);
        self.aliases_out = OutAliases::new(aliases, self.limits.max_topic_alias_bytes);

        let asked_s = match (v5, connect.clean_start) {
            (true, _) => properties.session_expiry_interval().unwrap_or(0),
            // [MQTT311-3.1.2-6]
            (false, true) => 0,
            // Clean Session 0 is a session without end [MQTT311-3.1.2-4].
            (false, false) => u32::MAX,
        };
        self.expiry_asked = asked_s > 0;
        let expiry_s = self.limits.session_expiry_s(asked_s);
        // [MQTT-3.2.2-22]
        let keep_alive_s = if v5 { self.keep_alive_of(connect.keep_alive) } else { connect.keep_alive };
        let keep_alive_changed = keep_alive_s != connect.keep_alive;
        // [MQTT-3.1.2-22], [MQTT311-3.1.2-24]
        self.silence_ms = u32::from(keep_alive_s) * 1_500;

        let mount = self.limits.mount_point.as_deref();
        let method = properties.authentication_method();
        let request = Box::new(OpenRequest {
            client_id: self.client_id.clone(),
            assigned,
            version: connect.version,
            clean_start: connect.clean_start,
            session_expiry_s: expiry_s,
            keep_alive_s,
            username: connect.username.map(Into::into),
            password: connect.password.map(Secret::new),
            auth_method: method.map(Into::into),
            // [MQTT311-3.1.2-12]: without its flag there is none.
            will: connect.will.as_ref().map(|will| self.owned_will(will, mount)),
        });
        let mut opening = Opening {
            request: None,
            auth_data: Secret::default(),
            deadline_ms: now.ms.saturating_add(self.limits.connect_timeout_ms),
            assigned,
            clean_start: connect.clean_start,
            expiry_s,
            expiry_changed: v5 && expiry_s != asked_s,
            keep_alive_s,
            keep_alive_changed,
            wants_response_information: properties.request_response_information() == Some(1),
        };
        if let Some(method) = method {
            self.auth = Some(Box::new(Exchange { method: method.into(), turn: Turn::Server }));
            opening.request = Some(request);
            actions.push(Action::Authenticate(Box::new(AuthRequest {
                client_id: self.client_id.clone(),
                method: method.into(),
                data: Secret::new(properties.authentication_data().unwrap_or_default()),
                kind: AuthKind::Connect,
            })));
        } else {
            actions.push(Action::Open(request));
        }
        self.phase = Phase::Opening(Box::new(opening));
    }

    /// The keep-alive that an MQTT 5 client gets which asks for this one.
    fn keep_alive_of(&self, asked_s: u16) -> u16 {
        let (shortest, longest) = (self.limits.min_keep_alive_s, self.limits.max_keep_alive_s);
        match asked_s {
            0 => longest,
            asked_s if longest != 0 && asked_s > longest => longest,
            asked_s => asked_s.max(shortest),
        }
    }

    /// What is wrong with a CONNECT that the codec has taken `[MQTT-3.1.4-2]`.
    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), Refusal> {
        let id = connect.client_id;
        let id_refused = match connect.version {
            // MQTT 3.1, CONNECT: 1 to 23 characters, more are refused.
            Version::V3_1 => id.is_empty() || id.chars().count() > self.limits.max_client_id_chars_v3_1,
            // [MQTT311-3.1.3-7], [MQTT311-3.1.3-8]
            Version::V3_1_1 => id.is_empty() && !connect.clean_start,
            Version::V5 => false,
        };
        // [MQTT-3.1.3-8], [MQTT311-3.1.3-9]; those of [MQTT-3.1.3-5] and [MQTT311-3.1.3-5] are far below the limit.
        if id_refused {
            return Err(ReasonCode::ClientIdentifierNotValid.into());
        }
        if id.len() > self.limits.max_client_id_bytes {
            return Err(Limit::ClientId.into());
        }
        let will = connect.will.as_ref();
        if will.is_some_and(|will| !self.limits.takes_topic(will.topic)) {
            return Err(Limit::Topic.into());
        }
        let of_will = will.map_or(Properties::EMPTY, |will| will.properties);
        if !self.limits.takes_properties(connect.properties) || !self.limits.takes_properties(of_will) {
            return Err(Limit::UserProperties.into());
        }
        if let (Version::V5, Some(will)) = (connect.version, &connect.will) {
            // An MQTT 3 client cannot know what there is, its will is published as far as possible.
            if will.qos > self.limits.max_qos {
                // [MQTT-3.2.2-12]
                return Err(Limit::Qos.into());
            }
            if will.retain && !self.limits.retain_available {
                // [MQTT-3.2.2-13]
                return Err(Limit::Retain.into());
            }
            if self.limits.check_payload_format
                && will.properties.payload_format_indicator() == Some(1)
                && std::str::from_utf8(will.payload).is_err()
            {
                // MQTT 5, 3.1.3.2.3
                return Err(ReasonCode::PayloadFormatInvalid.into());
            }
        }
        Ok(())
    }

    /// What an MQTT 3 client asks for and there is not is left out: it cannot know.
    fn owned_will(&self, will: &Will<'_>, mount: Option<&str>) -> OwnedWill {
        let qos = will.qos.min(self.limits.max_qos);
        let retain = will.retain && self.limits.retain_available;
        let topic = mounted_topic(mount, will.topic);
        OwnedWill::new(&Will { qos, retain, ..*will }, &topic, self.limits.max_message_expiry_s)
    }

    /// A CONNACK that refuses, with words for a client that takes them: not for one that did not ask for such, nor where the packet were
    /// too large by them `[MQTT-3.2.2-19]`.
    pub(crate) fn write_refusal_saying(&self, reason: ReasonCode, detail: &str, out: &mut Vec<u8>) {
        let mut properties = PropertiesBuf::new();
        if self.version.is_v5() && self.explain && properties.push(Property::ReasonString(detail)).is_ok() {
            let properties = properties.as_properties();
            let packet = Packet::ConnAck(ConnAck { session_present: false, reason, properties });
            if put(&packet, self.version, self.max_packet_size, out) {
                return;
            }
        }
        self.write_refusal(reason, out);
    }

    /// A CONNACK that refuses; MQTT 3 clients get the return code that comes nearest.
    pub(crate) fn write_refusal(&self, reason: ReasonCode, out: &mut Vec<u8>) {
        refuse(reason, self.version, out);
    }
}

/// Answers what should have been a CONNECT and is none, where an answer is due, and gives the reason.
pub(crate) fn refuse_undecoded(error: &DecodeError, version: Option<Version>, out: &mut Vec<u8>) -> ReasonCode {
    let reason = error.reason_code();
    match (error, version) {
        // [MQTT311-3.1.2-2] to older clients, [MQTT-3.1.2-2] to newer ones.
        (DecodeError::ProtocolLevel { level }, _) => {
            refuse(reason, if *level > Version::V5.level() { Version::V5 } else { Version::V3_1_1 }, out);
        }
        // What speaks no MQTT is told nothing: [MQTT-3.1.2-1], [MQTT311-3.1.2-1].
        (DecodeError::ConnectExpected { .. } | DecodeError::ProtocolName, _) => {}
        // It is a CONNECT, so CONNACK may say why [MQTT-3.1.4-1]; not so before [MQTT311-3.1.4-1].
        (_, Some(Version::V5)) => refuse(reason, Version::V5, out),
        _ => {}
    }
    reason
}

/// Session present is 0 `[MQTT-3.2.2-6]` `[MQTT311-3.2.2-4]`, and the reason one of CONNACK `[MQTT-3.2.2-8]`. No reason string and no user
/// property, so that nothing is too large by them `[MQTT-3.2.2-19]` `[MQTT-3.2.2-20]`.
fn refuse(reason: ReasonCode, version: Version, out: &mut Vec<u8>) {
    let reason = match reason {
        reason if reason.is_error() && reason.allowed_in(PacketType::ConnAck) => reason,
        ReasonCode::ServerShuttingDown | ReasonCode::SessionTakenOver | ReasonCode::AdministrativeAction => {
            ReasonCode::ServerUnavailable
        }
        _ => ReasonCode::UnspecifiedError,
    };
    if !version.is_v5() && has_no_return_code(reason) {
        // [MQTT311-3.2.2-6]
        return;
    }
    let packet = Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::EMPTY });
    let start = out.len();
    if encode(&packet, version, out).is_err() {
        out.truncate(start);
    }
}

/// Whether none of the return codes of MQTT 3 means this.
fn has_no_return_code(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::TopicNameInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::PayloadFormatInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QoSNotSupported
    )
}

fn assigned_id(random: [u8; 16]) -> Arc<str> {
    format!("auto-{:032x}", u128::from_be_bytes(random)).into()
}
