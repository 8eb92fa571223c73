//! Real binaries against real Kafka, judged from outside: the public API on one side, an independent reader on the
//! other.
#![allow(clippy::print_stdout, reason = "seeds are printed")]
#![allow(clippy::indexing_slicing, reason = "helpers of tests: what they miss is a failure")]

mod api;
mod backfill;
mod bad_batches;
mod bad_input;
mod changing;
mod chaos;
mod claims;
mod collector;
mod commands;
mod compaction;
mod control;
mod disk;
mod elections;
mod faults;
mod flow_control;
mod forgetful;
mod groups;
mod identity;
mod loops;
mod loss;
mod newcomer;
mod other_writers;
mod paths;
mod retention;
mod rig;
mod selection;
mod slow_target;
mod topics;
mod transactions;
mod versions;
