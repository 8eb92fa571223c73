//! A broker for tests: it agrees on versions by itself and hands every other request to the test, which answers it
//! when and how it likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// What the broker takes and how it negotiates.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// Key, lowest and highest version of each request.
    pub(crate) versions: Vec<(i16, i16, i16)>,
    /// The highest version of `ApiVersions` itself; higher ones are refused in the form of version 0.
    pub(crate) api_versions_max: Option<i16>,
}

impl Script {
    /// Takes every request of the given kinds in the versions up to the given ones.
    pub(crate) fn knowing(versions: &[(ApiKey, i16, i16)]) -> Self {
        let mut versions: Vec<_> = versions.iter().map(|(key, min, max)| (*key as i16, *min, *max)).collect();
        versions.push((ApiKey::ApiVersions as i16, 0, 4));
        Self { versions, api_versions_max: None }
    }
}

/// A listening broker; it ends with its value.
pub(crate) struct Responder {
    pub(crate) address: String,
    pub(crate) accepted: Arc<AtomicUsize>,
    received: mpsc::UnboundedReceiver<Received>,
    _tasks: JoinSet<()>,
}

/// A request that came.
pub(crate) struct Received {
    pub(crate) header: RequestHeader,
    /// Behind the header.
    pub(crate) body: Bytes,
    writer: Arc<Mutex<OwnedWriteHalf>>,
}

impl Responder {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, received) = mpsc::unbounded_channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, script.clone(), sender.clone()));
            }
        });
        Self { address, accepted, received, _tasks: tasks }
    }

    /// The next request that is not about versions.
    pub(crate) async fn next(&mut self) -> Received {
        self.received.recv().await.expect("the responder runs as long as its value lives")
    }

    /// Nothing has come that was not looked at.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.received.is_empty()
    }
}

impl Received {
    pub(crate) fn decode<R: Request>(&self) -> R {
        assert_eq!(self.header.request_api_key, R::KEY);
        R::decode(&mut self.body.clone(), self.header.request_api_version).unwrap()
    }

    pub(crate) async fn answer<M: Encodable + HeaderVersion>(&self, response: &M) {
        let version = self.header.request_api_version;
        self.write(&frame(response, version, self.header.correlation_id)).await;
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&self, bytes: &[u8]) {
        self.writer.lock().await.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn disconnect(&self) {
        self.writer.lock().await.shutdown().await.unwrap();
    }
}

/// A whole response frame.
pub(crate) fn frame<M: Encodable + HeaderVersion>(response: &M, version: i16, correlation: i32) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    ResponseHeader::default()
        .with_correlation_id(correlation)
        .encode(&mut bytes, M::header_version(version))
        .unwrap();
    response.encode(&mut bytes, version).unwrap();
    let length = i32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

async fn read_frame(reader: &mut OwnedReadHalf) -> Option<Bytes> {
    let length = reader.read_u32().await.ok()?;
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes).await.ok()?;
    Some(bytes.into())
}

async fn serve(stream: TcpStream, script: Script, sender: mpsc::UnboundedSender<Received>) {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    while let Some(mut body) = read_frame(&mut reader).await {
        let key = ApiKey::try_from((&body[..2]).get_i16()).unwrap();
        let version = (&body[2..4]).get_i16();
        let header = RequestHeader::decode(&mut body, key.request_header_version(version)).unwrap();
        let received = Received { header, body, writer: Arc::clone(&writer) };
        if key == ApiKey::ApiVersions {
            negotiate(&received, &script).await;
        } else if sender.send(received).is_err() {
            return;
        }
    }
}

async fn negotiate(received: &Received, script: &Script) {
    let range = |(key, min, max): &(i16, i16, i16)| {
        ApiVersion::default().with_api_key(*key).with_min_version(*min).with_max_version(*max)
    };
    let max = script.api_versions_max.unwrap_or(i16::MAX);
    let response = ApiVersionsResponse::default();
    if received.header.request_api_version > max {
        let own = range(&(ApiKey::ApiVersions as i16, 0, max));
        let refusal = response.with_error_code(35).with_api_keys(vec![own]);
        received.write(&frame(&refusal, 0, received.header.correlation_id)).await;
    } else {
        received.answer(&response.with_api_keys(script.versions.iter().map(range).collect())).await;
    }
}
