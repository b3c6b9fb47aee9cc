//! A node without a lease that goes on (`onQuorumLoss: serveLocal`).

use super::*;

impl Lab {
    /// The lease is over; the node goes on, or not.
    fn lose_quorum(&self, goes_on: bool) {
        self.shared.lease.set_goes_on(goes_on);
        self.shared.lease.set(0);
        self.phase.send_replace(Phase::Fenced);
    }

    fn regain_quorum(&self) {
        self.shared.lease.set(u64::MAX);
        self.phase.send_replace(Phase::Serving);
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn clients_are_served_among_each_other_and_stay() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("t", QoS::AtLeastOnce);
    lab.lose_quorum(true);
    lab.phase.send_replace(Phase::Closed);
    client.send(&[publish("t", b"1", Some(1)), PINGREQ.to_vec()].concat());
    assert_eq!(client.messages(1), [b"1"]);
    assert_eq!(client.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    assert_eq!(client.receive(), Got::PingResp);
    // What another worker, or a node that is reached, has for it.
    assert!(lab.shared.inboxes[0].push_one(super::super::inbox::tests::message(2, b"2")));
    assert_eq!(client.messages(1), [b"2"]);
    lab.regain_quorum();
    client.ping();
    // One that does not go on, as after it was told that it is out of the cluster.
    lab.lose_quorum(false);
    client.send(&PINGREQ);
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    lab.phase.send_replace(Phase::Closed);
    assert!(matches!(client.receive(), Got::PingResp | Got::Disconnect(ReasonCode::UseAnotherServer)));
}

#[test]
fn who_connects_is_told_that_the_node_serves_alone() {
    let lab = Lab::new(LeaseState::always());
    let told = |id: &str| {
        let mut client = Client::open(lab.address);
        client.send(&connect(id, true, 0, 0));
        holds(&client.receive_raw(), "raftmq-serving\0\x05local")
    };
    assert!(!told("a"));
    lab.lose_quorum(true);
    assert!(told("a") && told("b"));
    lab.regain_quorum();
    assert!(!told("b"));
    // A node that ends takes nobody.
    lab.lose_quorum(true);
    lab.shared.closing.store(true, Ordering::Release);
    let mut late = Client::open(lab.address);
    late.send(&connect("late", true, 0, 0));
    assert_eq!(late.receive(), Got::ConnAck { present: false, reason: ReasonCode::ServerUnavailable });
}

#[test]
fn subscriptions_wait_for_no_other_node() {
    let (_reached, wait) = watch::channel(false);
    let lab = Lab::with(LeaseState::always(), 1, &Config::default(), |routes| Router::with_barrier(routes, wait));
    lab.shared.lease.set_goes_on(true);
    let mut waits = Client::connect(lab.address, "waits");
    waits.send(&super::super::client::subscribe(1, "t", QoS::AtLeastOnce));
    assert_eq!(waits.receive_within(SILENCE), Got::Nothing);
    lab.lose_quorum(true);
    // The one that waited, and one that comes now.
    assert!(matches!(waits.receive(), Got::SubAck(_)));
    let mut late = Client::connect(lab.address, "late");
    late.subscribe("t", QoS::AtLeastOnce);
    late.send(&publish("t", b"x", None));
    assert_eq!((waits.messages(1), late.messages(1)), (vec![b"x".to_vec()], vec![b"x".to_vec()]));
    lab.regain_quorum();
    late.send(&super::super::client::subscribe(2, "u", QoS::AtLeastOnce));
    assert_eq!(late.receive_within(SILENCE), Got::Nothing);
}

#[test]
fn a_will_is_sent_to_who_is_here() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("will", QoS::AtMostOnce);
    lab.lose_quorum(true);
    let mut dies = Client::open(lab.address);
    dies.start(&connect_with_will("dies", "will"));
    drop(dies);
    assert_eq!(client.messages(1).len(), 1);
}
