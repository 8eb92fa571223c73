//! The small HTTP port of every process: `/metrics`, `/health/live`, `/health/ready`.
//!
//! Owns the listener, its limits and the answers. It must not know what is measured or checked.
//! Only GET (and HEAD) is answered, and no body is read.

mod health;
mod probe;

use crate::shutdown::Shutdown;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

pub use health::{CheckHandle, CheckReport, Health, Report, Status};
pub use probe::{ProbeError, ready};

/// Scrapers and probes need few; a stranger gets no more.
const CONNECTIONS_MAX: usize = 64;

/// A request head that takes longer to arrive is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest life of a connection; clients that keep theirs open connect anew.
const CONNECTION_AGE_MAX: Duration = Duration::from_mins(5);

/// Largest request head, in bytes; hyper takes no smaller buffer than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most headers in a request.
const HEADERS_MAX: usize = 64;

/// How long answers under way may take once the process stops.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait after the system refused a connection, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound HTTP port, not serving yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    local_addr: SocketAddr,
    pages: Pages,
}

#[derive(Debug, Clone)]
struct Pages {
    registry: Registry,
    health: Health,
}

/// Why the HTTP port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the metrics address `{address}`")]
pub struct HttpError {
    /// As given.
    pub address: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl HttpServer {
    /// Binds `address` (`HOST:PORT`; port 0 takes a free one) and logs what it got.
    pub async fn bind(address: &str, registry: Registry, health: Health) -> Result<Self, HttpError> {
        let refused = |source| HttpError { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        info!(address = %local_addr, "metrics and health are served");
        Ok(Self { listener, local_addr, pages: Pages { registry, health } })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown`, then lets answers under way finish for at most a second.
    pub async fn serve(self, shutdown: Shutdown) {
        let router = axum::Router::new()
            .route("/metrics", get(metrics))
            .route("/health/live", get(live))
            .route("/health/ready", get(is_ready))
            .with_state(self.pages);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                            debug!(%peer, "too many connections to the metrics address, closing this one");
                            continue;
                        };
                        connections.spawn(connection(stream, router.clone(), slot, shutdown.clone()));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection on the metrics address");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop(self.listener);
        // What is left after the grace is aborted with the set.
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, drained).await.is_err() {
            debug!("connections to the metrics address were cut");
        }
    }
}

async fn connection(stream: TcpStream, router: axum::Router, slot: OwnedSemaphorePermit, shutdown: Shutdown) {
    let serve = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serve = std::pin::pin!(serve);
    let mut old = std::pin::pin!(tokio::time::sleep(CONNECTION_AGE_MAX));
    let mut closing = false;
    let result = loop {
        tokio::select! {
            result = &mut serve => break result,
            () = &mut old, if !closing => closing = true,
            () = shutdown.cancelled(), if !closing => closing = true,
        }
        // No more requests on this connection; the one under way is answered.
        serve.as_mut().graceful_shutdown();
    };
    if let Err(error) = result {
        debug!(%error, "a connection to the metrics address ended badly");
    }
    drop(slot);
}

async fn live() -> Response {
    json(StatusCode::OK, &serde_json::json!({ "status": "ok" }))
}

async fn is_ready(State(pages): State<Pages>) -> Response {
    let report = pages.health.report();
    let code = match report.status {
        Status::Ok => StatusCode::OK,
        Status::Failing => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(code, &report)
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (code, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => failed("health cannot be written", &error),
    }
}

/// Gathering walks every series, so it keeps off the threads that move data.
async fn metrics(State(pages): State<Pages>) -> Response {
    let gathered = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        TextEncoder::new().encode(&pages.registry.gather(), &mut text).map(|()| text)
    })
    .await;
    match gathered {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => failed("metrics cannot be gathered", &error),
        Err(error) => failed("metrics cannot be gathered", &error),
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Response {
    warn!(error = %error, "{what}");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}
