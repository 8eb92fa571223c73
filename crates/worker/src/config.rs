//! The settings that all worker services share.
//!
//! Owns the keys and their defaults (design 8); knows nothing about layers.

use std::sync::OnceLock;

use mirrormesh_core::ids::WorkerId;
use mirrormesh_core::unit::Role;
use mirrormesh_runtime::service::{CommonSettings, Meaning, ServiceSettings};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Settings of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSettings {
    /// What every service has: log, metrics address.
    #[serde(flatten)]
    pub common: CommonSettings,
    /// Mesh addresses of coordinators, `host:mesh_port`; one that answers is enough to find the leader.
    pub coordinators: Vec<String>,
    /// Id of the worker, unique in the mesh; empty for one made of role, host name and a random number. A worker that
    /// keeps its id over a restart keeps its units.
    pub worker_id: String,
    /// How many units it takes at most.
    pub capacity: u32,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            common: CommonSettings::default(),
            coordinators: vec!["127.0.0.1:7401".to_owned()],
            worker_id: String::new(),
            capacity: 20_000,
        }
    }
}

impl ServiceSettings for WorkerSettings {
    fn common(&self) -> &CommonSettings {
        &self.common
    }

    fn instance(&self) -> String {
        match self.worker_id.as_str() {
            "" => instance(&host()),
            id => id.to_owned(),
        }
    }

    fn meanings() -> Vec<Meaning> {
        [CommonSettings::MEANINGS, Self::MEANINGS].concat()
    }
}

impl WorkerSettings {
    /// What the keys mean that only workers have.
    pub const MEANINGS: &'static [Meaning] = &[
        ("capacity", "How many units of work (partitions, groups and the like) the worker takes at most."),
        ("coordinators", "Mesh addresses of coordinators, `host:mesh_port`; one that answers is enough."),
        (
            "worker_id",
            "Id of the worker, unique in the mesh; empty: made of role, host name and a random number. A \
             worker that keeps its id over a restart keeps its units.",
        ),
    ];

    /// Checks what the types can't say.
    pub fn validate(&self) -> Result<(), Error> {
        if self.coordinators.is_empty() {
            let problem = "it must name at least one coordinator as host:port".to_owned();
            return Err(Error::Setting { key: "coordinators", problem });
        }
        for address in &self.coordinators {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                let problem = format!("{address:?} must be host:port with a port from 1 to 65535");
                return Err(Error::Setting { key: "coordinators", problem });
            }
        }
        if self.capacity == 0 || i32::try_from(self.capacity).is_err() {
            let problem = format!("{} must be from 1 to {}", self.capacity, i32::MAX);
            return Err(Error::Setting { key: "capacity", problem });
        }
        Ok(())
    }

    /// The worker's id: the one that was set, or `role-host-random`.
    pub fn id(&self, role: Role) -> Result<WorkerId, Error> {
        let id = match self.worker_id.as_str() {
            "" => format!("{}-{}", role_name(role), instance(&host())),
            id => id.to_owned(),
        };
        WorkerId::new(id).map_err(|error| Error::Setting { key: "worker_id", problem: error.to_string() })
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `host-random`, with what an id may not hold replaced. The number is drawn once per process, so that telemetry and
/// all roles of a process agree on it.
fn instance(host: &str) -> String {
    static RANDOM: OnceLock<u32> = OnceLock::new();
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let host: String = host.chars().map(legal).take(64).collect();
    format!("{host}-{:08x}", RANDOM.get_or_init(rand::random))
}

/// The role as it is called in names of ids, checks and meters.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Checkpoint => "checkpoint",
        Role::Heartbeat => "heartbeat",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_faults_are_named() {
        assert!(WorkerSettings::default().validate().is_ok());
        let with = |coordinators: &[&str]| WorkerSettings {
            coordinators: coordinators.iter().map(|&s| s.to_owned()).collect(),
            ..WorkerSettings::default()
        };
        assert!(with(&["a:7401", "[::1]:7401"]).validate().is_ok());
        for bad in [&[][..], &["a"], &[":7401"], &["a:0"], &["a:x"], &["a:70000"]] {
            let error = with(bad).validate().unwrap_err().to_string();
            assert!(error.contains("`coordinators`"), "{bad:?}: {error}");
        }
        let none = WorkerSettings { capacity: 0, ..WorkerSettings::default() };
        assert!(none.validate().unwrap_err().to_string().contains("`capacity`"));
    }

    #[test]
    fn ids_are_made_of_role_host_and_chance() {
        let id = instance("ö/x.example");
        assert!(id.starts_with("__x.example-"), "{id}");
        assert!(WorkerId::new(instance(&"x".repeat(300))).is_ok());
        let set = WorkerSettings { worker_id: "w-1".into(), ..WorkerSettings::default() };
        assert_eq!((set.id(Role::Source).unwrap().as_str(), set.instance().as_str()), ("w-1", "w-1"));
        let bad = WorkerSettings { worker_id: "w 1".into(), ..WorkerSettings::default() };
        assert!(bad.id(Role::Source).is_err());
        let unset = WorkerSettings::default();
        let expected = format!("checkpoint-{}", unset.instance());
        assert_eq!(unset.id(Role::Checkpoint).unwrap().as_str(), expected);
        assert_ne!(unset.id(Role::Source).unwrap(), unset.id(Role::Heartbeat).unwrap());
    }

    #[test]
    fn the_agreed_keys_are_there() {
        let json = serde_json::to_value(WorkerSettings::default()).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["capacity", "coordinators", "log", "metrics_listen", "worker_id"]);
    }
}
