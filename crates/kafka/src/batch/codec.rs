//! Compression of a batch's records.
//!
//! Owns decompression with a limit on its output, for each codec of Kafka, and compression as Kafka's own clients do
//! it. Must not know what the bytes are.

use std::io::{Read, Write as _};

use bytes::{Buf as _, Bytes};

/// What snappy-java's stream begins with: a magic, then two version numbers.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_HEADER_BYTES: usize = XERIAL_HEADER.len();
/// Plain bytes in a block of snappy-java's stream.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// What Kafka's producers use.
const ZSTD_LEVEL: i32 = 3;
/// A zstd frame may ask its decoder for a window of this size however little it holds: every decoder should
/// support 8 MiB (RFC 8878, 3.1.1.1.2); beyond 128 MiB none does unasked.
const ZSTD_WINDOW_LOG_MIN: u32 = 23;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const CODEC_MASK: i16 = 0x07;

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

    /// Named by a batch's attributes, whatever their other bits.
    pub(crate) fn of(attributes: i16) -> Result<Self, String> {
        let number = attributes & CODEC_MASK;
        Self::from_attributes(number).ok_or_else(|| format!("its codec {number} is unknown"))
    }

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
            let mut decoder = lz4::Decoder::new(body.reader()).map_err(|e| e.to_string())?;
            let plain = read_bounded(&mut decoder, limit)?;
            // Its reader takes the end of the input for the end of the stream.
            decoder.finish().1.map_err(|_| "its lz4 frame is cut off".to_owned())?;
            Ok(plain)
        }
        Codec::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(body.reader()).map_err(|e| e.to_string())?;
            decoder.window_log_max(window_log_max(limit)).map_err(|e| e.to_string())?;
            read_bounded(decoder, limit)
        }
    }
}

/// Compresses as a Kafka producer does by default, in frames that Java's decoders take.
pub(crate) fn compress(codec: Codec, plain: &[u8]) -> Result<Vec<u8>, String> {
    let compressed = match codec {
        Codec::None => Ok(plain.to_vec()),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain).and_then(|()| encoder.finish())
        }
        Codec::Snappy => snap_blocks(plain).map_err(std::io::Error::other),
        Codec::Lz4 => lz4_frame(plain),
        Codec::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL),
    };
    compressed.map_err(|e| format!("its records cannot be compressed: {e}"))
}

/// snappy-java's stream: Java's reader takes nothing else.
fn snap_blocks(plain: &[u8]) -> Result<Vec<u8>, snap::Error> {
    let mut encoder = snap::raw::Encoder::new();
    let mut out = XERIAL_HEADER.to_vec();
    let mut block = vec![0; snap::raw::max_compress_len(XERIAL_BLOCK_BYTES.min(plain.len()))];
    for piece in plain.chunks(XERIAL_BLOCK_BYTES) {
        let length = encoder.compress(piece, &mut block)?;
        // A block of 32 KiB never gets near this bound.
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(block.get(..length).unwrap_or_default());
    }
    Ok(out)
}

/// Java's reader refuses blocks that depend on each other.
fn lz4_frame(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = lz4::EncoderBuilder::new()
        .block_mode(lz4::BlockMode::Independent)
        .block_size(lz4::BlockSize::Max64KB)
        .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
        .checksum(lz4::ContentChecksum::NoChecksum)
        .build(Vec::new())?;
    encoder.write_all(plain)?;
    let (out, ended) = encoder.finish();
    ended.map(|()| out)
}

/// An lz4 frame of message format 0 has a wrong checksum of its header, which Kafka's readers ignore and lz4 does not
/// (it was taken over the frame's magic too, KAFKA-3160). Puts the right one in its place.
pub(super) fn mend_lz4_header(frame: &Bytes) -> Bytes {
    let content_size = frame.get(LZ4_FLAGS_AT).is_some_and(|flags| flags & LZ4_CONTENT_SIZE != 0);
    let checksum_at = LZ4_FLAGS_AT + 2 + if content_size { 8 } else { 0 };
    let Some(descriptor) = frame.get(LZ4_FLAGS_AT..checksum_at) else { return frame.clone() };
    let [_, checksum, ..] = xxh32_short(descriptor).to_le_bytes();
    let mut mended = frame.to_vec();
    if let Some(place) = mended.get_mut(checksum_at) {
        *place = checksum;
    }
    mended.into()
}

/// Where a frame's descriptor begins: behind its magic.
const LZ4_FLAGS_AT: usize = 4;
const LZ4_CONTENT_SIZE: u8 = 0x08;

/// xxHash32 with seed 0 of fewer than 16 bytes.
fn xxh32_short(bytes: &[u8]) -> u32 {
    const P: [u32; 5] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1];
    let mut hash = P[4].wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let word = word.first_chunk().copied().map_or(0, u32::from_le_bytes);
        hash = hash.wrapping_add(word.wrapping_mul(P[2])).rotate_left(17).wrapping_mul(P[3]);
    }
    for byte in words.remainder() {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(P[1]);
    hash = (hash ^ (hash >> 13)).wrapping_mul(P[2]);
    hash ^ (hash >> 16)
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
