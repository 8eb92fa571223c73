//! One subscription as the fetcher sees it: where it is read, and how much at a time.

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_kafka::wire::fetch::FetchPartition;
use mirrormesh_relay::page::SourcePage;
use tokio::sync::Notify;

use super::{Fetched, FetcherLimits, Subscription, next_offset};
use crate::memory::Frame;

/// A fetch that takes longer than this spends its time on the way: more at a time is quicker.
const LONG_WAY: Duration = Duration::from_millis(20);
/// A fetch that takes less than this brings enough at a time.
const SHORT_WAY: Duration = Duration::from_millis(5);

/// Where a partition is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Nowhere; it may be fetched.
    Ready,
    /// In the session, whether its fetch is out or not.
    Session,
    /// In the fetch beside the session.
    Side,
    /// Nowhere; its consumer has enough.
    Blocked,
}

/// A subscription and what became of it.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) wanted: Subscription,
    pub(super) lane: Lane,
    /// The last fetch brought nothing.
    pub(super) quiet: bool,
    /// Ends that the subscriber knows: of what it may read, and of what is replicated.
    told: (i64, i64),
    bytes_max: i32,
}

/// What is asked for, where a throttle says how much is worth fetching.
pub(super) fn at_most(worth: Option<u64>, bytes: i32) -> i32 {
    worth.map_or(bytes, |worth| i32::try_from(worth).unwrap_or(i32::MAX).min(bytes))
}

impl Subscribed {
    pub(super) fn new(wanted: Subscription, limits: &FetcherLimits) -> Self {
        Self {
            wanted,
            lane: Lane::Ready,
            quiet: false,
            told: (-1, -1),
            bytes_max: limits.partition_bytes.min(limits.fetch_bytes),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.wanted.pages.is_closed()
    }

    /// It was told where the partition ends.
    pub(super) fn knows_end(&self) -> bool {
        self.told != (-1, -1)
    }

    /// Its consumer can take a page, no page waits for its turn that it would wait behind, and it holds no more than is
    /// left for the flow's other partitions.
    pub(super) fn has_room(&self) -> bool {
        self.wanted.pages.capacity() > 0 && !self.wanted.throttle.holds() && self.wanted.memory.has_room()
    }

    pub(super) fn request(&self) -> FetchPartition {
        FetchPartition {
            topic: Arc::clone(&self.wanted.topic),
            topic_id: self.wanted.topic_id,
            partition: self.wanted.partition,
            offset: self.wanted.offset,
            leader_epoch: self.wanted.leader_epoch,
            last_fetched_epoch: self.wanted.last_epoch,
            max_bytes: at_most(self.wanted.throttle.fetch_bytes(), self.bytes_max),
        }
    }

    /// Hands a page on, if there is anything new in it. Its records are a slice of the frame.
    pub(super) fn deliver(&mut self, mut page: SourcePage, frame: &Arc<Frame>, wake: &Arc<Notify>) {
        let (next, unreadable) = next_offset(&page.records, self.wanted.offset);
        let told = (page.end_offset, page.high_watermark);
        self.quiet = next == self.wanted.offset && !unreadable;
        if self.quiet && told == self.told {
            return;
        }
        if next > self.wanted.offset {
            // Behind it a new leader refuses the epoch that the fetch names.
            self.wanted.last_epoch = -1;
        }
        self.wanted.offset = next;
        self.told = told;
        page.records = self.wanted.memory.page(page.records, frame, wake);
        // There was room when the fetch was made, and nobody else fills this channel.
        let _gone = self.wanted.pages.try_send(Fetched::Page(page));
    }

    /// Learns from a fetch how much to ask for: on a long way as much as fits, on a short one little, so that what is
    /// read is still in the processor's cache when it is written.
    pub(super) fn learn(&mut self, brought: usize, took: Duration, limits: &FetcherLimits) {
        let full = usize::try_from(self.bytes_max).is_ok_and(|max| brought >= max / 4 * 3);
        if full && took > LONG_WAY {
            self.bytes_max = self.bytes_max.saturating_mul(2).min(limits.fetch_bytes);
        } else if took < SHORT_WAY {
            self.bytes_max = (self.bytes_max / 2).max(limits.partition_bytes.min(limits.fetch_bytes));
        }
    }
}
