//! Ends of source partitions that don't fetch just now: stopped, held back, waiting for their target.
//!
//! Owns the promise that what is said of lag is at most a few seconds old, or is said to be old. A partition that
//! fetches learns its end by that; for all others of a flow one task asks, with one request per broker and kind of
//! offset, every [`LOOK_EVERY`] at most. Must not know what a place or a lag is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use mirrormesh_kafka::admin::{ListedOffset, OffsetQuery, OffsetSpec};
use mirrormesh_kafka::{Client, Error};
use mirrormesh_relay::machine::SourceEnds;
use mirrormesh_runtime::clock::now_ms;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// How often the task looks which partitions have not seen their end.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An end that was seen this long ago is asked for.
const ASK_AFTER_MS: u64 = 2_000;
/// An end that was seen this long ago is said to be old; with the second until it is reported, that makes 5 s.
const OLD_AFTER_MS: u64 = 4_000;

/// What is news about a partition's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// They were looked at.
    Seen(SourceEnds),
    /// Nobody could look since then, ms since 1970.
    Old(u64),
    /// They are seen again by fetching.
    Fresh,
}

/// The end of one source partition, shared by its unit, its fetcher and the task that asks.
#[derive(Debug)]
pub(crate) struct SourceEnd {
    topic: Arc<str>,
    partition: i32,
    read_committed: bool,
    /// When it was last seen, by whomever, ms since 1970; 0 for never.
    seen_ms: AtomicU64,
    old: AtomicBool,
    // Lock: held for one assignment.
    news: Mutex<Option<News>>,
    told: Notify,
}

impl SourceEnd {
    /// Fetching showed it, even if it is where it was.
    pub(crate) fn seen(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
        if self.old.load(Ordering::Relaxed) && self.old.swap(false, Ordering::Relaxed) {
            self.tell(News::Fresh);
        }
    }

    /// The next news.
    pub(crate) async fn news(&self) -> News {
        loop {
            self.told.notified().await;
            if let Some(news) = self.news.lock().take() {
                return news;
            }
        }
    }

    fn tell(&self, news: News) {
        *self.news.lock() = Some(news);
        self.told.notify_one();
    }

    fn asked(&self, ends: SourceEnds, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
        self.old.store(false, Ordering::Relaxed);
        self.tell(News::Seen(ends));
    }

    /// Says that it is old, once.
    fn look(&self, now_ms: u64) {
        let seen = self.seen_ms.load(Ordering::Relaxed);
        let old = seen > 0 && now_ms.saturating_sub(seen) >= OLD_AFTER_MS;
        if old && !self.old.swap(true, Ordering::Relaxed) {
            self.tell(News::Old(seen));
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_ms.load(Ordering::Relaxed)) >= ASK_AFTER_MS
    }
}

type Watched = Arc<Mutex<Vec<Weak<SourceEnd>>>>;

/// Looks at the ends of a flow's partitions.
#[derive(Debug)]
pub(crate) struct EndWatch {
    watched: Watched,
    _task: AbortOnDropHandle<()>,
}

impl EndWatch {
    /// Starts the task.
    pub(crate) fn start(client: Client) -> Self {
        let watched = Watched::default();
        let task = tokio::spawn(run(client, Arc::clone(&watched)));
        Self { watched, _task: AbortOnDropHandle::new(task) }
    }

    /// Watches a partition as long as somebody holds what is returned.
    pub(crate) fn watch(&self, topic: Arc<str>, partition: i32, read_committed: bool) -> Arc<SourceEnd> {
        let end = Arc::new(SourceEnd {
            topic,
            partition,
            read_committed,
            seen_ms: AtomicU64::new(0),
            old: AtomicBool::new(false),
            news: Mutex::new(None),
            told: Notify::new(),
        });
        let mut watched = self.watched.lock();
        watched.push(Arc::downgrade(&end));
        end
    }
}

async fn run(client: Client, watched: Watched) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asking: Option<BoxFuture<'static, Result<(), Error>>> = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let now = now_ms();
                let due = due(&watched, now);
                if asking.is_none() && !due.is_empty() {
                    let client = client.clone();
                    asking = Some(Box::pin(async move { ask(&client, due).await }));
                }
            }
            asked = async { match &mut asking { Some(asking) => asking.await, None => std::future::pending().await } } => {
                asking = None;
                if let Err(error) = asked {
                    tracing::debug!(%error, "ends of source partitions not seen");
                }
            }
        }
    }
}

