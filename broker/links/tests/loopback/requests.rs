//! Requests and their answers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use raftmq_links::{Class, Hello, LinkError, LinkOptions};

use crate::proxy::Proxy;
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_errors_and_sizes() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    for class in [Class::Control, Class::Log, Class::Bulk] {
        for size in [0, 1, 1000, 40_000, 1 << 20, 16 << 20] {
            let payload = Bytes::from(vec![7; size]);
            let answer = a.links.request(&b.addr(), ECHO, payload.clone(), class, SOON).await;
            assert!(answer.as_ref() == Ok(&payload), "{class:?} {size}");
        }
    }
    let fail = a.links.request(&b.addr(), FAIL, Bytes::new(), Class::Log, SOON).await;
    assert_eq!(fail, Err(LinkError::Remote("it cannot be done".to_owned())));
    let panicked = a.links.request(&b.addr(), PANIC, Bytes::new(), Class::Log, SOON).await;
    let failed = LinkError::Remote("the handler failed".to_owned());
    assert_eq!(panicked, Err(failed));
    let data = a.links.request(&b.addr(), ECHO, Bytes::new(), Class::Data, SOON).await;
    assert_eq!(data, Err(LinkError::WrongClass));
    let status = a.links.peer(&b.addr()).unwrap();
    assert_eq!(status.connected, [true, true, true, false]);
    assert_eq!(status.hello.unwrap().node, "b");
    assert_eq!(status.queue_bytes, 0);
    let metrics = a.links.metrics();
    let log = metrics.class(Class::Log);
    assert_eq!(log.frames_out.load(Ordering::SeqCst), 8);
    assert_eq!(log.queue_bytes.load(Ordering::SeqCst), 0);
    assert_eq!(b.links.metrics().inbound.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_writes() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    // They wait for the handshake, as they would for a busy socket.
    let proxy = Proxy::start(b.links.local_addr()).await;
    proxy.stall(true);
    let to = proxy.addr.to_string();
    let calls: Vec<_> = (0..2000u32)
        .map(|n| {
            let (links, to) = (a.links.clone(), to.clone());
            tokio::spawn(async move {
                let payload = Bytes::from(n.to_le_bytes().to_vec());
                let answer = links.request(&to, ECHO, payload.clone(), Class::Log, SOON).await;
                assert_eq!(answer, Ok(payload));
            })
        })
        .collect();
    let cost = 2000 * 100;
    until("all are queued", || a.links.peer(&to).is_some_and(|p| p.queue_bytes == cost)).await;
    proxy.stall(false);
    for call in join_all(calls).await {
        call.unwrap();
    }
    let metrics = a.links.metrics();
    let log = metrics.class(Class::Log);
    assert_eq!(log.frames_out.load(Ordering::SeqCst), 2000);
    let writes = log.writes.load(Ordering::SeqCst);
    assert!(writes < 20, "{writes} writes for 2000 frames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_are_bounded_and_classes_apart() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let small = LinkOptions { handlers_per_class: 8, ..options() };
    let b = start_with(material(&ca, CLUSTER, "b"), Hello::new(CLUSTER, "b", 2, 1), small, &Names::default()).await;
    let to = b.addr();
    let waits: Vec<_> = (0..50u8)
        .map(|n| {
            let (links, to) = (a.links.clone(), to.clone());
            tokio::spawn(async move {
                let payload = Bytes::from(vec![n]);
                links.request(&to, WAIT, payload, Class::Log, SOON).await
            })
        })
        .collect();
    until("eight run", || b.seen.running.lock().unwrap().0 == 8).await;
    // The log class hangs; heartbeats do not care.
    for _ in 0..20 {
        let answer = a.links.request(&to, ECHO, Bytes::new(), Class::Control, SOON).await;
        assert!(answer.is_ok());
    }
    b.seen.gate.add_permits(1000);
    for (n, wait) in waits.into_iter().enumerate() {
        assert_eq!(wait.await.unwrap(), Ok(Bytes::from(vec![n as u8])));
    }
    assert_eq!(b.seen.running.lock().unwrap().1, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_free_both_sides() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start_with(
        material(&ca, CLUSTER, "b"),
        Hello::new(CLUSTER, "b", 2, 1),
        LinkOptions { handlers_per_class: 1, ..options() },
        &Names::default(),
    )
    .await;
    let short = Duration::from_millis(100);
    let begin = Instant::now();
    let late = a.links.request(&b.addr(), WAIT, Bytes::new(), Class::Log, short).await;
    assert_eq!(late, Err(LinkError::Deadline));
    assert!(begin.elapsed() >= short);
    // The only slot is free again, though the handler would have waited for ever.
    let next = a.links.request(&b.addr(), ECHO, Bytes::new(), Class::Log, SOON).await;
    assert_eq!(next, Ok(Bytes::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_are_told_apart_from_unreachable_peers() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    let proxy = Proxy::start(b.links.local_addr()).await;
    let to = proxy.addr.to_string();
    let pending = {
        let (links, to) = (a.links.clone(), to.clone());
        tokio::spawn(async move {
            let nothing = Bytes::new();
            links.request(&to, WAIT, nothing, Class::Log, SOON).await
        })
    };
    until("it runs", || b.seen.running.lock().unwrap().0 == 1).await;
    proxy.cut();
    let answer = pending.await.unwrap();
    assert!(matches!(answer, Err(LinkError::Disconnected(_))), "{answer:?}");
    // By itself, the link comes back.
    let again = a.links.request(&to, ECHO, Bytes::new(), Class::Log, SOON).await;
    assert_eq!(again, Ok(Bytes::new()));
    let metrics = a.links.metrics();
    assert_eq!(metrics.class(Class::Log).reconnects.load(Ordering::SeqCst), 1);

    let begin = Instant::now();
    let nobody = a.links.request("127.0.0.1:1", ECHO, Bytes::new(), Class::Log, SOON).await;
    assert!(matches!(nobody, Err(LinkError::Unreachable(_))), "{nobody:?}");
    assert!(begin.elapsed() < SOON / 2);
    let nameless = a.links.request("nowhere:1", ECHO, Bytes::new(), Class::Log, SOON).await;
    assert!(matches!(&nameless, Err(LinkError::Unreachable(why)) if why.contains("no such name")), "{nameless:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_found_dead() {
    let ca = ca();
    let impatient =
        LinkOptions { dead_after: Duration::from_millis(500), ping_interval: Duration::from_millis(100), ..options() };
    let a = start_with(material(&ca, CLUSTER, "a"), Hello::new(CLUSTER, "a", 1, 1), impatient, &Names::default()).await;
    let b = start(&ca, "b", 2, 1).await;
    let proxy = Proxy::start(b.links.local_addr()).await;
    let to = proxy.addr.to_string();
    let echo = |deadline| a.links.request(&to, ECHO, Bytes::new(), Class::Control, deadline);
    assert!(echo(SOON).await.is_ok());
    until("the round trip is known", || a.links.peer(&to).unwrap().rtt.is_some()).await;
    // A slow handler on a living connection is not a dead peer.
    let slow = a.links.request(&to, WAIT, Bytes::new(), Class::Control, Duration::from_secs(1)).await;
    assert_eq!(slow, Err(LinkError::Deadline));
    assert_eq!(proxy.accepted(), 1);

    proxy.stall(true);
    let lost = echo(SOON).await;
    assert!(matches!(&lost, Err(LinkError::Disconnected(why)) if why.contains("nothing heard")), "{lost:?}");
    proxy.cut();
    proxy.stall(false);
    until("it is connected again", || a.links.peer(&to).unwrap().is_connected()).await;
    assert!(echo(SOON).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_anew_and_forgetting_ends_it() {
    let ca = ca();
    let names = Names::default();
    let a = start_with(material(&ca, CLUSTER, "a"), Hello::new(CLUSTER, "a", 1, 1), options(), &names).await;
    let b = start(&ca, "b", 2, 1).await;
    names.set("b.example:9883", b.links.local_addr());
    let echo = || a.links.request("b.example:9883", ECHO, Bytes::new(), Class::Control, SOON);
    assert!(echo().await.is_ok());
    b.links.shutdown().await;
    let moved = start(&ca, "b", 2, 2).await;
    names.set("b.example:9883", moved.links.local_addr());
    until("the new address is used", || {
        let status = a.links.peer("b.example:9883").unwrap();
        status.is_connected() && status.hello.unwrap().boot == 2
    })
    .await;
    assert!(echo().await.is_ok());
    a.links.forget("b.example:9883");
    assert!(a.links.peer("b.example:9883").is_none());
    until("its sockets are closed", || moved.links.metrics().inbound.load(Ordering::SeqCst) == 0).await;
    a.links.shutdown().await;
    assert_eq!(echo().await, Err(LinkError::Shutdown));
}
