//! What the three worker services share: the session with the coordinators and the supervision of units.
//!
//! Owns registering, following assignments, starting and stopping units, reporting, leases and retries. A service
//! plugs in a [`UnitFactory`] and knows nothing of gRPC; this crate knows nothing of what a unit does.
//!
//! ```text
//! coordinator ──WatchAssignments──▶ assignments ──watch──▶ supervisor ──UnitFactory──▶ unit tasks
//!      ▲                                                       │ released                │ ReportHandle
//!      └──────────────ReportProgress (1/s, renews the lease)── progress ◀────────────────┘
//! ```
//!
//! Invariants: losing every coordinator stops no unit; a unit is reported as released only after it has drained; a
//! failing unit never disturbs another.

mod assignments;
mod config;
mod coordinator;
mod error;
mod events;
mod identity;
mod internal_table;
mod kafka;
mod lease;
mod link;
mod metrics;
mod progress;
mod queries;
mod release;
mod report;
mod restart;
mod run;
mod session;
mod supervisor;
mod unit;
mod wire;

pub use config::WorkerSettings;
pub use coordinator::CoordinatorHandle;
pub use error::{CoordinatorError, Error};
pub use identity::{ClusterCheck, cluster_id, cluster_name};
pub use internal_table::{InternalTable, Table, Told};
pub use kafka::{Failure, client_config, ensure_internal_topic, topic_exists};
pub use lease::Lease;
pub use report::ReportHandle;
pub use run::run_worker;
pub use unit::{FlowView, QueryHandler, UnitContext, UnitFactory};
pub use wire::RefusedTopic;
