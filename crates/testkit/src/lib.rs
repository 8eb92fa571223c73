//! What tests, the demo and the benchmarks share: real Kafka clusters, processes, faults, data and its check.
//!
//! Dev only: nothing that is shipped may depend on it. It knows Kafka and processes, and nothing of flows: it judges
//! the product from outside.
//!
//! | module | owns |
//! |---|---|
//! | [`broker`] | a strict fake of a Kafka cluster, with faults by script |
//! | [`jars`] | Kafka's jars, fetched once per version |
//! | [`java`] | running Java programs against those jars |
//! | [`kafka`] | clusters of real brokers: start, stop, kill, pause |
//! | [`shared`] | a pair of clusters for all tests of one binary |
//! | [`process`] | child processes that never outlive us |
//! | [`proxy`] | TCP connections that can be cut, blocked and delayed |
//! | [`ports`] | free ports that stay ours |
//! | [`topics`] | making topics, unique names |
//! | [`workload`] | records made from a seed |
//! | [`checker`] | are two clusters' topics the same, record by record |

pub mod broker;
pub mod checker;
pub mod jars;
pub mod java;
pub mod kafka;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod shared;
pub mod topics;
mod watchdog;
pub mod workload;
