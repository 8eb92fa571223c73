//! Fetch sessions (KIP-227): a broker remembers what is read from it, and only changes are said.
//!
//! Owns what the broker knows of us and what must be said next. Must not know why a partition is read.
//!
//! Invariant: after every answer the broker's view equals `known`, but for what stands in `changed` and `forgotten`.
//! Whenever that is in doubt (a lost answer, a broker that forgot the session) the next request says everything anew.
//! A broker without sessions, or without room for one more, is told everything each time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::conn::Connection;
use super::fetch::{FetchPartition, FetchRequest, FetchResponse, InSession, NO_SESSION, Names};
use crate::error::{Error, ErrorCode, Result};

/// A partition of a topic, by name.
pub type Place = (Arc<str>, i32);

/// How much one fetch may bring, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchBounds {
    /// How long the broker may wait for a first byte.
    pub max_wait: Duration,
    /// The most bytes wanted in all, but for a larger first batch.
    pub max_bytes: i32,
    /// Only up to the last stable offset, with the list of aborted transactions.
    pub read_committed: bool,
}

/// What is read from one broker, fetch after fetch.
#[derive(Debug, Default)]
pub struct FetchSession {
    /// The broker's number of the session, 0 while there is none.
    id: i32,
    /// The number of the next request in it, 0 for one that begins a session.
    epoch: i32,
    known: BTreeMap<Place, FetchPartition>,
    changed: BTreeSet<Place>,
    forgotten: Vec<FetchPartition>,
    names: Arc<Names>,
}

impl FetchSession {
    /// Reads a partition from now on, or reads it from elsewhere.
    pub fn set(&mut self, partition: FetchPartition) {
        let place = (Arc::clone(&partition.topic), partition.partition);
        if !self.names.knows(&partition) {
            Arc::make_mut(&mut self.names).add(&partition);
        }
        let same = |other: &FetchPartition| {
            other.topic == partition.topic
                && other.partition == partition.partition
                && other.topic_id == partition.topic_id
        };
        self.forgotten.retain(|gone| !same(gone));
        // A topic that was made again is another one to the broker.
        if let Some(before) = self.known.get(&place)
            && !same(before)
        {
            self.forgotten.push(before.clone());
        }
        self.known.insert(place.clone(), partition);
        self.changed.insert(place);
    }

    /// Reads a partition no more.
    pub fn remove(&mut self, place: &Place) {
        if let Some(gone) = self.known.remove(place) {
            self.changed.remove(place);
            self.forgotten.push(gone);
        }
    }

    /// How many partitions are read.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is read.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Reads nothing any more. The broker learns it with the next fetch, or forgets the session by itself.
    pub fn clear(&mut self) {
        self.known.clear();
        self.names = Arc::default();
        self.start_over();
    }

    fn start_over(&mut self) {
        self.epoch = 0;
        self.changed.clear();
        self.forgotten.clear();
    }

    /// Fetches once. The answer has only partitions of which there is something new. A future that is dropped costs a
    /// full request, nothing else.
    ///
    /// # Errors
    /// As [`Connection::fetch`]. The session begins anew with the next fetch.
    pub async fn fetch(&mut self, connection: &Connection, bounds: FetchBounds) -> Result<FetchResponse> {
        let (request, session, forgotten) = self.request(connection.knows_sessions(), bounds);
        // Until the answer is here it is not known what the broker made of it.
        self.start_over();
        let in_session = InSession { session, forgotten: &forgotten, names: Arc::clone(&self.names) };
        match connection.fetch_in_session(&request, in_session).await {
            Ok(response) => {
                self.id = response.session_id;
                // In its order the broker's numbers begin at 1 and, after the largest, there again.
                self.epoch = if self.id == 0 { 0 } else { session.1.checked_add(1).unwrap_or(1) };
                Ok(response)
            }
            Err(Error::Broker { code, .. }) if session.1 > 0 && is_session_error(code) => {
                if code == ErrorCode::FETCH_SESSION_ID_NOT_FOUND {
                    self.id = 0;
                }
                // The same once more, said in full: that can't be answered so.
                Box::pin(self.fetch(connection, bounds)).await
            }
            Err(error) => Err(error),
        }
    }

    fn request(
        &self,
        sessions: bool,
        bounds: FetchBounds,
    ) -> (FetchRequest, (i32, i32), Vec<FetchPartition>) {
        let full = self.epoch == 0 || !sessions;
        let partitions = if full {
            self.known.values().cloned().collect()
        } else {
            self.changed.iter().filter_map(|place| self.known.get(place)).cloned().collect()
        };
        let FetchBounds { max_wait, max_bytes, read_committed } = bounds;
        let request = FetchRequest { max_wait, min_bytes: 1, max_bytes, read_committed, partitions };
        let session = if sessions { (self.id, self.epoch) } else { NO_SESSION };
        (request, session, if full { Vec::new() } else { self.forgotten.clone() })
    }
}

/// What a broker answers that no longer has the session, or has another view of it (`FetchSessionHandler`).
fn is_session_error(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
            | ErrorCode::INVALID_FETCH_SESSION_EPOCH
            | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
            | ErrorCode::INCONSISTENT_TOPIC_ID
    )
}

#[cfg(test)]
mod tests;
