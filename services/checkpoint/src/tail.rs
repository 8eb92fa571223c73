//! Reads an internal topic from its beginning, and on from there.
//!
//! Owns what happens while the topic does not exist, and after an error; knows nothing about the records.

use mirrormesh_kafka::librdkafka::{InternalReader, InternalRecord};
use mirrormesh_kafka::{Client, ClientConfig};
use mirrormesh_worker::{Failure, topic_exists};

/// A reader that is made once the topic exists.
pub(crate) struct Tail {
    client: Client,
    config: ClientConfig,
    topic: String,
    reader: Option<InternalReader>,
}

impl Tail {
    pub(crate) fn new(client: Client, config: ClientConfig, topic: String) -> Self {
        Self { client, config, topic, reader: None }
    }

    /// Reads up to the end as it is now; nothing while the topic does not exist. After an error, or when a call was
    /// given up, the next one begins at the beginning, since what had been read by then is lost.
    pub(crate) async fn read_to_end(&mut self) -> Result<Read, Failure> {
        let (mut reader, from_beginning) = match self.reader.take() {
            Some(reader) => (reader, false),
            None => {
                if !topic_exists(&self.client, &self.topic).await? {
                    return Ok(Read { records: Vec::new(), from_beginning: true });
                }
                (InternalReader::new(&self.config, &self.client, &self.topic)?, true)
            }
        };
        let records = reader.read_to_end().await?;
        self.reader = Some(reader);
        Ok(Read { records, from_beginning })
    }
}

/// What one call has read.
pub(crate) struct Read {
    /// Everything that earlier calls have not returned.
    pub(crate) records: Vec<InternalRecord>,
    /// The records are all that the topic holds: what was known before is to be forgotten.
    pub(crate) from_beginning: bool,
}
