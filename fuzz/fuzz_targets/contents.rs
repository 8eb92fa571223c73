//! Records rebuilt, identified, and made of the old formats.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrormesh_kafka::fuzzing::contents(data));
