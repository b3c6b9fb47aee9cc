//! Workers on real sockets, with a lease and a phase that the test changes.

#![allow(clippy::unwrap_used)]

mod authentication;
mod banned;
mod ending;
mod handing;
mod local;
mod overloaded;
mod refused;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raftmq_cluster::{LeaseState, Phase};
use raftmq_config::Config;
use raftmq_mqtt::{Connect, Message, Origin, Packet, Properties, Publish, QoS, ReasonCode, Version, Will, encode};
use raftmq_routing::{Ask, Choice, SharedRoutes, group_key};
use raftmq_session::SessionLimits;
use raftmq_transport::{PeerInfo, Transport};
use tokio::sync::watch;

use super::client::{Client, Got, PINGREQ, connect, disconnect, publish};
use super::connection::Rest;
use super::inbox::{Adopted, Outgoing};
use super::sharing::{Attempt, ChosenMember, Shared};
use super::socket::Loose;
use super::{ClientRegistry, Clock, Inbox, Item, ListenerState, Live, NodeShared, Router, WorkerHandle, start};
use crate::features::Features;
use crate::healing::Healings;
use crate::metrics::{Metrics, RefuseReason};
use crate::overload::{self, Overload};
use crate::shard_numbers::ShardDrops;

/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(400);

/// One worker.
struct Lab {
    shared: Arc<NodeShared>,
    phase: watch::Sender<Phase>,
    closing: watch::Sender<bool>,
    worker: Option<WorkerHandle>,
    address: SocketAddr,
    metrics: Arc<Metrics>,
}

impl Lab {
    fn new(lease: LeaseState) -> Self {
        Self::with_inboxes(lease, 1)
    }

    /// The first of so many workers; the test is the others.
    fn with_inboxes(lease: LeaseState, inboxes: usize) -> Self {
        Self::with(lease, inboxes, &Config::default(), Router::standalone)
    }

    fn with(lease: LeaseState, inboxes: usize, config: &Config, router: impl FnOnce(SharedRoutes) -> Router) -> Self {
        let routes = SharedRoutes::new();
        let metrics = Metrics::new();
        let features = Features::new(config).unwrap();
        let shared = Arc::new(NodeShared {
            registry: ClientRegistry::new(),
            inboxes: Arc::new((0..inboxes).map(|_| Inbox::new()).collect()),
            routes: routes.clone(),
            router: router(routes),
            lease: Arc::new(lease),
            limits: Arc::new(SessionLimits::default()),
            raft_id: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            // The others do not keep it waiting.
            leaving: AtomicUsize::new(inboxes - 1),
            chosen: AtomicBool::new(false),
            forwards_lost: Arc::default(),
            clock: Clock::new(),
            name: "test".into(),
            live: watch::Sender::new(Arc::new(Live::new(&features, &[]))),
            features,
            bans: crate::bans::Bans::none(),
            flapping: None,
            overload: Arc::new(Overload::new(&config.overload)),
            metrics: Arc::clone(&metrics),
            shards: None,
            from_shards: Vec::new(),
            shard_drops: ShardDrops::default(),
            healings: Healings::default(),
        });
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let state = ListenerState::new(&config.listeners[0], config, None);
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let (closing, closing_seen) = watch::channel(false);
        let counters = metrics.worker();
        let worker =
            start(0, Arc::clone(&shared), counters, vec![(Some(socket), state)], phase_seen, closing_seen).unwrap();
        Self { shared, phase, closing, worker: Some(worker), address, metrics }
    }

    /// As when the lease runs out and comes back.
    fn serve(&self, serving: bool) {
        self.shared.closing.store(!serving, Ordering::Release);
        self.phase.send_replace(if serving { Phase::Serving } else { Phase::Fenced });
    }

    fn stop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.closing.send_replace(true);
        if let Some(worker) = self.worker.take() {
            worker.join();
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
    }

