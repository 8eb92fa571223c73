//! Settings of the source service.

use std::ops::RangeInclusive;

use mirrormesh_runtime::service::{CommonSettings, Meaning, ServiceSettings};
use mirrormesh_worker::{Error, WorkerSettings};
use serde::{Deserialize, Serialize};

/// What one fetch may ask for: less is no use, more than brokers send in one answer.
const FETCH_BYTES: RangeInclusive<u32> = 1_024..=1 << 30;

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

impl Settings {
    /// Checks what only holds together.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let wrong = |key, problem| Err(Error::Setting { key, problem });
        if !FETCH_BYTES.contains(&self.partition_fetch_bytes) {
            let (min, max) = (FETCH_BYTES.start(), FETCH_BYTES.end());
            let problem = format!("{} must be from {min} to {max}", self.partition_fetch_bytes);
            return wrong("partition_fetch_bytes", problem);
        }
        if self.fetch_bytes < self.partition_fetch_bytes || self.fetch_bytes > *FETCH_BYTES.end() {
            let (min, max) = (self.partition_fetch_bytes, FETCH_BYTES.end());
            let problem = format!(
                "{} must be from {min}, what is asked for of one partition (`partition_fetch_bytes`), to {max}",
                self.fetch_bytes
            );
            return wrong("fetch_bytes", problem);
        }
        if self.memory_bytes < u64::from(self.partition_fetch_bytes) {
            let problem = format!(
                "{} bytes are less than one fetch of one partition takes: give at least {} or lower \
                 `partition_fetch_bytes`",
                self.memory_bytes, self.partition_fetch_bytes
            );
            return wrong("memory_bytes", problem);
        }
        Ok(())
    }
}

impl ServiceSettings for Settings {
    fn common(&self) -> &CommonSettings {
        self.worker.common()
    }

    fn instance(&self) -> String {
        self.worker.instance()
    }

    fn meanings() -> Vec<Meaning> {
        [CommonSettings::MEANINGS, WorkerSettings::MEANINGS, Self::MEANINGS].concat()
    }
}

impl Settings {
    /// What the keys mean that only the source service has.
    pub const MEANINGS: &'static [Meaning] = &[
        ("fetch_bytes", "Bytes asked for in one fetch request."),
        (
            "memory_bytes",
            "Record bytes held in memory at most, over all flows; one larger fetch may pass alone.",
        ),
        ("partition_fetch_bytes", "Bytes asked for in one fetch request for one partition."),
        (
            "partition_metrics",
            "Shows lag in `/metrics` by partition instead of by topic. The API shows it by partition always.",
        ),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_holds_no_fetch_is_refused_by_name() {
        let key = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().err().map(|error| error.to_string())
        };
        assert_eq!(key(|_| {}), None);
        let refused = key(|settings| settings.memory_bytes = 1_000).unwrap();
        assert!(refused.contains("`memory_bytes`") && refused.contains("1048576"), "{refused}");
        assert!(key(|settings| settings.memory_bytes = 0).is_some());
        assert!(
            key(|settings| settings.partition_fetch_bytes = 0).unwrap().contains("`partition_fetch_bytes`")
        );
        assert!(key(|settings| settings.fetch_bytes = 4_096).unwrap().contains("`fetch_bytes`"));
        assert!(key(|settings| settings.fetch_bytes = u32::MAX).unwrap().contains("`fetch_bytes`"));
    }
}
