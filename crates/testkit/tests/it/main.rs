//! The test kit against real Kafka: what it starts, breaks, makes and judges.

// `cfg(test)` tells clippy that helpers are tests too: they may unwrap.
#[cfg(test)]
mod checking;
#[cfg(test)]
mod clusters;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod leftovers;
