//! The fuzz targets' bodies with random input, a bounded number of times, and with the inputs that are kept.

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
