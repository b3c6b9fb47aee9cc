//! Messages to the client, as far as its window and its socket go.

use raftmq_mqtt::QoS;

use crate::{
    Action, Connection, Delivery, DropReason, Flushed, Forms, Now, SubscriptionInfo,
    outbound::{OutMessage, Terms, effective_qos, effective_retain},
};

/// A pump stops after this many bytes and goes on when they are written, so that a long queue does not fill the memory.
const PUMP_BYTES: usize = 256 * 1024;

impl Connection {
    /// The socket takes no more for now: messages are queued until [`Connection::on_writable`].
    pub fn set_congested(&mut self) {
        self.congested = true;
    }

    /// Whether [`Connection::on_writable`] is to be called once all that was in `out` is written.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// What was in `out` is written: waiting messages go on.
    pub fn on_writable(&mut self, now: Now, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        self.congested = false;
        if self.is_open() {
            self.pump(now, out, actions);
        }
    }

    /// Takes a message that matched a subscription of this client.
    pub fn deliver(&mut self, forms: &mut Forms, now: Now, info: SubscriptionInfo, out: &mut Vec<u8>) -> Delivery {
        if !self.is_open() {
            return self.state.deliver_offline(now, &self.limits, &self.client_id, forms.message(), info);
        }
        let message = forms.message();
        if info.options.no_local && message.publisher() == &*self.client_id {
            return Delivery::Skipped;
        }
        if message.is_expired(now.unix_ms) {
            return Delivery::Dropped(DropReason::Expired);
        }
        let qos = effective_qos(message, info);
        let retain = effective_retain(message, info);
        let terms = self.terms();
        let outbound = &mut self.state.outbound;
        let now_free = match qos {
            QoS::AtMostOnce => outbound.may_send_qos0(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => outbound.may_send_qos1(terms),
        };
        if self.congested || !now_free {
            return outbound.enqueue(&self.limits, OutMessage::new(message, info));
        }
        let written = forms.with(terms.version, qos, retain, info.sub_id, |form| {
            if form.encoded_len() > terms.max_packet_size {
                return Delivery::Dropped(DropReason::TooLarge);
            }
            let id = (qos != QoS::AtMostOnce).then(|| outbound.launch(OutMessage::new(form.message(), info)));
            form.write(out, id, false);
            Delivery::Sent(qos)
        });
        written.unwrap_or(Delivery::Dropped(DropReason::TooLarge))
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms {
            version: self.version,
            window: usize::from(self.window),
            max_packet_size: usize::try_from(self.max_packet_size).unwrap_or(usize::MAX),
        }
    }

    /// Sends what waits, as far as window and socket go.
    pub(crate) fn pump(&mut self, now: Now, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if self.congested {
            return;
        }
        let (flushed, complete) = self.state.outbound.pump(self.terms(), now, PUMP_BYTES, out);
        self.congested = !complete;
        if flushed != Flushed::default() {
            actions.push(Action::Flushed(flushed));
        }
    }
}
