//! Clients that do not read, by what their listener's zone does with them.

use std::time::{Duration, Instant};

use raftmq_mqtt::{QoS, ReasonCode};

use crate::client::{Client, Got, PATIENCE, PINGREQ, connect, publish};
use crate::process::Node;

const LISTENERS: &str = "- {name: mqtt, bind: '@0'}
- {name: kept, bind: '@1', zone: kept}
- {name: qos0, bind: '@2', zone: qos0}
- {name: qos1, bind: '@3', zone: qos1}
- {name: bytes, bind: '@4', zone: bytes}
- {name: wide, bind: '@5', zone: wide}
zones:
  kept: {maxOutboundBytes: 64KiB, maxQueuedMessages: 5}
  qos0: {maxOutboundBytes: 64KiB, maxQueuedMessages: 5, slowConsumerQos0: disconnect}
  qos1: {maxOutboundBytes: 64KiB, maxQueuedMessages: 5, maxInflight: 10, slowConsumerQos1: disconnect}
  bytes: {maxOutboundBytes: 64KiB, maxQueuedBytes: 20KiB, maxInflight: 10, slowConsumerQos1: disconnect}
  wide: {maxOutboundBytes: 64MiB, slowConsumerQos0: disconnect}";

const SIZE: usize = 8_000;
const DROPPED: &str = "raftmq_messages_dropped_total{reason=\"slow_consumer\"}";
const QUEUE_FULL: &str = "raftmq_messages_dropped_total{reason=\"session_queue_full\"}";
const ENDED: &str = "raftmq_clients_disconnected_total{reason=\"slow_consumer\"}";

/// A node, a client of one of its listeners with a session that does not end, and one that publishes to it.
struct Lab {
    node: Node,
    slow: Client,
    publisher: Client,
}

fn lab(listener: usize, qos: QoS) -> Lab {
    let node = Node::with_listeners(LISTENERS, &[]);
    let mut slow = Client::connect_with(node.addresses[listener], &connect("slow", true, 0, 600)).0;
    slow.subscribe("t", qos);
    let publisher = Client::connect(node.mqtt, "publisher");
    Lab { node, slow, publisher }
}

impl Lab {
    fn publish(&mut self, qos: QoS) {
        let packet_id = (qos != QoS::AtMostOnce).then_some(1);
        self.publisher.send(&publish("t", &[7; SIZE], packet_id));
        if packet_id.is_some() {
            assert!(matches!(self.publisher.receive(), Got::PubAck { .. }));
        } else {
            self.publisher.ping();
        }
    }

    /// Until one of the numbers is not 0.
    fn publish_until(&mut self, qos: QoS, numbers: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while numbers.iter().all(|name| self.node.metric(name) == 0) {
            assert!(Instant::now() < deadline, "it takes everything");
            self.publish(qos);
        }
    }

    /// Whatever it was sent before it was disconnected, and the reason.
    fn last_of_slow(&mut self) -> (usize, Got) {
        let mut messages = 0;
        loop {
            match self.slow.receive() {
                Got::Publish { .. } => messages += 1,
                other => return (messages, other),
            }
        }
    }
}

#[test]
fn by_default_qos_0_is_dropped_and_qos_1_queued_to_its_bounds_and_nobody_is_disconnected() {
    let mut lab = lab(1, QoS::AtLeastOnce);
    lab.publish_until(QoS::AtMostOnce, &[DROPPED, QUEUE_FULL]);
    lab.publish_until(QoS::AtLeastOnce, &[QUEUE_FULL]);
    assert_eq!(lab.node.metric(ENDED), 0);
    lab.slow.send(&PINGREQ);
    assert_eq!(lab.last_of_slow().1, Got::PingResp);
}

#[test]
fn who_does_not_read_qos_0_is_disconnected_where_the_zone_wants_it() {
    let mut lab = lab(2, QoS::AtMostOnce);
    lab.publish_until(QoS::AtMostOnce, &[DROPPED, QUEUE_FULL]);
    let (messages, end) = lab.last_of_slow();
    assert_eq!(end, Got::Disconnect(ReasonCode::QuotaExceeded));
    assert!(messages > 7, "{messages} of {SIZE} bytes came before");
    lab.node.wait_metric(ENDED, 1);
    let log = lab.node.log();
    assert!(log.lines().any(|line| line.contains("does not keep up") && line.contains("slow")), "{log}");
}

#[test]
fn a_full_queue_disconnects_where_the_zone_wants_it_and_the_session_stays() {
    // By count, and by bytes.
    for (listener, kept) in [(3, 15), (4, 12)] {
        let mut lab = lab(listener, QoS::AtLeastOnce);
        // None is acknowledged: ten in flight, and five or two that wait.
        for _ in 0..kept {
            lab.publish(QoS::AtLeastOnce);
        }
        assert_eq!((lab.node.metric(QUEUE_FULL), lab.node.metric(ENDED)), (0, 0));
        lab.publish(QoS::AtLeastOnce);
        assert_eq!(lab.last_of_slow(), (10, Got::Disconnect(ReasonCode::QuotaExceeded)));
        lab.node.wait_metric(ENDED, 1);
        assert_eq!(lab.node.metric(QUEUE_FULL), 1);
        let (mut back, present) = Client::connect_with(lab.node.addresses[listener], &connect("slow", false, 0, 600));
        assert!(present);
        assert_eq!(back.messages(kept).len(), kept);
        assert_eq!(back.receive_within(Duration::from_millis(200)), Got::Nothing);
    }
}

/// QoS 0 is no reason for the limit of QoS 1, nor the other way round.
#[test]
fn each_policy_is_for_its_own_qos() {
    let mut zero = lab(3, QoS::AtMostOnce);
    zero.publish_until(QoS::AtMostOnce, &[DROPPED, QUEUE_FULL]);
    let mut one = lab(2, QoS::AtLeastOnce);
    one.publish_until(QoS::AtLeastOnce, &[QUEUE_FULL]);
    for mut lab in [zero, one] {
        assert_eq!(lab.node.metric(ENDED), 0);
        lab.slow.send(&PINGREQ);
        assert_eq!(lab.last_of_slow().1, Got::PingResp);
    }
}

/// Five times what the node's other clients may have waiting, and what the sockets take.
#[test]
fn bytes_that_may_wait_are_the_zones() {
    let mut lab = lab(5, QoS::AtMostOnce);
    for _ in 0..(20 << 20) / SIZE {
        lab.publish(QoS::AtMostOnce);
    }
    assert_eq!((lab.node.metric(DROPPED), lab.node.metric(ENDED)), (0, 0));
    // And what waits may change while it is connected.
    lab.node.edit("wide: {maxOutboundBytes: 64MiB", "wide: {maxOutboundBytes: 1MiB");
    let said = lab.node.reload(0);
    assert!(said.contains("zones.wide.maxOutboundBytes") && said.contains("needs_restart=\"\""), "{said}");
    lab.publish_until(QoS::AtMostOnce, &[DROPPED]);
    lab.node.wait_metric(ENDED, 1);
}
