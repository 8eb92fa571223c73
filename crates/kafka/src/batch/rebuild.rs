//! Batches taken apart and packed anew, within a size.
//!
//! Owns the packing: how many records make a piece. Without a codec a record's bytes are copied once, with new deltas
//! before them, and sizes are known before they are taken. With one, records wait until they are likely to fill a piece
//! by the ratio seen so far; if they turn out too large, fewer are tried.
//!
//! Must not know why batches are rebuilt.

use bytes::Bytes;
use mirrormesh_core::format::batch::RawBatch;
use mirrormesh_relay::rebuild::{Oversized, Piece, RebuildPlan, Rebuilt, Run};

use super::codec::Codec;
use super::{CONTROL, Frame, HEADER_BYTES, Opened, Producer, raw, record};
use crate::error::{Error, Result};

type Problem<T> = std::result::Result<T, String>;

/// Of the size that a ratio promises, so much is tried: most pieces are then right at once.
const FILL_PERCENT: usize = 95;

/// See [`mirrormesh_relay::rebuild::Codecs::rebuild`].
pub(super) fn rebuild(batches: &[RawBatch], plan: &RebuildPlan, limit: usize) -> Result<Rebuilt> {
    let Some(first) = batches.first() else { return Ok(Rebuilt::default()) };
    let codec = Codec::of(first.header.attributes).map_err(|problem| fail(first, problem))?;
    let room = batches.iter().map(|batch| batch.bytes.len()).sum();
    let mut packer = Packer::new(codec, plan, limit, room);
    for batch in batches {
        let opened = Opened::open(&batch.bytes, limit)?;
        if let Some(oversized) = packer.take(batch, &opened).map_err(|problem| opened.fail(problem))? {
            return Ok(Rebuilt { pieces: packer.pieces, oversized: Some(oversized), took_ns: 0 });
        }
    }
    let last = batches.last().unwrap_or(first);
    if let Some(oversized) = packer.end().map_err(|problem| fail(last, problem))? {
        return Ok(Rebuilt { pieces: packer.pieces, oversized: Some(oversized), took_ns: 0 });
    }
    if let Some(piece) = packer.pieces.last_mut() {
        piece.next_source = last.header.next_offset();
    }
    Ok(Rebuilt { pieces: packer.pieces, oversized: None, took_ns: 0 })
}

fn fail(batch: &RawBatch, problem: String) -> Error {
    Error::Batch { base_offset: batch.header.base_offset, problem }
}

/// A record to be packed: key, value and headers stay as the batch had them.
#[derive(Clone, Copy)]
struct Item<'a> {
    offset: i64,
    timestamp: i64,
    content: &'a [u8],
}

struct Packer {
    codec: Codec,
    from: i64,
    clamp: Option<(i64, i64)>,
    bytes_max: usize,
    plain_bytes_max: usize,
    records_max: usize,
    limit: usize,
    /// Content that is worth an attempt to compress.
    target: usize,
    /// Bytes of all input: no draft takes more.
    room: usize,
    /// Without a codec: the piece that grows.
    draft: Option<Draft>,
    /// With one: records that wait.
    queue: Queue,
    /// Offset of the record before.
    before: Option<i64>,
    pieces: Vec<Piece>,
}

impl Packer {
    fn new(codec: Codec, plan: &RebuildPlan, limit: usize, room: usize) -> Self {
        Self {
            codec,
            from: plan.from,
            clamp: plan.clamp.map(|(low, high)| (low.min(high), high)),
            // The length field has 31 bits. A record has seven bytes at least: its count fits too.
            bytes_max: plan.bytes_max.min(i32::MAX as usize),
            plain_bytes_max: plan.plain_bytes_max.min(i32::MAX as usize),
            records_max: plan.records_max.max(1),
            limit,
            target: 0,
            room,
            draft: None,
            queue: Queue::default(),
            before: None,
            pieces: Vec::new(),
        }
    }

