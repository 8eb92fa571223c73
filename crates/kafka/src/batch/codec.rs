//! Compression of a batch's records.
//!
//! Owns decompression with a limit on its output, for each codec of Kafka, and compression as Kafka's own clients do
//! it. Must not know what the bytes are.

use std::io::Read;

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::compression::{Compressor, Gzip, Lz4, Snappy};

/// What snappy-java's stream begins with: a magic and two version numbers.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// What Kafka's producers use.
const ZSTD_LEVEL: i32 = 3;
/// A zstd frame may ask its decoder for a window of this size however little it holds: every decoder should
/// support 8 MiB (RFC 8878, 3.1.1.1.2); beyond 128 MiB none does unasked.
const ZSTD_WINDOW_LOG_MIN: u32 = 23;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A compression codec, as the lowest bits of a batch's attributes name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// snappy, in snappy-java's framing.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// By its number in the attributes.
    pub const fn from_attributes(bits: i16) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number in the attributes.
    pub const fn attributes(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// Decompresses to at most `limit` bytes.
pub(crate) fn decompress(codec: Codec, body: Bytes, limit: usize) -> Result<Bytes, String> {
    match codec {
        Codec::None if body.len() > limit => Err(too_large(limit)),
        Codec::None => Ok(body),
        // Several members after each other are one stream, as for Java's reader.
        Codec::Gzip => read_bounded(flate2::bufread::MultiGzDecoder::new(body.reader()), limit),
        Codec::Snappy => unsnap(body, limit),
        Codec::Lz4 => {
            let decoder = lz4::Decoder::new(body.reader()).map_err(|e| e.to_string())?;
            read_bounded(decoder, limit)
        }
        Codec::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(body.reader()).map_err(|e| e.to_string())?;
            decoder.window_log_max(window_log_max(limit)).map_err(|e| e.to_string())?;
            read_bounded(decoder, limit)
        }
    }
}

/// Compresses as a Kafka producer does.
pub(crate) fn compress(codec: Codec, plain: BytesMut) -> Result<Bytes, String> {
    match codec {
        Codec::None => Ok(plain.freeze()),
        Codec::Gzip => compress_with::<Gzip>(plain),
        Codec::Snappy => compress_with::<Snappy>(plain),
        Codec::Lz4 => compress_with::<Lz4>(plain),
        Codec::Zstd => {
            zstd::encode_all(plain.reader(), ZSTD_LEVEL).map(Bytes::from).map_err(|e| e.to_string())
        }
    }
}

fn compress_with<C: Compressor<BytesMut, BufMut = BytesMut>>(plain: BytesMut) -> Result<Bytes, String> {
    let mut out = BytesMut::new();
    let fill = |buffer: &mut BytesMut| {
        *buffer = plain;
        Ok(())
    };
    C::compress(&mut out, fill).map_err(|e| e.to_string())?;
    Ok(out.freeze())
}

fn too_large(limit: usize) -> String {
    format!("its records have more than {limit} bytes when decompressed")
}

/// Memory grows with what was really decompressed, so a small batch cannot claim much.
pub(super) fn read_bounded(decoder: impl Read, limit: usize) -> Result<Bytes, String> {
    let mut out = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(bound).read_to_end(&mut out).map_err(|e| format!("it cannot be decompressed: {e}"))?;
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out.into()) }
}

fn window_log_max(limit: usize) -> u32 {
    limit.max(1).ilog2().saturating_add(1).clamp(ZSTD_WINDOW_LOG_MIN, ZSTD_WINDOW_LOG_MAX)
}

/// snappy-java's stream of blocks, or one bare block, which is what some other clients send.
fn unsnap(mut body: Bytes, limit: usize) -> Result<Bytes, String> {
    let mut out = Vec::new();
    if !body.starts_with(XERIAL_MAGIC) {
        unsnap_block(&body, limit, &mut out)?;
        return Ok(out.into());
    }
    if body.len() < XERIAL_HEADER_BYTES {
        return Err("its snappy stream ends in its header".to_owned());
    }
    body.advance(XERIAL_HEADER_BYTES);
    while body.has_remaining() {
        let length = body.try_get_u32().map_err(|_| "its snappy stream ends in a block's length")? as usize;
        if length > body.len() {
            return Err(format!("a snappy block says {length} bytes, {} are left", body.len()));
        }
        unsnap_block(&body.split_to(length), limit, &mut out)?;
    }
    Ok(out.into())
}

/// A block says how large it gets; that is checked before memory is taken.
fn unsnap_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let length = snap::raw::decompress_len(block).map_err(|e| e.to_string())?;
    if length > limit.saturating_sub(out.len()) {
        return Err(too_large(limit));
    }
    let decompressed = snap::raw::Decoder::new().decompress_vec(block).map_err(|e| e.to_string())?;
    out.extend_from_slice(&decompressed);
    Ok(())
}
