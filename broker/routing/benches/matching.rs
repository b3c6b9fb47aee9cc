//! Matching a topic with a million filters: `cargo bench -p raftmq-routing`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use raftmq_routing::SubscriptionIndex;

const FILTERS: u32 = 1_000_000;

/// Like a fleet's: a site, a device, a quantity.
fn topic(n: u32) -> String {
    format!("site/{}/device/{}/{}", n % 1_000, n / 1_000, ["temperature", "pressure", "state"][n as usize % 3])
}

fn exact(n: u32) -> String {
    topic(n)
}

/// A third each: all of a device, a quantity of a device on any site, and everything below a path.
fn wild(n: u32) -> String {
    let (site, device) = (n % 1_000, n / 1_000);
    match n % 3 {
        0 => format!("site/{site}/device/{device}/+"),
        1 => format!("site/{site}/+/{device}/pressure"),
        _ => format!("site/{site}/device/{device}/#"),
    }
}

fn matching(c: &mut Criterion) {
    for (name, filter) in [("exact", exact as fn(u32) -> String), ("with wildcards", wild)] {
        let mut index: SubscriptionIndex<u64> = SubscriptionIndex::new();
        for n in 0..FILTERS {
            index.insert(&filter(n), n, 0);
        }
        println!("a million filters {name}: {} bytes each", index.memory() / FILTERS as usize);
        // More topics than a cache has room for, in an order that it cannot guess.
        let topics: Vec<String> = (0..100_000).map(|n: u32| topic(n.wrapping_mul(2_654_435_761) % FILTERS)).collect();
        let mut found = 0_u64;
        index.matches(&topic(1), |_, _| found += 1);
        assert!(found > 0, "topics that nobody wants measure nothing");
        let mut next = topics.iter().cycle();
        c.bench_function(&format!("match a topic, a million filters {name}"), |b| {
            b.iter(|| {
                let topic = next.next().expect("they go round");
                index.matches(black_box(topic), |subscriber, _| found += u64::from(subscriber));
            });
        });
        black_box(found);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = matching
}
criterion_main!(benches);
