//! Subscriptions that do not reach every serving node in time: they leave nothing behind, wherever their session is by then.

use std::collections::VecDeque;
use std::sync::{Mutex, mpsc};

use futures::FutureExt;
use raftmq_cluster::BarrierError;
use tokio::sync::oneshot;

use super::*;
use crate::worker::client::subscribe;

type Answer = oneshot::Sender<Result<(), BarrierError>>;

type Told = oneshot::Receiver<Result<(), BarrierError>>;

const FAILED: Result<(), BarrierError> = Err(BarrierError::Timeout);

/// A worker whose subscriptions wait if the test says so before.
struct Barriers {
    lab: Lab,
    next: Arc<Mutex<VecDeque<Told>>>,
    /// A barrier was asked for.
    asked: mpsc::Receiver<()>,
}

impl Barriers {
    fn new() -> Self {
        let next = Arc::new(Mutex::new(VecDeque::<Told>::new()));
        let (ask, asked) = mpsc::channel();
        let waiting = Arc::clone(&next);
        let lab = Lab::with(LeaseState::always(), 1, &Config::default(), |routes| {
            Router::with_barriers(routes, move || {
                let told = waiting.lock().unwrap().pop_front()?;
                ask.send(()).unwrap();
                Some(async move { told.await.unwrap_or(FAILED) }.boxed())
            })
        });
        Self { lab, next, asked }
    }

    /// A SUBSCRIBE that waits.
    fn waiting(&self, client: &mut Client, packet_id: u16, filter: &str, qos: QoS) -> Answer {
        let (answer, told) = oneshot::channel();
        self.next.lock().unwrap().push_back(told);
        client.send(&subscribe(packet_id, filter, qos));
        self.asked.recv_timeout(Duration::from_secs(20)).unwrap();
        answer
    }

    fn connect(&self, clean_start: bool) -> Client {
        let (client, present) = Client::connect_with(self.lab.address, &connect("c", clean_start, 0, 600));
        assert_eq!(present, !clean_start);
        client
    }

    /// Publishes to `t` and gives the QoS with which it comes; `None`: it does not come.
    fn publish(&self, client: &mut Client) -> Option<QoS> {
        self.publish_only();
        client.send(&PINGREQ);
        match client.receive() {
            Got::Publish { qos, packet_id, .. } => {
                if let Some(packet_id) = packet_id {
                    client.send(&crate::worker::client::puback(packet_id));
                }
                assert_eq!(client.receive(), Got::PingResp, "once");
                Some(qos)
            }
            Got::PingResp => None,
            other => panic!("a message or nothing expected: {other:?}"),
        }
    }

    /// Publishes to `t`, and says whether somebody has subscribed to it.
    fn publish_only(&self) -> bool {
        let mut publisher = Client::connect(self.lab.address, "p");
        publisher.send(&publish("t", b"m", Some(1)));
        match publisher.receive() {
            Got::PubAck { reason: ReasonCode::Success, .. } => true,
            Got::PubAck { reason: ReasonCode::NoMatchingSubscribers, .. } => false,
            other => panic!("PUBACK expected: {other:?}"),
        }
    }

    /// How many subscriptions the worker has in all.
    fn has(&self, subscriptions: u64) {
        self.lab.wait_metric("raftmq_subscriptions", subscriptions);
    }
}

fn suback(client: &mut Client, refused: bool) {
    match client.receive() {
        Got::SubAck(reasons) => assert_eq!(reasons == [ReasonCode::UnspecifiedError], refused, "{reasons:?}"),
        other => panic!("SUBACK expected: {other:?}"),
    }
}

const FILTERS: [&str; 2] = ["t", "$share/g/t"];

/// The connection is gone when the barrier fails.
#[test]
fn a_session_without_its_connection_does_not_keep_it() {
    for filter in FILTERS {
        let barriers = Barriers::new();
        let mut client = barriers.connect(true);
        let answer = barriers.waiting(&mut client, 1, filter, QoS::AtLeastOnce);
        drop(client);
        barriers.lab.wait_metric("raftmq_connections", 0);
        barriers.has(1);
        answer.send(FAILED).unwrap();
        barriers.has(0);
        assert!(!barriers.publish_only());
        let mut client = barriers.connect(false);
        client.ping();
        assert_eq!(barriers.publish(&mut client), None);
        // It was not kept for the next time.
        client.subscribe("other", QoS::AtMostOnce);
        drop(client);
        let mut client = barriers.connect(false);
        assert_eq!(barriers.publish(&mut client), None);
        // And it can be had.
        client.subscribe(filter, QoS::AtLeastOnce);
        barriers.has(2);
        assert_eq!(barriers.publish(&mut client), Some(QoS::AtLeastOnce));
    }
}

