//! Frames: a big-endian length and that many bytes.
//!
//! Owns bounded reading into exact buffers and vectored writing. Must not know what a frame holds.
//!
//! A reader with a share of a memory budget leaves a frame in the socket until the budget grants its size.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::transport::Reader;
use crate::memory::{Lease, Share};

/// Small answers come in one system call together with their length; larger ones bypass this buffer.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// Slices per vectored write; Linux takes at most 1024.
const SLICES_MAX: usize = 128;

/// Why no further frame can be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FrameError(pub(crate) String);

/// Reads frames one after the other. [`FrameReader::next`] may be dropped and called again: nothing is lost.
pub(crate) struct FrameReader {
    reader: BufReader<Reader>,
    bytes_max: usize,
    memory: Option<Share>,
    /// The length's bytes as far as they have come.
    head: BytesMut,
    state: State,
}

/// What is known of the next frame.
enum State {
    /// Not its length.
    Head,
    /// Its length; memory for it is not granted yet.
    Held(BoxFuture<'static, Lease>, usize),
    /// What has come so far, and how many bytes are missing.
    Body(Body, usize),
}

enum Body {
    Own(Vec<u8>),
    Leased(Lease),
}

impl Body {
    async fn read(&mut self, reader: &mut BufReader<Reader>, missing: usize) -> io::Result<usize> {
        match self {
            Self::Own(buffer) => reader.read_buf(&mut buffer.limit(missing)).await,
            Self::Leased(lease) => lease.buffer.read(reader, missing).await,
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Own(buffer) => buffer.into(),
            Self::Leased(lease) => Bytes::from_owner(lease),
        }
    }
}

impl FrameReader {
    pub(crate) fn new(reader: Reader, bytes_max: usize, memory: Option<Share>) -> Self {
        Self {
            reader: BufReader::with_capacity(READ_BUFFER_BYTES, reader),
            bytes_max,
            memory,
            head: BytesMut::with_capacity(4),
            state: State::Head,
        }
    }

    /// Whether a frame lies in the socket for which there is no memory: its lateness is ours, not the broker's.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.state, State::Held(..))
    }

    /// The next frame without its length, in a buffer of exactly its size.
    pub(crate) async fn next(&mut self) -> Result<Bytes, FrameError> {
        loop {
            match &mut self.state {
                State::Head => self.read_length().await?,
                State::Held(granted, length) => {
                    let (lease, length) = (granted.await, *length);
                    self.state = State::Body(Body::Leased(lease), length);
                }
                State::Body(_, 0) => {
                    if let State::Body(body, _) = std::mem::replace(&mut self.state, State::Head) {
                        return Ok(body.freeze());
                    }
                }
                State::Body(body, missing) => {
                    let read =
                        body.read(&mut self.reader, *missing).await.map_err(|e| FrameError(e.to_string()))?;
                    if read == 0 {
                        let problem = format!("the broker closed it {missing} bytes before a frame's end");
                        return Err(FrameError(problem));
                    }
                    *missing = missing.saturating_sub(read);
                }
            }
        }
    }

    async fn read_length(&mut self) -> Result<(), FrameError> {
        while self.head.len() < 4 {
            let missing = 4 - self.head.len();
            let read = self
                .reader
                .read_buf(&mut (&mut self.head).limit(missing))
                .await
                .map_err(|e| FrameError(e.to_string()))?;
            if read == 0 {
                return Err(FrameError("the broker closed it".to_owned()));
            }
        }
        let claimed = self.head.get_i32();
        let length = usize::try_from(claimed).ok().filter(|length| *length <= self.bytes_max);
        let Some(length) = length else {
            let max = self.bytes_max;
            return Err(FrameError(format!("a frame claims {claimed} bytes, at most {max} are allowed")));
        };
        let Some(share) = &self.memory else {
            self.state = State::Body(Body::Own(Vec::with_capacity(length)), length);
            return Ok(());
        };
        self.state = if let Some(lease) = share.try_take(length) {
            State::Body(Body::Leased(lease), length)
        } else {
            let share = share.clone();
            State::Held(Box::pin(async move { share.take(length).await }), length)
        };
        Ok(())
    }
}

