//! Byte formats: record batch headers and MirrorMaker 2's internal records.

pub mod batch;
mod crc;
pub mod mm2;
#[cfg(any(test, feature = "samples"))]
pub mod samples;

pub use crc::crc32c;
