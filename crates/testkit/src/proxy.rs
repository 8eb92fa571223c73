//! A TCP proxy whose connections can be cut, blocked and delayed, and whose bytes are counted.
//!
//! Owns the sockets between a client and a server; must not know what they say, but for the one answer that a Kafka API
//! can be hidden in (`hide.rs`). Its tasks run on a runtime of their
//! own, so that a proxy outlives the runtime of the test that made it; they end when the [`Proxy`] is dropped.

mod hide;

use std::io::Cursor;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One read's worth.
const CHUNK_BYTES: usize = 128 * 1024;
/// Bytes on their way in one direction of one connection: what a delay of 100 ms holds at 640 MB/s.
const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Chunks on their way; small chunks must not use it up before the bytes do.
const IN_FLIGHT_CHUNKS_MAX: usize = 16 * 1024;

/// What has passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes that were delivered to the server.
    pub to_server: u64,
    /// Bytes that were delivered to the client.
    pub to_client: u64,
    /// Connections that were accepted.
    pub connections: u64,
}

#[derive(Debug, Default)]
struct Counters {
    to_server: AtomicU64,
    to_client: AtomicU64,
    connections: AtomicU64,
}

/// What all connections look at.
#[derive(Debug)]
struct Shared {
    // Lock: held only to read or replace it.
    server: Mutex<String>,
    blocked: watch::Sender<bool>,
    delay_micros: AtomicU64,
    /// Number of the Kafka API that new connections don't learn of; -1 for none.
    hidden_api: AtomicI32,
    counters: Counters,
    /// Cancelled by a cut, and replaced for the connections that come later.
    epoch: Mutex<CancellationToken>,
}

impl Shared {
    fn server(&self) -> String {
        self.server.lock().clone()
    }
}

/// A listening proxy. Dropping it closes the listener and all connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and connects each client to `server` (`host:port`).
    pub fn start(server: impl Into<String>) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("a proxy cannot listen")?;
        listener.set_nonblocking(true).context("a proxy's listener cannot be made non-blocking")?;
        let port = listener.local_addr().context("a proxy's listener has no address")?.port();
        let runtime = runtime()?;
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).context("a proxy's listener cannot be used")?;
        drop(entered);
        let shared = Arc::new(Shared {
            server: Mutex::new(server.into()),
            blocked: watch::Sender::new(false),
            delay_micros: AtomicU64::new(0),
            hidden_api: AtomicI32::new(-1),
            counters: Counters::default(),
            epoch: Mutex::default(),
        });
        let stop = CancellationToken::new();
        // Owned by `stop`, which the drop of the proxy cancels.
        runtime.spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { port, shared, stop })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Closes all connections now, both sides with a reset; what was on its way is lost. New ones are accepted.
    pub fn cut(&self) {
        let mut epoch = self.shared.epoch.lock();
        std::mem::take(&mut *epoch).cancel();
    }

    /// Where it connects clients to, `host:port`.
    pub fn server(&self) -> String {
        self.shared.server()
    }

    /// Connects clients to another server from now on (`host:port`), and closes all connections: as if another machine had
    /// got the address.
    pub fn lead_to(&self, server: impl Into<String>) {
        *self.shared.server.lock() = server.into();
        self.cut();
    }

    /// Stops all bytes in both directions, as a network that drops all packets: connections stay open, new ones are
    /// accepted and stay silent. What was on its way goes on after [`Self::unblock`].
    pub fn block(&self) {
        self.shared.blocked.send_replace(true);
    }

    /// Lets bytes pass again.
    pub fn unblock(&self) {
        self.shared.blocked.send_replace(false);
    }

    /// Delays every byte by this much in each direction, at full bandwidth; zero ends it.
    pub fn delay(&self, each_way: Duration) {
        let micros = u64::try_from(each_way.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay_micros.store(micros, Ordering::Relaxed);
    }

    /// Lets the server look like one that does not have this Kafka API (its number; `None`: it has all again), to those who
    /// connect from now on and begin by asking what it has, as Kafka clients do.
    pub fn hide_api(&self, api_key: Option<i16>) {
        self.shared.hidden_api.store(api_key.map_or(-1, i32::from), Ordering::Relaxed);
    }

    /// What has passed so far.
    pub fn traffic(&self) -> Traffic {
        let counters = &self.shared.counters;
        Traffic {
            to_server: counters.to_server.load(Ordering::Relaxed),
            to_client: counters.to_client.load(Ordering::Relaxed),
            connections: counters.connections.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn runtime() -> Result<&'static Runtime> {
    // Not made twice: a runtime must not be dropped inside another one.
    static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("proxy")
            .enable_all()
            .build()
    });
    RUNTIME.as_ref().map_err(|error| anyhow!("cannot start the proxies' runtime: {error}"))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                let cut = shared.epoch.lock().clone();
                connections.spawn(serve(client, Arc::clone(&shared), cut));
            }
            Err(error) => {
                tracing::warn!("the proxy of {} cannot accept: {error}", shared.server());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// One connection, until a side closes it or it is cut.
async fn serve(client: TcpStream, shared: Arc<Shared>, cut: CancellationToken) {
    let server = shared.server();
    let relayed = tokio::select! {
        () = cut.cancelled() => return reset(&client),
        connected = TcpStream::connect(&server) => connected,
    };
    // Without a server the client sees what it would see without us: a closed connection.
    let Ok(server) = relayed else { return reset(&client) };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut client, mut server) = (client, server);
    let hidden = i16::try_from(shared.hidden_api.load(Ordering::Relaxed)).ok().filter(|key| *key >= 0);
    let failed = {
        let (from_client, to_client) = client.split();
        let (mut from_server, to_server) = server.split();
        let answers = async {
            let first = match hidden {
                Some(api_key) => hide::first_answer(&mut from_server, api_key).await?,
                None => Vec::new(),
            };
            let answers = Cursor::new(first).chain(from_server);
            pump(answers, to_client, &shared, &shared.counters.to_client).await
        };
        let both = async {
            let requests = pump(from_client, to_server, &shared, &shared.counters.to_server);
            tokio::try_join!(requests, answers)
        };
        tokio::select! {
            () = cut.cancelled() => true,
            ended = both => ended.is_err(),
        }
    };
    if failed {
        reset(&client);
        reset(&server);
    }
}

