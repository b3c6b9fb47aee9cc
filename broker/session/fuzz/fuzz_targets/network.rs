#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raftmq_session::fuzz::run("network", data));
