//! The registry topic of one cluster: read to its end before anything is concluded from it, written before anything is
//! appended.
//!
//! Owns the topic's creation and what was read from it so far, which the flows of a worker share; the meaning of its
//! records is core's.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mirrormesh_core::flow::is_positions_topic;
use mirrormesh_core::ids::{TopicId, TopicName};
use mirrormesh_core::registry::{Origin, REGISTRY_TOPIC, Registry, RegistryKey, RegistryValue, WriterKey};
use mirrormesh_core::unit::ClusterSpec;
use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalRecord;
use mirrormesh_proto::convert::registry::{
    decode_registry_key, decode_registry_value, encode_registry_key, encode_registry_value,
};
use mirrormesh_worker::{Failure, InternalTable, Table, cluster_id, ensure_internal_topic, topic_exists};
use tokio::sync::{Mutex, OnceCell};

use crate::internal::InternalWriter;

/// Thousands of partitions that start together ask once which cluster it is.
const ID_GOOD_FOR: Duration = Duration::from_secs(5);

/// The registry of one cluster, as it is read.
type RegistryTable = InternalTable<Entries>;

/// Its entries.
#[derive(Debug, Default)]
struct Entries(Registry);

impl Table for Entries {
    fn apply(&mut self, records: Vec<InternalRecord>, afresh: bool) {
        if afresh {
            self.0 = Registry::default();
        }
        for record in records {
            self.take(record);
        }
    }
}

impl Entries {
    fn take(&mut self, record: InternalRecord) {
        let Some(value) = record.value else { return };
        let read = || {
            let key = decode_registry_key(&record.key.unwrap_or_default())?;
            let value = decode_registry_value(&key, &value)?;
            Ok::<_, mirrormesh_proto::ConvertError>((key, value))
        };
        match read() {
            Ok((key, value)) => self.0.apply(record.offset, key, value),
            Err(error) => {
                tracing::warn!(topic = REGISTRY_TOPIC, offset = record.offset, %error, "skipped an unreadable record");
            }
        }
    }
}

/// What was read of the clusters' registries: once for each cluster that is reached in one way, whichever flows ask. An
/// entry for every partition that was ever written stands there.
#[derive(Debug, Default)]
pub(crate) struct Registries(
    // Lock: held only to look up or insert.
    parking_lot::Mutex<HashMap<ClusterSpec, Weak<RegistryTable>>>,
);

impl Registries {
    fn of(&self, cluster: &ClusterSpec) -> Arc<RegistryTable> {
        let mut tables = self.0.lock();
        tables.retain(|_, table| table.strong_count() > 0);
        let known = tables.get(cluster).and_then(Weak::upgrade);
        let table = known.unwrap_or_else(|| Arc::new(InternalTable::new(REGISTRY_TOPIC, Entries::default())));
        tables.insert(cluster.clone(), Arc::downgrade(&table));
        table
    }
}

/// The registry of one cluster, for one flow.
#[derive(Debug)]
pub(crate) struct RegistryStore {
    client: Client,
    replication_factor: Option<i16>,
    /// Kafka's id of the cluster, and when it was asked for. Held over the question.
    cluster_id: Mutex<Option<(Instant, Arc<str>)>>,
    created: OnceCell<()>,
    /// Many partitions that ask together read once.
    table: Arc<RegistryTable>,
}

impl RegistryStore {
    /// Opens nothing yet: connections are made when first needed.
    pub(crate) fn new(
        client: Client,
        cluster: &ClusterSpec,
        replication_factor: Option<i16>,
        registries: &Registries,
    ) -> Self {
        Self {
            client,
            replication_factor,
            cluster_id: Mutex::new(None),
            created: OnceCell::new(),
            table: registries.of(cluster),
        }
    }

    /// Kafka's id of the cluster: the one that every connection is compared with, or else one that is a few seconds old at
    /// most.
    pub(crate) async fn cluster_id(&self) -> Result<Arc<str>, Failure> {
        if let Some(expected) = &self.client.config().expected {
            return Ok(Arc::clone(&expected.kafka_cluster_id));
        }
        let mut known = self.cluster_id.lock().await;
        if let Some((_, id)) = known.as_ref().filter(|(asked, _)| asked.elapsed() < ID_GOOD_FOR) {
            return Ok(Arc::clone(id));
        }
        let asked = Instant::now();
        let id: Arc<str> = cluster_id(&self.client).await?.into();
        *known = Some((asked, Arc::clone(&id)));
        Ok(id)
    }

