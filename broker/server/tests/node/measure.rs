//! Numbers for people, not for a verdict: `cargo test --release -p raftmq --test node -- --ignored --nocapture measure`.

use std::time::Instant;

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
        std::thread::sleep(std::time::Duration::from_secs(2));
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
