//! Byte formats: record batch headers and MirrorMaker 2's internal records.

pub mod batch;
pub mod mm2;