    fn wait_metric(&self, name: &str, wanted: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.metric(name) != wanted {
            assert!(Instant::now() < deadline, "{name} is {}, not {wanted}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn without_a_lease_nothing_is_read_acknowledged_or_delivered() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("t", QoS::AtLeastOnce);
    lab.serve(false);
    client.send(&[publish("t", b"1", Some(1)), PINGREQ.to_vec()].concat());
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    // Who comes now is told to go elsewhere.
    let mut other = Client::open(lab.address);
    other.send(&connect("other", true, 0, 0));
    assert_eq!(other.receive(), Got::ConnAck { present: false, reason: ReasonCode::ServerUnavailable });
    assert_eq!(other.receive(), Got::Closed);
    lab.serve(true);
    assert_eq!(client.messages(1), [b"1"]);
    assert_eq!(client.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    assert_eq!(client.receive(), Got::PingResp);
}

#[test]
fn a_lease_that_comes_back_without_a_change_of_phase_is_noticed() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    lab.shared.closing.store(true, Ordering::Release);
    client.send(&PINGREQ);
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    lab.shared.closing.store(false, Ordering::Release);
    assert_eq!(client.receive(), Got::PingResp);
}

#[test]
fn a_closed_node_sends_its_clients_away_and_serves_again() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect_with(lab.address, &connect("c", true, 0, 60)).0;
    client.subscribe("t", QoS::AtLeastOnce);
    lab.serve(false);
    lab.phase.send_replace(Phase::Closed);
    assert_eq!(client.last_words(), Got::Disconnect(ReasonCode::UseAnotherServer));
    lab.wait_metric("raftmq_connections", 0);
    lab.serve(true);
    let mut publisher = Client::connect(lab.address, "p");
    publisher.send(&publish("t", b"2", Some(1)));
    assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    let (mut client, present) = Client::connect_with(lab.address, &connect("c", false, 0, 60));
    assert!(present);
    assert_eq!(client.messages(1), [b"2"]);
}

#[test]
fn what_is_encoded_when_the_lease_ends_is_not_written() {
    let lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("t", QoS::AtLeastOnce);
    lab.serve(false);
    assert!(lab.shared.inboxes[0].push_one(super::inbox::tests::message(1, b"1")));
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    lab.serve(true);
    assert_eq!(client.messages(1), [b"1"]);
    client.ping();
    // And if it does not come back in time, it never is.
    lab.serve(false);
    assert!(lab.shared.inboxes[0].push_one(super::inbox::tests::message(2, b"2")));
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    lab.phase.send_replace(Phase::Closed);
    assert_eq!(client.receive(), Got::Disconnect(ReasonCode::UseAnotherServer));
    assert_eq!(client.receive(), Got::Closed);
}

#[test]
fn what_comes_from_others_waits_for_the_lease() {
    // It never comes.
    let lab = Lab::new(LeaseState::default());
    let mut client = Client::open(lab.address);
    client.send(&connect("c", true, 0, 0));
    assert_eq!(client.receive(), Got::ConnAck { present: false, reason: ReasonCode::ServerUnavailable });
    // Even where the phase, which is a little late, still says that the node serves.
    let message = super::inbox::tests::message(1, b"m");
    assert!(lab.shared.inboxes[0].push_one(message));
    std::thread::sleep(SILENCE);
    assert!(!lab.shared.inboxes[0].is_empty(), "taken without a lease");
    // Clients are closed: what is left is for sessions.
    lab.phase.send_replace(Phase::Closed);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !lab.shared.inboxes[0].is_empty() {
        assert!(Instant::now() < deadline, "not taken");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_message_is_handed_over_before_it_is_acknowledged() {
    let lab = Lab::with_inboxes(LeaseState::always(), 2);
    assert!(lab.shared.router.subscribe(1, &["t".into()]).is_none());
    let mut client = Client::connect(lab.address, "c");
    let held = lab.shared.inboxes[1].hold();
    client.send(&publish("t", b"1", Some(1)));
    assert_eq!(client.receive_within(SILENCE), Got::Nothing, "acknowledged before it was handed over");
    drop(held);
    assert_eq!(client.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    assert!(!lab.shared.inboxes[1].is_empty());
}

#[test]
fn a_subscription_begins_behind_what_was_handed_over() {
    let lab = Lab::new(LeaseState::always());
    let inbox = &lab.shared.inboxes[0];
    let mut before = Client::connect(lab.address, "before");
    before.subscribe("t", QoS::AtLeastOnce);
    let mut client = Client::connect(lab.address, "c");
    inbox.push_unseen(super::inbox::tests::message(1, b"1"));
    // What is no message stays for the task that it is for.
    inbox.push_unseen(Item::Refused(RefuseReason::Limit));
    inbox.push_unseen(super::inbox::tests::message(2, b"2"));
    client.subscribe("t", QoS::AtLeastOnce);
    assert_eq!(before.messages(2), [b"1", b"2"]);
    assert_eq!(lab.metric("raftmq_connections_refused_total{reason=\"limit\"}"), 0);
    inbox.push_unseen(super::inbox::tests::message(3, b"3"));
    inbox.wake();
    assert_eq!(client.messages(1), [b"3"]);
    assert_eq!(before.messages(1), [b"3"]);
    lab.wait_metric("raftmq_connections_refused_total{reason=\"limit\"}", 1);
    client.ping();
}

#[test]
fn refusals_are_counted_by_what_they_are() {
    let lab = Lab::new(LeaseState::always());
    let counts = || {
        ["authentication", "not_authorized", "protocol"]
            .map(|reason| lab.metric(&format!("raftmq_connections_refused_total{{reason=\"{reason}\"}}")))
    };
    let mut client = Client::open(lab.address);
    // CONNECT with the authentication method `x`.
    client.send(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x04\x15\x00\x01x\x00\x00");
    assert_eq!(client.last_words(), Got::ConnAck { present: false, reason: ReasonCode::BadAuthenticationMethod });
    assert_eq!(counts(), [1, 0, 0]);
    let mut client = Client::open(lab.address);
    client.send(&connect_with_will("c", "$SYS/a"));
    assert_eq!(client.last_words(), Got::ConnAck { present: false, reason: ReasonCode::NotAuthorized });
    assert_eq!(counts(), [1, 1, 0]);
    let mut client = Client::open(lab.address);
    client.send(&PINGREQ);
    assert_eq!(client.last_words(), Got::Closed);
    assert_eq!(counts(), [1, 1, 1]);
}

fn connect_with_will(id: &str, topic: &str) -> Vec<u8> {
    let will = Will { qos: QoS::AtMostOnce, retain: false, topic, payload: b"w", properties: Properties::EMPTY };
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: id,
        will: Some(will),
        username: None,
        password: None,
        properties: Properties::EMPTY,
    };
    let mut out = Vec::new();
    encode(&Packet::Connect(Box::new(connect)), Version::V5, &mut out).unwrap();
    out
}

/// A connection that comes from another worker, its CONNECT read there; and the client's end of it.
fn from_another_worker(packet: Vec<u8>) -> (Item, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, address) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let peer = Box::new(PeerInfo::new(address, Transport::Tcp));
    let rest = Rest { listener: 0, peer, layered: None, bytes: packet, ended: false };
    (Item::Adopt(Box::new(Adopted { socket: Loose::Tcp(socket), rest })), client)
}

/// [MQTT-3.14.4-3], [MQTT-3.1.2-10]: the will of a client that said DISCONNECT is not published, although its next connection came by
/// way of another worker and is looked at first.
#[test]
fn a_disconnect_counts_that_waits_while_the_client_connects_again() {
    let lab = Lab::new(LeaseState::always());
    let (mut observer, _) = Client::connect_with(lab.address, &connect("observer", true, 0, 0));
    observer.subscribe("will", QoS::AtMostOnce);
    for (said, wills) in [(&disconnect()[..], 0), (&PINGREQ[..], 1)] {
        let (mut first, _) = Client::connect_with(lab.address, &connect_with_will("c", "will"));
        let (release, held) = std::sync::mpsc::channel();
        let (second, mut socket) = from_another_worker(connect("c", true, 0, 0));
        let mut items = Outgoing::default();
        items.push(Item::Hold(held));
        items.push(second);
        lab.shared.inboxes[0].push(&mut items);
        first.send(said);
        release.send(()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut greeting = [0; 4];
        socket.read_exact(&mut greeting).unwrap();
        assert_eq!((greeting[0], greeting[3]), (0x20, 0), "CONNACK with success");
        assert_eq!(lab.metric("raftmq_wills_published_total"), wills);
        if wills == 1 {
            // A connection that is only silent is taken over, and its client told so.
            assert_eq!(first.receive(), Got::PingResp);
            assert_eq!(first.receive(), Got::Disconnect(ReasonCode::SessionTakenOver));
        }
    }
    assert_eq!(observer.messages(1), [b"w"]);
}

/// [MQTT-3.14.4-3]: it says DISCONNECT and is gone, while messages for it are on their way.
#[test]
fn a_disconnect_counts_behind_which_nothing_can_be_written() {
    let lab = Lab::new(LeaseState::always());
    let (mut client, _) = Client::connect_with(lab.address, &connect_with_will("c", "will"));
    client.subscribe("t", QoS::AtMostOnce);
    let (release, held) = std::sync::mpsc::channel();
    let mut items = Outgoing::default();
    items.push(Item::Hold(held));
    items.push(super::inbox::tests::message(1, b"1"));
    lab.shared.inboxes[0].push(&mut items);
    client.send(&disconnect());
    // Reset: the first write fails.
    socket2::SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    release.send(()).unwrap();
    lab.wait_metric("raftmq_connections", 0);
    assert_eq!(lab.metric("raftmq_wills_published_total"), 0);
}

/// From a client through the worker to another one, and over a reconnect of each in the middle.
#[test]
fn qos_2_both_ways() {
    // PUBLISH with QoS 2 and packet identifier 7, and its PUBREL.
    const PUBLISH: &[u8] = b"\x34\x07\x00\x01t\x00\x07\x00m";
    const AGAIN: &[u8] = b"\x3C\x07\x00\x01t\x00\x07\x00m";
    const PUBREL: [u8; 4] = [0x62, 2, 0, 7];
    let lab = Lab::new(LeaseState::always());
    let answer = |client: &mut Client, expected: &str| match client.receive() {
        Got::Other(packet) => assert!(packet.starts_with(expected) && packet.contains("reason: Success"), "{packet}"),
        other => panic!("{expected} expected: {other:?}"),
    };
    let message = |id| Got::Publish {
        topic: "t".into(),
        payload: b"m".into(),
        qos: QoS::ExactlyOnce,
        retain: false,
        packet_id: std::num::NonZeroU16::new(id),
    };
    let (mut subscriber, _) = Client::connect_with(lab.address, &connect("s", true, 0, 60));
    subscriber.subscribe("t", QoS::ExactlyOnce);
    let (mut publisher, _) = Client::connect_with(lab.address, &connect("p", true, 0, 60));
    publisher.send(PUBLISH);
    answer(&mut publisher, "PubRec");
    assert_eq!(subscriber.receive(), message(1));
    // Both come back: the publisher did not see the PUBREC, the subscriber sends its own for the repeated message.
    let (mut publisher, present) = Client::connect_with(lab.address, &connect("p", false, 0, 60));
    assert!(present);
    publisher.send(AGAIN);
    answer(&mut publisher, "PubRec");
    publisher.send(&PUBREL);
    answer(&mut publisher, "PubComp");
    let (mut subscriber, present) = Client::connect_with(lab.address, &connect("s", false, 0, 60));
    assert!(present);
    assert_eq!(subscriber.receive(), message(1));
    subscriber.send(&[0x50, 2, 0, 1]);
    answer(&mut subscriber, "PubRel");
    subscriber.send(&[0x70, 2, 0, 1]);
    subscriber.ping();
    // The next one is a new message with the same identifier.
    publisher.send(PUBLISH);
    answer(&mut publisher, "PubRec");
    assert_eq!(subscriber.receive(), message(2));
}

/// Run by the next test, in a process of its own.
#[test]
#[ignore = "ends its process"]
fn child_with_a_worker_that_panics() {
    let lab = Lab::new(LeaseState::always());
    let _client = Client::connect(lab.address, "c");
    assert!(lab.shared.inboxes[0].push_one(Item::Panic));
    std::thread::sleep(Duration::from_secs(20));
}

#[test]
fn a_worker_that_panics_ends_the_process() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "worker::tests::child_with_a_worker_that_panics", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(6), "SIGABRT expected: {} {said}", output.status);
    assert!(said.contains("as the test wants it"), "{said}");
}

fn message(payload: &[u8]) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: Properties::EMPTY,
        payload,
    };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "elsewhere", 0, None).unwrap()
}