/// Writes all segments in order, as many as possible with each system call.
pub(crate) async fn write_segments<W: AsyncWrite + Unpin>(
    writer: &mut W,
    segments: &mut VecDeque<Bytes>,
) -> io::Result<()> {
    while !segments.is_empty() {
        let written = {
            let slices: Vec<IoSlice<'_>> =
                segments.iter().take(SLICES_MAX).map(|segment| IoSlice::new(segment)).collect();
            writer.write_vectored(&slices).await?
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        consume(segments, written);
    }
    writer.flush().await
}

/// Drops the first `written` bytes, and segments that are empty from the start.
fn consume(segments: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = segments.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        segments.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8], max: usize) -> FrameReader {
        FrameReader::new(Box::new(bytes), max, None)
    }

    #[tokio::test]
    async fn frames_come_one_by_one() {
        let mut frames = reader(b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01d", 16);
        assert_eq!(frames.next().await.unwrap(), "abc");
        assert_eq!(frames.next().await.unwrap(), "");
        assert_eq!(frames.next().await.unwrap(), "d");
        assert_eq!(frames.next().await, Err(FrameError("the broker closed it".into())));
    }

    #[tokio::test]
    async fn lengths_are_checked_before_memory_is_taken() {
        for bytes in [b"\xff\xff\xff\xff".as_slice(), b"\x7f\xff\xff\xff", b"\0\0\0\x11"] {
            let error = reader(bytes, 16).next().await.unwrap_err();
            assert!(error.0.contains("at most 16"), "{error:?}");
        }
        assert_eq!(reader(b"\0\0\0\x100123456789abcdef", 16).next().await.unwrap().len(), 16);
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error() {
        let error = reader(b"\0\0\0\x05abc", 16).next().await.unwrap_err();
        assert_eq!(error.0, "the broker closed it 2 bytes before a frame's end");
    }

    /// A future that is dropped half way must not lose the bytes it has read.
    #[tokio::test]
    async fn reading_can_be_interrupted_anywhere() {
        let (mut sender, receiver) = tokio::io::duplex(64);
        let mut frames = FrameReader::new(Box::new(receiver), 16, None);
        for byte in b"\0\0\0\x02x" {
            sender.write_all(&[*byte]).await.unwrap();
            tokio::select! {
                biased;
                frame = frames.next() => panic!("no whole frame was sent: {frame:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        sender.write_all(b"y").await.unwrap();
        assert_eq!(frames.next().await.unwrap(), "xy");
    }

    #[tokio::test]
    async fn a_frame_waits_for_memory() {
        let share = crate::memory::Budget::new(8).share();
        let mut frames =
            FrameReader::new(Box::new(b"\0\0\0\x04abcd\0\0\0\x04efgh".as_slice()), 16, Some(share));
        let first = frames.next().await.unwrap();
        let slice = first.slice(1..2);
        drop(first);
        tokio::select! {
            biased;
            frame = frames.next() => panic!("a slice still holds the memory: {frame:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert!(frames.is_held());
        assert_eq!(slice, "b");
        drop(slice);
        assert_eq!(frames.next().await.unwrap(), "efgh");
    }

    #[tokio::test]
    async fn segments_are_written_whole_and_in_order() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let mut segments: VecDeque<Bytes> =
            (0..400u32).map(|i| Bytes::from(vec![(i % 251) as u8; (i % 5) as usize])).collect();
        let expected: Vec<u8> = segments.iter().flatten().copied().collect();
        let writing = async move {
            write_segments(&mut near, &mut segments).await.unwrap();
            assert!(segments.is_empty());
        };
        let reading = async {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(writing, reading);
        assert_eq!(read, expected);
    }
}
