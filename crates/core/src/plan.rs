//! The planner: which worker runs which unit.
//!
//! Properties, each a test: (A) complete: a unit is left unplaced only if no worker of its role has room;
//! (B) within capacity; (C) deterministic; (D) idempotent: solving again changes nothing; (E) few moves: a placed unit
//! moves only if its worker is gone, full or clearly overloaded; (F) the order of the input does not matter.

mod solve;
#[cfg(test)]
mod tests;

pub use solve::{Plan, PlanStep, Problem, WorkerSlot, solve, steps};
