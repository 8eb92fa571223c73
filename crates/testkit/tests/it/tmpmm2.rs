use mirrormesh_testkit::checker::*;
use mirrormesh_testkit::java::Program;
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::*;
use mirrormesh_testkit::workload::*;
use std::time::{Duration, Instant};
#[tokio::test]
async fn mm2() {
    let pair = shared_pair().await.unwrap();
    let (s, t) = (pair.source.bootstrap(), pair.target.bootstrap());
    create_topic(&s, "orders", 2).await.unwrap();
    Workload::new(1).topic(TopicPlan::new("orders", 2, 10_000).mixed()).produce(&s).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let props = dir.path().join("mm2.properties");
    std::fs::write(&props, format!("clusters=src,dst\nsrc.bootstrap.servers={s}\ndst.bootstrap.servers={t}\nsrc->dst.enabled=true\nsrc->dst.topics=orders\nsrc->dst.emit.heartbeats.interval.seconds=1\nreplication.factor=1\ncheckpoints.topic.replication.factor=1\nheartbeats.topic.replication.factor=1\noffset-syncs.topic.replication.factor=1\noffset.storage.replication.factor=1\nstatus.storage.replication.factor=1\nconfig.storage.replication.factor=1\n")).unwrap();
    let started = Instant::now();
    let mm2 = Program::new(pair.source.jars(), "org.apache.kafka.connect.mirror.MirrorMaker")
        .options(["-Xmx512m"])
        .args([props.to_string_lossy()])
        .spawn(dir.path().join("mm2.log"))
        .unwrap();
    let p = [TopicPair::new("orders", "src.orders")];
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Ok(c) = compare(&s, &t, &p, &Options::default()).await {
            if c.is_equal() {
                println!("{c} after {:?}", started.elapsed());
                break;
            } else {
                println!("{c}");
            }
        }
        assert!(started.elapsed() < Duration::from_secs(90), "{}", mm2.log_tail(40));
    }
    let src = dir.path().join("Lag.java");
    std::fs::write(&src, "import org.apache.kafka.connect.mirror.*; import java.util.*; public class Lag { public static void main(String[] a) throws Exception { Map<String,Object> c = new HashMap<>(); c.put(\"bootstrap.servers\", a[0]); MirrorClient m = new MirrorClient(c); System.out.println(m.heartbeatTopics() + \" \" + m.upstreamClusters() + \" \" + m.remoteTopics()); m.close(); } }").unwrap();
    println!(
        "{}",
        Program::new(pair.source.jars(), src.to_string_lossy())
            .args([&t])
            .run_ok(b"", Duration::from_secs(60))
            .await
            .unwrap()
    );
    println!("{}", mm2.terminate(Duration::from_secs(30)).await.unwrap());
}
