//! Clusters, their faults and their proxies.

use std::time::{Duration, Instant};

use mirrormesh_testkit::checker::{Comparison, Options, TopicPair, compare};
use mirrormesh_testkit::jars::KafkaVersion;
use mirrormesh_testkit::java::Program;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::topics::{Topic, create_topic, create_topics, unique_name};
use mirrormesh_testkit::workload::{Run, TopicPlan, Workload};

const SEED: u64 = 7;
const READY: Duration = Duration::from_secs(90);

async fn compare_with_itself(cluster: &Cluster, topic: &str) -> Comparison {
    let bootstrap = cluster.direct_bootstrap();
    compare(&bootstrap, &bootstrap, &[TopicPair::same(topic)], &Options::default()).await.unwrap()
}

async fn wait_for(run: &Run, acknowledged: u64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while run.progress().acknowledged() < acknowledged {
        assert!(Instant::now() < deadline, "only {} records are acknowledged", run.progress().acknowledged());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_killed_and_a_stopped_broker_come_back_with_their_data() {
    let cluster = Cluster::start(ClusterSpec::new("restart")).await.unwrap();
    let topic = unique_name("kept");
    create_topic(&cluster.bootstrap(), &topic, 2).await.unwrap();
    let workload = Workload::new(SEED).topic(TopicPlan::new(&topic, 2, 5_000));
    workload.produce(&cluster.bootstrap()).await.unwrap();
    let (bootstrap, pid) = (cluster.bootstrap(), cluster.pid(0).unwrap());

    cluster.kill(0).unwrap();
    assert_eq!(cluster.pid(0), None);
    assert!(cluster.kill(0).is_err());
    assert!(cluster.wait_ready(Duration::from_millis(10)).await.is_err());
    cluster.start_broker(0).unwrap();
    cluster.wait_ready(READY).await.unwrap();
    assert_ne!(cluster.pid(0), Some(pid));
    assert_eq!(cluster.bootstrap(), bootstrap);
    assert_eq!(compare_with_itself(&cluster, &topic).await.totals.matched, 5_000);

    cluster.stop(0).await.unwrap();
    cluster.start_broker(0).unwrap();
    cluster.wait_ready(READY).await.unwrap();
    assert_eq!(compare_with_itself(&cluster, &topic).await.totals.matched, 5_000);
}

#[tokio::test]
async fn a_paused_broker_stands_still_and_goes_on() {
    let cluster = Cluster::start(ClusterSpec::new("pause")).await.unwrap();
    cluster.pause(0).unwrap();
    let error = cluster.wait_ready(Duration::from_millis(100)).await.unwrap_err();
    assert!(format!("{error:#}").contains("not ready in time"), "{error:#}");
    cluster.resume(0).unwrap();
    cluster.wait_ready(READY).await.unwrap();
}

#[tokio::test]
async fn cut_connections_lose_nothing_and_bypassing_the_proxy_works() {
    let cluster = Cluster::start(ClusterSpec::new("proxied").proxied()).await.unwrap();
    let topic = unique_name("cut");
    create_topic(&cluster.bootstrap(), &topic, 2).await.unwrap();
    let workload = Workload::new(SEED).topic(TopicPlan::new(&topic, 2, 20_000)).rate(20_000);
    let run = workload.start(&cluster.bootstrap()).unwrap();
    let proxy = cluster.proxy(0).unwrap();
    for round in 1..=3 {
        wait_for(&run, round * 3_000).await;
        let before = proxy.traffic().connections;
        proxy.cut();
        wait_for(&run, run.progress().acknowledged() + 1_000).await;
        assert!(proxy.traffic().connections > before, "nothing had to reconnect");
    }
    run.finish().await.unwrap();
    // Every byte of every record went through the proxy.
    assert!(proxy.traffic().to_server > 20_000 * 100);
    let before = proxy.traffic();
    let comparison = compare_with_itself(&cluster, &topic).await;
    assert!(comparison.is_equal(), "{comparison}");
    assert_eq!(comparison.totals.matched, 20_000);
    assert_eq!(proxy.traffic(), before);
}

#[tokio::test]
async fn three_brokers_survive_the_loss_of_one() {
    let cluster = Cluster::start(ClusterSpec::new("three").brokers(3)).await.unwrap();
    let topic = unique_name("replicated");
    create_topics(&cluster.bootstrap(), &[Topic::new(&topic, 3).replicas(3)]).await.unwrap();
    let workload = Workload::new(SEED).topic(TopicPlan::new(&topic, 3, 30_000)).rate(10_000);
    let run = workload.start(&cluster.bootstrap()).unwrap();
    wait_for(&run, 3_000).await;
    cluster.kill(1).unwrap();
    // Ready means: the two that are left name each other and no longer the dead one.
    cluster.wait_ready(READY).await.unwrap();
    run.finish().await.unwrap();
    cluster.start_broker(1).unwrap();
    cluster.wait_ready(READY).await.unwrap();
    let comparison = compare_with_itself(&cluster, &topic).await;
    assert_eq!(comparison.totals.matched, 30_000, "{comparison}");
    assert!(comparison.is_equal());
}

#[tokio::test]
async fn the_old_kafka_runs_too() {
    let spec = ClusterSpec::new("old").version(KafkaVersion::V3_9).property("num.partitions", "2");
    let cluster = Cluster::start(spec).await.unwrap();
    let topic = unique_name("old");
    create_topic(&cluster.bootstrap(), &topic, 1).await.unwrap();
    let plan = TopicPlan::new(&topic, 1, 1_000).mixed().transactions(10, 0.0);
    Workload::new(SEED).topic(plan).produce(&cluster.bootstrap()).await.unwrap();
    assert_eq!(compare_with_itself(&cluster, &topic).await.totals.matched, 1_000);
}

#[tokio::test]
async fn kafkas_own_tools_run() {
    let cluster = Cluster::start(ClusterSpec::new("tools")).await.unwrap();
    let topic = unique_name("tools");
    create_topic(&cluster.bootstrap(), &topic, 1).await.unwrap();
    let bootstrap = cluster.bootstrap();
    let timeout = Duration::from_mins(1);
    Program::new(cluster.jars(), "org.apache.kafka.tools.ConsoleProducer")
        .args(["--bootstrap-server", &bootstrap, "--topic", &topic])
        .run_ok(b"one\ntwo\n", timeout)
        .await
        .unwrap();
    let offsets = Program::new(cluster.jars(), "org.apache.kafka.tools.GetOffsetShell")
        .args(["--bootstrap-server", &bootstrap, "--topic", &topic])
        .run_ok(b"", timeout)
        .await
        .unwrap();
    assert_eq!(offsets.trim(), format!("{topic}:0:2"));
    let failed = Program::new(cluster.jars(), "no.such.Class").run(b"", timeout).await.unwrap();
    assert!(!failed.status.success());
    assert!(failed.stderr.contains("no.such.Class"), "{}", failed.stderr);
}
