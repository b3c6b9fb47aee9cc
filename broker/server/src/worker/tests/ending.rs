//! The end of a node, and of connections that others take over.

use super::*;
use crate::worker::inbox::tests::message;
use crate::worker::{Attempt, Shared};
use raftmq_routing::{Ask, Choice, GroupStrategy, group_key};

impl Lab {
    /// A client with a will, a member of the group `$share/g/s`, that does not read what it is sent.
    fn stuck(&self) -> Client {
        let mut slow = Client::open(self.address);
        slow.start(&connect_with_will("slow", "will"));
        slow.subscribe("$share/g/s", QoS::AtLeastOnce);
        self.flood(slow)
    }

    /// More comes for the client than it reads.
    pub(super) fn flood(&self, mut slow: Client) -> Client {
        slow.subscribe("flood", QoS::AtMostOnce);
        let mut publisher = Client::connect(self.address, "p");
        let dropped = "raftmq_messages_dropped_total{reason=\"slow_consumer\"}";
        let payload = vec![0; 100_000];
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.metric(dropped) == 0 {
            assert!(Instant::now() < deadline, "it takes everything");
            publisher.send(&publish("flood", &payload, None));
            publisher.ping();
        }
        slow
    }

    /// Whether the group has a member that is connected; `None`: it has no member.
    fn online(&self) -> Option<bool> {
        let group = group_key("$share/g/s").unwrap();
        let ask = Ask {
            strategy: GroupStrategy::RoundRobin,
            own: 1,
            client: "",
            topic: "s",
            random: 0,
            forwarded: false,
            tried: &[],
            excluded: &[],
        };
        match self.shared.features.groups.choose(&group, &[], &ask, |_, _| 0) {
            Choice::Member(chosen) => Some(chosen.online),
            _ => None,
        }
    }

    fn begin_end(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.closing.send_replace(true);
    }
}

/// A message for whoever of `$share/g/s` the worker chooses.
fn shared() -> Item {
    let Item::Publish(message) = message(1, b"s") else { unreachable!() };
    let group = group_key("$share/g/s").unwrap();
    Item::Shared(Box::new(Shared { message, group, chosen: None, attempt: Attempt::default() }))
}

/// The node ends before such a client is given up.
#[test]
fn who_does_not_read_is_closed_like_the_others() {
    let mut lab = Lab::new(LeaseState::always());
    let _slow = lab.stuck();
    lab.stop();
    assert_eq!(lab.metric("raftmq_clients"), 0);
    assert_eq!(lab.metric("raftmq_wills_published_total"), 1);
}

