//! Messages that other nodes forward, on their way to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raftmq_cluster::Forwarded;
use raftmq_mqtt::{Message, QoS};
use raftmq_routing::{ForwardFrame, SharedForward, SharedRoutes, Targets};

use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::worker::{Attempt, Inbox, Item, Shared, is_reserved};

/// What takes the frames of other nodes.
pub(crate) struct Incoming {
    routes: SharedRoutes,
    inboxes: Arc<Vec<Inbox>>,
    /// Messages that a worker's full queue did not take.
    lost: Arc<AtomicU64>,
    /// Whether QoS 0 is shed, and who counts it.
    shedding: Option<(Arc<Overload>, Arc<Metrics>)>,
}

impl Incoming {
    pub(crate) fn new(
        routes: SharedRoutes,
        inboxes: Arc<Vec<Inbox>>,
        lost: Arc<AtomicU64>,
        shedding: Option<(Arc<Overload>, Arc<Metrics>)>,
    ) -> Self {
        Self { routes, inboxes, lost, shedding }
    }

    /// Takes a frame of another node, or one that comes back from it.
    pub(crate) fn take(&self, forwarded: Forwarded) {
        match forwarded {
            Forwarded::From(_, frame) => self.frame(&frame),
            Forwarded::Back { frame, handled } => self.back(&frame, handled),
        }
    }

