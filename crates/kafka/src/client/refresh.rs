//! Keeping the leaders known.
//!
//! Owns when metadata is asked for: on demand, at most one request at a time, the wishes of all who wait joined in it,
//! with a pause between requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::metadata::{self, Leader, Lookup};
use super::{Client, RETRY_MAX, RETRY_MIN};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorCode, Result};
use crate::wire::TopicId;

/// Pauses between successful refreshes grow up to this, when one follows the other: a broker that fails makes many
/// partitions ask within a short time, and elections take their time.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// After so long without a refresh the next one starts at once.
const CALM_AFTER: Duration = Duration::from_secs(1);

/// Who wants to know, and when was asked.
#[derive(Default)]
pub(super) struct Refresh {
    /// Topics that the next request has to be about. Held for an instant only.
    wanted: Mutex<BTreeSet<Arc<str>>>,
    /// Held while asking.
    gate: tokio::sync::Mutex<Gate>,
}

struct Gate {
    success_pause: Backoff,
    failure_pause: Backoff,
    not_before: Option<Instant>,
    /// The last request's error and when it came, for those who waited for that request.
    failed: Option<(Instant, Error)>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            success_pause: Backoff::new(RETRY_MIN, PAUSE_MAX),
            failure_pause: Backoff::new(RETRY_MIN, RETRY_MAX),
            not_before: None,
            failed: None,
        }
    }
}

impl Client {
    /// The leader of a partition: from the cache, or else asked for once.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if there is none now: wait and call again. [`Error::NoBroker`] if nobody could be asked.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<Leader> {
        if let Lookup::Known(leader) = self.lookup(topic, partition) {
            return Ok(leader);
        }
        self.refresh_metadata(&[topic]).await?;
        let code = match self.lookup(topic, partition) {
            Lookup::Known(leader) => return Ok(leader),
            Lookup::Absent(code) => code,
            Lookup::Unknown => ErrorCode::LEADER_NOT_AVAILABLE,
        };
        Err(Error::NoLeader { topic: topic.into(), partition, code })
    }

    /// Declares what is known about a partition's leader out of date, after an answer or a failure that says so.
    pub fn invalidate(&self, topic: &str, partition: i32) {
        self.cache().invalidate(topic, partition);
    }

    /// Learns about topics anew. Returns when an answer that was asked for after this call began is in the cache.
    pub async fn refresh_metadata(&self, topics: &[&str]) -> Result<()> {
        let asked = Instant::now();
        let refresh = &self.inner.refresh;
        refresh.want(topics);
        let mut gate = refresh.gate.lock().await;
        // Whoever asked before us may have asked for us too.
        if topics.iter().all(|topic| self.cache().learned_after(topic, asked)) {
            return Ok(());
        }
        if let Some((at, error)) = &gate.failed
            && *at > asked
        {
            return Err(error.clone());
        }
        gate.pause().await;
        let mut wanted = refresh.take();
        wanted.extend(topics.iter().map(|topic| Arc::from(*topic)));
        self.ask(&mut gate, &wanted).await
    }

    /// The id of a topic as a broker tells it after this call began: all zeroes on brokers without ids, `None` if there is
    /// no such topic. Many who ask at a time share one request.
    ///
    /// # Errors
    /// [`Error::Broker`] if the topic may not be seen, and as [`Client::cluster`].
    pub async fn topic_id(&self, topic: &str) -> Result<Option<TopicId>> {
        self.refresh_metadata(&[topic]).await?;
        match self.cache().topic(topic) {
            Some((id, ErrorCode::NONE)) => Ok(Some(id)),
            None | Some((_, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)) => Ok(None),
            Some((_, code)) => {
                let (broker, message) = ("the cluster".into(), Some(topic.into()));
                Err(Error::Broker { broker, api: "Metadata", code, message })
            }
        }
    }

    pub(crate) fn lookup(&self, topic: &str, partition: i32) -> Lookup {
        self.cache().leader(topic, partition)
    }

    async fn ask(&self, gate: &mut Gate, wanted: &BTreeSet<Arc<str>>) -> Result<()> {
        let names: Vec<&str> = wanted.iter().map(AsRef::as_ref).collect();
        // The instant of asking: an invalidation while the request is on its way is about newer news.
        let asked = Instant::now();
        match self.metadata(Some(&names)).await {
            Ok(response) => {
                self.cache().learn_topics(&metadata::topic_infos(&response), false, asked);
                gate.succeeded();
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, topics = names.len(), "metadata could not be refreshed");
                gate.failed(error.clone());
                Err(error)
            }
        }
    }
}

impl Refresh {
    fn want(&self, topics: &[&str]) {
        let mut wanted = self.wanted.lock();
        wanted.extend(topics.iter().map(|topic| Arc::from(*topic)));
    }

    fn take(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut *self.wanted.lock())
    }
}

impl Gate {
    async fn pause(&mut self) {
        let Some(not_before) = self.not_before else { return };
        if not_before + CALM_AFTER < Instant::now() {
            self.success_pause.reset();
        }
        tokio::time::sleep_until(not_before).await;
    }

    fn succeeded(&mut self) {
        self.failure_pause.reset();
        self.failed = None;
        self.not_before = Some(Instant::now() + self.success_pause.delay());
    }

    fn failed(&mut self, error: Error) {
        let now = Instant::now();
        self.failed = Some((now, error));
        self.not_before = Some(now + self.failure_pause.delay());
    }
}
