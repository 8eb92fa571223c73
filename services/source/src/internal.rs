//! Writing to internal topics of the target: one writer for all of a flow's.

use mirrormesh_kafka::Client;
use mirrormesh_kafka::internal_writer::{self, NewRecord};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::Failure;

/// The writer; it stamps records with the time of the call.
#[derive(Debug)]
pub(crate) struct InternalWriter(internal_writer::InternalWriter);

impl InternalWriter {
    /// Connects to nothing yet.
    pub(crate) fn new(client: Client) -> Self {
        Self(internal_writer::InternalWriter::new(client))
    }

    /// Writes records, key and value, in order (no value: a tombstone) and waits until they are acknowledged.
    pub(crate) async fn write(
        &self,
        topic: &str,
        records: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), Failure> {
        let timestamp_ms = i64::try_from(now_ms()).unwrap_or(-1);
        let record = |(key, value)| NewRecord { key, value, timestamp_ms };
        Ok(self.0.write(topic, records.map(record).collect()).await?)
    }
}
