//! Conversions between generated messages and the domain.
//!
//! Must not know what is done with a value.
//!
//! `store`, `command`, `state`, `position` and `registry` read what was stored: the first fault ends the reading, since stored
//! bytes are right or damaged. `session` reads what workers and coordinators of the same mesh send. `api` reads what
//! users send, and names every fault.

pub mod api;
pub mod command;
mod flow_spec;
mod parts;
pub mod position;
pub mod registry;
pub mod session;
pub mod state;
pub mod store;