/// Other workers would give it what nobody takes any more, where members of other nodes are there.
#[test]
fn a_member_that_is_about_to_leave_is_not_chosen() {
    let lab = Lab::new(LeaseState::always());
    let _slow = lab.stuck();
    assert_eq!(lab.online(), Some(true));
    lab.begin_end();
    let deadline = Instant::now() + Duration::from_secs(2);
    while lab.online() == Some(true) {
        assert!(Instant::now() < deadline, "it is chosen");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(lab.online(), None, "it is no member any more");
    assert_ne!(lab.metric("raftmq_clients"), 0, "it is still there");
}

/// Other nodes may choose this one a moment longer: what they send goes on to others, which a worker that has ended would not do.
#[test]
fn clients_are_closed_when_no_other_node_chooses_this_one() {
    let mut lab = Lab::new(LeaseState::always());
    let _slow = lab.stuck();
    lab.shared.chosen.store(true, Ordering::Release);
    lab.begin_end();
    std::thread::sleep(SILENCE);
    assert_ne!(lab.metric("raftmq_clients"), 0);
    lab.shared.inboxes[0].push_one(shared());
    let deadline = Instant::now() + Duration::from_secs(2);
    // There are no others in this case.
    while lab.metric("raftmq_messages_dropped_total{reason=\"no_member\"}") == 0 {
        assert!(Instant::now() < deadline, "nobody looks at it");
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.shared.chosen.store(false, Ordering::Release);
    lab.stop();
    assert_eq!(lab.metric("raftmq_clients"), 0);
}

/// Until all workers know who leaves, one may choose a member of another.
#[test]
fn what_comes_for_a_group_before_all_workers_leave_is_not_lost() {
    let mut lab = Lab::with_inboxes(LeaseState::always(), 2);
    lab.shared.leaving.fetch_sub(1, Ordering::AcqRel);
    lab.begin_end();
    std::thread::sleep(SILENCE);
    // As from a worker that is late. Nobody is there who takes it, which is found out where it is looked at.
    lab.shared.inboxes[0].push_unseen(shared());
    lab.shared.leaving.fetch_add(1, Ordering::AcqRel);
    lab.stop();
    assert_eq!(lab.metric("raftmq_messages_dropped_total{reason=\"no_member\"}"), 1);
}

/// And a worker that never gets there does not hold up the end.
#[test]
fn the_wait_for_the_other_workers_is_bounded() {
    let mut lab = Lab::with_inboxes(LeaseState::always(), 2);
    lab.shared.leaving.fetch_sub(1, Ordering::AcqRel);
    let begun = Instant::now();
    lab.stop();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn what_waited_for_a_lease_is_not_written_at_the_end() {
    let mut lab = Lab::new(LeaseState::always());
    let mut client = Client::connect(lab.address, "c");
    client.subscribe("t", QoS::AtLeastOnce);
    let mut other = Client::connect(lab.address, "other");
    lab.serve(false);
    assert!(lab.shared.inboxes[0].push_one(message(1, b"1")));
    assert_eq!(client.receive_within(SILENCE), Got::Nothing);
    lab.shared.lease.set(0);
    lab.stop();
    // Both are told why they are closed, and nothing else.
    assert_eq!(client.receive(), Got::Disconnect(ReasonCode::ServerShuttingDown));
    assert_eq!(client.receive(), Got::Closed);
    assert_eq!(other.last_words(), Got::Disconnect(ReasonCode::ServerShuttingDown));
}

/// In a cluster a SUBACK waits, and in the meantime the client may connect again.
#[test]
fn a_barrier_that_ends_after_a_takeover_says_nothing() {
    let (reached, seen) = watch::channel(true);
    let lab = Lab::with(LeaseState::always(), 1, &Config::default(), |routes| Router::with_barrier(routes, seen));
    let mut observer = Client::connect(lab.address, "observer");
    observer.subscribe("$SYS/brokers/+/clients/+/subscribed", QoS::AtMostOnce);
    assert_eq!(event(&mut observer), "$SYS/brokers/raftmq-0/clients/observer/subscribed");
    // What it does not read keeps its connection for a while.
    let (first, _) = Client::connect_with(lab.address, &connect("c", true, 0, 60));
    let mut first = lab.flood(first);
    assert_eq!(event(&mut observer), "$SYS/brokers/raftmq-0/clients/c/subscribed");
    reached.send_replace(false);
    first.send(&crate::worker::client::subscribe(1, "t", QoS::AtLeastOnce));
    lab.wait_metric("raftmq_subscriptions", 3);
    let (mut second, present) = Client::connect_with(lab.address, &connect("c", false, 0, 60));
    assert!(present);
    // The first one is still there, that of the flood has ended.
    lab.wait_metric("raftmq_connections", 3);
    reached.send_replace(true);
    second.subscribe("u", QoS::AtLeastOnce);
    assert_eq!(event(&mut observer), "$SYS/brokers/raftmq-0/clients/c/subscribed");
    // The session has both.
    let mut publisher = Client::connect(lab.address, "p");
    for topic in ["t", "u"] {
        publisher.send(&publish(topic, topic.as_bytes(), Some(1)));
        assert_eq!(publisher.receive(), Got::PubAck { packet_id: 1, reason: ReasonCode::Success });
    }
    assert_eq!(second.messages(2), [b"t", b"u"]);
}

fn event(observer: &mut Client) -> String {
    match observer.receive() {
        Got::Publish { topic, .. } => topic,
        other => panic!("an event expected: {other:?}"),
    }
}