/// What the group has given it in the meantime, others of the group get.
#[test]
fn what_came_for_a_refused_member_goes_to_another() {
    let barriers = Barriers::new();
    let mut client = barriers.connect(true);
    let answer = barriers.waiting(&mut client, 1, "$share/g/t", QoS::AtLeastOnce);
    drop(client);
    barriers.lab.wait_metric("raftmq_connections", 0);
    assert!(barriers.publish_only());
    let mut other = Client::connect(barriers.lab.address, "other");
    other.subscribe("$share/g/t", QoS::AtLeastOnce);
    other.ping();
    answer.send(FAILED).unwrap();
    assert_eq!(other.messages(1), [b"m"]);
}

/// Another connection has taken the session over when the barrier fails.
#[test]
fn a_session_that_was_taken_over_does_not_keep_it() {
    for filter in FILTERS {
        let barriers = Barriers::new();
        let mut first = barriers.connect(true);
        let answer = barriers.waiting(&mut first, 1, filter, QoS::AtLeastOnce);
        let mut second = barriers.connect(false);
        assert_eq!(barriers.publish(&mut second), Some(QoS::AtLeastOnce), "it waits");
        answer.send(FAILED).unwrap();
        barriers.has(0);
        assert_eq!(barriers.publish(&mut second), None);
        // Nobody who did not ask is answered: the next SUBACK is to the next SUBSCRIBE.
        let answer = barriers.waiting(&mut second, 1, filter, QoS::AtLeastOnce);
        second.ping();
        answer.send(Ok(())).unwrap();
        suback(&mut second, false);
        assert_eq!(barriers.publish(&mut second), Some(QoS::AtLeastOnce));
    }
}

/// What the next connection of the client was granted by the same filter, in the same session or in a new one, is not taken with it.
#[test]
fn what_the_next_connection_was_granted_stays() {
    for filter in FILTERS {
        for clean_start in [false, true] {
            let barriers = Barriers::new();
            let mut first = barriers.connect(true);
            let answer = barriers.waiting(&mut first, 1, filter, QoS::AtLeastOnce);
            drop(first);
            barriers.lab.wait_metric("raftmq_connections", 0);
            let (mut second, _) = Client::connect_with(barriers.lab.address, &connect("c", clean_start, 0, 600));
            second.subscribe(filter, QoS::AtLeastOnce);
            let unanswered = barriers.waiting(&mut second, 2, "later", QoS::AtMostOnce);
            answer.send(FAILED).unwrap();
            // Answered behind it.
            unanswered.send(FAILED).unwrap();
            suback(&mut second, true);
            barriers.has(1);
            assert_eq!(barriers.publish(&mut second), Some(QoS::AtLeastOnce), "{filter} {clean_start}");
        }
    }
}

/// Two equal ones wait, the second one is granted, then the first one is refused.
#[test]
fn a_refused_one_does_not_take_an_equal_one_with_it() {
    for filter in FILTERS {
        let barriers = Barriers::new();
        let mut client = barriers.connect(true);
        let first = barriers.waiting(&mut client, 1, filter, QoS::AtLeastOnce);
        let second = barriers.waiting(&mut client, 2, filter, QoS::AtLeastOnce);
        second.send(Ok(())).unwrap();
        suback(&mut client, false);
        first.send(FAILED).unwrap();
        suback(&mut client, true);
        barriers.has(1);
        assert_eq!(barriers.publish(&mut client), Some(QoS::AtLeastOnce), "{filter}");
    }
}

/// Messages find the subscription with the options that the session has it with, also if its connection has ended.
#[test]
fn a_refused_repetition_leaves_the_subscription_as_it_was() {
    for filter in FILTERS {
        for connected in [true, false] {
            let barriers = Barriers::new();
            let mut client = barriers.connect(true);
            client.subscribe(filter, QoS::AtLeastOnce);
            let answer = barriers.waiting(&mut client, 2, filter, QoS::AtMostOnce);
            assert_eq!(barriers.publish(&mut client), Some(QoS::AtMostOnce), "it waits");
            if connected {
                answer.send(FAILED).unwrap();
                suback(&mut client, true);
            } else {
                drop(client);
                barriers.lab.wait_metric("raftmq_connections", 0);
                answer.send(FAILED).unwrap();
                client = barriers.connect(false);
                let unanswered = barriers.waiting(&mut client, 3, "later", QoS::AtMostOnce);
                unanswered.send(FAILED).unwrap();
                suback(&mut client, true);
            }
            barriers.has(1);
            assert_eq!(barriers.publish(&mut client), Some(QoS::AtLeastOnce), "{filter} {connected}");
        }
    }
}
