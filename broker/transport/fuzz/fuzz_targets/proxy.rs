#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raftmq_transport::fuzz::run("proxy", data));
