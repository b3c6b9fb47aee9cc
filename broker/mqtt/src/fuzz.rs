//! Bodies of the fuzz targets (the folder `fuzz`), which tests run too, with bounded random input. Each one panics
//! when it finds something wrong.

pub mod source;

use source::{Source, with_packet};

use crate::topic::{self, TopicFilter, filter_matches, validate_filter, validate_topic};
use crate::{
    Connect, Decoded, Limits, Message, Origin, Packet, PacketType, PropertyPlace, Publish, PublishForm, QoS, Version,
    connect_version, decode, encode,
};

/// Above this size a packet is not decoded again from each of its prefixes: the work grows with the square.
const PREFIX_LIMIT: usize = 512;

/// A fuzz target: its name, which is also that of its folder of seeds, and its body.
type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("decode_first", |data| decode_any(data, None)),
    ("decode_v3_1", |data| decode_any(data, Some(Version::V3_1))),
    ("decode_v3_1_1", |data| decode_any(data, Some(Version::V3_1_1))),
    ("decode_v5", |data| decode_any(data, Some(Version::V5))),
    ("round_trip", |data| with_choice(data, round_trip)),
    ("damaged", |data| with_choice(data, decode_mutated)),
    ("message", message_from_wire),
    ("publish", |data| Version::ALL.iter().for_each(|version| publish_through(data, *version))),
    ("properties", properties),
    ("topics", topics),
];

/// Runs a target by its name.
pub fn run(target: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of `TARGETS`");
    body(data);
}

/// Lets the first byte say which packet and version.
fn with_choice(data: &[u8], body: fn(&[u8], PacketType, Version)) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let (choice, packets) = (usize::from(choice), PacketType::ALL.len());
    body(data, PacketType::ALL[choice % packets], Version::ALL[choice / packets % Version::ALL.len()]);
}

/// Any bytes: decoding never panics; what it accepts is encoded and decoded again to the same packet.
pub fn decode_any(data: &[u8], version: Option<Version>) {
    let _ = connect_version(data);
    match decode(data, version, &Limits::PROTOCOL) {
        Ok(Decoded::Incomplete { need }) => assert!(need > data.len(), "must ask for more"),
        Ok(Decoded::Packet { packet, consumed }) => {
            assert!(consumed <= data.len());
            // Properties are read lazily: read them all.
            let _ = format!("{packet:?}");
            check_prefixes(&data[..consumed], version);
            check_round_trip(&packet, spoken(&packet, version), version);
        }
        Err(error) => {
            // The server can say so: with CONNACK to a CONNECT, otherwise with DISCONNECT.
            let carriers = [PacketType::ConnAck, PacketType::Disconnect];
            let carriers = if version.is_none() { &carriers[..1] } else { &carriers };
            let reason = error.reason_code();
            assert!(reason.is_error() && carriers.iter().any(|packet| reason.allowed_in(*packet)), "{error}");
        }
    }
}

/// Every packet that can be built can be encoded, and is decoded to the same packet.
pub fn round_trip(data: &[u8], packet: PacketType, version: Version) {
    with_packet(&mut Source::new(data), packet, version, |packet| {
        // CONNECT is sent while no version is known.
        let known = if matches!(packet, Packet::Connect(_)) { None } else { Some(version) };
        let encoded = check_round_trip(packet, version, known);
        check_prefixes(&encoded, known);
    });
}

/// A valid packet with some bytes changed: reaches what bytes at random do not.
pub fn decode_mutated(data: &[u8], packet: PacketType, version: Version) {
    let mut source = Source::new(data);
    let changes = [(source.two(), source.byte()), (source.two(), source.byte())];
    let mut bytes = Vec::new();
    with_packet(&mut source, packet, version, |packet| {
        encode(packet, version, &mut bytes).expect("generated packets are valid");
    });
    for (at, change) in changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] = bytes[at].wrapping_add(change);
    }
    let known = if packet == PacketType::Connect { None } else { Some(version) };
    decode_any(&bytes, known);
}

/// Any bytes as a message of a link: reading never panics; what is accepted is written again as the same bytes.
pub fn message_from_wire(data: &[u8]) {
    if let Ok((message, rest)) = Message::split_wire(data) {
        let _ = format!("{message:?}");
        let mut again = Vec::new();
        message.to_wire(&mut again);
        assert_eq!(again, data[..data.len() - rest.len()]);
        assert_eq!(again.len(), message.wire_len());
    }
}

/// A PUBLISH through the envelope, a link and the form for a subscriber arrives as it was sent.
pub fn publish_through(data: &[u8], version: Version) {
    let mut source = Source::new(data);
    let origin = Origin { node: source.four().into(), sequence: source.four().into() };
    let now_ms = u64::from(source.four()) + u64::from(source.two()) * 1000;
    let (received_at_ms, publisher) = (u64::from(source.four()), source.text());
    let retain = source.flag();
    let qos = source.qos();
    let sub_ids = [u32::from(source.two()) + 1, u32::from(source.two()) + 1];
    with_packet(&mut source, PacketType::Publish, Version::V5, |packet| {
        let Packet::Publish(publish) = packet else { unreachable!("asked for PUBLISH") };
        let topic = if publish.topic.is_empty() { "resolved" } else { publish.topic };
        let publish = Publish { topic, ..*publish };
        let expires_at_ms = publish.expires_at_ms(received_at_ms);
        let message = Message::new(&publish, origin, publisher, received_at_ms, expires_at_ms)
            .expect("generated packets are valid");
        let mut wire = Vec::new();
        message.to_wire(&mut wire);
        let message = Message::from_wire(&wire).expect("written by `to_wire`");
        assert_eq!(
            (message.topic(), message.publisher(), message.payload(), message.qos(), message.retain()),
            (topic, publisher, publish.payload, publish.qos, publish.retain)
        );
        assert_eq!(
            (message.origin(), message.received_at_ms(), message.expires_at_ms()),
            (origin, received_at_ms, expires_at_ms)
        );

        let form =
            PublishForm::new(&message, version, qos, retain, &sub_ids, now_ms).expect("far from the protocol's limit");
        let mut out = b"before".to_vec();
        let packet_id = std::num::NonZeroU16::new(source::NONZERO);
        form.write(&mut out, packet_id, true);
        let out = &out[b"before".len()..];
        assert_eq!(out.len(), form.encoded_len());
        let decoded = decode(out, Some(version), &Limits::PROTOCOL).expect("a valid packet");
        let Decoded::Packet { packet: Packet::Publish(sent), consumed } = decoded else { panic!("{decoded:?}") };
        assert_eq!(consumed, out.len());
        let with_id = qos != QoS::AtMostOnce;
        assert_eq!(
            (sent.topic, sent.payload, sent.qos, sent.retain, sent.dup, sent.packet_id),
            (topic, publish.payload, qos, retain, with_id, packet_id.filter(|_| with_id))
        );
        check_sent_properties(&publish, &sent, version, &sub_ids, message.remaining_seconds(now_ms));
    });
}