/// The member that a message of the group would be given to.
fn member_of(lab: &Lab, filter: &str) -> ChosenMember {
    let features = &lab.shared.features;
    let ask = Ask {
        strategy: features.strategy,
        own: 1,
        client: "elsewhere",
        topic: "t",
        random: 0,
        forwarded: false,
        tried: &[],
        excluded: &[],
    };
    let Choice::Member(chosen) = features.groups.choose(&group_key(filter).unwrap(), &[], &ask, |_, _| 0) else {
        panic!("{filter} has no member");
    };
    ChosenMember { member: chosen.member, filter: chosen.filter, info: chosen.options.info }
}

/// [MQTT-3.10.4-2] [MQTT311-3.10.4-2]: also of what was on its way when the client unsubscribed.
#[test]
fn who_has_unsubscribed_gets_nothing_that_others_have_sent_before() {
    let lab = Lab::new(LeaseState::always());
    let mut left = Client::connect(lab.address, "left");
    left.subscribe("t", QoS::AtMostOnce);
    left.subscribe("$share/g/t", QoS::AtMostOnce);
    let chosen = member_of(&lab, "$share/g/t");
    for filter in ["t", "$share/g/t"] {
        let length = filter.len() as u8;
        left.send(&[&[0xA2, 5 + length, 0, 9, 0, 0, length], filter.as_bytes()].concat());
        assert!(matches!(left.receive(), Got::Other(_)), "UNSUBACK");
    }
    let mut member = Client::connect(lab.address, "member");
    member.subscribe("$share/g/t", QoS::AtMostOnce);
    let shared = Shared {
        message: message(b"for one of the group"),
        group: group_key("$share/g/t").unwrap(),
        chosen: Some(chosen),
        attempt: Attempt::default(),
    };
    let inbox = &lab.shared.inboxes[0];
    assert!(inbox.push_one(Item::Publish(message(b"for all"))));
    assert!(inbox.push_one(Item::Shared(Box::new(shared))));
    // Another member takes what was meant for who has left.
    assert_eq!(member.messages(1), [b"for one of the group"]);
    left.ping();
}
