//! The pure heart of mirrormesh: what is decided, never how it is carried out.
//!
//! Owns identifiers, flow specifications, the replicated control state, the planner, the translation of offsets,
//! MirrorMaker 2's byte formats, and the shapes that the relay, the wire and the services share.
//!
//! Must not know: the relay, IO, clocks, randomness, async, serialisation frameworks, Kafka clients, Raft libraries. Time and
//! seeds are arguments, reasons come back as data, collections iterate in a fixed order.

pub mod control;
pub mod epochs;
pub mod flow;
pub mod format;
pub mod identity;
pub mod ids;
pub mod lag;
pub mod paused;
pub mod plan;
pub mod position;
pub mod reconcile;
pub mod registry;
pub mod report;
pub mod stop;
pub mod stored_map;
pub mod throttle;
pub mod translate;
pub mod unit;
