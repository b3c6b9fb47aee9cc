//! Handed over to the other workers before it is acknowledged.

use super::*;
use crate::worker::inbox::tests::message;

const ACKNOWLEDGED: Got = Got::PubAck { packet_id: 1, reason: ReasonCode::Success };

/// Fills the queue of the second worker.
fn fill(lab: &Lab) {
    let large = vec![0; 1 << 20];
    let mut count = 0;
    while lab.shared.inboxes[1].push_one(message(count, &large)) {
        count += 1;
    }
    while lab.shared.inboxes[1].push_one(message(count, b"small")) {
        count += 1;
    }
}

fn make_room(lab: &Lab) {
    lab.shared.inboxes[1].take(&mut std::collections::VecDeque::new());
}

#[test]
fn a_publisher_waits_for_room_at_the_other_worker() {
    let lab = Lab::with_inboxes(LeaseState::always(), 2);
    assert!(lab.shared.router.subscribe(1, &["t".into()]).is_none());
    let mut client = Client::connect(lab.address, "c");
    let mut other = Client::connect(lab.address, "other");
    other.subscribe("u", QoS::AtMostOnce);
    fill(&lab);
    // Less than would stop it from being read.
    client.send(&publish("t", b"more", Some(1)));
    assert_eq!(client.receive_within(SILENCE), Got::Nothing, "acknowledged and not handed over");
    // Who has nothing for that worker does not wait.
    other.send(&publish("u", b"u", Some(1)));
    assert_eq!(other.messages(1), [b"u"]);
    assert_eq!(other.receive(), ACKNOWLEDGED);
    // It is read, but not answered.
    client.send(&publish("u", b"v", None));
    assert_eq!(other.messages(1), [b"v"]);
    client.send(&PINGREQ);
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    make_room(&lab);
    assert_eq!(client.receive(), ACKNOWLEDGED);
    assert_eq!(client.receive(), Got::PingResp);
    client.ping();
}

/// It ends with its connection.
#[test]
fn a_publisher_that_waits_and_is_taken_over_is_not_acknowledged_before() {
    let lab = Lab::with_inboxes(LeaseState::always(), 2);
    assert!(lab.shared.router.subscribe(1, &["t".into()]).is_none());
    let mut client = Client::connect(lab.address, "c");
    fill(&lab);
    client.send(&publish("t", b"more", Some(1)));
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    let mut second = Client::connect(lab.address, "c");
    second.ping();
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    make_room(&lab);
    assert_eq!(client.receive(), ACKNOWLEDGED);
    assert_eq!(client.receive(), Got::Disconnect(ReasonCode::SessionTakenOver));
}
