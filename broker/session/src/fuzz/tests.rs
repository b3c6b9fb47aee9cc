//! The fuzz targets' bodies with random input, a bounded number of times, and with their seeds.

use proptest::{collection::vec, prelude::*};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// [MQTT-4.3.2-3], [MQTT-4.3.3-6], [MQTT-4.3.3-10], [MQTT-4.4.0-1], [MQTT-4.6.0-5], [MQTT-4.6.0-6], [MQTT-4.9.0-2], [MQTT311-4.4.0-1],
    /// [MQTT311-4.6.0-5], [MQTT311-4.6.0-6]
    #[test]
    fn messages_arrive_over_any_network(data in vec(any::<u8>(), 0..600)) {
        any_network(&data);
    }

    /// [MQTT-3.1.2-24], [MQTT-3.2.0-1], [MQTT-3.2.0-2], [MQTT-3.3.4-9], [MQTT-3.14.0-1], [MQTT-3.14.4-1], [MQTT311-3.2.0-1]
    #[test]
    fn any_packets_at_any_time(data in vec(any::<u8>(), 0..600)) {
        any_packets(&data);
    }
}

#[test]
fn seeds_of_every_target() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, _) in TARGETS {
        let files: Vec<_> = std::fs::read_dir(seeds.join(target)).expect("a folder").collect();
        assert!(!files.is_empty(), "{target} has seeds");
        for file in files {
            run(target, &std::fs::read(file.expect("readable").path()).expect("readable"));
        }
    }
}
