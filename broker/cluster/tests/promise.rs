//! After a SUBACK, every node that serves knows the route: while nodes are cut off and come back at random.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Lab, serving};

const NAMES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const LENGTH: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_serves_knows_every_acknowledged_subscription() {
    let lab = Lab::new();
    let all = Arc::new(lab.form(&NAMES).await);
    let over = Arc::new(AtomicBool::new(false));
    let unruly = tokio::spawn({
        let (all, over) = (Arc::clone(&all), Arc::clone(&over));
        async move {
            let mut cuts = 0;
            while !over.load(Ordering::Relaxed) {
                let node = &all[rand::random_range(0..all.len())];
                node.cluster.isolate(true);
                // Shorter and longer than a lease, and than an election.
                tokio::time::sleep(Duration::from_millis(rand::random_range(50..2500))).await;
                node.cluster.isolate(false);
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..700))).await;
                cuts += 1;
            }
            cuts
        }
    });
    let end = Instant::now() + LENGTH;
    let subscribers = (0..all.len()).map(|who| {
        let all = Arc::clone(&all);
        tokio::spawn(async move {
            let (mut reached, mut not) = (0, 0);
            for round in 0.. {
                if Instant::now() > end {
                    break;
                }
                let from = &all[who];
                if !from.is_serving() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                let topic = format!("t/{who}/{round}");
                let streams = || from.cluster.counters().route_streams.load(Ordering::Relaxed);
                let before_streams = streams();
                let barrier = from.cluster.subscribe(0, &[&topic]);
                // A subscriber gives up after a while, as one whose connection ends.
                match tokio::time::timeout(Duration::from_secs(4), barrier).await {
                    Ok(Ok(())) => {
                        reached += 1;
                        for other in all.iter().filter(|o| o.id() != from.id()) {
                            let before = other.is_serving();
                            let routed = other.targets(&topic).contains(&from.id());
                            let lost = before && !routed && other.is_serving();
                            // Cut off for long, a node's routes are removed and its clients closed: there is no subscriber any more.
                            let closed = !from.is_serving() || streams() != before_streams;
                            assert!(!lost || closed, "{} serves and does not know {topic}", other.name);
                        }
                    }
                    _ => not += 1,
                }
                if round % 3 == 0 {
                    from.cluster.unsubscribe(0, &[&topic]);
                }
            }
            (reached, not)
        })
    });
    let (mut reached, mut not) = (0, 0);
    for task in subscribers.collect::<Vec<_>>() {
        let (r, n) = task.await.unwrap();
        reached += r;
        not += n;
    }
    over.store(true, Ordering::Relaxed);
    let cuts = unruly.await.unwrap();
    println!("{reached} barriers reached, {not} not, {cuts} cuts");
    assert!(reached > 100, "only {reached} barriers were reached");
    // And it heals without anybody's help.
    serving(&all).await;
}
