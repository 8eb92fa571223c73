//! How bytes reach a broker: the one place that opens sockets.
//!
//! Owns the choice of transport; TLS and SASL belong here, because everything above only sees a pair of byte streams.
//! Must not know Kafka's frames.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// An idle connection is probed after this time, so that a vanished broker is noticed without traffic.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What a connection reads from.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// What a connection writes to.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An open stream to a broker, ready for Kafka's frames.
pub(crate) struct Transport {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

/// Opens a plain TCP stream to `host:port`; every address of the host is tried.
pub(crate) async fn open_plaintext(address: &str) -> io::Result<Transport> {
    let stream = TcpStream::connect(address).await?;
    // Requests are written whole: waiting for more bytes could only delay them.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let (reader, writer) = stream.into_split();
    Ok(Transport { reader: Box::new(reader), writer: Box::new(writer) })
}
