//! PUBACK, PUBREC, PUBREL and PUBCOMP from a client (MQTT 5, 3.4 to 3.7 and 4.3).

use raftmq_mqtt::{Ack, Packet, Properties, QoS, ReasonCode};

use crate::{Action, Connection, Now, granted::Answer, outbound::Progress, received::Known};

impl Connection {
    /// The first or only answer to a message of QoS 1 or 2, or the last.
    pub(crate) fn on_ack(&mut self, now: Now, packet: &Packet<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let (Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack)) = packet else {
            return;
        };
        let progress = match self.granted_answer(packet) {
            None => {
                let progress = self.own_answer(packet);
                if matches!(progress, Progress::Done | Progress::Release) {
                    self.end_ticket(packet, actions);
                }
                progress
            }
            Some(Answer::Unknown) => Progress::Unknown,
            Some(Answer::Wrong) => Progress::Wrong,
            Some(Answer::Release) => Progress::Release,
            Some(Answer::Waits) => return,
            Some(Answer::Settled(what)) => return actions.push(Action::Settled { packet_id: ack.packet_id, what }),
        };
        match progress {
            Progress::Done => self.pump(now, out, actions),
            // [MQTT-4.3.3-4]
            Progress::Release => self.send(&Packet::PubRel(Ack::success(ack.packet_id)), out, actions),
            // The exchange is of a session that is gone: it is brought to its end (MQTT 5, 3.6.2.1).
            Progress::Unknown if matches!(packet, Packet::PubRec(_)) && !ack.reason.is_error() => {
                self.send(&Packet::PubRel(not_found(ack)), out, actions);
            }
            // Late.
            Progress::Unknown => {}
            // The answer to QoS 1 is PUBACK, to QoS 2 PUBREC, to PUBREL PUBCOMP.
            Progress::Wrong => self.fault(ReasonCode::ProtocolError, out, actions),
        }
    }

    /// The answer to a message of the session's own queue.
    fn own_answer(&mut self, packet: &Packet<'_>) -> Progress {
        let outbound = &mut self.state.outbound;
        match packet {
            Packet::PubAck(ack) => outbound.puback(ack.packet_id),
            Packet::PubRec(ack) => outbound.pubrec(ack.packet_id, ack.reason.is_error()),
            Packet::PubComp(ack) => outbound.pubcomp(ack.packet_id),
            _ => Progress::Unknown,
        }
    }

    /// PUBREL: the client knows that its message was taken, and forgets it. Its answer comes in any case `[MQTT-4.3.3-11]`
    /// `[MQTT311-4.3.3-2]`, whether the message has expired or not `[MQTT-4.3.3-13]`.
    pub(crate) fn on_pubrel(&mut self, ack: &Ack<'_>, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        let packet_id = ack.packet_id;
        let known = self.state.known(packet_id);
        if known == Known::Pending || (self.inbound.len() > 0 && self.inbound.owes(QoS::ExactlyOnce, packet_id)) {
            // Before PUBREC.
            return self.fault(ReasonCode::ProtocolError, out, actions);
        }
        if self.hand_on_release(packet_id, actions) {
            return;
        }
        self.state.release(packet_id);
        // [MQTT-3.6.2-1], [MQTT-3.7.2-1]; without reason string and user properties: [MQTT-3.6.2-2], [MQTT-3.6.2-3],
        // [MQTT-3.7.2-2], [MQTT-3.7.2-3].
        let answer = if known == Known::No { not_found(ack) } else { Ack::success(packet_id) };
        self.send(&Packet::PubComp(answer), out, actions);
    }
}

/// 0x92, which MQTT 3 clients are not told.
fn not_found(ack: &Ack<'_>) -> Ack<'static> {
    Ack { packet_id: ack.packet_id, reason: ReasonCode::PacketIdentifierNotFound, properties: Properties::EMPTY }
}
