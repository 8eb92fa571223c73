//! Pages of lists (AIP-158).
//!
//! Owns sizes and tokens. A token is the hexadecimal form of a version byte, the last name of the page and a checksum
//! that also covers which list it belongs to. It hides nothing: it is opaque so that its form may change.

use crate::error::ConvertError;
use crate::fingerprint::fnv1a;

/// Entries on a page when the request says 0.
pub const PAGE_SIZE_DEFAULT: usize = 50;
/// Most entries on a page.
pub const PAGE_SIZE_MAX: usize = 1000;
/// Longest token that is looked at, in characters.
const TOKEN_CHARS_MAX: usize = 4096;
/// First byte of a token.
const VERSION: u8 = 1;
/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 8;

/// How many entries to return: 0 means [`PAGE_SIZE_DEFAULT`], more than [`PAGE_SIZE_MAX`] means that. A negative
/// number is a fault of `page_size`.
pub fn page_size(requested: i32) -> Result<usize, ConvertError> {
    match usize::try_from(requested) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_SIZE_MAX)),
        Err(_) => {
            Err(ConvertError::new("page_size", format!("{requested} is negative: use 0 for the default")))
        }
    }
}

/// Token of the page behind the entry `behind` of a list. `list` says which list it is, e.g. `flows` or
/// `flows/a/topics`.
pub fn page_token(list: &str, behind: &str) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(behind.as_bytes());
    bytes.extend_from_slice(&checksum(list, behind));
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Where a page begins: behind the entry that is returned, or at the beginning for an empty token. Anything but a
/// token that [`page_token`] made for the same list is a fault of `page_token`.
pub fn page_start(list: &str, token: &str) -> Result<Option<String>, ConvertError> {
    if token.is_empty() {
        return Ok(None);
    }
    decode(list, token).map(Some).ok_or_else(|| {
        ConvertError::new(
            "page_token",
            "is not a token of this list: leave it empty to begin at the first page",
        )
    })
}

fn checksum(list: &str, behind: &str) -> [u8; CHECKSUM_BYTES] {
    fnv1a([list.as_bytes(), &[0], behind.as_bytes()]).to_be_bytes()
}

fn decode(list: &str, token: &str) -> Option<String> {
    if token.len() > TOKEN_CHARS_MAX {
        return None;
    }
    let (pairs, []) = token.as_bytes().as_chunks::<2>() else { return None };
    let bytes = pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?));
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    let (&version, rest) = bytes.split_first()?;
    let (behind, sum) = rest.split_last_chunk::<CHECKSUM_BYTES>()?;
    let behind = std::str::from_utf8(behind).ok()?;
    (version == VERSION && *sum == checksum(list, behind)).then(|| behind.to_owned())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
