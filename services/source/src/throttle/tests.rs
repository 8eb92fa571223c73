//! Tests of the throttles.

use std::num::NonZeroU64;

use bytes::Bytes;
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::{ClusterId, FlowId};
use mirrormesh_core::unit::{AssignedFlow, ClusterSpec, ThrottleShares};
use mirrormesh_relay::page::SourcePage;

use super::*;

fn view(bytes_per_second: u64) -> Arc<FlowView> {
    let throttle = Throttle { bytes_per_second: NonZeroU64::new(bytes_per_second), records_per_second: None };
    let spec = FlowSpec::new(ClusterId::new("uk").unwrap(), ClusterId::new("hq").unwrap());
    let cluster =
        || ClusterSpec { bootstrap_servers: Vec::new(), properties: BTreeMap::new(), kafka_cluster_id: None };
    Arc::new(FlowView {
        id: FlowId::new("f").unwrap(),
        flow: AssignedFlow {
            spec: FlowSpec { throttle, ..spec },
            generation: None,
            mesh_id: String::new(),
            clusters: std::collections::BTreeSet::new(),
            shares: ThrottleShares::default(),
        },
        source: cluster(),
        target: cluster(),
    })
}

fn page(bytes: usize) -> Fetched {
    let page = SourcePage { records: Bytes::from(vec![0; bytes]), ..SourcePage::default() };
    Fetched::Page(page)
}

struct Setting {
    flow: watch::Sender<Arc<FlowView>>,
    throttle: Arc<PartitionThrottle>,
}

fn setting(bytes_per_second: u64) -> Setting {
    let flow = watch::Sender::new(view(bytes_per_second));
    let metrics = Arc::new(Metrics::new(&opentelemetry::global::meter("none"), false));
    let label = KeyValue::new("flow", "f");
    let throttles = Arc::new(Throttles::new(label, flow.subscribe(), metrics));
    let topic = TopicName::new("t").unwrap();
    let throttle = Arc::new(PartitionThrottle::new(throttles, topic, Arc::default()));
    Setting { flow, throttle }
}

fn intake(setting: &Setting, pages: &[usize]) -> Intake {
    let (sender, receiver) = mpsc::channel(8);
    for bytes in pages {
        sender.try_send(page(*bytes)).unwrap();
    }
    Intake::new(receiver, Arc::clone(&setting.throttle))
}

#[tokio::test]
async fn a_page_waits_behind_what_is_owed_and_a_lifted_limit_lets_it_go() {
    let setting = setting(1_024);
    let mut intake = intake(&setting, &[1 << 30, 10]);
    assert!(matches!(intake.next().await, Arrived::Now(Fetched::Page(_))), "nothing was owed");
    assert!(!setting.throttle.holds());
    assert!(matches!(intake.next().await, Arrived::Waits), "for twelve days");
    assert!(setting.throttle.holds(), "nothing is fetched meanwhile");
    let why = setting.throttle.held_back(now_ms()).unwrap();
    assert!(why.contains("1024 bytes/s"), "{why}");
    setting.flow.send_replace(view(0));
    assert!(matches!(intake.next().await, Arrived::Now(Fetched::Page(_))));
    assert!(!setting.throttle.holds());
    assert!(matches!(intake.next().await, Arrived::Ended));
}

#[tokio::test]
async fn a_stream_that_ends_gives_back_what_waited() {
    let setting = setting(1_024);
    let mut first = intake(&setting, &[2_048, 1 << 30]);
    assert!(matches!(first.next().await, Arrived::Now(_)));
    assert!(matches!(first.next().await, Arrived::Waits));
    drop(first);
    assert!(!setting.throttle.holds());
    let mut second = intake(&setting, &[10]);
    // A second is owed at most: the page that waited is not.
    assert!(matches!(second.next().await, Arrived::Waits | Arrived::Now(_)));
    let next = tokio::time::timeout(Duration::from_secs(30), second.next()).await;
    assert!(next.is_ok(), "it does not wait for days");
}

#[tokio::test]
async fn a_fetch_asks_for_no_more_than_is_soon_used() {
    assert_eq!(setting(0).throttle.fetch_bytes(), None);
    assert_eq!(setting(400_000).throttle.fetch_bytes(), Some(100_000));
    assert_eq!(setting(1_024).throttle.fetch_bytes(), Some(FETCH_BYTES_MIN));
}
