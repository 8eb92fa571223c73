//! The public API: what users send, checked; what they get, with every value in effect.
//!
//! Owns names, defaults, limits and field masks. Reading a request collects all its faults (`Faults`); the fields are
//! named as in the request, e.g. `flow.topics.include[1]`. Rules between resources are core's (`ControlState::apply`).

mod cluster;
mod flow;
mod flow_mask;
mod flow_view;
mod mask;
mod names;
mod patterns;
mod policies;
mod preview;
mod properties;
mod throttles;
mod time;
mod worker;
mod write;

pub use cluster::{apply_cluster_mask, cluster_spec, cluster_to_api};
pub use flow::flow_spec;
pub use flow_mask::apply_flow_mask;
pub use flow_view::{FlowStatus, event_to_api, flow_to_api, generation_to_api, spec_to_api};
pub use names::{flow_topic_name, parse_flow_topic, parse_id, parse_name};
pub use preview::previewed_to_api;
pub use properties::{is_reference, is_secret};
pub use time::timestamp;
pub use worker::worker_to_api;
pub use write::{REQUEST_ID_CHARS_MAX, etag, expected_revision, write_guard};
