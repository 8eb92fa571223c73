//! A cluster: its brokers, connections to them, and who leads what.
//!
//! Owns the pool of connections and the metadata cache, and finds a broker for each kind of request. Must not know what
//! is mirrored.

mod coordinators;
pub mod metadata;
mod pool;
mod refresh;
mod role;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::MetadataRequest;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use parking_lot::{Mutex, MutexGuard};
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::config::{ClientConfig, Limits};
use crate::error::{Class, Error, ErrorCode, Result};
use crate::memory::Share;
use crate::wire::api::Api;
use crate::wire::conn::Connection;
use crate::wire::versions::METADATA_VERSIONS;
use coordinators::Coordinators;
use metadata::Cache;
pub use metadata::{BrokerInfo, ClusterInfo, Leader, PartitionInfo, TopicInfo};
use pool::{Pool, Target};
pub use role::ConnectionRole;

pub(crate) const RETRY_MIN: Duration = Duration::from_millis(10);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(1);

/// A client of one cluster; clones share connections and cache.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    pool: Pool,
    /// Held for look-ups and merges, never across an await.
    cache: Mutex<Cache>,
    refresh: refresh::Refresh,
    coordinators: Coordinators,
}

impl Client {
    /// A client that has not connected to anything yet.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn new(config: ClientConfig) -> Result<Self> {
        config.validate()?;
        let pool = Pool::new(&config.client_id, config.limits, config.expected.clone());
        let inner = Inner {
            config,
            pool,
            cache: Mutex::default(),
            refresh: refresh::Refresh::default(),
            coordinators: Coordinators::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it was told.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.config.limits
    }

    pub(crate) fn coordinators(&self) -> &Coordinators {
        &self.inner.coordinators
    }

    /// A connection to a broker, shared by all who name the same role. Pin partitions to roles: requests of one role
    /// stay in order, those of another are not held up by them.
    ///
    /// Opens it if need be, with pauses of 20 ms to 1 s between attempts, and at most one attempt at a time.
    ///
    /// # Errors
    /// Those of [`Connection::connect`]; [`Error::UnknownBroker`] if the cluster has no such broker.
    pub async fn connection(&self, node_id: i32, role: ConnectionRole) -> Result<Connection> {
        self.connect(node_id, role, None).await
    }

    /// As [`Client::connection`], for a role that reads records: they are charged to `memory` before they are read.
    ///
    /// # Errors
    /// As [`Client::connection`].
    pub async fn connection_within(
        &self,
        node_id: i32,
        role: ConnectionRole,
        memory: &Share,
    ) -> Result<Connection> {
        self.connect(node_id, role, Some(memory)).await
    }

    async fn connect(
        &self,
        node_id: i32,
        role: ConnectionRole,
        memory: Option<&Share>,
    ) -> Result<Connection> {
        let known = self.cache().address(node_id);
        let address = if let Some(address) = known {
            address
        } else {
            self.cluster().await?;
            let learned = self.cache().address(node_id);
            learned.ok_or(Error::UnknownBroker { node_id })?
        };
        self.inner.pool.get(Target::Node(node_id), role, &address, memory).await
    }

    /// Asks the cluster about itself.
    ///
    /// # Errors
    /// [`Error::NoBroker`] names every broker and bootstrap server that was tried.
    pub async fn cluster(&self) -> Result<ClusterInfo> {
        let response = self.metadata(Some(&[])).await?;
        Ok(metadata::cluster_info(&response))
    }

    /// Kafka's id of the cluster; `None` on brokers before 0.10.1, which have none.
    ///
    /// # Errors
    /// As [`Client::cluster`].
    pub async fn cluster_id(&self) -> Result<Option<String>> {
        Ok(self.cluster().await?.cluster_id)
    }

    /// Asks about topics: those named, or all that we may see. A topic that does not exist has an error of its own;
    /// none is ever created by asking.
    pub async fn topics(&self, names: Option<&[&str]>) -> Result<Vec<TopicInfo>> {
        let asked = Instant::now();
        let response = self.metadata(names).await?;
        let topics = metadata::topic_infos(&response);
        self.cache().learn_topics(&topics, true, asked);
        Ok(topics)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.inner.cache.lock()
    }

    /// One metadata request; the brokers in its answer are remembered.
    async fn metadata(&self, names: Option<&[&str]>) -> Result<MetadataResponse> {
        let topics = names.map(|names| names.iter().map(|name| metadata_topic(name)).collect());
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let (broker, response) =
            self.call_any(&request, METADATA_VERSIONS, self.limits().request_timeout).await?;
        let code = ErrorCode(response.error_code);
        if !code.is_ok() {
            return Err(Error::Broker { broker, api: MetadataRequest::NAME, code, message: None });
        }
        self.cache().learn_brokers(&metadata::cluster_info(&response));
        Ok(response)
    }

