//! Keep-alives of a million connections: `cargo bench -p raftmq`.

// The wheel is a worker's alone, and no part of the crate's interface.
#[path = "../src/worker/wheel.rs"]
#[allow(dead_code)] // Its tests are compiled here, and not run.
mod wheel;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use crate::wheel::{Key, Wheel};

const CONNECTIONS: u32 = 1_000_000;
const KEEP_ALIVE_MS: u64 = 90_000;

fn key(slot: u32) -> Key {
    Key { slot, generation: slot & 7 }
}

/// A wheel with a deadline of each connection, spread over the time of a keep-alive.
fn full() -> Wheel {
    let mut wheel = Wheel::new(0);
    for slot in 0..CONNECTIONS {
        let _ = wheel.insert(key(slot), KEEP_ALIVE_MS * u64::from(slot) / u64::from(CONNECTIONS));
    }
    wheel
}

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timers");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS)));
    group.bench_function("a million deadlines filed", |b| b.iter_batched(|| (), |()| full(), BatchSize::PerIteration));
    // All connections are alive: each entry fires, is looked at and filed again.
    group.bench_function("a keep-alive of a million living connections", |b| {
        b.iter_batched_ref(
            || (full(), Vec::new(), 0_u64),
            |(wheel, due, count)| {
                let period = u64::try_from(Wheel::period().as_millis()).expect("short");
                let mut now = 0;
                while now < KEEP_ALIVE_MS + period {
                    now += period;
                    wheel.advance(now, due);
                    *count += due.len() as u64;
                    for key in due.drain(..) {
                        black_box(wheel.insert(key, now + KEEP_ALIVE_MS));
                    }
                }
                assert!(*count >= u64::from(CONNECTIONS));
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, timers);
criterion_main!(benches);
