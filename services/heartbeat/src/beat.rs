//! The heartbeat unit.
//!
//! Owns pace and content of the records: one per interval, the first after one interval,
//! to partition 0, with the time of emission as the record's timestamp too.

use std::time::Duration;

use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::format::mm2::{FormatError, Heartbeat};
use mirrormesh_kafka::internal_writer::{InternalWriter, NewRecord};
use mirrormesh_kafka::{Backoff, Client};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::{
    ClusterCheck, Failure, UnitContext, client_config, cluster_name, ensure_internal_topic,
};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// MirrorMaker 2's name, whatever the separator.
const TOPIC: &str = "heartbeats";
/// Pause before the target is tried again, growing to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);
/// A record that is not acknowledged in this time counts as not written.
const SEND_TIMEOUT: Duration = Duration::from_secs(6);

/// Writes heartbeats until the unit is to stop.
pub(crate) async fn run(context: UnitContext, metrics: Metrics) {
    if !Box::pin(ClusterCheck::default().pass(&context)).await {
        return;
    }
    let mut retry = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        match context.stop.run_until_cancelled(Box::pin(open(&context))).await {
            None => break,
            Some(Ok(writer)) => {
                beat(&context, &writer, &metrics).await;
                break;
            }
            Some(Err(failure)) => {
                report(&context, &failure);
                if context.stop.run_until_cancelled(retry.wait()).await.is_none() {
                    break;
                }
            }
        }
    }
    metrics.gone(&context.flow_id);
}

/// A writer for a topic that is there.
async fn open(context: &UnitContext) -> Result<InternalWriter, Failure> {
    let view = context.flow_changes.borrow().clone();
    let (name, client_id) =
        (cluster_name(&view.flow.spec.target), format!("mirrormesh-heartbeat-{}", context.flow_id));
    let client = Client::new(client_config(&name, &context.target, &client_id)?)?;
    ensure_internal_topic(&client, TOPIC, view.flow.spec.internal_replication_factor).await?;
    Ok(InternalWriter::new(client))
}

async fn beat(context: &UnitContext, writer: &InternalWriter, metrics: &Metrics) {
    let mut changes = context.flow_changes.clone();
    let mut last = Instant::now();
    loop {
        let spec = changes.borrow_and_update().flow.spec.clone();
        let new_spec = async {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = context.stop.cancelled() => return,
            // Counted from the last one: a new interval holds at once.
            () = new_spec => continue,
            () = tokio::time::sleep_until(last + Duration::from_millis(spec.heartbeat_interval_ms)) => {}
        }
        last = Instant::now();
        // Carried through when the unit is asked to stop: nothing is on the way once it is released.
        match send(writer, &spec).await {
            Ok(time_ms) => {
                metrics.written(&context.flow_id, time_ms);
                if context.report.running("") {
                    tracing::info!(flow = %context.flow_id, "heartbeats are written");
                }
            }
            Err(failure) => {
                metrics.failed(&context.flow_id);
                report(context, &failure);
            }
        }
    }
}

/// Writes one heartbeat; its time.
async fn send(writer: &InternalWriter, spec: &FlowSpec) -> Result<u64, Failure> {
    let now = now_ms();
    let timestamp_ms = i64::try_from(now).unwrap_or(i64::MAX);
    let (key, value) = record(spec, timestamp_ms).map_err(|error| {
        Failure::new("HEARTBEAT_INVALID", format!("the heartbeat can't be stored: {error}"))
    })?;
    let sending = writer.send(TOPIC, NewRecord { key, value: Some(value), timestamp_ms });
    match tokio::time::timeout(SEND_TIMEOUT, sending).await {
        Ok(sent) => sent.map(|_| now).map_err(Failure::from),
        Err(_) => {
            Err(Failure::new("CLUSTER_UNREACHABLE", format!("{TOPIC} on the target took no record in time")))
        }
    }
}

/// Key and value; the clusters' ids are their aliases.
fn record(spec: &FlowSpec, timestamp_ms: i64) -> Result<(Vec<u8>, Vec<u8>), FormatError> {
    let heartbeat = Heartbeat {
        source_alias: spec.source.to_string(),
        target_alias: spec.target.to_string(),
        timestamp_ms,
    };
    Ok((heartbeat.encode_key()?, heartbeat.encode_value()))
}

fn report(context: &UnitContext, failure: &Failure) {
    if context.report.backoff(failure) {
        tracing::warn!(flow = %context.flow_id, %failure, "no heartbeat was written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::ClusterId;

    #[test]
    fn records_name_source_and_target_by_their_ids() {
        let spec = FlowSpec::new(ClusterId::new("uk").unwrap(), ClusterId::new("hq").unwrap());
        let (key, value) = record(&spec, 1_234_567_890).unwrap();
        assert_eq!(key, b"\x00\x02uk\x00\x02hq");
        assert_eq!(value, b"\x00\x00\x00\x00\x00\x00\x49\x96\x02\xd2");
    }
}
