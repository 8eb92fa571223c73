//! A hash of what a request was.

use prost::{Message, Name};

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a (64 bits) over several pieces in a row.
pub(crate) fn fnv1a<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    pieces
        .into_iter()
        .flatten()
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// Stable hash of a request, the same on every coordinator and in every build: FNV-1a over the message's full name, a
/// zero byte and the encoded message. The name takes part since requests of two methods can have the same bytes. The
/// caller clears `request_id` before (AIP-155: the id names the request, it is not part of what is asked).
pub fn fingerprint<M: Message + Name>(message: &M) -> u64 {
    fnv1a([M::full_name().as_bytes(), &[0], &message.encode_to_vec()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn hashes_as_fnv_does() {
        // The published vectors of FNV-1a, 64 bits.
        assert_eq!(fnv1a([b"".as_slice()]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a([b"a".as_slice()]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a([b"foo".as_slice(), b"bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn methods_and_values_are_told_apart() {
        let name = || "flows/a".to_owned();
        let pause = fingerprint(&v1::PauseFlowRequest { name: name(), ..Default::default() });
        let resume = fingerprint(&v1::ResumeFlowRequest { name: name(), ..Default::default() });
        let other = fingerprint(&v1::PauseFlowRequest { name: "flows/b".into(), ..Default::default() });
        assert_ne!(pause, resume, "the same bytes in another method are another request");
        assert_ne!(pause, other);
        assert_eq!(pause, fingerprint(&v1::PauseFlowRequest { name: name(), ..Default::default() }));
        // Stored in the Raft log: it must not change between versions.
        assert_eq!(pause, 0x8381_51e1_c1be_6c53);
    }

    #[test]
    fn the_order_of_maps_does_not_matter() {
        let cluster = |keys: [&str; 3]| v1::Cluster {
            properties: keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect(),
            ..Default::default()
        };
        assert_eq!(fingerprint(&cluster(["a", "b", "c"])), fingerprint(&cluster(["c", "a", "b"])));
    }
}
