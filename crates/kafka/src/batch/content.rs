//! A hash of what a record says: key, value and headers.
//!
//! Owns the hash function. It is the same in every process and release, so that two copies of a record can be compared
//! across machines: each field counts with its length and its bytes, however the batch had coded them. Null, empty and
//! absent differ, and so do the places where one field ends and the next begins. It is no defence against someone who
//! makes records with equal hashes on purpose.

use super::record::View;

/// Odd constants with half of their bits set (the fractions of the golden ratio and of the square root of 3).
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xbb67_ae85_84ca_a73b;
/// In place of a length.
const NULL: u64 = u64::MAX;

/// Hash of key, value and headers in order; neither the offset nor the timestamp counts.
pub(super) fn hash(view: &View<'_>) -> u64 {
    let mut hash = field(field(SEED, view.key), view.value);
    for (key, value) in view.headers {
        hash = field(field(hash, Some(key)), value);
    }
    // What was hashed last must reach all bits too.
    mix(hash, SEED)
}

fn field(hash: u64, bytes: Option<&[u8]>) -> u64 {
    let Some(bytes) = bytes else { return mix(hash, NULL) };
    let mut hash = mix(hash, bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = mix(hash, word.first_chunk().copied().map_or(0, u64::from_le_bytes));
    }
    // The length is known already, so that zeros behind the last bytes hide nothing.
    let rest = words.remainder();
    if rest.is_empty() {
        return hash;
    }
    mix(hash, rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

/// Both halves of the product, so that high bits reach low ones. The rotation keeps a product of zero from forgetting.
fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word) * u128::from(FACTOR);
    #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded.wrapping_add(hash.rotate_left(23))
}
