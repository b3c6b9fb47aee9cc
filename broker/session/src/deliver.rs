//! Messages to the client, as far as its window and its socket go.

use raftmq_mqtt::QoS;

use crate::{
    Action, Connection, Delivery, DropReason, Flushed, Forms, Matched, Now,
    filter::mount_length,
    forms::FormTerms,
    message::{Line, OutMessage, Terms, write_form},
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

    /// Takes a message that matched subscriptions of this client `[MQTT-4.5.0-1]` `[MQTT311-4.5.0-1]`. On a connection of a durable session
    /// only those with QoS 0: the others are in the session's shard, but those of a group, which another member gets.
    pub fn deliver(&mut self, forms: &mut Forms, now: Now, matched: &Matched, out: &mut Vec<u8>) -> Delivery {
        if self.is_durable() && matched.qos_of(forms.message()) != QoS::AtMostOnce {
            let shared = matched.share.is_some();
            return if shared { Delivery::Dropped(DropReason::QueueFull) } else { Delivery::Skipped };
        }
        if !self.is_open() {
            return self.state.deliver_offline(now, &self.limits, &self.client_id, forms.message(), matched);
        }
        let message = forms.message();
        if let Some(refused) = self.state.refuses(now, &self.limits, &self.client_id, message, matched) {
            return refused;
        }
        let (qos, retain) = (matched.qos_of(message), matched.retain_of(message));
        let terms = self.terms();
        let outbound = &mut self.state.outbound;
        let now_free = match qos {
            QoS::AtMostOnce => outbound.may_send_qos0(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => outbound.may_send(terms.window),
        };
        if self.congested || !now_free {
            return outbound.enqueue(&self.limits, now, OutMessage::new(message, matched));
        }
        let skipped = mount_length(self.limits.mount_point.as_deref(), message.topic_bytes());
        let form = FormTerms { version: terms.version, qos, retain, skipped, sub_ids: &matched.sub_ids };
        let aliases = self.aliases_out.as_deref_mut();
        let written = forms.with(form, |form| {
            // DUP says whether it is sent again, whatever it came with [MQTT-3.3.1-3], [MQTT311-3.3.1-3]: a new message has none
            // [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2], [MQTT311-4.3.1-1].
            write_form(form, terms, aliases, out, false, || {
                (qos != QoS::AtMostOnce).then(|| outbound.launch(OutMessage::new(form.message(), matched)))
            })
        });
        if written == Ok(true) { Delivery::Sent(qos) } else { Delivery::Dropped(DropReason::TooLarge) }
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms {
            version: self.version,
            window: self.window,
            max_packet_size: usize::try_from(self.max_packet_size).unwrap_or(usize::MAX),
        }
    }

    /// Sends what waits, as far as window and socket go.
    pub(crate) fn pump(&mut self, now: Now, out: &mut Vec<u8>, actions: &mut Vec<Action>) {
        if self.congested {
            return;
        }
        let terms = self.terms();
        let aliases = self.aliases_out.as_deref_mut();
        let mut line = Line { terms, now, mount: self.limits.mount_point.as_deref(), aliases, out };
        let (flushed, complete) = self.state.outbound.pump(&mut line, PUMP_BYTES);
        self.congested = !complete;
        if flushed != Flushed::default() {
            actions.push(Action::Flushed(flushed));
        }
    }
}
