//! CONNACK (MQTT 5, 3.2): what the client is told about this server.

use raftmq_mqtt::{ConnAck, Packet, PropertiesBuf, Property, QoS, ReasonCode};

use crate::{
    Action, CloseReason, Connection, Now, OpenResult, SERVING_LOCAL,
    connect::Opening,
    connection::{Phase, put},
};

impl Connection {
    /// The server's answer to [`Action::Open`]: CONNACK, before anything else `[MQTT-3.2.0-1]` `[MQTT311-3.2.0-1]`, then what the
    /// session has waiting. Ignored if nothing was asked: there is one CONNACK `[MQTT-3.2.0-2]`.
    pub fn on_opened(&mut self, now: Now, result: OpenResult, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let Phase::Opening(opening) = &self.phase else {
            return;
        };
        if opening.request.is_some() {
            // Still authenticating: nothing was asked.
            return;
        }
        let clean_start = opening.clean_start;
        let local = matches!(result, OpenResult::AcceptedLocal { .. });
        // The session that is taken up, if there is one; and of a durable one, what its shard knows of it.
        let (session, received) = match result {
            // [MQTT-3.1.2-4], [MQTT-3.1.4-4], [MQTT-3.2.2-2], [MQTT311-3.1.2-6], [MQTT311-3.1.4-3], [MQTT311-3.2.2-1]
            OpenResult::Accepted { session } | OpenResult::AcceptedLocal { session } => {
                (session.filter(|_| !clean_start), None)
            }
            OpenResult::Durable { session_present: true, session, received } if !clean_start => {
                (Some(session.unwrap_or_default()), Some(received))
            }
            OpenResult::Durable { .. } => (None, Some(Vec::new())),
            OpenResult::RefusedSaying(reason, detail) => {
                self.write_refusal_saying(reason, detail, out);
                return self.end(CloseReason::Refused(reason), out, actions);
            }
            OpenResult::Refused(reason) => {
                // [MQTT-3.2.2-7], [MQTT311-3.2.2-5]
                self.write_refusal(reason, out);
                return self.end(CloseReason::Refused(reason), out, actions);
            }
        };
        // [MQTT-3.2.2-3], [MQTT311-3.2.2-2], [MQTT311-3.2.2-3]
        let session_present = session.is_some();
        let expiry_s = opening.expiry_s;
        let fits = self.write_connack(opening, session_present, local, out);
        self.phase = Phase::Open;
        // [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT311-3.1.2-4]
        self.state = session.map(|session| *session).unwrap_or_default();
        self.state.expiry_s = expiry_s;
        if let Some(received) = received {
            self.state.follow_shard(&received);
            self.durable = Some(Box::default());
        }
        self.state.restart();
        self.excuse_silence(now);
        if fits {
            self.pump(now, out, actions);
        } else {
            // [MQTT-3.1.2-24]: a client that takes no CONNACK cannot be served, and gets no other packet [MQTT-3.14.0-1].
            self.max_packet_size = 0;
            self.fault(ReasonCode::PacketTooLarge, out, actions);
        }
    }

    /// An accepted CONNECT is answered by 0x00 `[MQTT-3.1.4-5]` `[MQTT311-3.1.4-4]`. `false`, and nothing written, if the client
    /// does not take the packet.
    fn write_connack(&self, opening: &Opening, session_present: bool, local: bool, out: &mut Vec<u8>) -> bool {
        let mut send = |properties: &PropertiesBuf| {
            let properties = properties.as_properties();
            let packet = Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties });
            put(&packet, self.version, self.max_packet_size, out)
        };
        if !self.version.is_v5() {
            return send(&PropertiesBuf::new());
        }
        let needed = self.connack_properties(opening);
        let mut send_with_information = |base: &PropertiesBuf| {
            if opening.wants_response_information
                && let Some(information) = &self.limits.response_information
            {
                // [MQTT-3.1.2-28]. It can be done without.
                let mut more = base.clone();
                if more.push(Property::ResponseInformation(information)).is_ok() && send(&more) {
                    return true;
                }
            }
            send(base)
        };
        if local {
            let mut told = needed.clone();
            // [MQTT-3.2.2-20]: a client that takes no packet so long is not told.
            if told.push(Property::UserProperty(SERVING_LOCAL)).is_ok() && send_with_information(&told) {
                return true;
            }
        }
        send_with_information(&needed)
    }

    /// What this server does not have or limits (MQTT 5, 3.2.2.3); what is not said has the specification's default.
    fn connack_properties(&self, opening: &Opening) -> PropertiesBuf {
        let limits = &self.limits;
        let mut properties = PropertiesBuf::new();
        let mut push = |property| properties.push(property).expect("values within their ranges");
        if opening.expiry_changed {
            push(Property::SessionExpiryInterval(opening.expiry_s));
        }
        push(Property::ReceiveMaximum(limits.receive_maximum.max(1)));
        if limits.max_qos < QoS::ExactlyOnce {
            // [MQTT-3.2.2-9]
            push(Property::MaximumQoS(limits.max_qos as u8));
        }
        if !limits.retain_available {
            push(Property::RetainAvailable(0));
        }
        push(Property::MaximumPacketSize(limits.max_packet_size.max(1)));
        if opening.assigned {
            // [MQTT-3.1.3-7], [MQTT-3.2.2-16]
            push(Property::AssignedClientIdentifier(&self.client_id));
        }
        if limits.max_topic_aliases > 0 {
            push(Property::TopicAliasMaximum(limits.max_topic_aliases));
        }
        if !limits.wildcard_available {
            push(Property::WildcardSubscriptionAvailable(0));
        }
        if !limits.sub_ids_available {
            push(Property::SubscriptionIdentifierAvailable(0));
        }
        if !limits.shared_available {
            push(Property::SharedSubscriptionAvailable(0));
        }
        if opening.keep_alive_changed {
            push(Property::ServerKeepAlive(opening.keep_alive_s));
        }
        // [MQTT-4.12.0-5]; without a method in CONNECT there is none here [MQTT-4.12.0-6].
        if let Some(auth) = &self.auth {
            push(Property::AuthenticationMethod(&auth.method));
            let data = opening.auth_data.expose();
            if !data.is_empty() && properties.push(Property::AuthenticationData(data)).is_err() {
                // More than 65,535 bytes: no method has that.
                return properties;
            }
        }
        properties
    }
}
