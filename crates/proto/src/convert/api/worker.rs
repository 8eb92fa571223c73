//! Workers as users see them.

use mirrormesh_core::ids::WorkerId;
use mirrormesh_core::unit::{Role, WorkerRecord};

use super::timestamp;
use crate::v1;

/// A worker; `units` is how many are assigned to it now.
pub fn worker_to_api(id: &WorkerId, record: &WorkerRecord, units: usize) -> v1::Worker {
    let role = match record.role {
        Role::Source => v1::worker::Role::Source,
        Role::Checkpoint => v1::worker::Role::Checkpoint,
        Role::Heartbeat => v1::worker::Role::Heartbeat,
    };
    v1::Worker {
        name: format!("workers/{id}"),
        role: role.into(),
        version: record.version.clone(),
        capacity: i32::try_from(record.capacity).unwrap_or(i32::MAX),
        units: i32::try_from(units).unwrap_or(i32::MAX),
        draining: record.draining,
        register_time: Some(timestamp(record.registered_ms)),
    }
}
