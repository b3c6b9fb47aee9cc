//! Forwarded publishes and the lives of the node that they are meant for.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{Lab, Process, eventually, serving};
use raftmq_cluster::ShardOptions;

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// A subscription that is new or was there, as of a client that comes back.
async fn subscribed(process: &Process) {
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    while process.cluster.subscribe(0, &["topic"]).await.is_err() {
        process.cluster.unsubscribe(0, &["topic"]);
        assert!(std::time::Instant::now() < deadline, "no barrier");
    }
}

fn forward(from: &Process, to: u64, frame: &'static str) {
    assert_eq!(from.cluster.forward(&[to], &Bytes::from_static(frame.as_bytes())), 1, "{frame}");
}

async fn has(process: &Process, frames: &[&str]) {
    let got = || -> Vec<Bytes> { process.received.lock().unwrap().iter().map(|(_, frame)| frame.clone()).collect() };
    eventually(&format!("{frames:?}"), || got().len() >= frames.len()).await;
    // Frames of a link come in order: what was before the last one has been passed by.
    assert_eq!(got(), frames);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_waits_for_a_life_that_is_over_is_for_nobody() {
    let lab = Lab::with_shards(ShardOptions { count: 1, replication: 3 });
    let mut all = lab.form(&NAMES).await;
    let to = all[1].id();
    subscribed(&all[1]).await;
    eventually("its route", || all[0].targets("topic") == [to]).await;
    forward(&all[0], to, "of the first life");
    has(&all[1], &["of the first life"]).await;

    // It is killed and started again; nobody may have noticed.
    let killed = all.remove(1);
    killed.kill().await;
    for _ in 0..3 {
        forward(&all[0], to, "for the first life");
    }
    let restarted = lab.start(NAMES[1], &NAMES).await;
    all.insert(1, restarted);
    serving(&all).await;
    subscribed(&all[1]).await;
    eventually("its route again", || all[0].targets("topic") == [to]).await;
    forward(&all[0], to, "of the second life");
    has(&all[1], &["of the second life"]).await;
    assert_eq!(all[1].cluster.counters().forwards_past.load(Ordering::Relaxed), 3);

    // It is cut off until it is declared down, and comes back in the same boot.
    all[1].cluster.isolate(true);
    forward(&all[0], to, "for the second life");
    eventually("it is declared down", || all[0].targets("topic").is_empty()).await;
    forward(&all[0], to, "for the second life");
    all[1].cluster.isolate(false);
    serving(&all).await;
    eventually("its route for the third time", || all[0].targets("topic") == [to]).await;
    forward(&all[0], to, "of the third life");
    has(&all[1], &["of the second life", "of the third life"]).await;
    assert_eq!(all[1].cluster.counters().forwards_past.load(Ordering::Relaxed), 5);
}