    /// Takes the records of a batch; the one that is too large, if there is one.
    fn take(&mut self, batch: &RawBatch, opened: &Opened) -> Problem<Option<Oversized>> {
        if opened.header.attributes & CONTROL != 0 {
            return Err("it is a control batch, which is not to be mirrored".to_owned());
        }
        if self.target == 0 && self.codec != Codec::None {
            let compressed = batch.bytes.len().saturating_sub(HEADER_BYTES);
            self.target = self.promised(opened.body.len(), compressed);
        }
        for view in opened.views()? {
            let view = view?;
            if self.before.is_some_and(|before| view.offset <= before) {
                return Err(format!("offset {} comes after a higher one", view.offset));
            }
            self.before = Some(view.offset);
            if view.offset < self.from {
                continue;
            }
            let timestamp = match self.clamp {
                Some((low, high)) if view.timestamp >= 0 => view.timestamp.clamp(low, high),
                _ => view.timestamp,
            };
            let item = Item { offset: view.offset, timestamp, content: view.content };
            let oversized = if self.codec == Codec::None { self.append(item)? } else { self.enqueue(item)? };
            if oversized.is_some() {
                return Ok(oversized);
            }
        }
        Ok(None)
    }

    /// Makes pieces of what is left.
    fn end(&mut self) -> Problem<Option<Oversized>> {
        self.finish_draft()?;
        while !self.queue.is_empty() {
            if let Some(oversized) = self.carve()? {
                return Ok(Some(oversized));
            }
        }
        Ok(None)
    }

    /// Without a codec.
    fn append(&mut self, item: Item<'_>) -> Problem<Option<Oversized>> {
        if let Some(draft) = &mut self.draft {
            if draft.records() < self.records_max && draft.push(item, self.bytes_max)? {
                return Ok(None);
            }
            self.finish_draft()?;
        }
        let bytes = HEADER_BYTES.saturating_add(record::framed_bytes(0, 0, item.content.len()));
        if bytes > self.bytes_max {
            return Ok(Some(Oversized { offset: item.offset, bytes }));
        }
        let mut draft = Draft::new(item, self.room.min(self.bytes_max));
        draft.push(item, self.bytes_max)?;
        self.draft = Some(draft);
        Ok(None)
    }

    fn finish_draft(&mut self) -> Problem<()> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        self.room = self.room.saturating_sub(draft.plain.len());
        let batch = draft.frame(Codec::None).close(draft.plain)?;
        self.pieces.push(piece(batch, draft.runs)?);
        Ok(())
    }

    /// With a codec.
    fn enqueue(&mut self, item: Item<'_>) -> Problem<Option<Oversized>> {
        while !self.queue.is_empty() && self.queue.bytes().saturating_add(item.content.len()) > self.target {
            if let Some(oversized) = self.carve()? {
                return Ok(Some(oversized));
            }
        }
        self.queue.push(item);
        Ok(None)
    }

    /// Makes one piece of the first records that wait. Every attempt that fails is followed by one of at most half its
    /// bytes, save the first, and the next piece starts from at most twice what this one took: the bytes compressed in
    /// all stay a small multiple of those that wait.
    fn carve(&mut self) -> Problem<Option<Oversized>> {
        let (mut wanted, mut first) = (self.target, true);
        loop {
            let (draft, taken) = self.queue.draft(wanted, self.plain_bytes_max, self.records_max)?;
            let plain = draft.plain.len() - HEADER_BYTES;
            let frame = draft.frame(self.codec);
            let batch = frame.close(draft.plain)?;
            if batch.len() <= self.bytes_max {
                let promised = self.promised(plain, batch.len() - HEADER_BYTES);
                self.target = promised.min(taken.bytes.saturating_mul(2).max(self.bytes_max)).min(self.limit);
                self.pieces.push(piece(batch, draft.runs)?);
                self.queue.drop_first(taken.records);
                return Ok(None);
            }
            if taken.records == 1 {
                let offset = draft.runs.first().map_or(-1, |run| run.first);
                return Ok(Some(Oversized { offset, bytes: batch.len() }));
            }
            let promised = self.promised(plain, batch.len() - HEADER_BYTES);
            wanted = if first { promised } else { taken.bytes / 2 }.min(taken.bytes.saturating_sub(1));
            first = false;
        }
    }

    /// How much content should fill a piece if so many bytes became so many.
    fn promised(&self, plain: usize, compressed: usize) -> usize {
        let room = self.bytes_max.saturating_sub(HEADER_BYTES) as u128;
        let promised = room * plain as u128 * FILL_PERCENT as u128 / (compressed.max(1) as u128 * 100);
        usize::try_from(promised).unwrap_or(usize::MAX).clamp(1, self.limit.max(1))
    }
}

