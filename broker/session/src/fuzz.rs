//! Bodies of the fuzz targets (the folder `fuzz`), which tests run too, with bounded random input. Each one panics when it
//! finds something wrong.

mod client;
mod hostile;
mod shard;

use std::num::NonZeroU16;

use raftmq_mqtt::{
    Connect, Decoded, Limits, Message, Origin, Packet, Properties, PropertiesBuf, Property, Publish, QoS, Version,
    decode,
};

pub use client::any_network;
pub use hostile::any_packets;

/// A fuzz target: its name, which is also that of its folder of seeds, and its body.
type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("network", any_network), ("packets", any_packets)];

/// The version that the first byte of the input chooses, and whether the session is a durable one of a shard.
fn kind(first: u8) -> (Version, bool) {
    (Version::ALL[usize::from(first) % 3], first >= 128)
}

/// The identifier of the client under test.
const CLIENT: &str = "client";

/// Runs a target by its name.
pub fn run(target: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of `TARGETS`");
    body(data);
}

/// Calls with each packet in a write buffer, which has nothing else.
fn each_packet(mut rest: &[u8], version: Version, mut each: impl FnMut(Packet<'_>, usize)) {
    while !rest.is_empty() {
        match decode(rest, Some(version), &Limits::PROTOCOL) {
            Ok(Decoded::Packet { packet, consumed }) => {
                each(packet, consumed);
                rest = &rest[consumed..];
            }
            other => panic!("the server sends what is no packet: {other:?}"),
        }
    }
}

fn connect<'a>(version: Version, clean_start: bool, properties: &'a PropertiesBuf) -> Connect<'a> {
    Connect {
        version,
        clean_start,
        keep_alive: 60,
        client_id: CLIENT,
        will: None,
        username: None,
        password: None,
        properties: properties.as_properties(),
    }
}

fn properties(list: &[Property<'_>]) -> PropertiesBuf {
    let mut properties = PropertiesBuf::new();
    for property in list {
        properties.push(*property).expect("a valid value");
    }
    properties
}

fn publish<'a>(topic: &'a str, qos: QoS, packet_id: Option<NonZeroU16>, payload: &'a [u8]) -> Publish<'a> {
    Publish { dup: false, qos, retain: false, topic, packet_id, properties: Properties::EMPTY, payload }
}

/// A message of another client.
fn message(topic: &str, qos: QoS, payload: &[u8], expires_at_ms: Option<u64>) -> Message {
    let publish = publish(topic, qos, None, payload);
    Message::new(&publish, Origin { node: 9, sequence: 9 }, "other", 0, expires_at_ms).expect("a valid topic")
}

fn qos(number: u8) -> QoS {
    QoS::from_u8(number % 3).expect("0 to 2")
}

#[cfg(test)]
mod tests;
