//! The fuzz targets' bodies with random input, a bounded number of times, and with the inputs that are kept.

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

#[test]
fn kept_inputs_of_every_target() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for folder in ["seeds", "corpus"] {
        let mut found: Vec<String> = std::fs::read_dir(fuzz.join(folder))
            .expect("it is in the repository")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("named in ASCII"))
            .collect();
        found.sort();
        let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        targets.sort_unstable();
        assert_eq!(found, targets, "{folder}");
        for target in targets {
            let files: Vec<_> = std::fs::read_dir(fuzz.join(folder).join(target)).expect("a folder").collect();
            assert!(!files.is_empty(), "{target} has {folder}");
            for file in files {
                let path = file.expect("readable").path();
                // Printed when it fails.
                println!("{}", path.display());
                run(target, &std::fs::read(path).expect("readable"));
            }
        }
    }
}

/// A seed that is refused tests little: all but the ones that are meant to be are whole packets.
#[test]
fn seeds_are_packets() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, version) in [
        ("decode_first", None),
        ("decode_v3_1", Some(Version::V3_1)),
        ("decode_v3_1_1", Some(Version::V3_1_1)),
        ("decode_v5", Some(Version::V5)),
    ] {
        for file in std::fs::read_dir(seeds.join(target)).expect("a folder") {
            let path = file.expect("readable").path();
            if path.ends_with("http") || path.ends_with("connect_cut") {
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            let decoded = decode(&bytes, version, &Limits::default());
            assert!(
                matches!(decoded, Ok(Decoded::Packet { consumed, .. }) if consumed == bytes.len()),
                "{}: {decoded:?}",
                path.display()
            );
        }
    }
}
