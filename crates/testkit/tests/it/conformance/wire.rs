//! One connection that says exactly what a case wants to say, in the version that it wants.

use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any answer takes that a case waits for.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) struct Wire {
    stream: TcpStream,
    correlation: i32,
}

impl Wire {
    pub(super) async fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends without waiting for the answer.
    pub(super) async fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.correlation += 1;
        let key = ApiKey::try_from(R::KEY).unwrap();
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("conformance")));
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        header.encode(&mut bytes, key.request_header_version(version)).unwrap();
        request.encode(&mut bytes, version).unwrap();
        let length = i32::try_from(bytes.len() - 4).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&bytes).await
    }

    /// The next answer, which must be of this kind.
    pub(super) async fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut frame = tokio::time::timeout(TIMEOUT, self.frame()).await.expect("an answer in time")?;
        ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
        Ok(R::Response::decode(&mut frame, version).unwrap())
    }

    async fn frame(&mut self) -> io::Result<Bytes> {
        let length = self.stream.read_u32().await?;
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes.into())
    }

    pub(super) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await.unwrap();
        self.receive::<R>(version).await.unwrap()
    }
}
