//! Two nodes that do not reach each other, and a third that reaches both.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raftmq_links::pki::ClusterCa;
use raftmq_links::{Class, Hello, LinkError, LinkOptions};

use crate::proxy::Proxy;
use crate::support::{CLUSTER, ECHO, Names, Node, SOON, WAIT, WHO, ca, material, options, start_with, until};

/// `a` finds `b` behind a proxy, `c` finds it where it is.
struct Three {
    ca: ClusterCa,
    a: Node,
    b: Node,
    c: Node,
    names: Names,
    others: Names,
    between: Proxy,
}

const SECOND: Duration = Duration::from_secs(1);

async fn node(ca: &ClusterCa, name: &str, number: u64, names: &Names, dead_after: Duration) -> Node {
    let options = LinkOptions { dead_after, connect_timeout: SECOND, ..options() };
    let hello = Hello { raft_id: number, ..Hello::new(CLUSTER, name, number.into(), 1) };
    start_with(material(ca, CLUSTER, name), hello, options, names).await
}

async fn three() -> Three {
    three_with(SECOND).await
}

async fn three_with(dead_after: Duration) -> Three {
    let ca = ca();
    let (names, others) = (Names::default(), Names::default());
    let a = node(&ca, "a", 1, &names, dead_after).await;
    let b = node(&ca, "b", 2, &others, dead_after).await;
    let c = node(&ca, "c", 3, &others, dead_after).await;
    let between = Proxy::start(b.links.local_addr()).await;
    names.set("b", between.addr);
    names.set("c", c.links.local_addr());
    others.set("b", b.links.local_addr());
    Three { ca, a, b, c, names, others, between }
}

impl Three {
    async fn ask(&self, kind: u16) -> Result<Bytes, LinkError> {
        self.a.links.request("b", kind, Bytes::from_static(b"x"), Class::Log, Duration::from_secs(3)).await
    }

