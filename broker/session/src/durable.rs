//! A connection of a durable session, whose queue and whose identifiers of received messages are in a shard.
//!
//! What the client must be able to rely on is said only after the shard has committed it: PUBREC, PUBREL and PUBCOMP wait for the server's word.
//!
//! ```text
//!  to the client:    on_granted ─► PUBLISH ─► PUBACK ─► Settled(Acked)
//!                    on_granted ─► PUBLISH ─► PUBREC ─► Settled(Received) ─► on_granted_release ─► PUBREL ─► PUBCOMP ─► Settled(Completed)
//!  from the client:  PUBLISH ─► Received ─► on_published ─► PUBREC ─► PUBREL ─► Released ─► on_released ─► PUBCOMP
//! ```

use std::num::NonZeroU16;

use raftmq_mqtt::{Ack, Packet, Properties, QoS, ReasonCode};

use crate::{
    Action, Connection, Granted, GrantedDelivery, Now,
    filter::mount_length,
    forms::{self, FormTerms},
    granted::{Answer, Flights},
    message::write_form,
    publish::OWED,
    received::IdSet,
};

/// What a connection has for this besides its session's state; only such a connection.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    pub(crate) flights: Flights,
    /// PUBRELs of the client that were handed on and are not answered.
    releasing: IdSet,
}

impl Durable {
    /// Whether so many PUBRELs wait that the client is not read. They cannot be more than the messages that a client which keeps to the
    /// receive maximum has under way, and those of its earlier connection, as many.
    pub(crate) fn is_full(&self, receive_maximum: u16) -> bool {
        self.releasing.len() >= OWED * usize::from(receive_maximum.max(1))
    }
}

impl Connection {
    /// Whether the connection is of a durable session, whose messages above QoS 0 all come by [`Connection::on_granted`]
    /// ([`crate::OpenResult::Durable`]).
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable.is_some()
    }

    /// How many messages [`Connection::on_granted`] takes now: as many as the client's receive maximum and the own limit permit
    /// `[MQTT-3.3.4-9]` `[MQTT-4.9.0-1]` `[MQTT-4.9.0-2]`, none while the socket takes no more. There may be more of them after each
    /// [`Action::Settled`] and each [`Connection::on_writable`].
    #[must_use]
    pub fn credits(&self) -> usize {
        match &self.durable {
            Some(durable) if self.is_open() && !self.congested => durable.flights.room(self.window).into(),
            _ => 0,
        }
    }

    /// Sends a message of the session's queue. They must be given in the order of their numbers, those that an earlier connection may have
    /// sent too, and PUBRELs between them by [`Connection::on_granted_release`] `[MQTT-4.4.0-1]` `[MQTT-4.6.0-1]` `[MQTT311-4.4.0-1]`
    /// `[MQTT311-4.6.0-1]`.
    #[must_use]
    pub fn on_granted(&mut self, now: Now, granted: &Granted<'_>, out: &mut Vec<u8>) -> GrantedDelivery {
        let has_credit = self.credits() > 0;
        let (terms, mount) = (self.terms(), self.limits.mount_point.as_deref());
        let Some(durable) = &mut self.durable else {
            return GrantedDelivery::NoCredit;
        };
        if durable.flights.has(granted.packet_id) {
            return GrantedDelivery::UnderWay;
        }
        if self.state.hides(&self.limits, granted.message) {
            return GrantedDelivery::Skipped;
        }
        if !has_credit {
            return GrantedDelivery::NoCredit;
        }
        let qos = granted.qos.max(QoS::AtLeastOnce);
        // The shard's time counts: what it says to be left is left now.
        let now = match (granted.message.expires_at_ms(), granted.lifetime_ms) {
            (Some(at), Some(left)) => Now { unix_ms: at.saturating_sub(left), ..now },
            _ => now,
        };
        let form = FormTerms {
            version: terms.version,
            qos,
            retain: granted.retain,
            skipped: mount_length(mount, granted.message.topic_bytes()),
            sub_ids: granted.identifiers,
        };
        let written = forms::encode(granted.message, form, now).is_ok_and(|form| {
            let aliases = self.aliases_out.as_deref_mut();
            write_form(&form, terms, aliases, out, granted.dup, || Some(granted.packet_id))
        });
        if !written {
            return GrantedDelivery::TooLarge;
        }
        durable.flights.sent(granted.packet_id, qos);
        GrantedDelivery::Sent
    }

    /// The shard has committed the PUBREC of a granted message: PUBREL is sent, once on a connection `[MQTT-4.3.3-4]` `[MQTT-4.4.0-1]`
    /// `[MQTT311-4.4.0-1]`, whatever the window `[MQTT-3.3.4-10]`. To be said for what an earlier connection has left, too.
    pub fn on_granted_release(&mut self, packet_id: NonZeroU16, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if self.is_open()
            && let Some(durable) = &mut self.durable
            && durable.flights.release(packet_id)
        {
            self.send(&Packet::PubRel(Ack::success(packet_id)), out, actions);
        }
    }

    /// The shard has committed the release of [`Action::Released`]: PUBCOMP `[MQTT-4.3.3-11]` `[MQTT-4.3.3-12]` `[MQTT311-4.3.3-2]`.
    /// `known` is whether the shard had the identifier; an MQTT 5 client is told that it had not.
    pub fn on_released(&mut self, packet_id: NonZeroU16, known: bool, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if let Some(durable) = &mut self.durable
            && durable.releasing.remove(packet_id)
        {
            self.state.release(packet_id);
            let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
            self.send(&Packet::PubComp(Ack { packet_id, reason, properties: Properties::EMPTY }), out, actions);
        }
    }

    /// The client's answer to a granted message; `None` if the connection is not of a durable session.
    pub(crate) fn granted_answer(&mut self, packet: &Packet<'_>) -> Option<Answer> {
        let flights = &mut self.durable.as_mut()?.flights;
        Some(match packet {
            Packet::PubAck(ack) => flights.puback(ack.packet_id, ack.reason.is_error()),
            Packet::PubRec(ack) => flights.pubrec(ack.packet_id, ack.reason.is_error()),
            Packet::PubComp(ack) => flights.pubcomp(ack.packet_id),
            _ => Answer::Unknown,
        })
    }

    /// PUBREL, which the shard hears of first; `false` if the connection is not of a durable session. One that is repeated meanwhile is
    /// answered with the first.
    pub(crate) fn hand_on_release(&mut self, packet_id: NonZeroU16, actions: &mut Vec<Action>) -> bool {
        let Some(durable) = &mut self.durable else {
            return false;
        };
        if durable.releasing.insert(packet_id) {
            actions.push(Action::Released { packet_id });
        }
        true
    }
}
