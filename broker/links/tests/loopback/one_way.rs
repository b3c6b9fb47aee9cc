//! One-way frames: in order, once, none lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use raftmq_links::{Class, DropReason, Hello, SendError};

use crate::proxy::Proxy;
use crate::support::*;

fn number(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload[..4].try_into().unwrap())
}

/// Sizes differ, so that cuts fall anywhere in frames and TLS records.
fn numbered(n: u32) -> Bytes {
    let mut payload = n.to_le_bytes().to_vec();
    payload.resize(4 + (n as usize * 37) % 300, 0xaa);
    if n % 4000 == 3999 {
        payload.resize(100_000, 0xbb);
    }
    payload.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_once_and_in_order_over_many_cuts() {
    const FRAMES: u32 = 20_000;
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    let proxy = Proxy::start(b.links.local_addr()).await;
    let to = proxy.addr.to_string();
    let mut sent = 0;
    let mut cuts = 0u32;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    while sent < FRAMES || cuts < 40 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Every third connection is cut by hand only, the others also after so many bytes: in the handshake, in a frame.
        let budget = 1_000 + (seed >> 33) % 120_000;
        proxy.set_budget(if cuts.is_multiple_of(3) { 0 } else { budget });
        for _ in 0..450.min(FRAMES - sent) {
            a.links.send(&to, 9, numbered(sent)).unwrap();
            sent += 1;
        }
        let (accepted, arrived) = (proxy.accepted(), b.seen.count());
        let enough = (arrived + (seed >> 40) as usize % 450).min(sent as usize);
        until("some frames, or a cut by the proxy", || b.seen.count() >= enough || proxy.accepted() > accepted + 1)
            .await;
        proxy.cut();
        cuts += 1;
        let accepted = proxy.accepted();
        until("it dials again", || proxy.accepted() > accepted).await;
    }
    proxy.set_budget(0);
    assert!(a.links.drain(Duration::from_secs(30)).await);
    let got: Vec<u32> = b.seen.payloads().iter().map(|p| number(p)).collect();
    assert_eq!(got.len(), FRAMES as usize);
    assert!(got.iter().copied().eq(0..FRAMES), "out of order");
    for payload in b.seen.payloads() {
        assert_eq!(payload, numbered(number(&payload)));
    }
    let metrics = a.links.metrics();
    let data = metrics.class(Class::Data);
    let reconnects = data.reconnects.load(Ordering::SeqCst);
    assert!(reconnects >= 20, "only {reconnects} reconnects");
    assert!(
        data.frames_out.load(Ordering::SeqCst) > u64::from(FRAMES),
        "no frame was ever sent again: the cuts hit nothing"
    );
    assert_eq!(data.queue_bytes.load(Ordering::SeqCst), 0);
    assert_eq!(metrics.dropped(DropReason::PeerRestarted), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_frames_share_writes_and_acknowledgements() {
    const FRAMES: u32 = 50_000;
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    // They wait for the handshake, as they would for a busy socket.
    let proxy = Proxy::start(b.links.local_addr()).await;
    proxy.stall(true);
    let to = proxy.addr.to_string();
    for n in 0..FRAMES {
        let payload = Bytes::from(n.to_le_bytes().to_vec());
        a.links.send(&to, 1, payload).unwrap();
    }
    proxy.stall(false);
    assert!(a.links.drain(Duration::from_secs(30)).await);
    assert_eq!(b.seen.count(), FRAMES as usize);
    let out = a.links.metrics();
    let writes = out.class(Class::Data).writes.load(Ordering::SeqCst);
    assert!(writes < 100, "{writes} writes for {FRAMES} frames");
    let back = b.links.metrics();
    let acks = back.class(Class::Data).writes.load(Ordering::SeqCst);
    assert!(acks < 2_000, "{acks} acknowledgements for {FRAMES} frames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_boot_gets_no_frames_of_the_old_one() {
    let ca = ca();
    let names = Names::default();
    let a = start_with(material(&ca, CLUSTER, "a"), Hello::new(CLUSTER, "a", 1, 1), options(), &names).await;
    let b = start(&ca, "b", 2, 1).await;
    let proxy = Proxy::start(b.links.local_addr()).await;
    names.set("b:1", proxy.addr);
    a.links.send("b:1", 1, numbered(0)).unwrap();
    assert!(a.links.drain(SOON).await);
    // Written, but held back on the way: the old boot may or may not have got them.
    proxy.stall(true);
    let written = a.links.metrics();
    let frames_out = || written.class(Class::Data).frames_out.load(Ordering::SeqCst);
    for n in 1..=5 {
        a.links.send("b:1", 1, numbered(n)).unwrap();
    }
    until("they are written", || frames_out() == 6).await;
    b.links.shutdown().await;
    let reborn = start(&ca, "b", 2, 2).await;
    names.set("b:1", reborn.links.local_addr());
    a.links.expect("b:1", 2, 2);
    until("the new boot answers", || {
        let status = a.links.peer("b:1").unwrap();
        status.is_connected() && status.hello.unwrap().boot == 2
    })
    .await;
    a.links.send("b:1", 1, numbered(100)).unwrap();
    assert!(a.links.drain(SOON).await);
    let got: Vec<u32> = reborn.seen.payloads().iter().map(|p| number(p)).collect();
    assert_eq!(got, [100]);
    assert_eq!(b.seen.count(), 1);
    assert_eq!(written.dropped(DropReason::PeerRestarted), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_never_written_wait_for_whoever_answers() {
    let ca = ca();
    let names = Names::default();
    let a = start_with(material(&ca, CLUSTER, "a"), Hello::new(CLUSTER, "a", 1, 1), options(), &names).await;
    for n in 0..3 {
        a.links.send("b:1", 1, numbered(n)).unwrap();
    }
    until("an error is shown", || a.links.peer("b:1").unwrap().last_error.is_some()).await;
    let b = start(&ca, "b", 2, 1).await;
    names.set("b:1", b.links.local_addr());
    assert!(a.links.drain(SOON).await);
    b.links.shutdown().await;
    until("the end is seen", || !a.links.peer("b:1").unwrap().is_connected()).await;
    for n in 3..6 {
        a.links.send("b:1", 1, numbered(n)).unwrap();
    }
    let reborn = start(&ca, "b", 2, 2).await;
    names.set("b:1", reborn.links.local_addr());
    assert!(a.links.drain(SOON).await);
    let count = |node: &Node| -> Vec<u32> { node.seen.payloads().iter().map(|p| number(p)).collect() };
    assert_eq!(count(&b), [0, 1, 2]);
    assert_eq!(count(&reborn), [3, 4, 5]);
    assert_eq!(a.links.metrics().dropped(DropReason::PeerRestarted), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incoming_connection_ends_the_wait_for_the_next_dial() {
    let ca = ca();
    let names = Names::default();
    let patient = raftmq_links::LinkOptions {
        backoff_min: Duration::from_secs(3600),
        backoff_max: Duration::from_secs(3600),
        ..options()
    };
    let a = start_with(material(&ca, CLUSTER, "a"), Hello::new(CLUSTER, "a", 1, 1), patient, &names).await;
    a.links.send("b:1", 1, numbered(0)).unwrap();
    until("the first dial failed", || a.links.peer("b:1").unwrap().last_error.is_some()).await;
    let b = start(&ca, "b", 2, 1).await;
    names.set("b:1", b.links.local_addr());
    b.links.send(&a.addr(), 1, numbered(0)).unwrap();
    assert!(a.links.drain(SOON).await);
    assert_eq!(b.seen.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_drops_and_counts() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    for n in 0..7 {
        a.links.send("127.0.0.1:1", 1, numbered(n)).unwrap();
    }
    a.links.forget("127.0.0.1:1");
    let metrics = a.links.metrics();
    assert_eq!(metrics.dropped(DropReason::Forgotten), 7);
    let gauge = &metrics.class(Class::Data).queue_bytes;
    assert_eq!(gauge.load(Ordering::SeqCst), 0);
    a.links.shutdown().await;
    let after = a.links.send("127.0.0.1:1", 1, numbered(0));
    assert_eq!(after, Err(SendError::Shutdown));
}

/// What a peer does not take now it gets on a later connection; what was taken back in the meantime it does not get at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_taken_is_offered_again_until_it_is_taken_back() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    let to = b.links.local_addr().to_string();
    *b.seen.most_frames.lock().unwrap() = Some(3);
    for n in 0..10 {
        a.links.send(&to, 9, numbered(n)).unwrap();
    }
    until("it is offered more than once", || b.seen.refusals.load(Ordering::Relaxed) > 2).await;
    assert_eq!(b.seen.count(), 3);
    let mut taken = Vec::new();
    a.links.revise(&to, |_, frame, _| {
        taken.push(number(frame));
        number(frame).is_multiple_of(2).then(|| 100u32.to_le_bytes().to_vec().into())
    });
    assert_eq!(taken, [3, 4, 5, 6, 7, 8, 9]);
    *b.seen.most_frames.lock().unwrap() = None;
    assert!(a.links.drain(Duration::from_secs(30)).await);
    let got: Vec<u32> = b.seen.payloads().iter().map(|p| number(p)).collect();
    assert_eq!(got, [0, 1, 2, 3, 100, 5, 100, 7, 100, 9]);
}
