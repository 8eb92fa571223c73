//! Producer ids: getting one, and what a partition's leader knows about them.

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{DescribeProducersRequest, InitProducerIdRequest, ProducerId};
use kafka_protocol::protocol::Message as _;

use super::topics::missing;
use super::words;
use crate::client::{Client, topic_name, worth_asking_again};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::api::Api as _;

/// Not looked at without a transactional id, but must be a valid number.
const TRANSACTION_TIMEOUT_MS: i32 = 60_000;

/// A producer id and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// The id.
    pub producer_id: i64,
    /// The epoch.
    pub epoch: i16,
}

/// What a leader remembers of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub epoch: i32,
    /// The sequence of its last record, -1 if it has none.
    pub last_sequence: i32,
    /// The timestamp of its last batch, in ms; by it the leader forgets the producer.
    pub last_timestamp_ms: i64,
    /// Where its open transaction begins, -1 if it has none.
    pub current_transaction_start: i64,
}

impl Client {
    /// A new producer id for idempotent appends, without a transactional id.
    ///
    /// Waits while the cluster still loads what it needs for that (a fresh cluster answers 14 for seconds).
    pub async fn init_producer_id(&self) -> Result<ProducerIdentity> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        // An id that was given out but not received is merely unused: this may be repeated.
        self.retrying("getting a producer id", worth_asking_again, || async {
            let timeout = self.limits().request_timeout;
            let (broker, response) =
                self.call_any(&request, InitProducerIdRequest::VERSIONS, timeout).await?;
            let code = ErrorCode(response.error_code);
            if !code.is_ok() {
                return Err(Error::Broker { broker, api: InitProducerIdRequest::NAME, code, message: None });
            }
            Ok(ProducerIdentity { producer_id: response.producer_id.0, epoch: response.producer_epoch })
        })
        .await
    }

    /// The producers that a partition's leader remembers (Kafka 2.8 and later).
    ///
    /// # Errors
    /// [`Error::Partition`] with the broker's code; [`Error::Unsupported`] on older brokers.
    pub async fn describe_producers(&self, topic: &str, partition: i32) -> Result<Vec<ProducerState>> {
        let wanted =
            TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]);
        let request = DescribeProducersRequest::default().with_topics(vec![wanted]);
        let (broker, response) =
            self.call_leader(topic, partition, &request, DescribeProducersRequest::VERSIONS).await?;
        let found = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .find(|p| p.partition_index == partition);
        let Some(found) = found else { return Err(missing::<DescribeProducersRequest>(&broker, topic)) };
        let message = words(found.error_message.as_ref());
        let code = ErrorCode(found.error_code);
        self.check_partition(DescribeProducersRequest::NAME, topic, partition, code, message)?;
        let producers = found.active_producers.iter().map(|producer| ProducerState {
            producer_id: producer.producer_id.0,
            epoch: producer.producer_epoch,
            last_sequence: producer.last_sequence,
            last_timestamp_ms: producer.last_timestamp,
            current_transaction_start: producer.current_txn_start_offset,
        });
        Ok(producers.collect())
    }
}