    /// Asks who is there until somebody is.
    async fn who(&self) -> Bytes {
        let mut error = None;
        for _ in 0..100 {
            match self.ask(WHO).await {
                Ok(answer) => return answer,
                Err(other) => error = Some(other),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{error:?}");
    }

    /// `a` and `b` are connected to `c`, so it is one that can be asked.
    async fn meet(&self) {
        for (from, to) in [(&self.a, "c"), (&self.c, "b")] {
            from.links.request(to, ECHO, Bytes::new(), Class::Control, SOON).await.unwrap();
        }
    }

    /// Where connections end that nobody answers.
    fn cut(&self) {
        self.names.set("b", "127.0.0.1:1".parse().unwrap());
        self.between.stall(true);
    }

    fn via(&self) -> Option<String> {
        self.a.links.peer("b").unwrap().via
    }

    fn passed_on(&self) -> u64 {
        self.c.links.metrics().relayed.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_peer_that_cannot_be_dialled_is_reached_by_another_and_sees_who_asks() {
    let three = three().await;
    three.meet().await;
    three.cut();
    assert_eq!(three.who().await, "1");
    assert_eq!((three.via().as_deref(), three.passed_on()), (Some("c"), 1));
    // More than any buffer holds, both ways at once.
    let large = Bytes::from(vec![7; 3 << 20]);
    let ask = || three.a.links.request("b", ECHO, large.clone(), Class::Log, SOON);
    let (one, two) = tokio::join!(ask(), ask());
    assert_eq!((one.unwrap().len(), two.unwrap().len()), (large.len(), large.len()));
    // Only while somebody wants it.
    three.a.links.shutdown().await;
    until("the connection that was passed on ends", || three.passed_on() == 0).await;
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_left_for_another_way_and_that_for_a_straight_one() {
    let three = three().await;
    three.meet().await;
    three.ask(ECHO).await.unwrap();
    assert_eq!(three.via(), None);
    three.cut();
    until("the peer is reached by another", || {
        let peer = three.a.links.peer("b").unwrap();
        assert!(peer.is_connected(), "{peer:?}");
        peer.via.is_some()
    })
    .await;
    assert_eq!(three.ask(WHO).await.unwrap(), "1");
    // Who waits for an answer by the one gets it though the other is taken meanwhile.
    let (waiting, opening) = (three.ask(WAIT), async {
        three.names.set("b", three.b.links.local_addr());
        until("the peer is reached straight", || three.via().is_none()).await;
        assert_eq!(three.passed_on(), 1);
        three.b.seen.gate.add_permits(1);
    });
    tokio::join!(waiting, opening).0.unwrap();
    until("nothing is passed on", || three.passed_on() == 0).await;
    assert_eq!(three.ask(WHO).await.unwrap(), "1");
}

#[tokio::test]
async fn what_is_begun_on_a_way_that_works_is_written_when_it_is_left() {
    let three = three_with(4 * SECOND).await;
    let narrow = Proxy::start_narrow(three.c.links.local_addr());
    three.names.set("c", narrow.addr);
    three.meet().await;
    three.cut();
    assert_eq!(three.who().await, "1");
    assert_eq!(three.via().as_deref(), Some("c"));
    three.names.set("b", three.b.links.local_addr());
    // Each takes some time to be written; one is being written when the straight way is taken.
    let large = Bytes::from(vec![7; 1 << 20]);
    let asking = || async {
        let mut asked = 0;
        while three.via().is_some() {
            let answer = three.a.links.request("b", ECHO, large.clone(), Class::Log, SOON).await;
            assert_eq!(answer.map(|answer| answer.len()), Ok(large.len()), "after {asked}");
            asked += 1;
        }
        asked
    };
    let (one, two) = tokio::join!(asking(), asking());
    // Not more than come through there in this time.
    assert!((2..40).contains(&(one + two)), "{one} and {two}");
    until("nothing is passed on", || three.passed_on() == 0).await;
}

#[tokio::test]
async fn one_way_frames_come_once_and_in_order_whatever_way_they_take() {
    let three = Arc::new(three().await);
    three.meet().await;
    let sender = Arc::clone(&three);
    let sending = tokio::spawn(async move {
        for number in 0..4_000_u32 {
            sender.a.links.send("b", 9, Bytes::copy_from_slice(&number.to_be_bytes())).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    until("some come straight", || three.b.seen.count() > 100).await;
    three.cut();
    until("they go by another", || three.via().is_some()).await;
    let before = three.b.seen.count();
    until("some come that way", || three.b.seen.count() > before + 100).await;
    three.names.set("b", three.b.links.local_addr());
    until("they go straight", || three.via().is_none()).await;
    sending.await.unwrap();
    until("all come", || three.b.seen.count() >= 4_000).await;
    // What was stalled comes to the old connection, too late.
    three.between.stall(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let numbers: Vec<u32> =
        three.b.seen.payloads().iter().map(|frame| u32::from_be_bytes(frame[..].try_into().unwrap())).collect();
    assert_eq!(numbers, (0..4_000).collect::<Vec<_>>());
    let frames = three.b.seen.frames.lock().unwrap();
    assert!(frames.iter().all(|(node, boot, _, _)| node == "a" && *boot == 1));
}

#[tokio::test]
async fn nobody_passes_on_to_where_it_is_not_connected() {
    let three = three().await;
    three.a.links.request("c", ECHO, Bytes::new(), Class::Control, SOON).await.unwrap();
    three.cut();
    for _ in 0..10 {
        let error = three.ask(ECHO).await.unwrap_err();
        assert!(matches!(error, LinkError::Unreachable(_)), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(three.c.links.metrics().class(Class::Log).frames_out.load(std::sync::atomic::Ordering::Relaxed), 0);
    // Once it is, it does.
    three.c.links.request("b", ECHO, Bytes::new(), Class::Control, SOON).await.unwrap();
    assert_eq!(three.who().await, "1");
}

#[tokio::test]
async fn an_answer_that_takes_its_time_changes_no_way() {
    let three = three_with(Duration::from_secs(5)).await;
    three.meet().await;
    let waiting = three.a.links.request("b", WAIT, Bytes::new(), Class::Log, SOON);
    let opening = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        three.b.seen.gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(waiting, opening);
    answer.unwrap();
    assert_eq!((three.via(), three.between.accepted()), (None, 1));
}

#[tokio::test]
async fn who_hangs_is_not_waited_for_where_another_helps() {
    let three = three().await;
    three.meet().await;
    // A helper that falls silent while it is held to be there, and is asked first half of the time.
    let patient =
        LinkOptions { connect_timeout: Duration::from_secs(30), dead_after: Duration::from_secs(60), ..options() };
    let tls = material(&three.ca, CLUSTER, "p");
    let asking = start_with(tls, Hello::new(CLUSTER, "p", 9, 1), patient, &three.names).await;
    let d = node(&three.ca, "d", 4, &three.others, SECOND).await;
    let before_d = Proxy::start(d.links.local_addr()).await;
    three.names.set("d", before_d.addr);
    for to in ["c", "d"] {
        asking.links.request(to, ECHO, Bytes::new(), Class::Control, SOON).await.unwrap();
    }
    before_d.stall(true);
    three.names.set("b", "127.0.0.1:1".parse().unwrap());
    for class in [Class::Control, Class::Log, Class::Bulk] {
        let begun = std::time::Instant::now();
        while asking.links.request("b", ECHO, Bytes::new(), class, SOON).await.is_err() {
            assert!(begun.elapsed() < SOON, "{class:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(asking.links.peer("b").unwrap().via.as_deref(), Some("c"));
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_not_reached_by_anybody() {
    let three = three().await;
    three.meet().await;
    three.ask(ECHO).await.unwrap();
    // As if it was stopped: connections are made, and nothing comes of them, by neither way.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    three.names.set("b", mute.local_addr().unwrap());
    three.others.set("b", mute.local_addr().unwrap());
    three.between.stall(true);
    until("that is noticed", || !three.a.links.peer("b").unwrap().is_connected()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let peer = three.a.links.peer("b").unwrap();
    assert!(!peer.is_connected() && peer.last_error.is_some(), "{peer:?}");
    until("nothing is passed on for ever", || three.passed_on() <= 4).await;
    three.between.stall(false);
    three.names.set("b", three.between.addr);
    assert_eq!(three.who().await, "1");
}

#[tokio::test]
async fn a_straight_way_that_lets_only_greetings_through_is_not_tried_for_ever() {
    let three = three().await;
    three.meet().await;
    three.between.lose_after(6_000);
    three.ask(WHO).await.unwrap();
    let large = Bytes::from(vec![7; 20_000]);
    let begun = std::time::Instant::now();
    while three.a.links.request("b", ECHO, large.clone(), Class::Log, Duration::from_secs(2)).await.is_err() {
        assert!(begun.elapsed() < SOON, "{:?}", three.a.links.peer("b"));
    }
    assert_eq!(three.via().as_deref(), Some("c"));
    // Longer than a straight one that fell silent for another reason is left alone: two seconds; it is four here.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2_500) {
        three.a.links.request("b", ECHO, large.clone(), Class::Log, SOON).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(three.via().as_deref(), Some("c"));
    // And still, it is tried again.
    three.names.set("b", three.b.links.local_addr());
    until("the peer is reached straight", || three.via().is_none()).await;
    three.a.links.request("b", ECHO, large, Class::Log, SOON).await.unwrap();
}
