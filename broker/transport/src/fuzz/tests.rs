//! The fuzz targets' bodies with random input, a bounded number of times, and with the inputs that are kept.

use proptest::{collection::vec, prelude::*};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn proxy_headers_say_what_was_written(data in vec(any::<u8>(), 0..300)) {
        proxy::any_header(&data);
    }

    #[test]
    fn websocket_clients_are_understood_by_the_letter(data in vec(any::<u8>(), 0..500)) {
        websocket::any_client(&data);
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
