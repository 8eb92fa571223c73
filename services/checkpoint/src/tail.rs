//! Reads an internal topic from its beginning, and on from there.
//!
//! Owns what happens while the topic does not exist, and when it was created anew; knows nothing about the records.

use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::{InternalReader, InternalRecord};
use mirrormesh_worker::{Failure, topic_exists};

/// A reader that is opened once the topic exists.
pub(crate) struct Tail {
    client: Client,
    topic: String,
    reader: Option<InternalReader>,
    /// The reader has returned something before.
    begun: bool,
}

/// What one call has read.
pub(crate) struct Read {
    /// Everything that earlier calls have not returned.
    pub(crate) records: Vec<InternalRecord>,
    /// The records are all that the topic holds: what was known before is to be forgotten.
    pub(crate) from_beginning: bool,
}

impl Tail {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        Self { client, topic, reader: None, begun: false }
    }

    /// Reads up to the end as it is now; nothing while the topic does not exist. May be given up at any time: what was
    /// not returned comes with the next call.
    pub(crate) async fn read_to_end(&mut self) -> Result<Read, Failure> {
        if self.reader.is_none() {
            if !topic_exists(&self.client, &self.topic).await? {
                return Ok(Read { records: Vec::new(), from_beginning: true });
            }
            self.reader = Some(InternalReader::open(&self.client, &self.topic).await?);
            self.begun = false;
        }
        let Some(reader) = &mut self.reader else {
            return Ok(Read { records: Vec::new(), from_beginning: false });
        };
        match reader.read_to_end().await {
            Ok(records) => Ok(Read { records, from_beginning: !std::mem::replace(&mut self.begun, true) }),
            Err(error) => {
                // It may be another topic of the same name, or one that lost its end. librdkafka may also have followed
                // another cluster at the same address, which it does not compare: the next reader begins anew.
                self.reader = None;
                Err(error.into())
            }
        }
    }
}