fn piece(batch: Bytes, runs: Vec<Run>) -> Problem<Piece> {
    let next_source = runs.last().map_or(-1, |run| run.first.saturating_add(run.count));
    Ok(Piece { batch: raw::raw(batch)?, runs, next_source })
}

/// A piece in the making: plain records behind room for the header.
struct Draft {
    plain: Vec<u8>,
    runs: Vec<Run>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Draft {
    /// For a first record, which is still to be pushed.
    fn new(first: Item<'_>, room: usize) -> Self {
        let mut plain = Vec::with_capacity(room.max(HEADER_BYTES));
        plain.resize(HEADER_BYTES, 0);
        let (base_timestamp, max_timestamp) = (first.timestamp, first.timestamp);
        Self { plain, runs: Vec::new(), count: 0, base_timestamp, max_timestamp }
    }

    /// Appends a record; not if the batch would have more than `bytes_max` bytes then, or if its timestamp is too far
    /// from the first.
    fn push(&mut self, item: Item<'_>, bytes_max: usize) -> Problem<bool> {
        let Some(delta) = item.timestamp.checked_sub(self.base_timestamp) else { return Ok(false) };
        let bytes = record::framed_bytes(delta, self.count, item.content.len());
        if self.count == i32::MAX || bytes > bytes_max.saturating_sub(self.plain.len()) {
            return Ok(false);
        }
        record::put_framed(&mut self.plain, delta, self.count, item.content)?;
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(item.timestamp);
        match self.runs.last_mut() {
            Some(run) if run.first.checked_add(run.count) == Some(item.offset) => run.count += 1,
            _ => self.runs.push(Run { first: item.offset, count: 1 }),
        }
        Ok(true)
    }

    fn records(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    fn frame(&self, codec: Codec) -> Frame {
        Frame {
            base_offset: 0,
            codec,
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer: Producer::NONE,
            count: self.count,
        }
    }
}

/// Records that wait, in order.
#[derive(Default)]
struct Queue {
    content: Vec<u8>,
    marks: Vec<Mark>,
    /// Records and bytes at the front that are gone.
    gone: Taken,
}

struct Mark {
    /// Where its content ends.
    end: usize,
    offset: i64,
    timestamp: i64,
}

#[derive(Default, Clone, Copy)]
struct Taken {
    records: usize,
    bytes: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.marks.len() == self.gone.records
    }

    fn bytes(&self) -> usize {
        self.content.len() - self.gone.bytes
    }

    fn push(&mut self, item: Item<'_>) {
        if self.is_empty() {
            self.content.clear();
            self.marks.clear();
            self.gone = Taken::default();
        }
        self.content.extend_from_slice(item.content);
        self.marks.push(Mark { end: self.content.len(), offset: item.offset, timestamp: item.timestamp });
    }

    /// Puts the first records into a draft: as many as have `wanted` bytes of content, but at least one; no more than
    /// `records_max`, and no more than `plain_bytes_max` bytes of the batch without compression.
    fn draft(&self, wanted: usize, plain_bytes_max: usize, records_max: usize) -> Problem<(Draft, Taken)> {
        let mut taken = Taken::default();
        let mut draft: Option<Draft> = None;
        let mut start = self.gone.bytes;
        for mark in self.marks.get(self.gone.records..).unwrap_or_default() {
            let content = self.content.get(start..mark.end).unwrap_or_default();
            let item = Item { offset: mark.offset, timestamp: mark.timestamp, content };
            let enough = taken.bytes + content.len() > wanted || taken.records >= records_max;
            if taken.records > 0 && enough {
                break;
            }
            let draft = draft.get_or_insert_with(|| Draft::new(item, wanted.min(self.bytes())));
            let bytes_max = if taken.records == 0 { i32::MAX as usize } else { plain_bytes_max };
            if !draft.push(item, bytes_max)? {
                break;
            }
            taken = Taken { records: taken.records + 1, bytes: taken.bytes + content.len() };
            start = mark.end;
        }
        match draft {
            Some(draft) if taken.records > 0 => Ok((draft, taken)),
            _ => Err("a record of it is too large for any batch".to_owned()),
        }
    }

    fn drop_first(&mut self, records: usize) {
        self.gone.records += records;
        let last = self.gone.records.checked_sub(1).and_then(|last| self.marks.get(last));
        self.gone.bytes = last.map_or(0, |mark| mark.end);
    }
}
