//! Batches on their way from a fetch to the window: which path each takes, and the pieces that come of it.

use std::collections::VecDeque;

use mirrormesh_core::format::batch::RawBatch;
use mirrormesh_core::stop::Stop;

use crate::economy::Economy;
use crate::page::{Data, Item};
use crate::path::{Conditions, Path};
use crate::reader::{Skip, unreadable};
use crate::rebuild::{Codecs, Oversized, Piece, Run};

/// Ready to be sent once the window allows.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) batch: RawBatch,
    pub(super) run: Run,
    pub(super) more: Vec<Run>,
    pub(super) next_source: i64,
    pub(super) leader_epoch: i32,
    pub(super) path: Path,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Ready {
    Send(Outgoing),
    /// Left out; the next source offset, the leader epoch there. `None` for what compaction left nothing of.
    Passed(i64, i32, Option<Skip>),
    /// Too large; the source's leader epoch there.
    Oversized(Oversized, i32),
    Stop(Stop),
}

/// Batches of one fetch, then what was made of them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    ready: VecDeque<Ready>,
}

impl Queue {
    pub(super) fn fill(&mut self, items: Vec<Item>) {
        self.items.extend(items);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.ready.is_empty()
    }

    /// Bytes of the batches.
    pub(super) fn bytes(&self) -> u64 {
        let items = self.items.iter().map(|item| match item {
            Item::Data(data) => data.batch.bytes.len(),
            Item::Passed(..) | Item::Bad(_) => 0,
        });
        let ready = self.ready.iter().map(|ready| match ready {
            Ready::Send(outgoing) => outgoing.batch.bytes.len(),
            Ready::Passed(..) | Ready::Oversized(..) | Ready::Stop(_) => 0,
        });
        u64::try_from(items.chain(ready).sum::<usize>()).unwrap_or(u64::MAX)
    }

    /// Timestamp of the first record.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        let ready = self.ready.iter().find_map(|ready| match ready {
            Ready::Send(outgoing) => Some(outgoing.batch.header.base_timestamp),
            Ready::Passed(..) | Ready::Oversized(..) | Ready::Stop(_) => None,
        });
        ready.or_else(|| {
            self.items.iter().find_map(|item| match item {
                Item::Data(data) => Some(data.batch.header.base_timestamp),
                Item::Passed(..) | Item::Bad(_) => None,
            })
        })
    }

    /// Timestamp of the oldest batch, by its highest timestamp.
    pub(super) fn oldest_batch_ms(&self) -> Option<i64> {
        let items = self.items.iter().filter_map(|item| match item {
            Item::Data(data) => Some(data.batch.header.max_timestamp),
            Item::Passed(..) | Item::Bad(_) => None,
        });
        items.min()
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.ready.clear();
    }

    /// Gives back what could not be sent yet.
    pub(super) fn put_back(&mut self, ready: Ready) {
        self.ready.push_front(ready);
    }

    /// The next thing to do. `clamp`: move timestamps whatever the settings say.
    pub(super) fn pop(
        &mut self,
        conditions: &Conditions,
        clamp: bool,
        economy: &mut Economy,
        codecs: &dyn Codecs,
    ) -> Option<Ready> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.items.pop_front()? {
                Item::Passed(next, epoch, skip) => return Some(Ready::Passed(next, epoch, Some(skip))),
                Item::Bad(stop) => return Some(Ready::Stop(stop)),
                Item::Data(data) => self.prepare(data, conditions, clamp, economy, codecs),
            }
        }
    }

    fn prepare(
        &mut self,
        data: Data,
        conditions: &Conditions,
        clamp: bool,
        economy: &mut Economy,
        codecs: &dyn Codecs,
    ) {
        let path = match conditions.path(&data.batch.header, data.batch.bytes.len(), data.from) {
            Ok(Path::Passthrough) if clamp => Path::Clamped,
            Ok(path) => path,
            Err(stop) => return self.ready.push_back(Ready::Stop(stop)),
        };
        if path != Path::Passthrough {
            self.rebuild(&[data.batch], data.from, path, conditions, codecs);
            return;
        }
        let more = self.small_ones_behind(&data, conditions, economy);
        if more > 0 {
            let from = data.from;
            let first = data.batch.header;
            let mut batches = vec![data.batch];
            batches.extend(self.items.drain(..more).filter_map(|item| match item {
                Item::Data(data) => Some(data.batch),
                Item::Passed(..) | Item::Bad(_) => None,
            }));
            let took_ns = self.rebuild(&batches, from, Path::Coalesced, conditions, codecs);
            let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
            economy.put_together(&first, bytes, took_ns);
            return;
        }
        let header = data.batch.header;
        self.ready.push_back(Ready::Send(Outgoing {
            run: Run { first: data.from, count: header.next_offset() - data.from },
            more: Vec::new(),
            next_source: header.next_offset(),
            leader_epoch: header.leader_epoch,
            path: if data.old_format { Path::OldFormat } else { path },
            batch: data.batch,
        }));
    }

    /// How many batches behind this one are to be put together with it.
    fn small_ones_behind(&self, first: &Data, conditions: &Conditions, economy: &mut Economy) -> usize {
        let behind = self.items.iter().map_while(|item| match item {
            // Of one leader epoch: where the next one began has to be known (`relay/epochs.rs`).
            Item::Data(data)
                if data.batch.header.leader_epoch == first.batch.header.leader_epoch
                    && conditions.path(&data.batch.header, data.batch.bytes.len(), data.from)
                        == Ok(Path::Passthrough) =>
            {
                Some(data.batch.bytes.len())
            }
            _ => None,
        });
        let sizes = std::iter::once(first.batch.bytes.len()).chain(behind);
        let (most, refused) = (conditions.facts.target_bytes_max, conditions.sizes.has_refused());
        economy.together(&first.batch.header, sizes, most, refused).saturating_sub(1)
    }

    /// Says how long it took, ns.
    fn rebuild(
        &mut self,
        batches: &[RawBatch],
        from: i64,
        path: Path,
        conditions: &Conditions,
        codecs: &dyn Codecs,
    ) -> u64 {
        let Some(last) = batches.last().map(|batch| batch.header) else { return 0 };
        let rebuilt = match codecs.rebuild(batches, &conditions.plan(from)) {
            Ok(rebuilt) => rebuilt,
            Err(error) => {
                // Of several, those before the damaged one are mirrored all the same.
                let damaged = batches.iter().position(|batch| batch.header.base_offset == error.offset);
                let intact = batches.get(..damaged.unwrap_or(0)).unwrap_or_default();
                self.rebuild(intact, from, path, conditions, codecs);
                self.ready.push_back(Ready::Stop(unreadable(error.offset, &error.problem)));
                return 0;
            }
        };
        for Piece { batch, runs, next_source } in rebuilt.pieces {
            let mut runs = runs.into_iter();
            let Some(run) = runs.next() else { continue };
            self.ready.push_back(Ready::Send(Outgoing {
                batch,
                run,
                more: runs.collect(),
                next_source,
                leader_epoch: last.leader_epoch,
                path,
            }));
        }
        if let Some(oversized) = rebuilt.oversized {
            self.ready.push_back(Ready::Oversized(oversized, last.leader_epoch));
        } else {
            // Covers what compaction left nothing of; otherwise the last piece said the same.
            self.ready.push_back(Ready::Passed(last.next_offset(), last.leader_epoch, None));
        }
        rebuilt.took_ns
    }
}
