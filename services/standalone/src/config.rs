//! Settings of the standalone process: those of all four roles, spread over them.

use std::path::PathBuf;

use mirrormesh_coordinator::Settings as CoordinatorSettings;
use mirrormesh_heartbeat::WorkerSettings;
use mirrormesh_runtime::service::{CommonSettings, Meaning, ServiceSettings};
use mirrormesh_source::Settings as SourceSettings;
use serde::{Deserialize, Serialize};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The coordinator's, with what every service has.
    #[serde(flatten)]
    pub(crate) coordinator: CoordinatorSettings,
    /// Coordinators that the workers ask beside the one of this process.
    pub(crate) coordinators: Vec<String>,
    /// Ids of the workers are this with the role behind it.
    pub(crate) worker_id: String,
    /// How many units each worker takes at most.
    pub(crate) capacity: u32,
    /// Record bytes held in memory at most.
    pub(crate) memory_bytes: u64,
    /// Bytes asked for in one fetch.
    pub(crate) fetch_bytes: u32,
    /// Bytes asked for in one fetch for one partition.
    pub(crate) partition_fetch_bytes: u32,
    /// Show lag in metrics by partition.
    pub(crate) partition_metrics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let source = SourceSettings::default();
        Self {
            coordinator: CoordinatorSettings {
                data_dir: PathBuf::from("./mirrormesh-data"),
                ..CoordinatorSettings::default()
            },
            coordinators: Vec::new(),
            worker_id: "standalone".to_owned(),
            capacity: source.worker.capacity,
            memory_bytes: source.memory_bytes,
            fetch_bytes: source.fetch_bytes,
            partition_fetch_bytes: source.partition_fetch_bytes,
            partition_metrics: source.partition_metrics,
        }
    }
}

impl ServiceSettings for Settings {
    fn common(&self) -> &CommonSettings {
        &self.coordinator.common
    }

    fn instance(&self) -> String {
        self.worker_id.clone()
    }

    fn meanings() -> Vec<Meaning> {
        let roles = [
            CommonSettings::MEANINGS,
            CoordinatorSettings::MEANINGS,
            WorkerSettings::MEANINGS,
            SourceSettings::MEANINGS,
        ];
        let of_roles =
            roles.concat().into_iter().filter(|(key, _)| !Self::OWN.iter().any(|(own, _)| own == key));
        of_roles.chain(Self::OWN.iter().copied()).collect()
    }
}

impl Settings {
    /// Keys that mean something else here than in a worker of its own.
    const OWN: &'static [Meaning] = &[
        (
            "coordinators",
            "Mesh addresses of further coordinators that the workers ask, `host:mesh_port`; empty: only the one of \
             this process.",
        ),
        (
            "worker_id",
            "Ids of the three workers are this with `-source`, `-checkpoint` or `-heartbeat` behind it.",
        ),
    ];

    pub(crate) fn coordinator(&self) -> CoordinatorSettings {
        self.coordinator.clone()
    }

    pub(crate) fn worker(&self, role: &str, mesh_address: &str) -> WorkerSettings {
        let mut coordinators = vec![mesh_address.to_owned()];
        coordinators.extend(self.coordinators.iter().cloned());
        WorkerSettings {
            common: self.coordinator.common.clone(),
            coordinators,
            worker_id: format!("{}-{role}", self.worker_id),
            capacity: self.capacity,
        }
    }

    pub(crate) fn source(&self, mesh_address: &str) -> SourceSettings {
        SourceSettings {
            worker: self.worker("source", mesh_address),
            memory_bytes: self.memory_bytes,
            fetch_bytes: self.fetch_bytes,
            partition_fetch_bytes: self.partition_fetch_bytes,
            partition_metrics: self.partition_metrics,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_runtime::cli::CommonArgs;
    use mirrormesh_runtime::env::Env;
    use mirrormesh_runtime::service::{load_settings, settings_help};
    use mirrormesh_runtime::settings::{Key, keys};
    use std::collections::BTreeSet;

    /// The page that describes all settings.
    const PAGE: &str = include_str!("../../../docs/settings.md");

    fn paths<S: ServiceSettings>() -> BTreeSet<String> {
        keys(&S::default()).unwrap().into_iter().map(|key| key.path).collect()
    }

    fn set(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let set = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let args = CommonArgs { config: None, set };
        load_settings(&args, Env::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_keys_of_every_role_are_taken() {
        let own = paths::<Settings>();
        let roles = [paths::<CoordinatorSettings>(), paths::<WorkerSettings>(), paths::<SourceSettings>()];
        for key in roles.iter().flatten() {
            assert!(own.contains(key), "{key}");
        }
        let settings = set(&[
            ("partition_metrics", "true"),
            ("fetch_bytes", "2097152"),
            ("capacity", "7"),
            ("node_id", "3"),
            ("worker_id", "w"),
        ])
        .unwrap();
        let source = settings.source("a:1");
        assert!(source.partition_metrics && source.fetch_bytes == 2_097_152);
        assert_eq!((source.worker.worker_id.as_str(), source.worker.capacity), ("w-source", 7));
        assert_eq!(settings.coordinator().node_id, 3);
    }

    #[test]
    fn wrong_values_of_log_settings_are_refused_by_name() {
        for (key, value) in [("log.filter", "inof"), ("log.format", "yaml")] {
            let refused = set(&[(key, value)]).unwrap_err();
            assert!(refused.contains(key) && refused.contains(value), "{refused}");
        }
    }

    #[test]
    fn every_key_of_every_service_has_a_meaning() {
        fn check<S: ServiceSettings>() {
            let described: BTreeSet<String> =
                S::meanings().into_iter().map(|(key, _)| key.to_owned()).collect();
            assert_eq!(described, paths::<S>());
            let help = settings_help::<S>();
            for (key, meaning) in S::meanings() {
                assert!(help.contains(&format!("  {key} [MIRRORMESH_")) && help.contains(meaning), "{key}");
            }
        }
        check::<CoordinatorSettings>();
        check::<WorkerSettings>();
        check::<SourceSettings>();
        check::<Settings>();
    }

    fn row(key: &Key, meaning: &str) -> String {
        format!("| `{}` | `{}` | `{}` | {meaning} |", key.path, key.variable, key.default)
    }

    fn rows<S: ServiceSettings>(wanted: &[Meaning]) -> Vec<String> {
        let keys = keys(&S::default()).unwrap();
        let row =
            |(path, meaning): &Meaning| row(keys.iter().find(|key| key.path == *path).unwrap(), meaning);
        wanted.iter().map(row).collect()
    }

    #[test]
    fn the_page_about_settings_is_complete_and_right() {
        let mut wanted = rows::<Settings>(CommonSettings::MEANINGS);
        wanted.extend(rows::<CoordinatorSettings>(CoordinatorSettings::MEANINGS));
        wanted.extend(rows::<WorkerSettings>(WorkerSettings::MEANINGS));
        wanted.extend(rows::<SourceSettings>(SourceSettings::MEANINGS));
        wanted.extend(rows::<Settings>(Settings::OWN));
        let shown: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(shown, wanted, "docs/settings.md must have these rows:\n{}\n", wanted.join("\n"));
    }
}
