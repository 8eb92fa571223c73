//! Every answer of a broker.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrormesh_kafka::fuzzing::answers(data));