    /// Messages of groups that a node was chosen for which has died: for others of the groups. What may have come to a member with
    /// QoS 2 goes to no other `[MQTT-4.8.2-5]`.
    fn back(&self, frame: &[u8], handled: bool) {
        let Ok(ForwardFrame { message, shared, .. }) = ForwardFrame::decode(frame) else {
            return;
        };
        for SharedForward { key, tried } in shared {
            if handled && message.qos() == QoS::ExactlyOnce {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let attempt = Attempt { tried, ..Attempt::default() };
            self.push_shared(&message, key, attempt);
        }
    }

    /// To a worker that has members of the group, which chooses; it need not be its own member, so that the turn goes over all of the node.
    fn push_shared(&self, message: &Message, group: Arc<str>, attempt: Attempt) {
        let mut targets = Targets::default();
        self.routes.lookup(message.topic(), &mut targets);
        let target = targets.shared().iter().find(|target| target.key == group);
        let worker = target.map_or(0, |target| target.workers.trailing_zeros() % 64);
        let shared = Shared { message: message.clone(), group, chosen: None, attempt };
        self.push(u8::try_from(worker).unwrap_or(0), Item::Shared(Box::new(shared)));
    }

    /// Takes a frame.
    pub(crate) fn frame(&self, frame: &[u8]) {
        let ForwardFrame { message, plain, shared } = match ForwardFrame::decode(frame) {
            Ok(frame) => frame,
            Err(error) => return tracing::warn!(%error, "a peer forwarded what is no message of this version"),
        };
        if let Some((overload, metrics)) = &self.shedding
            && message.qos() == QoS::AtMostOnce
            && overload.sheds()
            && !is_reserved(message.topic())
        {
            return metrics.forwarded_shed();
        }
        let mut targets = Targets::default();
        self.routes.lookup(message.topic(), &mut targets);
        for worker in targets.workers().filter(|_| plain) {
            self.push(worker, Item::Publish(message.clone()));
        }
        for SharedForward { key, tried } in shared {
            self.push_shared(&message, key, Attempt { forwarded: true, tried, ..Attempt::default() });
        }
    }

    fn push(&self, worker: u8, item: Item) {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else {
            return;
        };
        if !inbox.push_one(item) {
            let before = self.lost.fetch_add(1, Ordering::Relaxed);
            if before.is_multiple_of(10_000) {
                tracing::warn!(worker, "the worker's queue is full: forwarded messages are lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_mqtt::{Origin, Properties, Publish};
    use raftmq_routing::{LocalRoutes, LocalRoutesOptions, Tried};

    fn message(payload: &[u8]) -> Message {
        message_of("t", QoS::AtMostOnce, payload)
    }

    fn message_of(topic: &str, qos: QoS, payload: &[u8]) -> Message {
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id: std::num::NonZeroU16::new(u16::from(qos != QoS::AtMostOnce)),
            properties: Properties::EMPTY,
            payload,
        };
        Message::new(&publish, Origin { node: 2, sequence: 1 }, "p", 0, None).unwrap()
    }

    fn routes(filters: &[(&str, u8)]) -> SharedRoutes {
        let routes = SharedRoutes::new();
        let options = LocalRoutesOptions { standalone: true, ..LocalRoutesOptions::default() };
        let mut local = LocalRoutes::new(routes.clone(), options);
        for (filter, worker) in filters {
            let _ = local.worker_added(filter, *worker);
        }
        routes
    }

    #[test]
    fn forwarded_messages_that_find_no_room_are_counted() {
        let lost = Arc::new(AtomicU64::new(0));
        let inboxes = Arc::new(vec![Inbox::new()]);
        let incoming = Incoming::new(routes(&[("t", 0)]), Arc::clone(&inboxes), Arc::clone(&lost), None);
        let mut frame = Vec::new();
        message(&vec![0; 16 << 20]).to_wire(&mut frame);
        for _ in 0..10 {
            incoming.frame(&frame);
        }
        // Three of 16 MiB and a little fit into 64 MiB.
        assert_eq!(lost.load(Ordering::Relaxed), 7);
        incoming.frame(b"no message");
    }

    #[test]
    fn a_frame_names_whom_it_is_for() {
        let inboxes = Arc::new(vec![Inbox::new(), Inbox::new()]);
        let incoming =
            Incoming::new(routes(&[("t", 0), ("$share/g/t", 1)]), Arc::clone(&inboxes), Arc::default(), None);
        let group = SharedForward { key: "$share/g/t".into(), tried: Tried::new() };
        for (plain, shared, expected) in [
            (true, vec![], (false, true)),
            (false, vec![group.clone()], (true, false)),
            (true, vec![group.clone()], (false, false)),
        ] {
            let mut frame = Vec::new();
            ForwardFrame { message: message(b"m"), plain, shared }.encode(&mut frame).unwrap();
            incoming.frame(&frame);
            assert_eq!((inboxes[0].is_empty(), inboxes[1].is_empty()), expected);
            for inbox in inboxes.iter() {
                inbox.take(&mut std::collections::VecDeque::new());
            }
        }
    }

    #[test]
    fn qos_0_of_other_nodes_is_shed_and_counted_but_for_what_nodes_say_themselves() {
        let inboxes = Arc::new(vec![Inbox::new()]);
        let (overload, metrics) = (Arc::new(Overload::new(&raftmq_config::Overload::default())), Metrics::new());
        let shedding = Some((Arc::clone(&overload), Arc::clone(&metrics)));
        let incoming =
            Incoming::new(routes(&[("#", 0), ("$SYS/#", 0)]), Arc::clone(&inboxes), Arc::default(), shedding);
        for (refuses, sheds, topic, qos, expected) in [
            (false, false, "t", QoS::AtMostOnce, true),
            (true, false, "t", QoS::AtMostOnce, true),
            (true, true, "t", QoS::AtMostOnce, false),
            (true, true, "t", QoS::AtLeastOnce, true),
            (true, true, "$SYS/a", QoS::AtMostOnce, true),
        ] {
            overload.force(refuses, false, sheds);
            let mut frame = Vec::new();
            message_of(topic, qos, b"m").to_wire(&mut frame);
            incoming.frame(&frame);
            let mut taken = std::collections::VecDeque::new();
            inboxes[0].take(&mut taken);
            assert_eq!(!taken.is_empty(), expected, "{refuses} {sheds} {topic} {qos:?}");
        }
        let text = metrics.render();
        assert!(text.contains("raftmq_messages_dropped_total{reason=\"overload\"} 1\n"), "{text}");
    }
}
