//! Nothing of ours outlives us, however we go.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};

fn process_exists(pid: u32) -> bool {
    // A zombie is dead: it only waits for its parent to notice.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

async fn eventually(what: &str, test: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !test() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Killed when dropped: a test that fails leaves nothing behind either.
struct Holder(Child);

impl Holder {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program that holds a cluster, started with pipes as a test runner would.
fn hold_a_cluster(more: &[&str]) -> (Holder, u32, PathBuf) {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_mirrormesh-kafka"))
        .args(["up", "held", "--heap-mb", "256"])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BTreeMap::new();
    for line in BufReader::new(holder.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let (name, value) = line.split_once('=').unwrap();
        said.insert(name.to_owned(), value.to_owned());
        if name == "bootstrap" {
            break;
        }
    }
    let pid = said["pids"].parse().unwrap();
    (Holder(holder), pid, PathBuf::from(&said["directory"]))
}

#[tokio::test]
async fn a_broker_dies_with_an_owner_that_is_killed() {
    // Its data stays here: a broker without data would end by itself.
    let (mut holder, pid, directory) = hold_a_cluster(&["--keep"]);
    assert!(process_exists(pid) && directory.is_dir());
    holder.kill();
    eventually("the broker outlived its owner", || !process_exists(pid)).await;
    assert!(directory.is_dir());
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_stopped_broker_dies_too_and_its_data_goes() {
    let (mut holder, pid, directory) = hold_a_cluster(&[]);
    let group = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::STOP).unwrap();
    holder.kill();
    eventually("the broker outlived its owner", || !process_exists(pid)).await;
    eventually("the data outlived its owner", || !directory.exists()).await;
}

#[tokio::test]
async fn a_dropped_cluster_leaves_nothing() {
    let cluster = Cluster::start(ClusterSpec::new("dropped").proxied()).await.unwrap();
    let (pid, directory) = (cluster.pid(0).unwrap(), cluster.directory().to_path_buf());
    assert!(process_exists(pid) && directory.is_dir());
    drop(cluster);
    assert!(!process_exists(pid));
    assert!(!directory.exists());
}
