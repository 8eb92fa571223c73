//! Opening a connection: the socket, the versions that both sides know, and whether the broker is of the right cluster.

use std::sync::atomic::AtomicI32;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kafka_protocol::messages::MetadataRequest;
use kafka_protocol::protocol::StrBytes;

use super::conn::{Connection, Inner};
use super::transport::{self, Transport};
use super::versions::{self, METADATA_VERSIONS, Negotiated};
use super::{decode, link};
use crate::config::{ExpectedCluster, Limits};
use crate::error::{Error, Result};
use crate::memory::Share;

impl Connection {
    /// Connects to `host:port` and agrees on versions, within `limits.connect_timeout`.
    ///
    /// # Errors
    /// [`Error::Connect`] and [`Error::ConnectTimeout`]; [`Error::Unsupported`] if the peer is too old.
    pub async fn connect(broker: &str, client_id: &str, limits: Limits) -> Result<Self> {
        Self::connect_within(broker, client_id, limits, None, None).await
    }

    /// As [`Connection::connect`]; what is read is charged to a share of a memory budget. A broker of another cluster than
    /// `expected` is refused: nothing else is sent to it.
    pub(crate) async fn connect_within(
        broker: &str,
        client_id: &str,
        limits: Limits,
        memory: Option<Share>,
        expected: Option<&ExpectedCluster>,
    ) -> Result<Self> {
        let broker: Arc<str> = broker.into();
        let opening = async {
            let transport = transport::open_plaintext(&broker)
                .await
                .map_err(|source| Error::Connect { broker: Arc::clone(&broker), source: Arc::new(source) })?;
            let connection = Self::start(Arc::clone(&broker), client_id, limits, transport, memory);
            connection.negotiate().await?;
            if let Some(expected) = expected {
                connection.check_cluster(expected).await?;
            }
            Ok(connection)
        };
        tokio::time::timeout(limits.connect_timeout, opening).await.unwrap_or_else(|_| {
            Err(Error::ConnectTimeout { broker: Arc::clone(&broker), timeout: limits.connect_timeout })
        })
    }

    fn start(
        broker: Arc<str>,
        client_id: &str,
        limits: Limits,
        transport: Transport,
        memory: Option<Share>,
    ) -> Self {
        let (queue, end, tasks) = link::start(&broker, &limits, transport, memory);
        let inner = Inner {
            broker,
            client_id: StrBytes::from_string(client_id.to_owned()),
            limits,
            versions: OnceLock::new(),
            correlation: AtomicI32::new(0),
            queue,
            end,
            tasks,
        };
        Self { inner: Arc::new(inner) }
    }

    async fn negotiate(&self) -> Result<()> {
        let mut version = versions::FIRST_TRY;
        loop {
            let heap_bytes_max = self.inner.limits.decoded_bytes_max();
            let broker = Arc::clone(&self.inner.broker);
            let decode = move |frame: Bytes| {
                versions::read(&frame, version, heap_bytes_max).map_err(|problem| {
                    decode::malformed::<kafka_protocol::messages::ApiVersionsRequest>(
                        &broker, version, problem,
                    )
                })
            };
            let outgoing = self.encode(&versions::request(), version, self.inner.limits.connect_timeout)?;
            let slot = self.slot(outgoing.api).await?;
            match self.submit(slot, outgoing, Box::new(decode))?.await? {
                Negotiated::Known(known) => {
                    self.inner.versions.get_or_init(|| known);
                    return Ok(());
                }
                // Strictly downwards, so this ends.
                Negotiated::AskAgain(lower) => version = lower,
                Negotiated::Refused(code) => {
                    let broker = Arc::clone(&self.inner.broker);
                    return Err(Error::Broker { broker, api: "ApiVersions", code, message: None });
                }
            }
        }
    }

    /// Asks which cluster the broker belongs to. Metadata without topics tells it in all versions that we use.
    async fn check_cluster(&self, expected: &ExpectedCluster) -> Result<()> {
        let request =
            MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(false);
        let timeout = self.inner.limits.connect_timeout;
        let response = self.call_within(&request, METADATA_VERSIONS, timeout).await?;
        let found = response.cluster_id.as_ref().map_or("unknown", |id| id.as_str());
        if found == &*expected.kafka_cluster_id {
            return Ok(());
        }
        Err(Error::ClusterChanged {
            broker: Arc::clone(&self.inner.broker),
            cluster: Arc::clone(&expected.name),
            expected: Arc::clone(&expected.kafka_cluster_id),
            found: found.into(),
        })
    }
}
