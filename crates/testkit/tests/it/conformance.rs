//! One suite for the fake broker and for real ones: each case runs against Kafka 4.3 and 3.9, played and real.
//!
//! Where the versions differ the case says what each of them does; nothing is skipped. `docs/kafka-behaviour.md` lists
//! what was seen, by the names of these cases.

mod append;
mod checks;
mod clients;
mod ends;
mod expiry;
mod flight;
mod ops;
mod passthrough;
mod records;
mod replicas;
mod target;
mod topics;
mod transactions;
mod wire;

/// Makes four tests of each case: `case::fake_4_3`, `case::kafka_4_3`, `case::fake_3_9` and `case::kafka_3_9`.
macro_rules! cases {
    ($size:ident: $($case:ident),* $(,)?) => {
        $(mod $case {
            use mirrormesh_testkit::jars::KafkaVersion::{V3_9, V4_3};
            use crate::conformance::target::{Kind, Target};

            #[tokio::test]
            async fn fake_4_3() {
                super::$case(Target::$size(Kind::Fake(V4_3)).await).await;
            }

            #[tokio::test]
            async fn fake_3_9() {
                super::$case(Target::$size(Kind::Fake(V3_9)).await).await;
            }

            #[tokio::test]
            async fn kafka_4_3() {
                super::$case(Target::$size(Kind::Real(V4_3)).await).await;
            }

            #[tokio::test]
            async fn kafka_3_9() {
                super::$case(Target::$size(Kind::Real(V3_9)).await).await;
            }
        })*
    };
}
use cases;
