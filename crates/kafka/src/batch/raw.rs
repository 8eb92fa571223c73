//! A batch that was made here, in the form in which the relay holds batches.

use bytes::Bytes;
use mirrormesh_core::format::batch::{RawBatch, split};

/// What was just encoded.
pub(super) fn raw(batch: Bytes) -> Result<RawBatch, String> {
    match split(batch).next() {
        Some(Ok(batch)) => Ok(batch),
        Some(Err(error)) => Err(format!("what was made of it is wrong: {error}")),
        None => Err("what was made of it is no batch".to_owned()),
    }
}