    /// Makes the topic if it is missing: one partition, compacted.
    pub(crate) async fn ensure(&self) -> Result<(), Failure> {
        let create = || async {
            if !topic_exists(&self.client, REGISTRY_TOPIC).await? {
                self.nothing_is_missing().await?;
            }
            ensure_internal_topic(&self.client, REGISTRY_TOPIC, self.replication_factor).await
        };
        self.created.get_or_try_init(create).await.copied()
    }

    /// What stands in the registry now, in the words of `say`. A cluster without the topic has nothing in it.
    pub(crate) async fn look<T>(&self, say: impl FnOnce(&Registry) -> T) -> Result<T, Failure> {
        let told = self
            .table
            .read_or(&self.client, tokio::time::Instant::now(), || self.nothing_is_missing())
            .await?;
        Ok(say(&told.0))
    }

    /// Whose producer ids are in a partition of this cluster, as a flow to `target` sees it.
    pub(crate) async fn origins(
        &self,
        ids: BTreeSet<i64>,
        (topic, topic_id, partition): (&TopicName, TopicId, i32),
        target: &str,
    ) -> Result<Vec<(i64, Origin)>, Failure> {
        self.look(|registry| {
            let origin = |producer_id| {
                let key = WriterKey { producer_id, topic: topic.clone(), partition };
                (producer_id, registry.origin(&key, topic_id, target))
            };
            ids.into_iter().map(origin).collect()
        })
        .await
    }

    /// Where positions are, a mirror wrote to this cluster, so the registry was there: without it, what was mirrored here
    /// would be taken for what clients wrote, and mirrored back.
    async fn nothing_is_missing(&self) -> Result<(), Failure> {
        let topics = self.client.topics(None).await?;
        let positions = topics.iter().map(|topic| &*topic.name).find(|name| is_positions_topic(name));
        let Some(positions) = positions else { return Ok(()) };
        let servers = self.client.config().bootstrap_servers.join(",");
        let message = format!(
            "the cluster at {servers} has the topic {positions}, so a mirror wrote there, but {REGISTRY_TOPIC} is missing: it tells which records were \
             mirrored, and without it they could be mirrored back. Restore the topic. If no topic is mirrored in both directions \
             under one name, create an empty one: kafka-topics.sh --bootstrap-server {servers} --create --topic {REGISTRY_TOPIC} \
             --partitions 1 --config cleanup.policy=compact",
        );
        Err(Failure::new("REGISTRY_MISSING", message))
    }

    /// Writes records in order and waits until they are acknowledged.
    pub(crate) async fn write(
        &self,
        writer: &InternalWriter,
        records: Vec<(RegistryKey, RegistryValue)>,
    ) -> Result<(), Failure> {
        self.ensure().await?;
        let bytes = |(key, value): &(RegistryKey, RegistryValue)| {
            (encode_registry_key(key), Some(encode_registry_value(value)))
        };
        writer.write(REGISTRY_TOPIC, records.iter().map(bytes)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_share_what_was_read_of_a_cluster_as_long_as_one_of_them_is_there() {
        let registries = Registries::default();
        let spec = |server: &str, user: &str| ClusterSpec {
            bootstrap_servers: vec![server.to_owned()],
            properties: [("sasl.username".to_owned(), user.to_owned())].into(),
            kafka_cluster_id: None,
        };
        let one = registries.of(&spec("a:9092", "x"));
        assert!(Arc::ptr_eq(&one, &registries.of(&spec("a:9092", "x"))));
        for other in [spec("b:9092", "x"), spec("a:9092", "y")] {
            assert!(!Arc::ptr_eq(&one, &registries.of(&other)), "what one may read the other may not");
        }
        assert_eq!(registries.0.lock().len(), 2, "those that nobody holds are forgotten");
        drop(one);
        registries.of(&spec("b:9092", "x"));
        assert_eq!(registries.0.lock().len(), 1);
    }
}
