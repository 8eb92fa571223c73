//! What an internal topic tells: read to its end again and again, the newest of each key kept.
//!
//! Owns the reader, what happens while the topic does not exist and when reading fails, and that callers who come together
//! read once. What a record means is its table's business.

use std::fmt;
use std::future::Future;

use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::{InternalReader, InternalRecord};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::kafka::{Failure, topic_exists};

/// What the records of an internal topic come to.
pub trait Table {
    /// Takes the next records. With `afresh` they are all that the topic holds: what was known before is forgotten, at once,
    /// so that nobody sees a part of them. One that can't be read is foreign or damaged: it is said, and never taken for
    /// something else.
    fn apply(&mut self, records: Vec<InternalRecord>, afresh: bool);
}

/// The table of one internal topic.
pub struct InternalTable<T> {
    topic: String,
    /// Held over the reading: callers that come meanwhile wait for it.
    tail: Mutex<Tail<T>>,
}

/// How far it is read.
struct Tail<T> {
    reader: Option<InternalReader>,
    /// The reader has returned something before.
    begun: bool,
    /// When the last complete reading began: who asked before then is served by it.
    read_from: Option<Instant>,
    table: T,
}

impl<T: Table> InternalTable<T> {
    /// Of this topic, with an empty table. Opens nothing yet.
    pub fn new(topic: impl Into<String>, table: T) -> Self {
        Self {
            topic: topic.into(),
            tail: Mutex::new(Tail { reader: None, begun: false, read_from: None, table }),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The table as of `asked` or later; empty while the topic does not exist.
    ///
    /// # Errors
    /// What could not be read is read from the beginning by the next call.
    pub async fn read(&self, client: &Client, asked: Instant) -> Result<Told<'_, T>, Failure> {
        self.read_or(client, asked, || std::future::ready(Ok(()))).await
    }

    /// As [`InternalTable::read`]. Where the topic does not exist, `missing` says whether that may be.
    ///
    /// # Errors
    /// Its own too.
    pub async fn read_or<F>(
        &self,
        client: &Client,
        asked: Instant,
        missing: impl FnOnce() -> F,
    ) -> Result<Told<'_, T>, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let mut tail = self.tail.lock().await;
        if tail.read_from.is_none_or(|began| began < asked) {
            tail.read_on(client, &self.topic, missing).await?;
        }
        Ok(Told(tail))
    }
}

impl<T: Table> Tail<T> {
    /// May be given up at any time: what was not taken comes with the next call.
    async fn read_on<F>(
        &mut self,
        client: &Client,
        topic: &str,
        missing: impl FnOnce() -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let began = Instant::now();
        if self.reader.is_none() {
            self.begun = false;
            if !topic_exists(client, topic).await? {
                missing().await?;
                self.table.apply(Vec::new(), true);
                self.read_from = Some(began);
                return Ok(());
            }
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(InternalReader::open(client, topic).await?),
        };
        match reader.read_to_end().await {
            Ok(records) => {
                self.table.apply(records, !std::mem::replace(&mut self.begun, true));
                self.read_from = Some(began);
                Ok(())
            }
            Err(error) => {
                // It may be another topic of the same name, or one that lost its end. librdkafka may also have followed
                // another cluster at the same address, which it does not compare: the next reader begins at the first record.
                (self.reader, self.read_from) = (None, None);
                Err(error.into())
            }
        }
    }
}

/// A table that nobody reads further meanwhile.
pub struct Told<'a, T>(MutexGuard<'a, Tail<T>>);

impl<T> std::ops::Deref for Told<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.table
    }
}

impl<T> std::ops::DerefMut for Told<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.table
    }
}

impl<T> fmt::Debug for Told<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for InternalTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalTable").field("topic", &self.topic).finish_non_exhaustive()
    }
}
