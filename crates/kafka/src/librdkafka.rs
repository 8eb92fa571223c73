//! librdkafka as the reader of the mesh's own topics: small, compacted, of one partition.
//!
//! Owns the translation of our settings into librdkafka's, and keeps its blocking calls off the runtime's threads. Must
//! not know what the records mean. Mirrored records never come this way: librdkafka would batch them anew.

mod context;
mod reader;

pub use reader::{InternalReader, InternalRecord};

use std::sync::Arc;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::ClientConfig;
use crate::error::{Class, Error, ErrorCode};

/// The settings of every reader. A property of the user wins over ours, but not over where to connect and not over what
/// a reader promises: those are set after it.
fn base_config(config: &ClientConfig) -> rdkafka::ClientConfig {
    let mut native = rdkafka::ClientConfig::new();
    native.set_log_level(RDKafkaLogLevel::Warning);
    // A connection that a broker closes because it is idle is no news.
    native.set("log.connection.close", "false");
    native.set("reconnect.backoff.ms", "20");
    native.set("reconnect.backoff.max.ms", "1000");
    for (name, value) in &config.properties {
        native.set(name, value);
    }
    native.set("bootstrap.servers", config.bootstrap_servers.join(","));
    native.set("client.id", &config.client_id);
    native.set("allow.auto.create.topics", "false");
    native
}

fn failed(operation: &'static str, topic: &Arc<str>, error: &KafkaError) -> Error {
    Error::Librdkafka {
        operation,
        topic: Arc::clone(topic),
        problem: error.to_string(),
        class: class_of(error),
    }
}

/// Broker codes keep their meaning; librdkafka's own are about the network or the settings.
fn class_of(error: &KafkaError) -> Class {
    if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) {
        return Class::Fatal;
    }
    let Some(code) = error.rdkafka_error_code() else { return Class::Retriable };
    match code {
        RDKafkaErrorCode::Fatal
        | RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::InvalidArgument
        | RDKafkaErrorCode::UnsupportedFeature
        | RDKafkaErrorCode::SSL => Class::Fatal,
        RDKafkaErrorCode::Fenced => Class::Fenced,
        code => match i16::try_from(code as i32) {
            Ok(code) if code > 0 => ErrorCode(code).class(),
            _ => Class::Retriable,
        },
    }
}
