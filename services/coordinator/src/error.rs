//! Why a coordinator can't run.

use std::io;
use std::path::PathBuf;

use mirrormesh_runtime::grpc::GrpcError;

/// Why a coordinator did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error("setting `{key}`: {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The data directory can't be used.
    #[error("data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A listener or a server failed.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// Raft failed.
    #[error("raft failed while {doing}: {message}")]
    Raft {
        /// What it was doing.
        doing: &'static str,
        /// What it said.
        message: String,
    },
    /// A task that lives as long as the coordinator ended before it.
    #[error("the {task} task ended unexpectedly: {problem}")]
    Task {
        /// Which one.
        task: &'static str,
        /// How it ended.
        problem: String,
    },
}
