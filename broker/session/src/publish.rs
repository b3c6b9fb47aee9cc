//! PUBLISH from a client (MQTT 5, 3.3) and its first answer, PUBACK or PUBREC.

use std::num::NonZeroU16;

use raftmq_mqtt::{Ack, Message, Packet, PacketType, Properties, Publish, QoS, ReasonCode, Version};

use crate::{
    Action, Connection, Limit, Now, Origins, PublishToken, filter::mounted_topic, inbound::Owed, limits::Refusal,
    received::Known,
};

/// The most answers that wait behind one that the server is not done with, as a multiple of the receive maximum: a client may repeat
/// a PUBLISH with QoS 2, but not without end.
pub(crate) const OWED: usize = 2;

impl Connection {
    pub(crate) fn on_publish(
        &mut self,
        now: Now,
        origins: &mut Origins,
        publish: Publish<'_>,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let checked = self.check_publish(&publish).and_then(|()| self.note_alias(&publish).map_err(Refusal::from));
        let alias = match checked {
            Ok(alias) => alias,
            Err(refusal) => {
                let reason = refusal.noted(actions);
                return self.fault(reason, out, actions);
            }
        };
        let refused = self.refuse_publish(&publish, alias).map(|refusal| refusal.noted(actions));
        let packet_id = publish.packet_id.filter(|_| publish.qos != QoS::AtMostOnce);
        let Some(packet_id) = packet_id else {
            return match refused {
                // [MQTT-3.3.4-1], [MQTT311-3.3.4-1]: QoS 0 has no answer, so that an error can only end the connection.
                Some(reason) => self.fault(reason, out, actions),
                None => match self.envelope(&publish, alias, origins, now) {
                    Ok(message) => actions.push(Action::Publish { message, token: None }),
                    Err(reason) => self.fault(reason, out, actions),
                },
            };
        };
        let known = if publish.qos == QoS::ExactlyOnce { self.state.known(packet_id) } else { Known::No };
        let mut owed = Owed { token: None, packet_id, qos: publish.qos, reason: refused };
        match known {
            // [MQTT-4.3.3-10], [MQTT311-4.3.3-2]: answered again, and not handed on again.
            Known::Pending | Known::Done => {
                self.state.received_mut().repeat(packet_id);
                owed.reason = (known == Known::Done).then_some(ReasonCode::Success);
            }
            Known::No if refused.is_some() => {}
            Known::No => {
                let message = match self.envelope(&publish, alias, origins, now) {
                    Ok(message) => message,
                    Err(reason) => return self.fault(reason, out, actions),
                };
                let token = PublishToken(message.origin().sequence);
                owed.token = Some(token);
                if publish.qos == QoS::ExactlyOnce {
                    self.state.received_mut().begin(packet_id, token);
                }
                actions.push(if publish.qos == QoS::ExactlyOnce && self.is_durable() {
                    Action::Received { packet_id, message, token }
                } else {
                    Action::Publish { message, token: Some(token) }
                });
            }
        }
        self.inbound.push(owed);
        self.answer(out, actions);
    }

