//! CRC-32C of bytes, and joining those of two pieces without reading either again.
//!
//! CRCs are linear: the checksum of A then B is that of A, moved on by the length of B, plus that of B. Moving on is a
//! multiplication by a power of x modulo the polynomial, as in zlib's `crc32_combine`. The `crc32c` crate has the same
//! function, but builds its matrices anew in every call: it took two fifths of the relay's time.

use crc_fast::CrcAlgorithm;

/// CRC-32C, the checksum of record batches.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // 32 bits wide, in 64.
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// CRC-32C's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0 in the reflected form.
const ONE: u32 = 1 << 31;

/// a · b modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, ONE);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// x^(2^k) for k = 0 … 31.
const POWERS: [u32; 32] = {
    let mut powers = [ONE >> 1; 32];
    let mut k = 1;
    while k < 32 {
        #[expect(
            clippy::indexing_slicing,
            reason = "evaluated by the compiler, which would refuse a bad index"
        )]
        {
            powers[k] = multiply(powers[k - 1], powers[k - 1]);
        }
        k += 1;
    }
    powers
};

/// Moves checksums on over a piece of a given length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift(u32);

impl Shift {
    /// Over so many bytes.
    pub(super) fn over(bytes: usize) -> Self {
        let (mut factor, mut rest) = (ONE, bytes);
        // A byte is 2^3 bits; the powers repeat after 32.
        for power in POWERS.iter().cycle().skip(3) {
            if rest == 0 {
                break;
            }
            if rest & 1 != 0 {
                factor = multiply(*power, factor);
            }
            rest >>= 1;
        }
        Self(factor)
    }

    /// The checksum of a piece with this `head`, followed by the piece with this `tail`.
    pub(super) fn join(self, head: u32, tail: u32) -> u32 {
        multiply(self.0, head) ^ tail
    }

    /// The checksum of the tail, from those of the head and of both together: joining is its own inverse.
    pub(super) fn tail(self, head: u32, both: u32) -> u32 {
        self.join(head, both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_the_checksum_that_others_compute(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert_eq!(crc32c(&bytes), crc32c::crc32c(&bytes));
        }

        #[test]
        fn joins_as_if_read_whole(head in prop::collection::vec(any::<u8>(), 0..80), tail in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let whole = crc32c::crc32c(&[&head[..], &tail[..]].concat());
            let joined = Shift::over(tail.len()).join(crc32c::crc32c(&head), crc32c::crc32c(&tail));
            prop_assert_eq!(joined, whole);
            prop_assert_eq!(Shift::over(tail.len()).tail(crc32c::crc32c(&head), whole), crc32c::crc32c(&tail));
        }

        #[test]
        fn agrees_with_the_library_at_any_length(head: u32, tail: u32, bytes in 0_usize..200_000_000) {
            prop_assert_eq!(Shift::over(bytes).join(head, tail), crc32c::crc32c_combine(head, tail, bytes));
        }
    }
}
