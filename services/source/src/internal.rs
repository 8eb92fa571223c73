//! Writing to internal topics of the target: one producer for all of a flow's.

use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalProducer;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::Failure;
use tokio::sync::OnceCell;

/// The writer.
#[derive(Debug)]
pub(crate) struct InternalWriter {
    client: Client,
    producer: OnceCell<InternalProducer>,
}

impl InternalWriter {
    /// Connects to nothing yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, producer: OnceCell::new() }
    }

    /// Makes the producer, which then connects by itself: what is written soon waits less.
    pub(crate) async fn warm_up(&self) -> Result<&InternalProducer, Failure> {
        let make = || async { InternalProducer::new(self.client.config(), true) };
        Ok(self.producer.get_or_try_init(make).await?)
    }

    /// Writes records, key and value, in order and waits until they are acknowledged.
    pub(crate) async fn write(
        &self,
        topic: &str,
        records: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Failure> {
        let producer = self.warm_up().await?;
        let now = i64::try_from(now_ms()).unwrap_or(-1);
        let sends =
            records.map(|(key, value)| async move { producer.send(topic, 0, &key, Some(&value), now).await });
        for sent in futures::future::join_all(sends).await {
            sent?;
        }
        Ok(())
    }
}
