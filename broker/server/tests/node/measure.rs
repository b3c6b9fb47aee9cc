//! Numbers for people, not for a verdict: `cargo test --release -p raftmq --test node -- --ignored --nocapture measure`.

use std::time::{Duration, Instant};

use raftmq_mqtt::QoS;

use crate::client::{Client, Got, connect, publish, subscribe};
use crate::process::Node;

#[test]
#[ignore = "a measurement"]
fn memory_of_an_idle_connection() {
    let node = Node::start();
    let mut clients = Vec::new();
    let mut memory = Vec::new();
    for count in [2_000, 8_000] {
        while clients.len() < count {
            let mut client = Client::open(node.mqtt);
            let id = format!("idle-{:08}", clients.len());
            client.send(&[connect(&id, true, 60, 0), subscribe(1, &format!("d/{id}/c"), QoS::AtMostOnce)].concat());
            assert!(matches!(client.receive(), Got::ConnAck { .. }));
            assert!(matches!(client.receive(), Got::SubAck(_)));
            clients.push(client.socket);
        }
        std::thread::sleep(Duration::from_secs(2));
        memory.push(node.memory());
    }
    println!("{memory:?}: {} bytes a connection", (memory[1] - memory[0]) / 6_000);
}

#[test]
#[ignore = "a measurement"]
fn one_publisher_to_one_subscriber() {
    const MESSAGES: usize = 2_000_000;
    for same_worker_tries in 0..4 {
        let node = Node::start_with("{maxOutboundBytes: 1GiB}", "", None);
        let mut subscriber = Client::connect(node.mqtt, "subscriber");
        subscriber.subscribe("t", QoS::AtMostOnce);
        let mut publisher = Client::connect(node.mqtt, "publisher");
        let batch: Vec<u8> = (0..1_000).flat_map(|_| publish("t", &[0; 64], None)).collect();
        let size = batch.len() / 1_000;
        let start = Instant::now();
        let reader = std::thread::spawn(move || {
            let mut left = MESSAGES * size;
            let mut buffer = vec![0; 1 << 18];
            while left > 0 {
                left -= std::io::Read::read(&mut subscriber.socket, &mut buffer).unwrap().min(left);
            }
        });
        for _ in 0..MESSAGES / 1_000 {
            publisher.send(&batch);
        }
        reader.join().unwrap();
        let rate = MESSAGES as f64 / start.elapsed().as_secs_f64();
        println!("run {same_worker_tries}: {rate:.0} messages/s, QoS 0, {size} bytes each");
    }
}

/// How long a worker is held up by a ban that it has to hold against all of its connections, as a client beside them sees it.
#[test]
#[ignore = "a measurement"]
fn a_ban_of_addresses_beside_many_connections() {
    const IDLE: usize = 9_500;
    const BANS: usize = 20;
    let node = Node::with_control("- {name: mqtt, bind: '@0'}", &[]);
    let _idle: Vec<_> = (0..IDLE).map(|at| Client::connect(node.mqtt, &format!("idle-{at}")).socket).collect();
    // Some on each worker.
    let mut beside: Vec<_> = (0..4).map(|at| Client::connect(node.mqtt, &format!("beside-{at}"))).collect();
    let round = |beside: &mut Vec<Client>| -> Vec<u128> {
        let took = beside.iter_mut().map(|client| {
            let begun = Instant::now();
            client.send(&publish("nobody", b"m", Some(1)));
            assert!(matches!(client.receive(), Got::PubAck { .. }));
            begun.elapsed().as_micros()
        });
        took.collect()
    };
    let show = |what: &str, mut took: Vec<u128>| {
        took.sort_unstable();
        let at = |share: usize| took[(took.len() - 1) * share / 1_000];
        println!(
            "{what}: PUBACK p50 {} µs, p99 {} µs, p99.9 {} µs, longest {} µs of {}",
            at(500),
            at(990),
            at(999),
            at(1_000),
            took.len()
        );
    };
    let mut took = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        took.extend(round(&mut beside));
    }
    show("without bans", took);
    let mut banned = 0_u8;
    for (what, kind, lengths) in [
        ("one client identifier", "clientid", false),
        ("a range of addresses", "address", false),
        ("a range of addresses, and of 25 lengths of prefixes that there are", "address", true),
    ] {
        if lengths {
            (8..=32).for_each(|bits| drop(node.ctl(&["bans", "add", "address", &format!("11.0.0.0/{bits}")])));
        }
        let mut took = Vec::new();
        std::thread::scope(|threads| {
            let bans = threads.spawn(|| {
                for _ in 0..BANS {
                    banned += 1;
                    node.ctl(&["bans", "add", kind, &format!("10.{banned}.0.0/16")]);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            while !bans.is_finished() {
                took.extend(round(&mut beside));
            }
        });
        show(&format!("{BANS} bans of {what}, beside {IDLE} connections"), took);
    }
}
