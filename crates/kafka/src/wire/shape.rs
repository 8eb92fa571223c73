//! The shape of a response: what has to be true of its bytes before kafka-protocol may decode them.
//!
//! kafka-protocol reserves memory for as many array elements as a frame *claims*: eight foreign bytes are enough to
//! make it ask for hundreds of gigabytes, which ends the process. It also ignores the size of tagged fields that it
//! knows. So every frame is walked first, against a table of its fields, without taking any memory: claimed counts must
//! be covered by bytes, and the memory that decoding will take must stay within a limit.
//!
//! Owns the walk; the tables are in [`super::api`]. Must not know what the fields mean.

use std::fmt;

/// Tagged fields per structure. Kafka defines at most four; each takes a tree node in memory.
const TAGS_MAX: u32 = 64;
/// What one decoded structure takes at most, children not included (checked by a test against kafka-protocol's types).
pub(crate) const STRUCT_BYTES: usize = 320;
/// What one text or one unknown tagged field takes beside its bytes, which stay in the frame.
const HANDLE_BYTES: usize = 64;

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A number of this many bytes.
    Fixed(usize),
    /// A string, null allowed.
    Text,
    /// Bytes, null allowed.
    Blob,
    /// A structure in place.
    Struct(&'static [Field]),
    /// An array of structures, null allowed.
    Array(&'static [Field]),
    /// An array of numbers of this many bytes each.
    Numbers(usize),
    /// An array of strings.
    Texts,
}

/// A field and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    kind: Kind,
    since: i16,
    until: i16,
    tag: Option<u32>,
}

impl Field {
    /// A field that every version has.
    pub(crate) const fn always(kind: Kind) -> Self {
        Self { kind, since: 0, until: i16::MAX, tag: None }
    }

    /// A field that versions from `since` have.
    pub(crate) const fn since(since: i16, kind: Kind) -> Self {
        Self { kind, since, until: i16::MAX, tag: None }
    }

    /// A field that versions up to and including `until` have.
    pub(crate) const fn until(until: i16, kind: Kind) -> Self {
        Self { kind, since: 0, until, tag: None }
    }

    /// A field that versions from `since` to `until` have.
    pub(crate) const fn between(since: i16, until: i16, kind: Kind) -> Self {
        Self { kind, since, until, tag: None }
    }

    /// A tagged field that versions from `since` know.
    pub(crate) const fn tagged(tag: u32, since: i16, kind: Kind) -> Self {
        Self { kind, since, until: i16::MAX, tag: Some(tag) }
    }

    const fn in_version(&self, version: i16) -> bool {
        self.since <= version && version <= self.until
    }
}

/// Why bytes do not have the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// A field goes beyond the end.
    Short,
    /// A length below -1.
    NegativeLength,
    /// A number that takes more than five bytes.
    LongNumber,
    /// A tagged field that is not as long as it says.
    TagSize,
    /// More tagged fields than any version has.
    TooManyTags,
    /// Decoding would take more memory than allowed.
    TooLarge,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "a field goes beyond the frame's end",
            Self::NegativeLength => "a length is negative",
            Self::LongNumber => "a variable-length number has more than five bytes",
            Self::TagSize => "a tagged field does not have its stated size",
            Self::TooManyTags => "a structure has too many tagged fields",
            Self::TooLarge => "decoding it would take more memory than allowed",
        })
    }
}

/// Checks that `bytes` begin with a message of this shape; bytes behind it are the caller's business.
///
/// Returns how many bytes the message has.
pub(crate) fn check(
    bytes: &[u8],
    fields: &[Field],
    version: i16,
    flexible: bool,
    heap_bytes_max: usize,
) -> Result<usize, Misfit> {
    let mut walk = Walk { rest: bytes, version, flexible, heap_left: heap_bytes_max };
    walk.structure(fields)?;
    Ok(bytes.len() - walk.rest.len())
}

