//! Bans that come while connections are open.

use raftmq_meta::{Ban, BanOrigin, BanTarget};

use super::*;

fn of_addresses(range: &str) -> Ban {
    Ban {
        target: BanTarget::Address(range.parse().unwrap()),
        reason: String::new(),
        by: "test".into(),
        origin: BanOrigin::Operator,
        since_ms: 0,
        until_ms: None,
    }
}

/// Who is behind it is not known before the balancer has said so.
#[test]
fn a_ban_of_the_balancers_address_is_not_one_of_who_comes_through_it() {
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n";
    let text = "listeners:\n- {name: default, bind: '127.0.0.1:0', proxyProtocol: any}\n";
    let config = Config::from_sources(text, "test.yaml", std::iter::empty(), &[]).unwrap();
    let lab = Lab::with(LeaseState::always(), 1, &config, Router::standalone);
    // Nothing of the header, a part, all.
    let mut waiting = [0, 10, HEADER.len()].map(|sent| {
        let mut client = Client::open(lab.address);
        client.send(&HEADER[..sent]);
        (client, sent)
    });
    let connected = |id: &str| {
        let mut client = Client::open(lab.address);
        client.send(&[HEADER, &connect(id, true, 0, 0)].concat());
        assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success });
        client
    };
    // The worker has all that came before this one.
    let mut last = connected("last");
    lab.shared.bans.in_force(vec![of_addresses("127.0.0.0/8")]);
    std::thread::sleep(SILENCE);
    last.ping();
    for (at, (client, sent)) in waiting.iter_mut().enumerate() {
        client.send(&[&HEADER[*sent..], &connect(&format!("c{at}"), true, 0, 0)].concat());
        assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::Success }, "{sent} bytes");
    }
    // Once it has, also who has not said CONNECT yet is held against it.
    let mut silent = Client::open(lab.address);
    silent.send(HEADER);
    let mut later = connected("later");
    lab.shared.bans.in_force(vec![of_addresses("192.0.2.0/24")]);
    assert_eq!(silent.receive(), Got::Closed);
    assert_eq!(later.receive(), Got::Disconnect(ReasonCode::AdministrativeAction));
}

/// Who does not read keeps its connection for a while after it was closed.
#[test]
fn what_is_left_for_a_closed_connection_is_not_written_without_a_lease() {
    for leased in [true, false] {
        let lab = Lab::new(LeaseState::always());
        let (slow, _) = Client::connect_with(lab.address, &connect("slow", true, 0, 60));
        let mut slow = lab.flood(slow);
        lab.shared
            .bans
            .in_force(vec![Ban { target: BanTarget::ClientId("slow".into()), ..of_addresses("192.0.2.0/24") }]);
        std::thread::sleep(SILENCE);
        if !leased {
            lab.shared.lease.set(0);
        }
        let last = slow.last_words();
        let told = matches!(last, Got::Disconnect(ReasonCode::AdministrativeAction));
        assert_eq!(told, leased, "{last:?}");
    }
}
