//! Queues, frames and memory have ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use raftmq_links::{Class, DropReason, Hello, LinkError, LinkOptions, SendError, pki};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::proxy::Proxy;
use crate::support::*;

async fn node_with(ca: &pki::ClusterCa, name: &str, id: u128, options: LinkOptions) -> Node {
    start_with(material(ca, CLUSTER, name), Hello::new(CLUSTER, name, id, 1), options, &Names::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queues_say_so_and_recover() {
    let ca = ca();
    let small = LinkOptions { send_queue_bytes: 10_000, request_queue_bytes: 10_000, ..options() };
    let a = node_with(&ca, "a", 1, small).await;
    let b = start(&ca, "b", 2, 1).await;
    let proxy = Proxy::start(b.links.local_addr()).await;
    let to = proxy.addr.to_string();
    a.links.send(&to, 1, Bytes::new()).unwrap();
    assert!(a.links.drain(SOON).await);
    proxy.stall(true);
    let kilobyte = Bytes::from(vec![1; 1000]);
    let mut taken = 0;
    let error = loop {
        match a.links.send(&to, 1, kilobyte.clone()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(
        matches!(&error, SendError::QueueFull { max: 10_000, queued, address }
            if *queued <= 10_000 && *address == to),
        "{error:?}"
    );
    assert_eq!(taken, 9);
    assert_eq!(a.links.metrics().dropped(DropReason::QueueFull), 1);
    let queued = a.links.peer(&to).unwrap().queue_bytes;
    assert!((9_000..=10_000).contains(&queued), "{queued}");
    proxy.stall(false);
    assert!(a.links.drain(SOON).await);
    assert_eq!(b.seen.count(), 10);
    a.links.send(&to, 1, kilobyte).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outstanding_requests_are_bounded_and_given_up_ones_make_room() {
    let ca = ca();
    let small = LinkOptions { max_outstanding: 4, ..options() };
    let a = node_with(&ca, "a", 1, small).await;
    let b = start(&ca, "b", 2, 1).await;
    let to = b.addr();
    let waits: Vec<_> = (0..4)
        .map(|_| {
            let (links, to) = (a.links.clone(), to.clone());
            tokio::spawn(async move { links.request(&to, WAIT, Bytes::new(), Class::Log, SOON).await })
        })
        .collect();
    until("all run", || b.seen.running.lock().unwrap().0 == 4).await;
    let fifth = a.links.request(&to, ECHO, Bytes::new(), Class::Log, SOON).await;
    assert!(matches!(fifth, Err(LinkError::QueueFull { max: 4, .. })), "{fifth:?}");
    for wait in waits {
        wait.abort();
        let _ = wait.await;
    }
    let sixth = a.links.request(&to, ECHO, Bytes::new(), Class::Log, SOON).await;
    assert_eq!(sixth, Ok(Bytes::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_peer_says_so() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let small = LinkOptions { max_frame_bytes: 10_000, handler_bytes_per_class: 12_000, ..options() };
    let b = node_with(&ca, "b", 2, small).await;
    let to = b.addr();
    let first = {
        let (links, to) = (a.links.clone(), to.clone());
        let payload = Bytes::from(vec![0; 9_000]);
        tokio::spawn(async move { links.request(&to, WAIT, payload, Class::Log, SOON).await })
    };
    until("it runs", || b.seen.running.lock().unwrap().0 == 1).await;
    let payload = Bytes::from(vec![0; 9_000]);
    let second = a.links.request(&to, ECHO, payload.clone(), Class::Log, SOON).await;
    assert_eq!(second, Err(LinkError::Busy));
    assert_eq!(b.links.metrics().dropped(DropReason::Busy), 1);
    b.seen.gate.add_permits(1);
    assert_eq!(first.await.unwrap(), Ok(payload));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_frames_are_refused_by_both_ends() {
    let ca = ca();
    let small = LinkOptions { max_frame_bytes: 50_000, ..options() };
    let a = node_with(&ca, "a", 1, small.clone()).await;
    let large = Bytes::from(vec![0; 50_001]);
    let refused = a.links.send("127.0.0.1:1", 1, large.clone());
    let too_large = SendError::TooLarge { size: 50_001, max: 50_000 };
    assert_eq!(refused, Err(too_large));
    let refused = a.links.request("127.0.0.1:1", 1, large, Class::Log, SOON).await;
    assert!(matches!(refused, Err(LinkError::TooLarge { .. })));
    assert_eq!(a.links.metrics().dropped(DropReason::TooLarge), 2);

    // A peer with a larger limit: its connection is closed at the header.
    let b = start(&ca, "b", 2, 1).await;
    let answer = b.links.request(&a.addr(), ECHO, Bytes::from(vec![0; 60_000]), Class::Log, SOON).await;
    assert!(matches!(answer, Err(LinkError::Disconnected(_))), "{answer:?}");
    let fits = Bytes::from(vec![0; 50_000]);
    let answer = b.links.request(&a.addr(), ECHO, fits.clone(), Class::Log, SOON).await;
    assert_eq!(answer, Ok(fits));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_does_not_grow_memory() {
    let ca = ca();
    let small = LinkOptions { send_queue_bytes: 1 << 20, ..options() };
    let a = node_with(&ca, "a", 1, small).await;
    let b = start(&ca, "b", 2, 1).await;
    *b.seen.frame_delay.lock().unwrap() = Duration::from_millis(1);
    let to = b.addr();
    let payload = Bytes::from(vec![5; 4000]);
    let mut taken = 0;
    let mut full = 0;
    for n in 0..5_000 {
        match a.links.send(&to, 1, payload.clone()) {
            Ok(()) => taken += 1,
            Err(SendError::QueueFull { .. }) => full += 1,
            Err(other) => panic!("{other}"),
        }
        let queued = a.links.peer(&to).unwrap().queue_bytes;
        assert!(queued <= 1 << 20, "{queued}");
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(full > 0, "the reader was not slow");
    *b.seen.frame_delay.lock().unwrap() = Duration::ZERO;
    assert!(a.links.drain(SOON).await);
    assert_eq!(b.seen.count(), taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_cost_only_pings() {
    let ca = ca();
    let often = LinkOptions { ping_interval: Duration::from_millis(200), ..options() };
    let a = node_with(&ca, "a", 1, often).await;
    let b = start(&ca, "b", 2, 1).await;
    let proxy = Proxy::start(b.links.local_addr()).await;
    let to = proxy.addr.to_string();
    for class in [Class::Control, Class::Log, Class::Bulk] {
        let answer = a.links.request(&to, ECHO, Bytes::new(), class, SOON).await;
        assert!(answer.is_ok());
    }
    let metrics = a.links.metrics();
    let log = metrics.class(Class::Log);
    let before = (log.writes.load(Ordering::SeqCst), proxy.passed(), log.bytes_out.load(Ordering::SeqCst));
    until("five pings", || log.writes.load(Ordering::SeqCst) >= before.0 + 5).await;
    let pings = log.writes.load(Ordering::SeqCst) - before.0;
    assert_eq!(log.bytes_out.load(Ordering::SeqCst) - before.2, pings * 17);
    // Three streams; TLS adds 22 bytes to the 17 of a ping.
    let passed = proxy.passed() - before.1;
    assert!(passed < (pings + 2) * 3 * 60, "{passed} bytes for {pings}");
    assert_eq!(log.frames_out.load(Ordering::SeqCst), 1);
}

/// A raw TLS client: what a broken or hostile peer with a good certificate may send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_closes_the_connection_and_nothing_else() {
    let ca = ca();
    let b = start(&ca, "b", 2, 1).await;
    let tls = pki::client_config(&material(&ca, CLUSTER, "x"), &[b"raftmq-links"]).unwrap();
    let frame = |len: u32, frame_type: u8, payload: &[u8]| {
        let mut out = len.to_le_bytes().to_vec();
        out.extend([1, frame_type, 0, 0, 0]);
        out.extend(9u64.to_le_bytes());
        out.extend(payload);
        out
    };
    let table = [
        ("garbage", vec![0xff; 100]),
        ("a claimed 4 GiB", frame(u32::MAX, 1, &[])),
        ("more than a Hello", frame(5000, 1, &[0; 5000])),
        ("an empty Hello", frame(0, 1, &[])),
        ("a request before the Hello", frame(4, 4, &[0; 4])),
        ("header version 2", {
            let mut out = frame(0, 1, &[]);
            out[4] = 2;
            out
        }),
    ];
    for (what, bytes) in table {
        let tcp = tokio::net::TcpStream::connect(b.links.local_addr()).await.unwrap();
        let name = "x".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls.clone()));
        let mut stream = connector.connect(name, tcp).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{what}: still open");
    }
    let a = start(&ca, "a", 1, 1).await;
    let answer = a.links.request(&b.addr(), ECHO, Bytes::new(), Class::Log, SOON).await;
    assert_eq!(answer, Ok(Bytes::new()));
}
