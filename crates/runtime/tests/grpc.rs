//! Servers and channels: deadlines, streams, limits and the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

use mirrormesh_runtime::grpc::{
    ChannelOptions, GRACE, GrpcError, GrpcServer, ServerLimits, channel, with_standard_services,
};
use mirrormesh_runtime::shutdown::Shutdown;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

/// Never answers a unary call; a stream says one thing after the pause and then nothing more.
#[derive(Debug)]
struct Slow {
    pause: Duration,
}

#[tonic::async_trait]
impl Health for Slow {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        std::future::pending().await
    }

    type WatchStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>,
    >;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // Before the response head, where a plain server timeout would cut.
        tokio::time::sleep(self.pause).await;
        let first = tokio_stream::once(Ok(HealthCheckResponse::default()));
        Ok(Response::new(Box::pin(first.chain(tokio_stream::pending()))))
    }
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), GrpcError>>,
}

impl Running {
    async fn start(limits: ServerLimits, routes: Routes) -> Self {
        let server = GrpcServer::bind("test", "127.0.0.1:0", limits, &[]).await.unwrap();
        let address = server.local_addr();
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(server.serve(routes, shutdown.clone()));
        Self { address, shutdown, serving }
    }

    fn client(&self) -> HealthClient<Channel> {
        HealthClient::new(channel(&self.address.to_string(), &ChannelOptions::default()).unwrap())
    }
}

fn slow(pause: Duration) -> Routes {
    Routes::new(HealthServer::new(Slow { pause }))
}

#[tokio::test]
async fn unary_calls_end_at_the_deadline_and_streams_do_not() {
    let unary_max = Duration::from_millis(100);
    let limits = ServerLimits { unary_max, ..ServerLimits::default() };
    let running = Running::start(limits, slow(unary_max * 3)).await;
    let mut client = running.client();
    let answer = tokio::time::timeout(unary_max * 100, client.check(HealthCheckRequest::default())).await;
    let refused = answer.expect("the call was not cut").unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    let mut stream = running.client().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_callers_deadline_counts_where_it_is_shorter() {
    let running = Running::start(ServerLimits::default(), slow(Duration::ZERO)).await;
    // Written by hand: a client library would also watch the clock and hide the server's answer.
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let start = Instant::now();
    let refused = running.client().check(request).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused}");
}

#[tokio::test]
async fn the_end_is_quick_without_calls_and_bounded_with_a_stream() {
    let quiet = Running::start(ServerLimits::default(), slow(Duration::ZERO)).await;
    let start = Instant::now();
    quiet.shutdown.trigger();
    quiet.serving.await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    let busy = Running::start(ServerLimits::default(), slow(Duration::ZERO)).await;
    let mut stream = busy.client().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let start = Instant::now();
    busy.shutdown.trigger();
    tokio::time::timeout(GRACE * 2, busy.serving).await.unwrap().unwrap().unwrap();
    assert!(start.elapsed() >= GRACE && start.elapsed() < GRACE * 2, "{:?}", start.elapsed());
    // No connection outlives the server.
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap();
    assert!(matches!(ended, None | Some(Err(_))), "{ended:?}");
}

#[tokio::test]
async fn dropping_a_server_cuts_its_connections() {
    let running = Running::start(ServerLimits::default(), slow(Duration::ZERO)).await;
    let mut stream = running.client().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    running.serving.abort();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap();
    assert!(matches!(ended, None | Some(Err(_))), "{ended:?}");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped() {
    let limits = ServerLimits { opening_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let running = Running::start(limits, slow(Duration::ZERO)).await;
    let mut mute = TcpStream::connect(running.address).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(5), mute.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the connection is still open");
    // One that did open stays past the time.
    let mut stream = running.client().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let more = tokio::time::timeout(Duration::from_millis(400), stream.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let limits = ServerLimits { connections_max: 1, ..ServerLimits::default() };
    let running = Running::start(limits, slow(Duration::ZERO)).await;
    let mut stream = running.client().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(5), second.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the second connection is still open");
}

#[tokio::test]
async fn large_header_lists_are_refused() {
    let running = Running::start(ServerLimits::default(), slow(Duration::ZERO)).await;
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("large", "x".repeat(20 * 1024).parse().unwrap());
    // The refusal is plain HTTP (431), which a stream shows with its first message.
    let refused = match running.client().watch(request).await {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(refused) => Err(refused),
    };
    assert!(refused.is_err(), "the header list was taken");
}

#[tokio::test]
async fn health_and_both_reflections_are_served() {
    let (routes, reporter) = with_standard_services(Routes::default(), &[]).unwrap();
    reporter.set_service_status("demo", tonic_health::ServingStatus::Serving).await;
    let running = Running::start(ServerLimits::mesh(), routes).await;
    let answer = running.client().check(HealthCheckRequest { service: "demo".into() }).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);

    let to = || channel(&running.address.to_string(), &ChannelOptions::default()).unwrap();
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..Default::default()
    };
    let mut v1 = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(to());
    let mut answers = v1.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
    let listed = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(listed.contains("grpc.health.v1.Health"), "{listed}");
    let list = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
        message_request: Some(
            tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            ),
        ),
        ..Default::default()
    };
    let mut old = tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient::new(to());
    let mut answers = old.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_named() {
    let bound = GrpcServer::bind("api", "127.0.0.1:0", ServerLimits::default(), &[]).await.unwrap();
    let address = bound.local_addr().to_string();
    let taken = GrpcServer::bind("api", &address, ServerLimits::default(), &[]).await.unwrap_err();
    assert_eq!(taken.to_string(), format!("cannot listen on the api address `{address}`"));
    let odd = channel("http://:not a url", &ChannelOptions::default()).unwrap_err();
    assert!(odd.to_string().contains("not a url"), "{odd}");
}
