//! Real binaries against real Kafka, judged from outside: the public API on one side, an independent reader on the
//! other.

mod api;
mod control;
mod faults;
mod groups;
mod rig;
mod topics;