/// Those whose end was not seen lately; whose end is old is told.
fn due(watched: &Watched, now: u64) -> Vec<Arc<SourceEnd>> {
    let mut due = Vec::new();
    let mut watched = watched.lock();
    watched.retain(|end| {
        let Some(end) = end.upgrade() else { return false };
        end.look(now);
        if end.is_due(now) {
            due.push(end);
        }
        true
    });
    due
}

async fn ask(client: &Client, due: Vec<Arc<SourceEnd>>) -> Result<(), Error> {
    let places: Vec<Place> =
        due.iter().map(|end| (Arc::clone(&end.topic), end.partition, end.read_committed)).collect();
    let found = ends_of(client, &places).await?;
    let now = now_ms();
    for (end, ends) in due.iter().zip(found) {
        if let Some(ends) = ends {
            end.asked(ends, now);
        }
    }
    Ok(())
}

/// A source partition: topic, number, and whether what open transactions hold back is left out.
pub(crate) type Place = (Arc<str>, i32, bool);

/// Asks where source partitions begin and end, in their order; `None` where it can't be told now.
pub(crate) async fn ends_of(client: &Client, places: &[Place]) -> Result<Vec<Option<SourceEnds>>, Error> {
    let query = |spec: OffsetSpec, places: &mut dyn Iterator<Item = &Place>| {
        let of = |(topic, partition, _): &Place| OffsetQuery {
            topic: Arc::clone(topic),
            partition: *partition,
            spec,
            leader_epoch: -1,
        };
        places.map(of).collect::<Vec<_>>()
    };
    let all = query(OffsetSpec::Latest, &mut places.iter());
    let starts = query(OffsetSpec::Earliest, &mut places.iter());
    let committed = query(OffsetSpec::Latest, &mut places.iter().filter(|(.., committed)| *committed));
    // The readable end first: the other one, seen later, is not before it.
    let readable =
        if committed.is_empty() { Vec::new() } else { client.list_offsets(&committed, true).await? };
    let (ends, starts) =
        tokio::try_join!(client.list_offsets(&all, false), client.list_offsets(&starts, false))?;
    let found =
        |listed: &ListedOffset| Some(listed.offset).filter(|offset| listed.error.is_ok() && *offset >= 0);
    let mut readable = readable.iter();
    let all = places.iter().zip(ends.iter().zip(&starts));
    Ok(all
        .map(|((.., committed), (last, first))| {
            let end_offset = if *committed { readable.next().and_then(found) } else { found(last) };
            Some(SourceEnds {
                log_start: found(first).unwrap_or(-1),
                end_offset: end_offset?,
                high_watermark: found(last)?,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> Arc<SourceEnd> {
        Arc::new(SourceEnd {
            topic: Arc::from("t"),
            partition: 0,
            read_committed: true,
            seen_ms: AtomicU64::new(0),
            old: AtomicBool::new(false),
            news: Mutex::new(None),
            told: Notify::new(),
        })
    }

    #[tokio::test]
    async fn an_end_that_nobody_saw_is_asked_for_then_said_to_be_old_once_and_fresh_again() {
        let end = end();
        let watched: Watched = Arc::new(Mutex::new(vec![Arc::downgrade(&end)]));
        assert_eq!(due(&watched, 10_000).len(), 1, "never seen");
        end.seen(10_000);
        assert!(due(&watched, 11_999).is_empty());
        assert_eq!(due(&watched, 12_000).len(), 1);
        assert!(end.news.lock().is_none(), "not old yet");
        due(&watched, 14_000);
        assert_eq!(end.news().await, News::Old(10_000));
        due(&watched, 15_000);
        assert!(end.news.lock().is_none(), "said once");
        end.seen(15_500);
        assert_eq!(end.news().await, News::Fresh);
        let ends = SourceEnds { log_start: 0, end_offset: 5, high_watermark: 6 };
        due(&watched, 30_000);
        end.asked(ends, 30_100);
        assert_eq!(end.news().await, News::Seen(ends), "the newest news counts");
        drop(end);
        assert!(due(&watched, 40_000).is_empty() && watched.lock().is_empty(), "forgotten");
    }
}
