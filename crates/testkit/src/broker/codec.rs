//! The codecs of record batches, by their number in the attributes.
//!
//! Owns nothing but the choice. The bytes come from a test, so output is limited only by what a test may want.

use bytes::{Bytes, BytesMut};
use kafka_protocol::compression::{Compressor as _, Decompressor as _, Gzip, Lz4, Snappy};

/// More than this is no answer to any question of a test.
const OUTPUT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Codec {
    /// 0.
    None,
    /// 1.
    Gzip,
    /// 2, in blocks with Java's own frame.
    Snappy,
    /// 3, as frames.
    Lz4,
    /// 4.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Its number in the attributes.
    pub fn number(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a number.
    pub fn of(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.number() == number)
    }

    /// The codec that a topic's `compression.type` names; none for `producer`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "uncompressed" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// Compresses.
    pub fn compress(self, plain: &[u8]) -> Result<Bytes, String> {
        let mut out = BytesMut::new();
        let done = match self {
            Self::None => return Ok(Bytes::copy_from_slice(plain)),
            Self::Gzip => Gzip::compress(&mut out, |to| put(to, plain)),
            Self::Snappy => Snappy::compress(&mut out, |to| put(to, plain)),
            Self::Lz4 => Lz4::compress(&mut out, |to| put(to, plain)),
            Self::Zstd => return zstd::bulk::compress(plain, 3).map(Bytes::from).map_err(|e| e.to_string()),
        };
        done.map_err(|e| e.to_string())?;
        Ok(out.freeze())
    }

    /// Decompresses.
    pub fn decompress(self, mut packed: Bytes) -> Result<Bytes, String> {
        let all = |from: &mut Bytes| Ok(from.clone());
        let plain = match self {
            Self::None => return Ok(packed),
            Self::Gzip => Gzip::decompress(&mut packed, all),
            Self::Snappy => Snappy::decompress(&mut packed, all),
            Self::Lz4 => Lz4::decompress(&mut packed, all),
            Self::Zstd => return unzstd(&packed),
        };
        plain.map_err(|e| e.to_string())
    }
}

fn put(to: &mut BytesMut, plain: &[u8]) -> anyhow::Result<()> {
    to.extend_from_slice(plain);
    Ok(())
}

fn unzstd(packed: &[u8]) -> Result<Bytes, String> {
    use std::io::Read as _;
    let limit = u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX);
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|e| e.to_string())?;
    decoder.take(limit).read_to_end(&mut plain).map_err(|e| e.to_string())?;
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let plain = b"the same again and again and again and again".repeat(100);
        for codec in Codec::ALL {
            assert_eq!(Codec::of(codec.number()), Some(codec));
            let packed = codec.compress(&plain).unwrap();
            assert_eq!(codec.decompress(packed).unwrap(), plain, "{codec:?}");
        }
        assert_eq!(Codec::of(5), None);
    }
}
