//! A node's listener and its connections.
//!
//! Owns frames and the carrying out of faults. As in Kafka a connection's requests are handled one after the other:
//! what waits holds up what comes behind it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeConfigsRequest, DescribeProducersRequest, FetchRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader, ResponseHeader, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::api;
use super::call::{Call, Served};
use super::fault::Fault;
use super::state::Shared;

/// Kafka's own limit on a request (`socket.request.max.bytes`).
const REQUEST_BYTES_MAX: i64 = 104_857_600;
/// The answer to `ApiVersions` has no tagged fields in its header, whatever its version.
const API_VERSIONS: i16 = 18;

/// What becomes of a connection after a request.
enum Next {
    Write(Bytes),
    Nothing,
    Close,
}

/// Takes connections until it is dropped, and they with it.
pub(super) async fn listen(listener: TcpListener, shared: Arc<Shared>, node: i32) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&shared), node));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An error ends the connection, as a broker does it.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>, node: i32) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while let Some(frame) = read_frame(&mut stream, &shared).await {
        while_paused(&shared, node).await;
        match handle(frame, &shared, node).await {
            Next::Write(bytes) => {
                while_paused(&shared, node).await;
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Next::Nothing => {}
            Next::Close => return,
        }
    }
}

async fn read_frame(stream: &mut TcpStream, shared: &Shared) -> Option<Bytes> {
    let length = stream.read_i32().await.ok()?;
    let bytes_max = shared.look(|state| state.property("socket.request.max.bytes", REQUEST_BYTES_MAX));
    if length < 0 || i64::from(length) > bytes_max {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes.into())
}

/// A node that stands still does nothing until it is resumed.
async fn while_paused(shared: &Shared, node: i32) {
    let mut bell = shared.bell();
    while shared.look(|state| state.nodes.get(&node).is_some_and(|node| node.paused_since.is_some())) {
        if bell.changed().await.is_err() {
            return;
        }
    }
}

async fn handle(mut frame: Bytes, shared: &Arc<Shared>, node: i32) -> Next {
    let head = |at: usize| Some(i16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let (Some(key), Some(version)) = (head(0), head(2)) else { return Next::Close };
    let Ok(api_key) = ApiKey::try_from(key) else { return Next::Close };
    let kafka = shared.look(|state| state.version);
    let known = api::range(key, kafka).is_some_and(|(min, max)| (min..=max).contains(&version));
    if !known && key == API_VERSIONS {
        return refuse_version(frame, shared, node).await;
    }
    if !known {
        return Next::Close;
    }
    let Ok(header) = RequestHeader::decode(&mut frame, api_key.request_header_version(version)) else {
        return Next::Close;
    };
    let request = Request { body: frame, version, correlation: header.correlation_id, node, shared };
    match api_key {
        ApiKey::Produce => request.run::<ProduceRequest>().await,
        ApiKey::Fetch => request.run::<FetchRequest>().await,
        ApiKey::ListOffsets => request.run::<ListOffsetsRequest>().await,
        ApiKey::Metadata => request.run::<MetadataRequest>().await,
        ApiKey::ApiVersions => request.run::<ApiVersionsRequest>().await,
        ApiKey::CreateTopics => request.run::<CreateTopicsRequest>().await,
        ApiKey::DeleteTopics => request.run::<DeleteTopicsRequest>().await,
        ApiKey::DeleteRecords => request.run::<DeleteRecordsRequest>().await,
        ApiKey::InitProducerId => request.run::<InitProducerIdRequest>().await,
        ApiKey::OffsetForLeaderEpoch => request.run::<OffsetForLeaderEpochRequest>().await,
        ApiKey::WriteTxnMarkers => request.run::<WriteTxnMarkersRequest>().await,
        ApiKey::DescribeConfigs => request.run::<DescribeConfigsRequest>().await,
        ApiKey::CreatePartitions => request.run::<CreatePartitionsRequest>().await,
        ApiKey::IncrementalAlterConfigs => request.run::<IncrementalAlterConfigsRequest>().await,
        ApiKey::DescribeProducers => request.run::<DescribeProducersRequest>().await,
        _ => Next::Close,
    }
}

/// A version of `ApiVersions` that is not known is answered in the form of version 0 (KIP-511).
async fn refuse_version(frame: Bytes, shared: &Arc<Shared>, node: i32) -> Next {
    let correlation = frame.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    let Some(correlation) = correlation else { return Next::Close };
    let call = Call {
        shared: Arc::clone(shared),
        node,
        version: i16::MAX,
        claimed: super::fault::Claimed::default(),
    };
    match ApiVersionsRequest::default().serve(call).await {
        Some(response) => answer(&response, correlation, 0),
        None => Next::Close,
    }
}

struct Request<'a> {
    body: Bytes,
    version: i16,
    correlation: i32,
    node: i32,
    shared: &'a Arc<Shared>,
}

impl Request<'_> {
    async fn run<R: Served>(mut self) -> Next {
        let Ok(request) = R::decode(&mut self.body, self.version) else { return Next::Close };
        let claimed = self.shared.change(|state| {
            let mentions = request.mentions(state);
            state.faults.claim(R::KEY, self.node, &mentions)
        });
        let faults = claimed.faults.clone();
        for fault in &faults {
            match fault {
                Fault::DropBefore => return Next::Close,
                Fault::Mute => pending::<()>().await,
                Fault::Delay(time) => tokio::time::sleep(*time).await,
                _ => {}
            }
        }
        let shared = Arc::clone(self.shared);
        let call = Call { shared, node: self.node, version: self.version, claimed };
        let response = request.serve(call).await;
        for fault in &faults {
            match fault {
                Fault::DropAnswer => return Next::Close,
                Fault::MuteAnswer => pending::<()>().await,
                Fault::DelayAnswer(time) => tokio::time::sleep(*time).await,
                _ => {}
            }
        }
        match response {
            Some(response) => answer(&response, self.correlation, self.version),
            None => Next::Nothing,
        }
    }
}

fn answer<M>(response: &M, correlation: i32, version: i16) -> Next
where
    M: kafka_protocol::protocol::Encodable + kafka_protocol::protocol::HeaderVersion,
{
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation);
    let written = header
        .encode(&mut bytes, M::header_version(version))
        .and_then(|()| response.encode(&mut bytes, version));
    let (Ok(()), Ok(length)) = (written, i32::try_from(bytes.len() - 4)) else { return Next::Close };
    if let Some(place) = bytes.get_mut(..4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Next::Write(bytes.freeze())
}

/// How often a standing node's replicas are looked at.
const TICK: Duration = Duration::from_millis(20);

/// Lets time pass for the partitions: a node that stands still too long drops out of the in-sync sets.
pub(super) async fn tick(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        if shared.look(|state| state.nodes.values().any(|node| node.paused_since.is_some())) {
            shared.change(|_| ());
        }
    }
}
