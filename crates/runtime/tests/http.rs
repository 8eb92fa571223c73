//! The HTTP port: answers, limits and its end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

mod support;

use mirrormesh_runtime::http::{Health, HttpServer, ProbeError, ready};
use mirrormesh_runtime::shutdown::Shutdown;
use std::net::SocketAddr;
use support::telemetry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

struct Port {
    address: SocketAddr,
    health: Health,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

async fn port() -> Port {
    let (telemetry, _, _) = telemetry(&[]);
    let meter = telemetry.meter("demo");
    meter.f64_gauge("mirrormesh.replication.lag").with_unit("s").build().record(1.5, &[]);
    let health = Health::new();
    let server = HttpServer::bind("127.0.0.1:0", telemetry.registry().clone(), health.clone()).await.unwrap();
    let address = server.local_addr();
    let shutdown = Shutdown::new();
    // The meters must outlive the scrapes.
    let serve = server.serve(shutdown.clone());
    let serving = tokio::spawn(async move {
        serve.await;
        drop(telemetry);
    });
    Port { address, health, shutdown, serving }
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that cuts may reset instead of closing.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_and_health_are_served_on_a_free_port() {
    let port = port().await;
    assert_ne!(port.address.port(), 0);
    let metrics = get(port.address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("mirrormesh_replication_lag_seconds{"), "{metrics}");
    assert!(metrics.contains("target_info{") && metrics.contains("service_name=\"demo\""), "{metrics}");
    let live = get(port.address, "/health/live").await;
    assert!(live.starts_with("HTTP/1.1 200"), "{live}");
}

#[tokio::test]
async fn readiness_follows_the_checks_and_the_probe_agrees() {
    let port = port().await;
    let address = port.address.to_string();
    let raft = port.health.check("raft");
    let answer = get(port.address, "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.ends_with(
            r#"{"status":"failing","checks":[{"name":"raft","status":"failing","reason":"starting"}]}"#
        ),
        "{answer}"
    );
    let Err(ProbeError::NotReady { answer, .. }) = ready(&address).await else {
        panic!("the probe says ready")
    };
    assert!(answer.contains("starting"), "{answer}");
    raft.set_ok();
    let answer = get(port.address, "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    ready(&address).await.unwrap();
}

#[tokio::test]
async fn other_methods_paths_and_large_heads_are_refused() {
    let port = port().await;
    let put = ask(
        port.address,
        "PUT /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
    assert!(put.await.starts_with("HTTP/1.1 405"));
    assert!(get(port.address, "/other").await.starts_with("HTTP/1.1 404"));
    let large = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(64 * 1024));
    assert!(!ask(port.address, &large).await.starts_with("HTTP/1.1 200"));
    let many = format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(80));
    assert!(!ask(port.address, &many).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn connections_are_limited_and_the_end_cuts_idle_ones() {
    let port = port().await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        // An answered request shows that the server has taken this connection.
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        idle.push(stream);
    }
    assert_eq!(get(port.address, "/health/live").await, "", "one too many is closed");
    idle.pop();
    while !get(port.address, "/health/live").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
    port.shutdown.trigger();
    port.serving.await.unwrap();
    for mut stream in idle {
        drop(stream.read_to_end(&mut Vec::new()).await);
    }
    assert!(TcpStream::connect(port.address).await.is_err());
}