    /// What ends the connection.
    fn check_publish(&self, publish: &Publish<'_>) -> Result<(), Refusal> {
        if publish.qos > self.limits.max_qos {
            // [MQTT-3.2.2-11] broken; an MQTT 3 client is closed.
            return Err(Limit::Qos.into());
        }
        if !self.version.is_v5() {
            return Ok(());
        }
        if !publish.properties.is_empty() && publish.properties.subscription_identifier().is_some() {
            // [MQTT-3.3.4-6]
            return Err(ReasonCode::ProtocolError.into());
        }
        if publish.retain && !self.limits.retain_available {
            // [MQTT-3.2.2-14] broken.
            return Err(Limit::Retain.into());
        }
        let most = usize::from(self.limits.receive_maximum.max(1));
        let over = match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) if self.state.received().is_some_and(|received| received.is_here(id)) => false,
            (QoS::AtMostOnce, _) => false,
            _ => self.unanswered() >= most,
        };
        // [MQTT-3.3.4-7] broken; MQTT 3 clients are not read so far.
        if over || self.inbound.len() >= OWED * most { Err(Limit::ReceiveMaximum.into()) } else { Ok(()) }
    }

    /// PUBLISH packets above QoS 0 that count for the receive maximum: of this connection, until PUBACK, PUBCOMP or a PUBREC
    /// with an error.
    fn unanswered(&self) -> usize {
        self.inbound.qos1() + self.state.received().map_or(0, |received| received.here())
    }

    /// What is told in the answer, or ends the connection if there is none.
    fn refuse_publish(&self, publish: &Publish<'_>, alias: u16) -> Option<Refusal> {
        if !self.limits.takes_topic(self.topic_of(publish, alias)) {
            return Some(Limit::Topic.into());
        }
        if !self.version.is_v5() {
            return None;
        }
        if let Some(id) = publish.packet_id {
            // An identifier can be of one exchange at a time (MQTT 5, 2.2.1): client and server do not agree on the session.
            let used = match publish.qos {
                QoS::AtMostOnce => false,
                QoS::AtLeastOnce => self.state.known(id) != Known::No,
                QoS::ExactlyOnce => self.inbound.qos1() > 0 && self.inbound.owes(QoS::AtLeastOnce, id),
            };
            if used {
                return Some(ReasonCode::PacketIdentifierInUse.into());
            }
        }
        if !self.limits.takes_properties(publish.properties) {
            return Some(Limit::UserProperties.into());
        }
        // MQTT 5, 3.3.2.3.2
        let text = self.limits.check_payload_format && publish.properties.payload_format_indicator() == Some(1);
        (text && std::str::from_utf8(publish.payload).is_err()).then(|| ReasonCode::PayloadFormatInvalid.into())
    }

    /// The topic alias of a PUBLISH; 0 for none.
    fn note_alias(&mut self, publish: &Publish<'_>) -> Result<u16, ReasonCode> {
        let alias = if publish.properties.is_empty() { None } else { publish.properties.topic_alias() };
        match alias {
            Some(alias) => {
                let aliases = self.aliases.get_or_insert_default();
                aliases.note(alias, publish, &self.limits).map(|()| alias)
            }
            // MQTT 5, 3.3.2.1: no topic and no alias.
            None if publish.topic.is_empty() => Err(ReasonCode::ProtocolError),
            None => Ok(0),
        }
    }

    /// The topic of a PUBLISH whose alias was noted.
    fn topic_of<'a>(&'a self, publish: &Publish<'a>, alias: u16) -> &'a str {
        match &self.aliases {
            Some(aliases) if publish.topic.is_empty() => aliases.topic(alias),
            _ => publish.topic,
        }
    }

    /// Makes the envelope.
    fn envelope(
        &self,
        publish: &Publish<'_>,
        alias: u16,
        origins: &mut Origins,
        now: Now,
    ) -> Result<Message, ReasonCode> {
        let topic = mounted_topic(self.limits.mount_point.as_deref(), self.topic_of(publish, alias));
        // An MQTT 3 client cannot be told that nothing is retained.
        let retain = publish.retain && self.limits.retain_available;
        let publish = Publish { topic: &topic, retain, ..*publish };
        let expires = self.limits.expires_at_ms(publish.expires_at_ms(now.unix_ms), now.unix_ms);
        // No message can carry a topic that is too long with its mount point.
        Message::new(&publish, origins.take(), &self.client_id, now.unix_ms, expires)
            .map_err(|_| ReasonCode::TopicNameInvalid)
    }

    /// The server is done with a PUBLISH of [`Action::Publish`] or [`Action::Received`], also of an earlier connection of the session. Calls may come in any
    /// order: answers leave in the order of the PUBLISH packets. The reason must be one of PUBACK; an error closes the
    /// connection of an MQTT 3 client, which has no other way to learn of it `[MQTT311-3.3.5-2]`.
    pub fn on_published(
        &mut self,
        token: PublishToken,
        reason: ReasonCode,
        out: &mut Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        // [MQTT-3.4.2-1], [MQTT-3.5.2-1]; both have the same.
        let reason = if reason.allowed_in(PacketType::PubAck) { reason } else { ReasonCode::UnspecifiedError };
        match self.state.complete(token, reason) {
            Some(packet_id) => self.inbound.complete_qos2(packet_id, reason),
            None => self.inbound.complete(token, reason),
        }
        self.answer(out, actions);
    }

    /// Sends the answers whose turn has come `[MQTT-4.3.2-4]` `[MQTT-4.3.3-8]` `[MQTT311-4.3.2-2]` `[MQTT311-4.3.3-2]`.
    fn answer(&mut self, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        while self.is_open()
            && let Some((packet_id, qos, reason)) = self.inbound.next()
        {
            let reason = match (self.version, reason) {
                // MQTT 3.1, PUBLISH: who may not publish has to get a positive answer.
                (Version::V3_1, ReasonCode::NotAuthorized) => ReasonCode::Success,
                // [MQTT311-3.3.5-2], [MQTT311-4.8.0-2]
                (Version::V3_1 | Version::V3_1_1, reason) if reason.is_error() => {
                    return self.fault(reason, out, actions);
                }
                _ => reason,
            };
            self.send(&ack(qos, packet_id, reason), out, actions);
        }
    }
}

/// With the identifier of the PUBLISH `[MQTT-2.2.1-5]` `[MQTT311-2.3.1-6]`. No reason string or user property: nothing is ever too
/// large by them `[MQTT-3.4.2-2]` `[MQTT-3.4.2-3]` `[MQTT-3.5.2-2]` `[MQTT-3.5.2-3]`, nor unwanted `[MQTT-3.1.2-29]`.
fn ack(qos: QoS, packet_id: NonZeroU16, reason: ReasonCode) -> Packet<'static> {
    let ack = Ack { packet_id, reason, properties: Properties::EMPTY };
    if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) }
}
