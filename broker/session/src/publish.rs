//! PUBLISH from a client [MQTT5 3.3] and its acknowledgement.

use raftmq_mqtt::{Ack, Packet, PacketType, Properties, Publish, QoS, ReasonCode};

use crate::{Action, Connection, Now, Origins, PublishToken, connection::envelope};

impl Connection {
    pub(crate) fn on_publish(
        &mut self,
        now: Now,
        origins: &mut Origins,
        publish: Publish<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let checked = self.check_publish(&publish).and_then(|()| self.aliases.note(&publish, &self.limits));
        if let Err(reason) = checked {
            return self.fault(reason, out, actions);
        }
        let topic = self.aliases.topic(&publish);
        // An MQTT 3 client cannot be told that nothing is retained.
        let publish = Publish { topic, retain: false, ..publish };
        let Some(message) = envelope(&publish, origins, &self.client_id, now) else {
            return self.fault(ReasonCode::ImplementationSpecificError, out, actions);
        };
        let token = match publish.packet_id {
            Some(packet_id) if publish.qos != QoS::AtMostOnce => Some(self.inbound.begin(packet_id)),
            _ => None,
        };
        actions.push(Action::Publish { message, token });
    }

    fn check_publish(&self, publish: &Publish<'_>) -> Result<(), ReasonCode> {
        // [MQTT-3.3.4-6]
        if publish.properties.subscription_identifier().is_some() {
            return Err(ReasonCode::ProtocolError);
        }
        match publish.qos {
            // [MQTT-3.2.2-11]
            QoS::ExactlyOnce => return Err(ReasonCode::QoSNotSupported),
            // [MQTT-3.3.4-9]; MQTT 3 clients are not read so far.
            QoS::AtLeastOnce if self.inbound.len() >= usize::from(self.limits.receive_maximum.max(1)) => {
                return Err(ReasonCode::ReceiveMaximumExceeded);
            }
            QoS::AtLeastOnce | QoS::AtMostOnce => {}
        }
        if publish.retain && self.version.is_v5() {
            // [MQTT-3.2.2-14]
            return Err(ReasonCode::RetainNotSupported);
        }
        Ok(())
    }

    /// The server is done with a PUBLISH of [`Action::Publish`]. Calls may come in any order: acknowledgements leave in
    /// the order of the PUBLISH packets. The reason must be one of PUBACK; an error closes the connection of an
    /// MQTT 3 client, which has no other way to learn of it.
    pub fn on_published(
        &mut self,
        token: PublishToken,
        reason: ReasonCode,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_open() {
            return;
        }
        let reason = if reason.allowed_in(PacketType::PubAck) { reason } else { ReasonCode::UnspecifiedError };
        self.inbound.complete(token, reason);
        while let Some((packet_id, reason)) = self.inbound.next() {
            if reason.is_error() && !self.version.is_v5() {
                return self.fault(reason, out, actions);
            }
            self.send(&Packet::PubAck(Ack { packet_id, reason, properties: Properties::EMPTY }), out, actions);
        }
    }
}