/// Makes the close that follows a reset, so that the other side notices at once and gets nothing more.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    /// Given back when the chunk is written.
    room: Option<OwnedSemaphorePermit>,
}

/// Carries one direction: a reader that stamps and a writer that waits, with a bounded number of bytes between them.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    counter: &AtomicU64,
) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
    let (sender, mut receiver) = mpsc::channel::<Chunk>(IN_FLIGHT_CHUNKS_MAX);
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            let delay = Duration::from_micros(shared.delay_micros.load(Ordering::Relaxed));
            let permits = u32::try_from(count).unwrap_or(u32::MAX);
            let taken = Arc::clone(&room).acquire_many_owned(permits).await.ok();
            let chunk = Chunk { due: Instant::now() + delay, bytes: bytes.to_vec(), room: taken };
            if sender.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        let mut blocked = shared.blocked.subscribe();
        while let Some(chunk) = receiver.recv().await {
            tokio::time::sleep_until(chunk.due).await;
            // The sender lives as long as `shared`: waiting can't fail.
            blocked.wait_for(|blocked| !blocked).await.ok();
            to.write_all(&chunk.bytes).await?;
            counter.fetch_add(u64::try_from(chunk.bytes.len()).unwrap_or(0), Ordering::Relaxed);
            drop(chunk.room);
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers with what it is sent.
    async fn echo() -> (String, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        (address, tasks)
    }

    async fn exchange(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn bytes_pass_and_are_counted() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut client, b"hello").await.unwrap(), b"hello");
        assert_eq!(proxy.traffic().connections, 1);
        assert_eq!(proxy.traffic().to_server, 5);
        // Half closing passes too.
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_cut_closes_what_is_open_and_nothing_later() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut client, b"x").await.unwrap();
        proxy.cut();
        let mut byte = [0; 1];
        let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut byte)).await;
        let error = read.expect("the connection stays open").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut client, b"y").await.unwrap();
    }

    #[tokio::test]
    async fn a_block_holds_bytes_back_without_losing_them() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut client, b"x").await.unwrap();
        proxy.block();
        let held = tokio::time::timeout(Duration::from_millis(100), exchange(&mut client, b"held")).await;
        assert!(held.is_err(), "bytes passed a blocked proxy");
        proxy.unblock();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"held");
    }

    #[tokio::test]
    async fn a_delay_costs_time_and_no_bandwidth() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        proxy.delay(Duration::from_millis(50));
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let started = Instant::now();
        exchange(&mut client, b"x").await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
        // 16 MB one chunk at a time would take 128 × 100 ms.
        let block = vec![7; 16 << 20];
        let (mut from, mut to) = client.split();
        let mut answer = vec![0; block.len()];
        let started = Instant::now();
        let (written, read) = tokio::join!(to.write_all(&block), from.read_exact(&mut answer));
        written.unwrap();
        read.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn dropping_closes_everything() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let address = proxy.address();
        let mut client = TcpStream::connect(&address).await.unwrap();
        exchange(&mut client, b"x").await.unwrap();
        drop(proxy);
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        while TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
