//! CONNECT and CONNACK [MQTT5 3.1, 3.2].

use std::sync::Arc;

use raftmq_mqtt::{
    ConnAck, Connect, DecodeError, Packet, PacketType, Properties, PropertiesBuf, Property, QoS, ReasonCode, Version,
    Will, encode,
};

use crate::{
    Action, CloseReason, Connection, Now, OpenRequest, OpenResult, OwnedWill, Password,
    connection::{Phase, put},
};

/// What CONNACK needs to know of CONNECT.
#[derive(Debug)]
pub(crate) struct Opening {
    assigned: bool,
    /// What the session's expiry will be, and whether the client asked for another one.
    expiry_s: u32,
    expiry_changed: bool,
    keep_alive_s: u16,
    keep_alive_changed: bool,
}

impl Connection {
    pub(crate) fn on_connect(
        &mut self,
        connect: &Connect<'_>,
        random: [u8; 16],
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        self.version = connect.version;
        if let Err(reason) = self.check_connect(connect) {
            self.write_refusal(reason, out);
            return self.end(CloseReason::Refused(reason), out, actions);
        }
        let v5 = connect.version.is_v5();
        let properties = connect.properties;
        let assigned = connect.client_id.is_empty();
        self.client_id = if assigned { assigned_id(random) } else { Arc::from(connect.client_id) };
        self.max_packet_size = properties.maximum_packet_size().unwrap_or(u32::MAX);
        self.explain = properties.request_problem_information() != Some(0);
        // 4,096 so that an identifier is always free, and the search for one short.
        let own_window = self.limits.max_in_flight.clamp(1, 4_096);
        self.window = properties.receive_maximum().unwrap_or(u16::MAX).min(own_window);

        let asked_s = match (v5, connect.clean_start) {
            (true, _) => properties.session_expiry_interval().unwrap_or(0),
            (false, true) => 0,
            // Clean Session 0 is a session without end [MQTT5 3.1.2.11.2].
            (false, false) => u32::MAX,
        };
        let expiry_s = asked_s.min(self.limits.max_session_expiry_s);
        let longest = self.limits.max_keep_alive_s;
        let too_long = connect.keep_alive == 0 || connect.keep_alive > longest;
        let keep_alive_changed = v5 && longest != 0 && too_long;
        let keep_alive_s = if keep_alive_changed { longest } else { connect.keep_alive };
        // [MQTT-3.1.2-22]
        self.silence_ms = u32::from(keep_alive_s) * 1_500;

        actions.push(Action::Open(Box::new(OpenRequest {
            client_id: self.client_id.clone(),
            assigned,
            version: connect.version,
            clean_start: connect.clean_start,
            session_expiry_s: expiry_s,
            keep_alive_s,
            username: connect.username.map(Into::into),
            password: connect.password.map(Password::new),
            will: connect.will.as_ref().map(owned),
        })));
        let expiry_changed = v5 && expiry_s != asked_s;
        self.phase =
            Phase::Opening(Box::new(Opening { assigned, expiry_s, expiry_changed, keep_alive_s, keep_alive_changed }));
    }

    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        let no_id = match connect.version {
            // An identifier of 1 to 23 characters; longer ones are common and taken.
            Version::V3_1 => connect.client_id.is_empty(),
            // [MQTT311-3.1.3-8]
            Version::V3_1_1 => connect.client_id.is_empty() && !connect.clean_start,
            Version::V5 => false,
        };
        if no_id || connect.client_id.len() > self.limits.max_client_id_bytes {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        if connect.properties.authentication_method().is_some() {
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        if let (Version::V5, Some(will)) = (connect.version, &connect.will) {
            // [MQTT-3.2.2-12, 3.2.2-13]; an MQTT 3 client cannot know, its will is published as far as possible.
            if will.qos > QoS::AtLeastOnce {
                return Err(ReasonCode::QoSNotSupported);
            }
            if will.retain {
                return Err(ReasonCode::RetainNotSupported);
            }
        }
        Ok(())
    }

    /// The server's answer to [`Action::Open`]: CONNACK, then what the session has waiting. Ignored if nothing was asked.
    pub fn on_opened(&mut self, now: Now, result: OpenResult, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let Phase::Opening(opening) = &self.phase else {
            return;
        };
        let session = match result {
            OpenResult::Accepted { session } => session,
            OpenResult::Refused(reason) => {
                self.write_refusal(reason, out);
                return self.end(CloseReason::Refused(reason), out, actions);
            }
        };
        let properties = if self.version.is_v5() { self.connack_properties(opening) } else { PropertiesBuf::new() };
        let packet = Packet::ConnAck(ConnAck {
            session_present: session.is_some(),
            reason: ReasonCode::Success,
            properties: properties.as_properties(),
        });
        let expiry_s = opening.expiry_s;
        let fits = put(&packet, self.version, self.max_packet_size, out);
        self.phase = Phase::Open;
        self.state = session.map(|session| *session).unwrap_or_default();
        self.state.expiry_s = expiry_s;
        self.state.outbound.restart();
        self.excuse_silence(now);
        if fits {
            self.pump(now, out, actions);
        } else {
            // [MQTT-3.1.2-24]: a client that takes no CONNACK cannot be served.
            self.fault(ReasonCode::PacketTooLarge, out, actions);
        }
    }

    /// What this server does not have or limits [MQTT5 3.2.2.3]; what is not said has the specification's default.
    fn connack_properties(&self, opening: &Opening) -> PropertiesBuf {
        let mut properties = PropertiesBuf::new();
        let mut push = |property| properties.push(property).expect("values within their ranges");
        if opening.expiry_changed {
            push(Property::SessionExpiryInterval(opening.expiry_s));
        }
        push(Property::ReceiveMaximum(self.limits.receive_maximum.max(1)));
        push(Property::MaximumQoS(1));
        push(Property::RetainAvailable(0));
        if self.limits.max_topic_aliases > 0 {
            push(Property::TopicAliasMaximum(self.limits.max_topic_aliases));
        }
        push(Property::MaximumPacketSize(self.limits.max_packet_size.max(1)));
        if opening.assigned {
            push(Property::AssignedClientIdentifier(&self.client_id));
        }
        push(Property::SharedSubscriptionAvailable(0));
        if opening.keep_alive_changed {
            push(Property::ServerKeepAlive(opening.keep_alive_s));
        }
        properties
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
        // [MQTT5 4.13]: it is a CONNECT, so CONNACK may say why. Others are told nothing.
        (DecodeError::ConnectExpected { .. } | DecodeError::ProtocolName, _) => {}
        (_, Some(Version::V5)) => refuse(reason, Version::V5, out),
        _ => {}
    }
    reason
}

fn refuse(reason: ReasonCode, version: Version, out: &mut Vec<u8>) {
    let reason = match reason {
        reason if reason.is_error() && reason.allowed_in(PacketType::ConnAck) => reason,
        ReasonCode::ServerShuttingDown | ReasonCode::SessionTakenOver | ReasonCode::AdministrativeAction => {
            ReasonCode::ServerUnavailable
        }
        _ => ReasonCode::UnspecifiedError,
    };
    let packet = Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::EMPTY });
    let start = out.len();
    if encode(&packet, version, out).is_err() {
        out.truncate(start);
    }
}

fn assigned_id(random: [u8; 16]) -> Arc<str> {
    format!("auto-{:032x}", u128::from_be_bytes(random)).into()
}

fn owned(will: &Will<'_>) -> OwnedWill {
    OwnedWill {
        topic: will.topic.into(),
        payload: will.payload.into(),
        qos: will.qos,
        retain: will.retain,
        properties: will.properties.into(),
    }
}
