//! The pure heart of mirrormesh: what is decided, never how it is carried out.
//!
//! Owns identifiers, flow specifications, the replicated control state, the planner, the relay's and the
//! translation's state machines and MirrorMaker 2's byte formats.
//!
//! Must not know: IO, clocks, randomness, async, serialisation frameworks, Kafka clients, Raft libraries. Time and
//! seeds are arguments, reasons come back as data, collections iterate in a fixed order.

pub mod control;
pub mod flow;
pub mod format;
pub mod identity;
pub mod ids;
pub mod lag;
pub mod plan;
pub mod reconcile;
pub mod relay;
pub mod report;
pub mod throttle;
pub mod translate;
pub mod unit;