    /// Sends a request that any broker can answer: first over an open connection, then to the other brokers, then to
    /// the bootstrap servers. Returns who answered as well. Only for requests that may be sent twice.
    pub(crate) async fn call_any<R: Api>(
        &self,
        request: &R,
        ours: VersionRange,
        timeout: Duration,
    ) -> Result<(Arc<str>, R::Response)> {
        let mut tried: Vec<String> = Vec::new();
        let mut last = None;
        for (target, address) in self.candidates() {
            let outcome = match self.inner.pool.get(target, ConnectionRole::Control, &address, None).await {
                Ok(connection) => connection.call_within(request, ours, timeout).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(response) => return Ok((address, response)),
                // Another cluster at one address says more than silence at the next.
                Err(error) if error.is_connection_error() || error.changed_cluster().is_some() => {
                    last = last.filter(|known: &Error| known.changed_cluster().is_some()).or(Some(error));
                }
                Err(error) => return Err(error),
            }
            if !tried.iter().any(|known| **known == *address) {
                tried.push(address.to_string());
            }
        }
        let last = last.unwrap_or(Error::UnknownBroker { node_id: -1 });
        Err(Error::NoBroker { api: R::NAME, tried: tried.join(", "), last: Box::new(last) })
    }

    fn candidates(&self) -> Vec<(Target, Arc<str>)> {
        let mut nodes: Vec<(Target, Arc<str>)> = {
            let cache = self.cache();
            let addressed = |id| cache.address(id).map(|address| (Target::Node(id), address));
            cache.node_ids().into_iter().filter_map(addressed).collect()
        };
        nodes.shuffle(&mut rand::rng());
        nodes.sort_by_key(|(target, _)| !self.inner.pool.is_open(*target, ConnectionRole::Control));
        let servers = self.inner.config.bootstrap_servers.iter().enumerate();
        let mut bootstrap: Vec<_> =
            servers.map(|(index, server)| (Target::Bootstrap(index), Arc::from(server.as_str()))).collect();
        bootstrap.shuffle(&mut rand::rng());
        nodes.extend(bootstrap);
        nodes
    }

    /// Asks a broker for something cheap, on a connection that is used for nothing else. An answer within `timeout`,
    /// the time to connect included, shows that the broker works.
    ///
    /// # Errors
    /// [`Error::Timeout`] if no answer came in time; otherwise why the broker can't be asked.
    pub async fn probe(&self, node_id: i32, timeout: Duration) -> Result<()> {
        let request = MetadataRequest::default().with_topics(Some(Vec::new()));
        let request = request.with_allow_auto_topic_creation(false);
        let asking = async {
            let connection = self.connection(node_id, ConnectionRole::Probe).await?;
            connection.call_within(&request, METADATA_VERSIONS, timeout).await.map(drop)
        };
        tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| {
            let broker = self.cache().address(node_id).unwrap_or_else(|| "an unknown broker".into());
            Err(Error::Timeout { broker, api: MetadataRequest::NAME, timeout })
        })
    }

    /// Sends a request to one broker over its control role.
    pub(crate) async fn call_node<R: Api>(
        &self,
        node_id: i32,
        request: &R,
        ours: VersionRange,
        timeout: Duration,
    ) -> Result<(Arc<str>, R::Response)> {
        let connection = self.connection(node_id, ConnectionRole::Control).await?;
        let response = connection.call_within(request, ours, timeout).await?;
        Ok((connection.broker().into(), response))
    }

    /// Repeats `attempt` with growing pauses while `again` says so, until the time for administrative calls is over.
    pub(crate) async fn retrying<T, F, A>(
        &self,
        operation: &'static str,
        again: fn(&Error) -> bool,
        mut attempt: A,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
        A: FnMut() -> F,
    {
        let timeout = self.limits().admin_timeout;
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut last = Error::Timeout { broker: "the cluster".into(), api: operation, timeout };
        loop {
            match tokio::time::timeout_at(deadline, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if again(&error) => last = error,
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
            let pause = backoff.delay();
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(Error::Deadline { operation, timeout, last: Box::new(last) })
    }
}

/// Whether a request that changes nothing is worth repeating.
pub(crate) fn worth_asking_again(error: &Error) -> bool {
    error.class() == Class::Retriable
}

/// Whether a request that changes something may be repeated: not if it may have had its effect.
pub(crate) fn safe_to_repeat(error: &Error) -> bool {
    error.class() == Class::Retriable && !error.outcome_unknown()
}

fn metadata_topic(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(topic_name(name)))
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
