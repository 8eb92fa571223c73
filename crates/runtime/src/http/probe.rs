//! Asks a running process whether it is ready.
//!
//! Owns one small HTTP/1.1 request, so that images without a shell or curl can have a health
//! check: the binary asks itself.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A process that needs longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Nobody has so many checks that their report is longer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why a process is not ready.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The address cannot be asked.
    #[error("`{address}` is no HOST:PORT that can be asked")]
    Address {
        /// As given.
        address: String,
    },
    /// Nobody answers.
    #[error("{address} does not answer")]
    Io {
        /// Who was asked.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Who was asked.
        address: String,
    },
    /// It answers that it is not ready.
    #[error("{address} is not ready: {answer}")]
    NotReady {
        /// Who was asked.
        address: String,
        /// The body of the answer, or its status line.
        answer: String,
    },
}

/// Asks `/health/ready` of the process whose metrics address is `address`. A listen address such as
/// `0.0.0.0:9404` means this machine.
pub async fn ready(address: &str) -> Result<(), ProbeError> {
    let Some(address) = reachable(address) else {
        return Err(ProbeError::Address { address: address.to_owned() });
    };
    let answer = match tokio::time::timeout(TIMEOUT, exchange(&address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(source)) => return Err(ProbeError::Io { address, source }),
        Err(_) => return Err(ProbeError::Timeout { address }),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status_line = head.lines().next().unwrap_or_default();
    if status_line.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let answer = if body.trim().is_empty() { status_line } else { body.trim() };
    Err(ProbeError::NotReady { address, answer: answer.to_owned() })
}

/// The address with an unspecified host replaced by the loopback; none without a usable port.
fn reachable(address: &str) -> Option<String> {
    let (host, port) = address.trim().rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    Some(format!("{host}:{port}"))
}

async fn exchange(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /health/ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_become_addresses_to_ask() {
        for (given, asked) in [
            ("0.0.0.0:9404", Some("127.0.0.1:9404")),
            (":9404", Some("127.0.0.1:9404")),
            ("[::]:9404", Some("[::1]:9404")),
            ("worker-1:9404", Some("worker-1:9404")),
            ("127.0.0.1:0", None),
            ("worker-1", None),
            ("worker-1:http", None),
        ] {
            assert_eq!(reachable(given).as_deref(), asked, "{given}");
        }
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_not_ready() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert!(matches!(ready(&address).await, Err(ProbeError::Io { .. })));
    }
}
