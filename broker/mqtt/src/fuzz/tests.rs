//! The fuzz targets' bodies with random input, a bounded number of times.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

proptest! {
    #[test]
    fn any_bytes_decode_without_panic(data in data()) {
        decode_any(&data, None);
        Version::ALL.iter().for_each(|version| decode_any(&data, Some(*version)));
    }

    #[test]
    fn every_packet_of_every_version_round_trips(data in data()) {
        for version in Version::ALL {
            PacketType::ALL.iter().for_each(|packet| round_trip(&data, *packet, version));
        }
    }

    #[test]
    fn damaged_packets_decode_without_panic(data in data()) {
        for version in Version::ALL {
            PacketType::ALL.iter().for_each(|packet| decode_mutated(&data, *packet, version));
        }
    }

    #[test]
    fn any_bytes_as_message_do_not_panic(data in data()) {
        message_from_wire(&data);
    }

    #[test]
    fn publish_arrives_as_sent(data in data()) {
        Version::ALL.iter().for_each(|version| publish_through(&data, *version));
    }

    #[test]
    fn topic_rules_agree(data in data(), text in "[a$+#/]{0,6}", name in "[a$/]{1,6}") {
        topics(&data);
        let mut both = vec![text.len() as u8];
        both.extend_from_slice(text.as_bytes());
        both.push(name.len() as u8);
        both.extend_from_slice(name.as_bytes());
        topics(&both);
    }

    #[test]
    fn any_bytes_as_properties_do_not_panic(data in vec(any::<u8>(), 0..20)) {
        properties(&data);
    }
}
