//! Splitting of batches, new headers, control records.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrormesh_kafka::fuzzing::batches(data));
