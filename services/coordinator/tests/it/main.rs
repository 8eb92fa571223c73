//! Coordinators as processes would run them: real listeners, real files, each in a runtime of its own.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

mod api;
mod flow_control;
mod generations;
mod harness;
mod identity;
mod lag;
mod mesh;
mod preview;
mod session;
