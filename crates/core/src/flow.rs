//! What a flow is: its specification, its filters, its names.
//!
//! Owns validation and MirrorMaker 2's naming rules; knows nothing about state or workers.

mod filter;
mod naming;
mod nearest;
mod preview;
mod selection;
mod spec;
mod surprises;
mod topic_rules;

pub use filter::{NameFilter, PatternError};
pub(crate) use naming::is_heartbeats;
pub use naming::{Naming, is_internal_topic};
pub use preview::{PreviewPage, PreviewQuestion, PreviewedTopic};
pub use selection::{Choice, LeftOut, SourceTopic, mark_collisions, mark_loops};
pub use spec::{
    FlowSpec, LossPolicy, OversizedPolicy, RetiredOptions, StartAt, TimestampPolicy, is_positions_topic,
    positions_topic,
};
pub use surprises::Surprises;
pub use topic_rules::TopicRules;

/// MirrorMaker 2's `topics.exclude` default.
pub const DEFAULT_TOPICS_EXCLUDE: [&str; 3] = [r".*[\-\.]internal", r".*\.replica", "__.*"];

/// MirrorMaker 2's `groups.exclude` default.
pub const DEFAULT_GROUPS_EXCLUDE: [&str; 3] = ["console-consumer-.*", "connect-.*", "__.*"];
