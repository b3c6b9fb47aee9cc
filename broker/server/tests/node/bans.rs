//! Bans on each kind of listener, by whatever they name a client.

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use quinn::ConnectionError;
use raftmq_mqtt::{Connect, Packet, Properties, ReasonCode, Version, encode};

use crate::client::{Client, Got, Stream};
use crate::transports::{KINDS, Transports, tcp};

/// Who is to be banned comes from here, everybody else from the usual one.
const THEIRS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

fn hello(version: Version, id: &str, username: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id: id,
        will: None,
        username: Some(username),
        password: None,
        properties: Properties::EMPTY,
    };
    encode(&Packet::Connect(Box::new(connect)), version, &mut out).unwrap();
    out
}

/// The reason or return code of CONNACK.
fn answer(client: &mut Client<Box<dyn Stream>>, packet: &[u8]) -> u8 {
    client.send(packet);
    let got = client.receive_raw();
    assert_eq!(got.first(), Some(&0x20), "CONNACK expected: {got:?}");
    got[3]
}

/// Ends with the reason, or without a word, in a second after the ban.
fn is_ended(client: &mut Client<Box<dyn Stream>>, version: Version, since: Instant, what: &str) {
    let expected = match version {
        Version::V5 => Got::Disconnect(ReasonCode::AdministrativeAction),
        _ => Got::Closed,
    };
    assert_eq!(client.last_words(), expected, "{what}");
    assert!(since.elapsed() < Duration::from_secs(1), "{what}: after {:?}", since.elapsed());
}

/// Closed before its handshake: nothing was sent, and nothing comes.
fn is_closed_at_once(transports: &Transports, kind: &str, from: Ipv4Addr) {
    if kind == "quic" {
        let error = transports.quic(from).err().unwrap();
        let ConnectionError::ConnectionClosed(close) = &error else { panic!("{error:?}") };
        assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
        return;
    }
    let begun = Instant::now();
    let mut got = Vec::new();
    tcp(from, transports.address(kind)).read_to_end(&mut got).unwrap();
    assert!(got.is_empty(), "{kind}: {got:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{kind}: only {:?} later", begun.elapsed());
}

#[test]
fn a_ban_keeps_out_who_comes_and_ends_who_is_there_on_each_transport() {
    let transports = Transports::start();
    let node = &transports.node;
    let open = |kind: &str, from| Client::over(transports.open(kind, from).unwrap());
    let mut others = KINDS.map(|kind| {
        let mut client = open(kind, HERE);
        client.start(&hello(Version::V5, &format!("good-{kind}"), "alice"));
        client
    });
    let mut refused = 0;
    for (by, value) in
        [("clientid", ""), ("username", "mallory"), ("address", "127.0.0.2"), ("address", "127.0.0.2/31")]
    {
        let username = if by == "clientid" { "carol" } else { "mallory" };
        // Of an identifier only one can be there: every other one of 5, the others of 3.1.1.
        let all = KINDS.into_iter().flat_map(|kind| VERSIONS.map(|version| (kind, version)));
        let id = |kind: &str, version| match by {
            "clientid" => format!("bad-{kind}"),
            _ => format!("{by}-{kind}-{version:?}"),
        };
        let mut there: Vec<_> = all
            .clone()
            .enumerate()
            .filter(|(at, _)| by != "clientid" || at % 4 == 0 || at % 4 == 3)
            .map(|(_, (kind, version))| {
                let (id, mut client) = (id(kind, version), open(kind, THEIRS));
                assert_eq!(answer(&mut client, &hello(version, &id, username)), 0, "{id}");
                (kind, version, id, client)
            })
            .collect();
        let counts = ["closed", "refused"].map(|what| format!("raftmq_bans_{what}_total{{kind=\"{by}\"}}"));
        let [closed, kept_out] = counts.each_ref().map(|name| node.metric(name));
        let mut begun = None;
        for (kind, version, id, client) in &mut there {
            // It is in force once the command is done.
            let add = |value: &str| {
                node.ctl(&["bans", "add", by, value, "--reason", "test"]);
                Instant::now()
            };
            let since = match by {
                "clientid" => add(id),
                _ => *begun.get_or_insert_with(|| add(value)),
            };
            is_ended(client, *version, since, &format!("{by}, {kind} {version:?}"));
        }
        node.wait_metric(&counts[0], closed + there.len() as u64);
        for (kind, version) in all {
            if by == "address" {
                is_closed_at_once(&transports, kind, THEIRS);
            } else {
                let mut client = open(kind, THEIRS);
                let code = answer(&mut client, &hello(version, &id(kind, version), username));
                assert_eq!(code, if version == Version::V5 { 0x8A } else { 5 }, "{by}, {kind} {version:?}");
                assert_eq!(client.last_words(), Got::Closed);
            }
            refused += 1;
        }
        node.wait_metric("raftmq_connections_refused_total{reason=\"banned\"}", refused);
        node.wait_metric(&counts[1], kept_out + 10);
        others.iter_mut().for_each(Client::ping);
        if by != "clientid" {
            node.ctl(&["bans", "delete", by, value]);
            node.wait_metric(&format!("raftmq_bans{{kind=\"{by}\"}}"), 0);
        }
    }
    // Nor does a ban count as something else.
    for reason in ["tls_handshake", "websocket_upgrade", "protocol", "timeout", "not_authorized"] {
        assert_eq!(node.metric(&format!("raftmq_connections_refused_total{{reason=\"{reason}\"}}")), 0, "{reason}");
    }
}

/// A client of QUIC that changes its network is where it is, not where it was.
#[test]
fn a_client_that_has_moved_is_banned_by_the_address_that_it_has() {
    let transports = Transports::start();
    let node = &transports.node;
    let start = |id: &str| {
        let mut client = Client::over(transports.quic(HERE).unwrap());
        client.start(&hello(Version::V5, id, "alice"));
        client
    };
    let [mut moved, mut stays] = ["moved", "stays"].map(start);
    moved.socket.moves_to(THEIRS);
    moved.ping();
    node.ctl(&["bans", "add", "address", "127.0.0.2"]);
    let begun = Instant::now();
    assert_eq!(moved.last_words(), Got::Disconnect(ReasonCode::AdministrativeAction));
    assert!(begun.elapsed() < Duration::from_secs(1), "after {:?}", begun.elapsed());
    stays.ping();
    let mut moved = start("moved");
    node.ctl(&["bans", "delete", "address", "127.0.0.2"]);
    moved.socket.moves_to(THEIRS);
    moved.ping();
    node.ctl(&["bans", "add", "address", "127.0.0.1"]);
    assert_eq!(stays.last_words(), Got::Disconnect(ReasonCode::AdministrativeAction));
    moved.ping();
}
