//! Enhanced authentication, and other workers that want the client identifier in the meantime.

use super::*;

fn lab() -> Lab {
    let mut config = Config::default();
    config.mqtt.authentication.test_method = true;
    Lab::with(LeaseState::always(), 2, &config, Router::standalone)
}

/// CONNECT of the client `c` with the authentication method `test`, and the challenge that answers it.
fn begin(lab: &Lab) -> (Client, Vec<u8>) {
    let mut client = Client::open(lab.address);
    client.send(b"\x10\x15\x00\x04MQTT\x05\x02\x00\x00\x07\x15\x00\x04test\x00\x01c");
    match client.receive() {
        Got::Auth(challenge) => (client, challenge),
        other => panic!("AUTH expected: {other:?}"),
    }
}

fn answer(client: &mut Client, challenge: &[u8]) {
    let mut packet = vec![0xF0, 12 + challenge.len() as u8, 0x18, 10 + challenge.len() as u8];
    packet.extend_from_slice(b"\x15\x00\x04test\x16\x00");
    packet.push(challenge.len() as u8);
    packet.extend_from_slice(challenge);
    client.send(&packet);
}

fn wait_holder(lab: &Lab, wanted: Option<u16>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while lab.shared.registry.holder("c") != wanted {
        assert!(Instant::now() < deadline, "{:?}", lab.shared.registry.holder("c"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nobody_else_gets_the_identifier_of_who_authenticates_itself() {
    let lab = lab();
    let (mut client, challenge) = begin(&lab);
    // As the other worker does at a CONNECT of that identifier: the connection would go where the first one is.
    assert_eq!(lab.shared.registry.claim(&"c".into(), 1), 0);
    assert_eq!(lab.shared.registry.len(), 0, "no session yet");
    answer(&mut client, &challenge);
    assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success });
    assert_eq!(lab.shared.registry.len(), 1);
    client.send(&disconnect());
    wait_holder(&lab, None);
}

#[test]
fn an_identifier_is_free_when_nobody_authenticates_itself_for_it() {
    let lab = lab();
    let (first, _) = begin(&lab);
    let (mut second, _) = begin(&lab);
    drop(first);
    lab.wait_metric("raftmq_connections", 1);
    assert_eq!(lab.shared.registry.holder("c"), Some(0), "the second one is still there");
    answer(&mut second, b"wrong");
    assert_eq!(second.last_words(), Got::ConnAck { present: false, reason: ReasonCode::NotAuthorized });
    wait_holder(&lab, None);
}

#[test]
fn a_session_that_ends_leaves_the_identifier_to_who_authenticates_itself() {
    let lab = lab();
    let (mut client, challenge) = begin(&lab);
    let mut other = Client::connect(lab.address, "c");
    assert_eq!(lab.shared.registry.len(), 1);
    other.send(&disconnect());
    lab.wait_metric("raftmq_connections", 1);
    assert_eq!((lab.shared.registry.len(), lab.shared.registry.claim(&"c".into(), 1)), (0, 0));
    answer(&mut client, &challenge);
    assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success });
    // A session of it is taken over by the next one.
    let (mut next, challenge) = begin(&lab);
    client.ping();
    answer(&mut next, &challenge);
    assert_eq!(client.last_words(), Got::Disconnect(ReasonCode::SessionTakenOver));
    assert_eq!(next.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success });
    drop(next);
    wait_holder(&lab, None);
}
