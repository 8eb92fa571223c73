//! A gRPC server with its limits.
//!
//! Owns binding, limits and the end. It must not know which services it serves; the largest
//! message is set on each service by its owner ([`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX)).

use super::connection::Incoming;
use super::deadline::{DeadlineLayer, StreamingMethods};
use super::{GrpcError, HEADER_LIST_BYTES_MAX};
use crate::shutdown::Shutdown;
use crate::trace_context::TraceLayer;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{info, warn};

/// How long calls under way may take once the process stops.
pub const GRACE: Duration = Duration::from_secs(5);

/// The limits of a server. The defaults suit the public API.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
    /// Calls at a time on one connection.
    pub streams_per_connection_max: u32,
    /// A client must have opened HTTP/2 by then.
    pub opening_timeout: Duration,
    /// How often a quiet client is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// How long it may take to give one.
    pub keepalive_timeout: Duration,
    /// After this time a connection takes no new calls, so that clients spread anew over the
    /// servers behind a balancer; calls under way go on. None for connections that should stay.
    pub connection_age_max: Option<Duration>,
    /// Longest unary call. Calls with a stream in them have no limit.
    pub unary_max: Duration,
    /// Resets that a client may have outstanding (CVE-2023-44487, "rapid reset").
    pub pending_resets_max: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 1_000,
            streams_per_connection_max: 128,
            opening_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            connection_age_max: Some(Duration::from_mins(30)),
            unary_max: Duration::from_secs(30),
            pending_resets_max: 20,
        }
    }
}

impl ServerLimits {
    /// For the processes of a mesh: connections stay, and a dead peer is noticed within seconds.
    pub fn mesh() -> Self {
        Self {
            streams_per_connection_max: 1_024,
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            connection_age_max: None,
            ..Self::default()
        }
    }
}

/// A bound gRPC server, not serving yet.
#[derive(Debug)]
pub struct GrpcServer {
    name: &'static str,
    listener: TcpListener,
    local_addr: SocketAddr,
    limits: ServerLimits,
    streaming: StreamingMethods,
}

impl GrpcServer {
    /// Binds `address` (`HOST:PORT`; port 0 takes a free one) and logs what it got. `name` tells
    /// the listeners of a process apart. `descriptor_sets` are the encoded descriptors of all
    /// services that will be served: they say which calls are unary.
    pub async fn bind(
        name: &'static str,
        address: &str,
        limits: ServerLimits,
        descriptor_sets: &[&[u8]],
    ) -> Result<Self, GrpcError> {
        let refused = |source| GrpcError::Bind { name, address: address.to_owned(), source };
        let streaming = StreamingMethods::read(descriptor_sets)?;
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        info!(listener = name, address = %local_addr, "gRPC is served");
        Ok(Self { name, listener, local_addr, limits, streaming })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves `routes` until `shutdown`; then calls under way have [`GRACE`] to end, and every
    /// connection that is left is cut.
    pub async fn serve(self, routes: Routes, shutdown: Shutdown) -> Result<(), GrpcError> {
        let Self { name, listener, limits, streaming, .. } = self;
        let ended = CancellationToken::new();
        // Also when this future is dropped: tonic's connections are tasks of their own.
        let _cut = ended.clone().drop_guard();
        let incoming = Incoming::new(listener, limits.connections_max, limits.opening_timeout, ended);
        let mut server = Server::builder()
            .max_concurrent_streams(limits.streams_per_connection_max)
            .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
            .http2_max_pending_accept_reset_streams(Some(limits.pending_resets_max))
            .http2_keepalive_interval(Some(limits.keepalive_interval))
            .http2_keepalive_timeout(Some(limits.keepalive_timeout));
        if let Some(age) = limits.connection_age_max {
            server = server.max_connection_age(age);
        }
        let serving = server
            .layer(TraceLayer)
            .layer(DeadlineLayer { streaming, unary_max: limits.unary_max })
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
        let grace_over = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            result = serving => result.map_err(|source| GrpcError::Serve { name, source }),
            () = grace_over => {
                warn!(listener = name, grace_s = GRACE.as_secs(), "calls were cut at the end");
                Ok(())
            }
        }
    }
}
