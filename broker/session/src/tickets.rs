//! Messages to a session that ends with its connection, of which somebody else wants to know when the client has answered them: those that the queue of a durable shared group gives to
//! it (MQTT 5, 4.8.2).
//!
//! They are sent at once or not at all: what waits, waits where it comes from, and what the connection leaves unanswered, others get from there.

use std::num::NonZeroU16;

use raftmq_mqtt::{Packet, QoS};

use crate::{
    Action, Connection, Forms, Matched,
    filter::mount_length,
    forms::FormTerms,
    message::{OutMessage, write_form},
};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketDelivery {
    /// It is in the write buffer, with this QoS. [`Action::Answered`] says when the client has answered it.
    Sent(QoS),
    /// The client takes nothing now: to be given again when [`Connection::takes_ticket`] says so.
    NoCredit,
    /// It is larger than the client takes `[MQTT-3.1.2-25]`, the client's subscriptions do not mean it, or it has QoS 0.
    Skipped,
}

/// The messages that were sent and not answered, in the order of sending.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Vec<(NonZeroU16, u64)>);

impl Connection {
    /// Whether [`Connection::deliver_ticket`] would send a message now: nothing waits for the client before it, and its window `[MQTT-3.3.4-9]` and its socket have room.
    #[must_use]
    pub fn takes_ticket(&self) -> bool {
        self.is_open() && !self.is_durable() && !self.congested && self.state.outbound.may_send(self.window)
    }

    /// How many messages in a row [`Connection::deliver_ticket`] would send now.
    #[must_use]
    pub fn ticket_room(&self) -> usize {
        if self.takes_ticket() { self.state.outbound.room(self.window) } else { 0 }
    }

    /// Sends a message with QoS 1 or 2 now, and has [`Action::Answered`] give the ticket back.
    #[must_use]
    pub fn deliver_ticket(
        &mut self,
        forms: &mut Forms,
        matched: &Matched,
        ticket: u64,
        out: &mut Vec<u8>,
    ) -> TicketDelivery {
        let qos = matched.qos_of(forms.message());
        if qos == QoS::AtMostOnce || self.state.hides(&self.limits, forms.message()) {
            return TicketDelivery::Skipped;
        }
        if !self.takes_ticket() {
            return TicketDelivery::NoCredit;
        }
        let message = forms.message();
        let (terms, retain) = (self.terms(), matched.retain_of(message));
        let skipped = mount_length(self.limits.mount_point.as_deref(), message.topic_bytes());
        let form = FormTerms { version: terms.version, qos, retain, skipped, sub_ids: &matched.sub_ids };
        let (outbound, aliases) = (&mut self.state.outbound, self.aliases_out.as_deref_mut());
        let mut sent = None;
        let written = forms.with(form, |form| {
            write_form(form, terms, aliases, out, false, || {
                sent = Some(outbound.launch(OutMessage::new(form.message(), matched)));
                sent
            })
        });
        match sent.filter(|_| written == Ok(true)) {
            Some(id) => {
                self.tickets.get_or_insert_default().0.push((id, ticket));
                TicketDelivery::Sent(qos)
            }
            None => TicketDelivery::Skipped,
        }
    }

    /// Nobody wants to know any more when what was sent is answered.
    pub fn forget_tickets(&mut self) {
        self.tickets = None;
    }

    /// PUBACK or PUBREC of a message ends its ticket: with QoS 2 nobody else may get it from PUBREC on.
    pub(crate) fn end_ticket(&mut self, packet: &Packet<'_>, actions: &mut Vec<Action>) {
        let (Some(tickets), Packet::PubAck(ack) | Packet::PubRec(ack)) = (&mut self.tickets, packet) else { return };
        if let Some(at) = tickets.0.iter().position(|(id, _)| *id == ack.packet_id) {
            let (_, ticket) = tickets.0.remove(at);
            actions.push(Action::Answered { ticket });
        }
    }
}
