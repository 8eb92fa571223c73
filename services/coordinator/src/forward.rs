//! Any coordinator serves any call: one that does not lead passes the whole call on to the one that does.
//!
//! Owns the routing of public API calls, as a layer around each service: headers, body and trailers go through as they
//! are, streams both ways. A call is passed on at most once, so coordinators that disagree about the leader can't send
//! it in circles. Health and reflection are not wrapped: each coordinator answers for itself.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use mirrormesh_runtime::grpc::{ChannelOptions, channel};
use mirrormesh_runtime::trace_context::inject;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};

use crate::metrics::Metrics;
use crate::raft::{Leadership, NodeId, RaftHandle};
use crate::service::{LEADER_WAIT, status};

/// Marks a call that was passed on already.
const FORWARDED: &str = "mirrormesh-forwarded";
/// How long a leader that was deposed may take to answer what it was asked before.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Addresses of leaders for which a channel is kept.
const CHANNELS_MAX: usize = 16;

/// Finds out where a call goes; shared by all services.
#[derive(Debug)]
pub(crate) struct Router {
    raft: RaftHandle,
    metrics: Metrics,
    stopping: CancellationToken,
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// Where a call goes.
enum Route {
    Here,
    To(NodeId, Channel),
    Nowhere(Status),
}

impl Router {
    /// A router for the coordinator behind `raft`.
    pub(crate) fn new(raft: RaftHandle, metrics: Metrics, stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Self { raft, metrics, stopping, channels: Mutex::default() })
    }

    /// Wraps a service.
    pub(crate) fn wrap<S>(self: &Arc<Self>, inner: S) -> Forward<S> {
        Forward { inner, router: Arc::clone(self) }
    }

    async fn route(&self, forwarded: bool) -> Route {
        let mut leadership = self.raft.watch_leadership();
        let known = async {
            tokio::select! {
                now = leadership.wait_for(|now| now.leader.is_some()) => now.map(|now| now.clone()).ok(),
                () = self.stopping.cancelled() => None,
            }
        };
        match timeout(LEADER_WAIT, known).await {
            Ok(Some(now)) if now.is_self => Route::Here,
            Ok(Some(now)) if forwarded => Route::Nowhere(status::elsewhere(&now)),
            Ok(Some(now)) => self.towards(&now).unwrap_or_else(Route::Nowhere),
            Ok(None) => Route::Nowhere(status::stopping()),
            Err(_) => Route::Nowhere(status::no_leader()),
        }
    }

    fn towards(&self, leadership: &Leadership) -> Result<Route, Status> {
        let Some((id, node)) = &leadership.leader else { return Err(status::no_leader()) };
        let address = &node.api_address;
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(Route::To(*id, channel.clone()));
        }
        let options =
            ChannelOptions { connect_timeout: Duration::from_millis(500), ..ChannelOptions::default() };
        let made = channel(address, &options).map_err(|error| {
            status::unavailable("LEADER_UNREACHABLE", format!("the leader's API address {address}: {error}"))
        })?;
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.clone(), made.clone());
        Ok(Route::To(*id, made))
    }

    async fn pass_on(&self, leader: NodeId, channel: Channel, mut request: Request<Body>) -> Response<Body> {
        request.headers_mut().insert(FORWARDED, HeaderValue::from_static("1"));
        let mut metadata = MetadataMap::from_headers(std::mem::take(request.headers_mut()));
        inject(&mut metadata);
        *request.headers_mut() = metadata.into_headers();
        let mut leadership = self.raft.watch_leadership();
        let deposed = async {
            let other = |now: &Leadership| now.leader.as_ref().is_some_and(|(id, _)| *id != leader);
            // The end of the task that publishes it says nothing about the leader.
            if leadership.wait_for(other).await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(LAST_WORDS).await;
        };
        let response = tokio::select! {
            response = channel.oneshot(request) => response,
            () = deposed => return leader_lost().into_http(),
            () = self.stopping.cancelled() => return status::stopping().into_http(),
        };
        match response {
            Ok(response) => response.map(|inner| {
                let stopping = Box::pin(self.stopping.clone().cancelled_owned());
                Body::new(Passed { inner: Some(inner), stopping })
            }),
            Err(error) => {
                tracing::debug!(%error, "a call could not be passed on to the leader");
                leader_lost().into_http()
            }
        }
    }
}

/// A service that is served here on the leader, and passed on elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Forward<S> {
    inner: S,
    router: Arc<Router>,
}

impl<S: NamedService> NamedService for Forward<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Forward<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was polled ready is used up; a clone stays.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let router = Arc::clone(&self.router);
        Box::pin(async move {
            let forwarded = request.headers().contains_key(FORWARDED);
            match router.route(forwarded).await {
                Route::Here => {
                    let path = request.uri().path().to_owned();
                    let response = inner.call(request).await?;
                    let code = code_of(&response);
                    router.metrics.call(method(&path, code), code);
                    Ok(response)
                }
                Route::To(leader, channel) => Ok(router.pass_on(leader, channel, request).await),
                Route::Nowhere(status) => Ok(status.into_http()),
            }
        })
    }
}

fn leader_lost() -> Status {
    let text = "the leading coordinator can't be reached: if the call was a write, its outcome is not known";
    status::unavailable("LEADER_UNREACHABLE", text)
}

/// The body of a call that was passed on. When the leader is lost, or this coordinator stops, it ends with a status
/// that says so, and not with a broken connection, which callers take for a fault in the call.
struct Passed {
    /// `None` at the end.
    inner: Option<Body>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Passed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let ended = match Pin::new(inner).poll_frame(context) {
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "a call that was passed on to the leader broke off");
                leader_lost()
            }
            Poll::Pending if self.stopping.as_mut().poll(context).is_ready() => status::stopping(),
            other => return other,
        };
        self.inner = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(ended.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

/// A refusal stands in the response head; a success in the trailers, which come later.
fn code_of(response: &Response<Body>) -> Code {
    response.headers().get(Status::GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// Only methods that exist become values of a metric's attribute.
fn method(path: &str, code: Code) -> &str {
    if code == Code::Unimplemented { "unknown" } else { path.trim_start_matches('/') }
}
