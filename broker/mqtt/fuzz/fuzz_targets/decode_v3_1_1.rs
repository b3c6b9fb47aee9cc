#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raftmq_mqtt::fuzz::run("decode_v3_1_1", data));
