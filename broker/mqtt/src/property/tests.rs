#![allow(clippy::unwrap_used)]

use super::*;

/// Table 2-4 of the specification.
const TABLE: &str = "
0x01 byte PUBLISH Will
0x02 four PUBLISH Will
0x03 text PUBLISH Will
0x08 text PUBLISH Will
0x09 binary PUBLISH Will
0x0B var PUBLISH SUBSCRIBE
0x11 four CONNECT CONNACK DISCONNECT
0x12 text CONNACK
0x13 two CONNACK
0x15 text CONNECT CONNACK AUTH
0x16 binary CONNECT CONNACK AUTH
0x17 byte CONNECT
0x18 four Will
0x19 byte CONNECT
0x1A text CONNACK
0x1C text CONNACK DISCONNECT
0x1F text CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH
0x21 two CONNECT CONNACK
0x22 two CONNECT CONNACK
0x23 two PUBLISH
0x24 byte CONNACK
0x25 byte CONNACK
0x26 pair CONNECT CONNACK PUBLISH Will PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH
0x27 four CONNECT CONNACK
0x28 byte CONNACK
0x29 byte CONNACK
0x2A byte CONNACK
";

/// A valid value of a data type; AUTHENTICATION DATA is preceded by the method that it needs.
fn sample(id: u32, kind: &str) -> Vec<u8> {
    let mut bytes = if id == 0x16 { vec![0x15, 0, 1, b'm'] } else { vec![] };
    bytes.push(id as u8);
    bytes.extend_from_slice(match kind {
        "byte" | "var" => &[1],
        "two" => &[0, 1],
        "four" => &[0, 0, 0, 1],
        "text" | "binary" => b"\x00\x01a",
        "pair" => b"\x00\x01a\x00\x01b",
        _ => panic!("{kind}"),
    });
    bytes
}

fn places() -> impl Iterator<Item = (String, PropertyPlace)> {
    let packets = PacketType::ALL.into_iter().map(|packet| (packet.name().to_owned(), PropertyPlace::Packet(packet)));
    packets.chain([("Will".to_owned(), PropertyPlace::Will)])
}

#[test]
fn each_property_stands_where_the_specification_says() {
    let mut count = 0;
    for row in TABLE.trim().lines() {
        let columns: Vec<&str> = row.split(' ').collect();
        let id = u32::from_str_radix(columns[0].trim_start_matches("0x"), 16).unwrap();
        let property = PropertyId::from_u32(id).unwrap();
        let bytes = sample(id, columns[1]);
        for (name, place) in places() {
            let allowed = columns[2..].contains(&name.as_str());
            assert_eq!(property.allowed_in(place), allowed, "{property:?} {place}");
            let parsed = Properties::parse(&bytes, place);
            assert_eq!(parsed.is_ok(), allowed, "{property:?} {place}");
            if !allowed {
                continue;
            }
            assert_eq!(parsed.unwrap().iter().last().unwrap().id(), property);
            let twice = [&bytes[..], &sample(id, columns[1])].concat();
            let repeatable = id == 0x26 || id == 0x0B && name == "PUBLISH";
            assert_eq!(Properties::parse(&twice, place).is_ok(), repeatable, "{property:?} {place}");
            // One byte less is not a value of that type.
            assert!(Properties::parse(&bytes[..bytes.len() - 1], place).is_err());
        }
        count += 1;
    }
    assert_eq!(count, PropertyId::ALL.len());
    assert_eq!((0..0x1_0000).filter(|id| PropertyId::from_u32(*id).is_some()).count(), count);
}

#[test]
fn values_are_checked_when_read_and_when_built() {
    for (place, property) in [
        (PacketType::Publish, Property::PayloadFormatIndicator(2)),
        (PacketType::Connect, Property::RequestProblemInformation(2)),
        (PacketType::Connect, Property::RequestResponseInformation(255)),
        (PacketType::ConnAck, Property::MaximumQoS(2)),
        (PacketType::ConnAck, Property::RetainAvailable(2)),
        (PacketType::ConnAck, Property::WildcardSubscriptionAvailable(2)),
        (PacketType::ConnAck, Property::SubscriptionIdentifierAvailable(2)),
        (PacketType::ConnAck, Property::SharedSubscriptionAvailable(2)),
        (PacketType::Connect, Property::ReceiveMaximum(0)),
        (PacketType::Connect, Property::MaximumPacketSize(0)),
        (PacketType::Publish, Property::TopicAlias(0)),
        (PacketType::Publish, Property::SubscriptionIdentifier(0)),
        (PacketType::Publish, Property::ResponseTopic("a/+")),
        (PacketType::Publish, Property::ResponseTopic("")),
    ] {
        let error = PropertyError::Value { property: property.id() };
        let mut built = PropertiesBuf::new();
        assert_eq!(built.push(property), Err(error));
        assert!(built.as_properties().is_empty());
        let mut raw = PropertyBytes::new();
        raw.push(property.id() as u8);
        property.write_value(&mut raw).unwrap();
        assert_eq!(Properties::parse(&raw, PropertyPlace::Packet(place)), Err(error));
    }
}

#[test]
fn what_cannot_be_written_is_not_added() {
    let long = "x".repeat(65_536);
    let mut built = PropertiesBuf::new();
    built.push(Property::ReasonString("fine")).unwrap();
    let before = built.clone();
    for (property, error) in [
        (Property::UserProperty(("name", &long)), FieldError::TooLong),
        (Property::ReasonString("a\0"), FieldError::Nul),
        (Property::SubscriptionIdentifier(268_435_456), FieldError::VarInt),
    ] {
        assert_eq!(built.push(property), Err(PropertyError::Field { property: property.id(), error }));
        assert_eq!(built, before);
    }
}

#[test]
fn authentication_data_is_not_shown() {
    let mut built = PropertiesBuf::new();
    built.push(Property::AuthenticationMethod("SCRAM")).unwrap();
    built.push(Property::AuthenticationData(b"SECRET")).unwrap();
    assert_eq!(format!("{built:?}"), r#"[AuthenticationMethod("SCRAM"), AuthenticationData(…)]"#);
}
