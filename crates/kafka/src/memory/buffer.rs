//! The bytes of one frame.
//!
//! Large frames get pages of their own from the operating system. On the heap they would lie between small allocations that
//! live longer, and a heap with such holes keeps twice the memory that frames take. Must not know who holds a frame.

use std::fmt;
use std::io;

use bytes::BufMut as _;
use memmap2::MmapMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Buffers of this size and more get pages of their own.
pub(super) const MAPPED_BYTES_MIN: usize = 64 * 1024;

/// A buffer that is filled from its start.
pub(crate) struct Buffer(Memory);

enum Memory {
    Heap(Vec<u8>),
    /// Anonymous pages, and how many bytes of them are filled.
    Pages(MmapMut, usize),
}

impl Buffer {
    /// An empty buffer with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        if bytes >= MAPPED_BYTES_MIN
            && let Ok(pages) = MmapMut::map_anon(bytes)
        {
            return Self(Memory::Pages(pages, 0));
        }
        Self(Memory::Heap(Vec::with_capacity(bytes)))
    }

    /// Bytes that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        match &self.0 {
            Memory::Heap(bytes) => bytes.capacity(),
            Memory::Pages(pages, _) => pages.len(),
        }
    }

    /// What was filled.
    pub(crate) fn filled(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Pages(pages, filled) => pages.get(..*filled).unwrap_or_default(),
        }
    }

    pub(crate) fn clear(&mut self) {
        match &mut self.0 {
            Memory::Heap(bytes) => bytes.clear(),
            Memory::Pages(_, filled) => *filled = 0,
        }
    }

    /// Reads at most so many bytes behind what was filled; how many. 0 if nothing more comes. The future may be dropped:
    /// nothing is lost.
    ///
    /// # Errors
    /// The reader's; and if there is no room, which would look as if nothing more came.
    pub(crate) async fn read<R>(&mut self, reader: &mut R, bytes_max: usize) -> io::Result<usize>
    where
        R: AsyncRead + Unpin,
    {
        match &mut self.0 {
            Memory::Heap(bytes) => reader.read_buf(&mut bytes.limit(bytes_max)).await,
            Memory::Pages(pages, filled) => {
                let end = filled.saturating_add(bytes_max).min(pages.len());
                let room = pages.get_mut(*filled..end).unwrap_or_default();
                if room.is_empty() && bytes_max > 0 {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                let read = reader.read(room).await?;
                *filled += read;
                Ok(read)
            }
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("filled", &self.filled().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_kinds_are_filled_piece_by_piece() {
        for capacity in [100, MAPPED_BYTES_MIN] {
            let mut buffer = Buffer::with_capacity(capacity);
            assert!(buffer.capacity() >= capacity && buffer.filled().is_empty());
            let mut reader = b"abcdef".as_slice();
            assert_eq!(buffer.read(&mut reader, 4).await.unwrap(), 4);
            assert_eq!(buffer.read(&mut reader, 4).await.unwrap(), 2);
            assert_eq!(buffer.read(&mut reader, 4).await.unwrap(), 0, "{capacity}: nothing more comes");
            assert_eq!(buffer.filled(), b"abcdef");
            buffer.clear();
            assert!(buffer.filled().is_empty() && buffer.capacity() >= capacity);
        }
    }

    #[tokio::test]
    async fn a_full_buffer_is_no_end() {
        let mut buffer = Buffer::with_capacity(MAPPED_BYTES_MIN);
        let bytes = vec![7; MAPPED_BYTES_MIN + 1];
        let mut reader = bytes.as_slice();
        assert_eq!(buffer.read(&mut reader, usize::MAX).await.unwrap(), MAPPED_BYTES_MIN);
        assert!(buffer.read(&mut reader, 1).await.is_err());
    }
}
