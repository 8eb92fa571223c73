//! Channels to other processes.
//!
//! Owns how a connection is made and how its death is noticed. It must not know who is called.

use super::GrpcError;
use std::time::Duration;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// How a channel behaves.
#[derive(Debug, Clone)]
pub struct ChannelOptions {
    /// Longest time for making a connection.
    pub connect_timeout: Duration,
    /// How often the other side is asked for a sign of life, also while no call is open.
    pub keepalive_interval: Duration,
    /// How long it may take to give one before the connection counts as dead.
    pub keepalive_timeout: Duration,
    /// Longest time from a request to its response head; none leaves it to the caller.
    pub request_timeout: Option<Duration>,
}

impl Default for ChannelOptions {
    /// Within the mesh: a dead peer is noticed after about 4 s.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            request_timeout: None,
        }
    }
}

/// A channel to `endpoint` that connects on first use and again after each break.
///
/// `endpoint` is `HOST:PORT` (plain text) or a URL with `http` or `https`; with `https` the
/// system's certificates are trusted. Must be called inside a tokio runtime.
pub fn channel(endpoint: &str, options: &ChannelOptions) -> Result<Channel, GrpcError> {
    tokio::runtime::Handle::try_current().map_err(|_| GrpcError::NoRuntime)?;
    let refused =
        |error: tonic::transport::Error| GrpcError::Endpoint { endpoint: endpoint.to_owned(), source: error };
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let mut to = Endpoint::from_shared(url)
        .map_err(refused)?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(super::HEADER_LIST_BYTES_MAX)
        .tcp_nodelay(true);
    if let Some(timeout) = options.request_timeout {
        to = to.timeout(timeout);
    }
    if to.uri().scheme_str() == Some("https") {
        to = to.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(refused)?;
    }
    Ok(to.connect_lazy())
}
