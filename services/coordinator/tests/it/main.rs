//! Coordinators as processes would run them: real listeners, real files, each in a runtime of its own.

mod api;
mod harness;
mod mesh;
mod session;
