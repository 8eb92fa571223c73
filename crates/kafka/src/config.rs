//! What a client is told: where the cluster is, who we are, and how much it may cost.
//!
//! Owns validation and the defaults. Must not know how a connection is made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};

/// The property that selects the transport, as Kafka names it.
pub const SECURITY_PROTOCOL: &str = "security.protocol";

/// Bounds on what one client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame that is read or written, in bytes. A response that claims more ends its connection.
    pub frame_bytes_max: usize,
    /// How long opening a connection may take, version negotiation included.
    pub connect_timeout: Duration,
    /// How long a metadata or offset request may stay unanswered. For a fetch its own waiting time is added.
    pub request_timeout: Duration,
    /// How long a produce request may stay unanswered beyond the time that it allows the broker. It is long enough that
    /// the broker's own time-out comes first, which names the slow partition and keeps the connection.
    pub produce_margin: Duration,
    /// How long an administrative call may take in all, its retries included.
    pub admin_timeout: Duration,
    /// Requests per connection that may be sent but not answered.
    pub in_flight_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 128 * 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            produce_margin: Duration::from_secs(10),
            admin_timeout: Duration::from_secs(15),
            in_flight_max: 256,
        }
    }
}

impl Limits {
    /// How much memory the decoded form of one response may take, in bytes. Record bytes don't count: they stay in
    /// the frame.
    pub(crate) fn decoded_bytes_max(&self) -> usize {
        self.frame_bytes_max.saturating_mul(4)
    }
}

/// Which cluster must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedCluster {
    /// Kafka's id of it.
    pub kafka_cluster_id: Arc<str>,
    /// What errors call it, for instance `clusters/uk`.
    pub name: Arc<str>,
}

/// How to reach one cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// `host:port` of brokers to ask first. IPv6 addresses stand in brackets.
    pub bootstrap_servers: Vec<String>,
    /// Shown by brokers in logs, quotas and metrics.
    pub client_id: String,
    /// Kafka's client properties. Ours reads `security.protocol`; all others are handed to librdkafka only.
    pub properties: BTreeMap<String, String>,
    /// Bounds.
    pub limits: Limits,
    /// Which cluster must answer; each connection asks for the id first. `None` takes any.
    pub expected: Option<ExpectedCluster>,
}

impl ClientConfig {
    /// A configuration with the default limits and no properties.
    pub fn new<S: Into<String>>(bootstrap_servers: impl IntoIterator<Item = S>, client_id: &str) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into_iter().map(Into::into).collect(),
            client_id: client_id.to_owned(),
            properties: BTreeMap::new(),
            limits: Limits::default(),
            expected: None,
        }
    }

    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// [`Error::Config`] names the property and what to write instead.
    pub fn validate(&self) -> Result<()> {
        if self.bootstrap_servers.is_empty() {
            return Err(invalid("bootstrap.servers", "it is empty: name at least one host:port"));
        }
        for server in &self.bootstrap_servers {
            check_address(server)?;
        }
        if self.client_id.len() > usize::from(u8::MAX) {
            return Err(invalid("client.id", "it has more than 255 bytes"));
        }
        check_limits(&self.limits)?;
        self.check_protocol()
    }

    fn check_protocol(&self) -> Result<()> {
        let Some(protocol) = self.properties.get(SECURITY_PROTOCOL) else { return Ok(()) };
        match protocol.to_ascii_uppercase().as_str() {
            "PLAINTEXT" => Ok(()),
            known @ ("SSL" | "SASL_PLAINTEXT" | "SASL_SSL") => Err(invalid(
                SECURITY_PROTOCOL,
                &format!("{known} is not supported yet by this version: use a PLAINTEXT listener"),
            )),
            _ => {
                Err(invalid(SECURITY_PROTOCOL, &format!("{protocol} is no protocol of Kafka: use PLAINTEXT")))
            }
        }
    }
}

/// Property values may be secrets: only their names are shown.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("limits", &self.limits)
            .field("expected", &self.expected)
            .finish()
    }
}

fn invalid(property: &str, problem: &str) -> Error {
    Error::Config { property: property.to_owned(), problem: problem.to_owned() }
}

fn check_address(server: &str) -> Result<()> {
    let well_formed = server.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !bare_ipv6 && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if well_formed {
        return Ok(());
    }
    Err(invalid(
        "bootstrap.servers",
        &format!("`{server}` is not host:port (an IPv6 host stands in brackets)"),
    ))
}

/// A frame must at least hold a response header and a few fields; the wire counts its length in an i32.
fn check_limits(limits: &Limits) -> Result<()> {
    if !(1024..=i32::MAX as usize).contains(&limits.frame_bytes_max) {
        return Err(invalid("limits.frame_bytes_max", "it must lie between 1024 and 2147483647 bytes"));
    }
    if limits.in_flight_max == 0 {
        return Err(invalid("limits.in_flight_max", "it must be at least 1"));
    }
    let timeouts = [
        ("limits.connect_timeout", limits.connect_timeout),
        ("limits.request_timeout", limits.request_timeout),
        ("limits.produce_margin", limits.produce_margin),
        ("limits.admin_timeout", limits.admin_timeout),
    ];
    for (name, timeout) in timeouts {
        if timeout < Duration::from_millis(1) || timeout > Duration::from_hours(1) {
            return Err(invalid(name, "it must lie between 1 ms and 1 h"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ClientConfig {
        ClientConfig::new(["localhost:9092", "[::1]:9092"], "test")
    }

    #[test]
    fn the_default_is_plaintext() {
        config().validate().unwrap();
        let mut config = config();
        config.properties.insert(SECURITY_PROTOCOL.into(), "plaintext".into());
        config.properties.insert("socket.keepalive.enable".into(), "true".into());
        config.validate().unwrap();
    }

    #[test]
    fn other_protocols_are_refused_by_name() {
        for protocol in ["SSL", "sasl_ssl", "SASL_PLAINTEXT", "TLS"] {
            let mut config = config();
            config.properties.insert(SECURITY_PROTOCOL.into(), protocol.into());
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(SECURITY_PROTOCOL), "{error}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for bad in ["", "localhost", "localhost:", ":9092", "localhost:0", "localhost:70000", "::1:9092"] {
            let error = ClientConfig::new([bad], "test").validate().unwrap_err().to_string();
            assert!(error.contains("bootstrap.servers"), "{error}");
        }
        assert!(ClientConfig::new(Vec::<String>::new(), "test").validate().is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = config();
        config.properties.insert("sasl.jaas.config".into(), "hunter2".into());
        let shown = format!("{config:?}");
        assert!(shown.contains("sasl.jaas.config") && !shown.contains("hunter2"), "{shown}");
    }
}