/// How many bytes the header of a response has: the correlation id, and from header version 1 on tagged fields.
pub(crate) fn response_header_bytes(bytes: &[u8], header_version: i16) -> Result<usize, Misfit> {
    const HEADER: &[Field] = &[Field::always(Kind::Fixed(4))];
    check(bytes, HEADER, 0, header_version >= 1, usize::MAX)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    heap_left: usize,
}

impl Walk<'_> {
    /// Recursion ends with the table, never with the bytes.
    fn structure(&mut self, fields: &[Field]) -> Result<(), Misfit> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.in_version(version)) {
            self.field(field.kind)?;
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn field(&mut self, kind: Kind) -> Result<(), Misfit> {
        match kind {
            Kind::Fixed(bytes) => self.skip(bytes),
            Kind::Text => {
                let length = if self.flexible { self.compact_length()? } else { self.short_length()? };
                self.skip(length)
            }
            Kind::Blob => {
                let length = self.length()?;
                self.skip(length)
            }
            Kind::Struct(fields) => self.structure(fields),
            Kind::Numbers(bytes) => {
                let length = self.length()?.checked_mul(bytes).ok_or(Misfit::Short)?;
                self.reserve(length)?;
                self.skip(length)
            }
            Kind::Array(fields) => self.elements(STRUCT_BYTES, |walk| walk.structure(fields)),
            Kind::Texts => self.elements(HANDLE_BYTES, |walk| walk.field(Kind::Text)),
        }
    }

    fn elements(
        &mut self,
        heap_bytes_each: usize,
        mut element: impl FnMut(&mut Self) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        let count = self.length()?;
        // Every element has at least one byte, so this also ends the walk early for absurd counts.
        if count > self.rest.len() {
            return Err(Misfit::Short);
        }
        self.reserve(count.saturating_mul(heap_bytes_each))?;
        (0..count).try_for_each(|_| element(self))
    }

    /// Known tagged fields are decoded by kafka-protocol whatever their stated size is: it must be right.
    fn tags(&mut self, fields: &[Field]) -> Result<(), Misfit> {
        let count = self.varint()?;
        if count > TAGS_MAX {
            return Err(Misfit::TooManyTags);
        }
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            let known = fields.iter().find(|field| field.tag == Some(tag) && field.in_version(self.version));
            if let Some(field) = known {
                let before = self.rest.len();
                self.field(field.kind)?;
                if before - self.rest.len() != size {
                    return Err(Misfit::TagSize);
                }
            } else {
                self.reserve(HANDLE_BYTES)?;
                self.skip(size)?;
            }
        }
        Ok(())
    }

    fn length(&mut self) -> Result<usize, Misfit> {
        if self.flexible { self.compact_length() } else { self.long_length() }
    }

    /// One more than the length; 0 is null, which has no bytes either.
    fn compact_length(&mut self) -> Result<usize, Misfit> {
        Ok(self.varint()?.saturating_sub(1) as usize)
    }

    fn short_length(&mut self) -> Result<usize, Misfit> {
        let (head, rest) = self.rest.split_first_chunk::<2>().ok_or(Misfit::Short)?;
        self.rest = rest;
        length_of(i32::from(i16::from_be_bytes(*head)))
    }

    fn long_length(&mut self) -> Result<usize, Misfit> {
        let (head, rest) = self.rest.split_first_chunk::<4>().ok_or(Misfit::Short)?;
        self.rest = rest;
        length_of(i32::from_be_bytes(*head))
    }

    fn varint(&mut self) -> Result<u32, Misfit> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self.rest.split_first().ok_or(Misfit::Short)?;
            self.rest = rest;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Misfit::LongNumber)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Misfit> {
        self.rest = self.rest.get(bytes..).ok_or(Misfit::Short)?;
        Ok(())
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), Misfit> {
        self.heap_left = self.heap_left.checked_sub(bytes).ok_or(Misfit::TooLarge)?;
        Ok(())
    }
}

/// A length where -1 is null.
fn length_of(length: i32) -> Result<usize, Misfit> {
    if length == -1 { Ok(0) } else { usize::try_from(length).map_err(|_| Misfit::NegativeLength) }
}

#[cfg(test)]
mod tests;