fn check_sent_properties(
    publish: &Publish<'_>,
    sent: &Publish<'_>,
    version: Version,
    sub_ids: &[u32],
    expiry: Option<u32>,
) {
    let (was, is) = (publish.properties, sent.properties);
    if !version.is_v5() {
        assert!(is.is_empty());
        return;
    }
    assert!(is.subscription_identifiers().eq(sub_ids.iter().copied()));
    assert!(is.user_properties().eq(was.user_properties()), "the order is kept");
    assert_eq!(is.topic_alias(), None);
    assert_eq!(is.message_expiry_interval(), expiry);
    assert_eq!(is.payload_format_indicator(), was.payload_format_indicator());
    assert_eq!(is.content_type(), was.content_type());
    assert_eq!(is.response_topic(), was.response_topic());
    assert_eq!(is.correlation_data(), was.correlation_data());
}

/// Two strings, one after the other, as filter and topic: the rules agree with each other.
pub fn topics(data: &[u8]) {
    let mut source = Source::new(data);
    let (filter, name) = (source.text(), source.text());
    if let Ok(parsed) = TopicFilter::parse(filter) {
        assert!(validate_filter(parsed.filter()).is_ok() || parsed.filter().starts_with("$share"));
        assert!(filter.ends_with(parsed.filter()));
        if validate_topic(name).is_ok() {
            let by_levels = matches_by_recursion(
                &topic::levels(parsed.filter()).collect::<Vec<_>>(),
                &topic::levels(name).collect::<Vec<_>>(),
            );
            let hidden = name.starts_with('$') && parsed.filter().starts_with(['+', '#']);
            assert_eq!(parsed.matches(name), by_levels && !hidden, "{filter:?} {name:?}");
        }
    }
    if validate_topic(name).is_ok() && !name.starts_with("$share") {
        assert!(validate_filter(name).is_ok(), "a name is a filter");
        assert!(filter_matches(name, name), "that matches itself");
        assert_eq!(filter_matches("#", name), !name.starts_with('$'));
    }
}

fn matches_by_recursion(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, name @ ..]) => matches_by_recursion(filter, name),
        ([wanted, filter @ ..], [found, name @ ..]) => wanted == found && matches_by_recursion(filter, name),
        _ => false,
    }
}

/// Properties anywhere: what is accepted is read to the end.
pub fn properties(data: &[u8]) {
    let mut places = vec![PropertyPlace::Will];
    places.extend(PacketType::ALL.map(PropertyPlace::Packet));
    for place in places {
        if let Ok(properties) = crate::Properties::parse(data, place) {
            let mut again = crate::PropertiesBuf::new();
            for property in properties {
                assert!(property.id().allowed_in(place));
                again.push(property).expect("was read");
            }
            assert_eq!(again.as_properties().as_bytes(), data);
        }
    }
}

fn spoken(packet: &Packet<'_>, version: Option<Version>) -> Version {
    match (packet, version) {
        (Packet::Connect(connect), _) => {
            let Connect { version, .. } = **connect;
            version
        }
        (_, Some(version)) => version,
        (_, None) => panic!("only CONNECT is accepted before the version is known"),
    }
}

fn check_round_trip(packet: &Packet<'_>, version: Version, known: Option<Version>) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    let length = encode(packet, version, &mut bytes).unwrap_or_else(|error| panic!("{error}: {packet:?}"));
    let bytes = bytes.split_off(b"before".len());
    assert_eq!(bytes.len(), length);
    // What comes after a packet does not change it.
    let mut followed = bytes.clone();
    followed.extend_from_slice(&[0xFF; 3]);
    for buffer in [&bytes, &followed] {
        let decoded = decode(buffer, known, &Limits::PROTOCOL).unwrap_or_else(|error| panic!("{error}: {packet:?}"));
        assert_eq!(decoded, Decoded::Packet { packet: packet.clone(), consumed: bytes.len() });
    }
    bytes
}

/// Each prefix of a packet is incomplete and asks for bytes that the packet has.
fn check_prefixes(packet: &[u8], version: Option<Version>) {
    if packet.len() > PREFIX_LIMIT {
        return;
    }
    for end in 0..packet.len() {
        match decode(&packet[..end], version, &Limits::PROTOCOL) {
            Ok(Decoded::Incomplete { need }) => {
                assert!(need > end && need <= packet.len(), "{need} at {end}")
            }
            other => panic!("{other:?} from {end} of {} bytes", packet.len()),
        }
    }
}

#[cfg(test)]
mod tests;
