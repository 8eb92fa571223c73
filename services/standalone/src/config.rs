//! Settings of the standalone process: what a user of one process cares about, spread over the four roles.

use std::path::PathBuf;

use mirrormesh_runtime::service::{CommonSettings, ServiceSettings};
use serde::{Deserialize, Serialize};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Where decisions are kept.
    pub(crate) data_dir: PathBuf,
    /// Where the public API is served, `host:port`; port 0 takes a free one.
    pub(crate) api_listen: String,
    /// Where the roles talk to each other, `host:port`; port 0 takes a free one.
    pub(crate) mesh_listen: String,
    /// Record bytes held in memory at most.
    pub(crate) memory_bytes: u64,
    /// What every service has.
    #[serde(flatten)]
    pub(crate) common: CommonSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./mirrormesh-data"),
            api_listen: "127.0.0.1:7400".to_owned(),
            mesh_listen: "127.0.0.1:7401".to_owned(),
            memory_bytes: 64 << 20,
            common: CommonSettings::default(),
        }
    }
}

impl ServiceSettings for Settings {
    fn common(&self) -> &CommonSettings {
        &self.common
    }

    fn instance(&self) -> String {
        "standalone".to_owned()
    }
}

impl Settings {
    pub(crate) fn coordinator(&self) -> mirrormesh_coordinator::Settings {
        mirrormesh_coordinator::Settings {
            data_dir: self.data_dir.clone(),
            api_listen: self.api_listen.clone(),
            mesh_listen: self.mesh_listen.clone(),
            common: self.common.clone(),
            ..mirrormesh_coordinator::Settings::default()
        }
    }

    pub(crate) fn worker(&self, role: &str, mesh_address: &str) -> mirrormesh_heartbeat::WorkerSettings {
        mirrormesh_heartbeat::WorkerSettings {
            common: self.common.clone(),
            coordinators: vec![mesh_address.to_owned()],
            worker_id: format!("standalone-{role}"),
            ..mirrormesh_heartbeat::WorkerSettings::default()
        }
    }

    pub(crate) fn source(&self, mesh_address: &str) -> mirrormesh_source::Settings {
        mirrormesh_source::Settings {
            worker: self.worker("source", mesh_address),
            memory_bytes: self.memory_bytes,
            ..mirrormesh_source::Settings::default()
        }
    }
}
