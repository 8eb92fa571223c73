//! Settings of the source service.

use mirrormesh_runtime::service::{CommonSettings, ServiceSettings};
use mirrormesh_worker::WorkerSettings;
use serde::{Deserialize, Serialize};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What all workers share.
    #[serde(flatten)]
    pub worker: WorkerSettings,
    /// Record bytes held in memory at most, over all flows; one larger fetch may pass alone.
    pub memory_bytes: u64,
    /// Bytes asked for in one fetch.
    pub fetch_bytes: u32,
    /// Bytes asked for in one fetch for one partition.
    pub partition_fetch_bytes: u32,
    /// Show lag in metrics by partition; by topic otherwise. API and `WatchFlow` show it by partition always.
    pub partition_metrics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            worker: WorkerSettings::default(),
            memory_bytes: 64 << 20,
            fetch_bytes: 8 << 20,
            partition_fetch_bytes: 1 << 20,
            partition_metrics: false,
        }
    }
}

impl ServiceSettings for Settings {
    fn common(&self) -> &CommonSettings {
        self.worker.common()
    }

    fn instance(&self) -> String {
        self.worker.instance()
    }
}
