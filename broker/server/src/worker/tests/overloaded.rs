//! A node that has too much to do.

use std::sync::mpsc;

use super::*;
use raftmq_config::HumanDuration;

const REFUSED: &str = "raftmq_connections_refused_total{reason=\"overload\"}";
const SHED: &str = "raftmq_messages_dropped_total{reason=\"overload\"}";

/// What a CONNECT is answered with, where the connection ends then.
fn refused(lab: &Lab, packet: &[u8]) -> ReasonCode {
    let mut client = Client::open(lab.address);
    client.send(packet);
    let Got::ConnAck { present: false, reason } = client.receive() else { panic!("no CONNACK") };
    if reason != ReasonCode::Success {
        assert_eq!(client.receive(), Got::Closed);
    }
    reason
}

#[test]
fn connections_are_refused_with_the_reason_and_those_that_there_are_stay() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("t", QoS::AtMostOnce);
    drop(Client::connect_with(lab.address, &connect("gone", true, 0, 600)));
    lab.wait_metric("raftmq_clients", 1);
    for (memory, delay, sheds, reason) in [
        (true, false, false, ReasonCode::QuotaExceeded),
        (false, true, false, ReasonCode::ServerBusy),
        (true, true, true, ReasonCode::QuotaExceeded),
    ] {
        lab.shared.overload.force(memory, delay, sheds);
        // New ones, and ones that come back to their session or take it over.
        for id in ["new", "gone", "c"] {
            assert_eq!(refused(&lab, &connect(id, false, 0, 600)), reason, "{id}");
        }
        client.ping();
    }
    assert_eq!(lab.metric(REFUSED), 9);
    assert_eq!(lab.metric("raftmq_connections_refused_total{reason=\"protocol\"}"), 0);
    lab.shared.overload.force(false, false, false);
    assert_eq!(refused(&lab, &connect("new", true, 0, 0)), ReasonCode::Success);
    let (_, present) = Client::connect_with(lab.address, &connect("gone", false, 0, 600));
    assert!(present, "its session was kept");
}

#[test]
fn qos_0_is_shed_and_counted_and_the_rest_goes_on() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("t", QoS::AtLeastOnce);
    client.subscribe("will", QoS::AtMostOnce);
    let mut dies = Client::open(lab.address);
    dies.start(&connect_with_will("dies", "will"));
    lab.shared.overload.force(true, false, false);
    client.send(&publish("t", b"refuses only", None));
    assert_eq!(client.messages(1), [b"refuses only"]);
    for (memory, delay) in [(true, false), (false, true)] {
        lab.shared.overload.force(memory, delay, true);
        let before = lab.metric(SHED);
        let packets = [publish("t", b"0", None), publish("t", b"0", None), publish("t", b"1", Some(1))];
        client.send(&packets.concat());
        let got = [client.receive(), client.receive()];
        assert!(got.contains(&Got::PubAck { packet_id: 1, reason: ReasonCode::Success }), "{got:?}");
        assert!(got.iter().any(|got| matches!(got, Got::Publish { payload, .. } if payload == b"1")), "{got:?}");
        client.ping();
        assert_eq!(lab.metric(SHED), before + 2);
    }
    // Who is gone is told of, though with QoS 0.
    drop(dies);
    assert_eq!(client.messages(1).len(), 1);
    lab.shared.overload.force(false, false, false);
    client.send(&publish("t", b"again", None));
    assert_eq!(client.messages(1), [b"again"]);
    assert_eq!(lab.metric(SHED), 4);
}

/// Measured as it is in a node; only the marks are lower.
#[test]
fn a_worker_that_is_held_up_is_seen() {
    let mut config = Config::default();
    config.overload.loop_delay_refuse = HumanDuration::from_millis(500);
    config.overload.loop_delay_shed = HumanDuration::from_millis(1_500);
    config.overload.recovery = HumanDuration::from_millis(500);
    let lab = Lab::with(LeaseState::always(), 1, &config, Router::standalone);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(overload::watch(Arc::clone(&lab.shared)));
    let mut client = Client::connect(lab.address, "c");
    let level = |wanted: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while lab.shared.overload.answer().level != wanted {
            assert!(Instant::now() < deadline, "{:?}, not {wanted}", lab.shared.overload.answer());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    for wanted in ["refuse", "shed"] {
        let (release, held) = mpsc::channel();
        assert!(lab.shared.inboxes[0].push_one(Item::Hold(held)));
        level(wanted);
        assert_eq!(lab.shared.overload.answer().reasons, ["loopDelay"]);
        let mut waiting = Client::open(lab.address);
        waiting.send(&connect("waits", true, 0, 0));
        release.send(()).unwrap();
        assert_eq!(waiting.receive(), Got::ConnAck { present: false, reason: ReasonCode::ServerBusy });
        client.ping();
        level("normal");
    }
    assert_eq!(refused(&lab, &connect("waits", true, 0, 0)), ReasonCode::Success);
    runtime.shutdown_background();
}
