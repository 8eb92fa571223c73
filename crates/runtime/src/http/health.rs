//! Named health checks.
//!
//! Owns the list of checks and their state. It must not know what they mean: each component
//! registers a name and says when it is well.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// All checks of a process. Clones share them.
///
/// The process is ready when at least one check is registered and none is failing: before anything
/// has started, nobody can say that it works.
#[derive(Debug, Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<String, State>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Ok,
    Failing(String),
}

impl Health {
    /// No checks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a check, failing with "starting" until its owner says otherwise. A name that is
    /// already there is taken over.
    pub fn check(&self, name: impl Into<String>) -> CheckHandle {
        let handle = CheckHandle { health: self.clone(), name: name.into() };
        handle.set_failing("starting");
        handle
    }

    /// The state of all checks.
    pub fn report(&self) -> Report {
        let checks = self.lock();
        let ready = !checks.is_empty() && checks.values().all(|state| *state == State::Ok);
        let checks = checks.iter().map(|(name, state)| {
            let (status, reason) = match state {
                State::Ok => (Status::Ok, None),
                State::Failing(reason) => (Status::Failing, Some(reason.clone())),
            };
            CheckReport { name: name.clone(), status, reason }
        });
        Report { status: if ready { Status::Ok } else { Status::Failing }, checks: checks.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.checks.lock()
    }
}

/// One check, held by whom it speaks for. Dropping it fails the check with "stopped".
#[must_use = "a check whose handle is dropped is failing"]
#[derive(Debug)]
pub struct CheckHandle {
    health: Health,
    name: String,
}

impl CheckHandle {
    /// All is well.
    pub fn set_ok(&self) {
        self.set(State::Ok);
    }

    /// Something is wrong; `reason` is shown to whoever asks.
    pub fn set_failing(&self, reason: impl Into<String>) {
        self.set(State::Failing(reason.into()));
    }

    fn set(&self, state: State) {
        self.health.lock().insert(self.name.clone(), state);
    }
}

impl Drop for CheckHandle {
    fn drop(&mut self) {
        self.set_failing("stopped");
    }
}

/// What `/health/ready` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the process is ready.
    pub status: Status,
    /// Every check, by name.
    pub checks: Vec<CheckReport>,
}

/// The state of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// Why it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Well or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It works.
    Ok,
    /// It does not.
    Failing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_at_least_one_check_and_none_failing() {
        let health = Health::new();
        assert_eq!(health.report().status, Status::Failing, "nothing has started yet");
        let raft = health.check("raft");
        let api = health.check("api");
        raft.set_ok();
        assert_eq!(health.report().status, Status::Failing, "api is starting");
        api.set_ok();
        assert_eq!(health.report().status, Status::Ok);
        raft.set_failing("no leader");
        let report = health.report();
        assert_eq!(report.status, Status::Failing);
        let raft = report.checks.iter().find(|check| check.name == "raft").unwrap();
        assert_eq!(raft.reason.as_deref(), Some("no leader"));
    }

    #[test]
    fn a_dropped_check_fails() {
        let health = Health::new();
        let check = health.check("raft");
        check.set_ok();
        drop(check);
        let report = health.report();
        assert_eq!(report.status, Status::Failing);
        assert_eq!(report.checks[0].reason.as_deref(), Some("stopped"));
    }
}
