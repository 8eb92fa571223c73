//! Asks a broker who is in its cluster, in the smallest way that speaks Kafka's protocol: `ApiVersions` v0, then
//! Metadata v1 without topics.
//!
//! A client library would wait, retry and cache; readiness wants the plain answer of one broker, now.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const API_VERSIONS: i16 = 18;
const METADATA: i16 = 3;
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ids of the brokers that the one at `address` knows to be alive, in order.
pub(super) async fn brokers(address: &str) -> Result<Vec<i32>> {
    tokio::time::timeout(TIMEOUT, ask(address)).await.with_context(|| format!("{address} does not answer"))?
}

async fn ask(address: &str) -> Result<Vec<i32>> {
    let mut stream =
        TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    let versions = call(&mut stream, API_VERSIONS, 0, &[]).await?;
    let error = Reader(&versions).i16()?;
    if error != 0 {
        bail!("{address} answers ApiVersions with error {error}");
    }
    // An empty array of topics: no topics (null would mean all).
    let metadata = call(&mut stream, METADATA, 1, &0_i32.to_be_bytes()).await?;
    broker_ids(&metadata)
}

async fn call(stream: &mut TcpStream, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
    let client_id = b"testkit";
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(i32::from(api).to_be_bytes());
    request.extend(i16::try_from(client_id.len())?.to_be_bytes());
    request.extend(client_id);
    request.extend(body);
    let mut frame = i32::try_from(request.len())?.to_be_bytes().to_vec();
    frame.extend(request);
    stream.write_all(&frame).await.context("cannot send")?;
    let length =
        usize::try_from(stream.read_i32().await.context("no answer")?).context("a negative length")?;
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        bail!("an answer of {length} bytes");
    }
    let correlation = stream.read_i32().await.context("no answer")?;
    if correlation != i32::from(api) {
        bail!("an answer to something else");
    }
    let mut answer = vec![0; length - 4];
    stream.read_exact(&mut answer).await.context("an answer that is cut off")?;
    Ok(answer)
}

fn broker_ids(metadata: &[u8]) -> Result<Vec<i32>> {
    let mut reader = Reader(metadata);
    let count = reader.i32()?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(reader.i32()?);
        reader.string()?; // host
        reader.i32()?; // port
        reader.string()?; // rack
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Reads numbers off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("the answer is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn string(&mut self) -> Result<()> {
        let length = self.i16()?;
        self.take(usize::try_from(length).unwrap_or(0)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_read_and_sorted() {
        let mut answer = 2_i32.to_be_bytes().to_vec();
        for id in [3_i32, 1] {
            answer.extend(id.to_be_bytes());
            answer.extend([0, 2, b'h', b'o']);
            answer.extend(9092_i32.to_be_bytes());
            answer.extend((-1_i16).to_be_bytes());
        }
        assert_eq!(broker_ids(&answer).unwrap(), [1, 3]);
        assert!(broker_ids(&answer[..answer.len() - 1]).is_err());
    }
}
