//! One fault: who is hit, whether records flowed there, the blow, and what came after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::proxy::Proxy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::brokers::{Brokers, End};
use super::plan::{Fault, Kind};
use super::report::{Report, TAKEOVER_BAR, Takeover};
use super::stage::{FLOW, Stage, TOPIC};

/// Records that arrived in this time before a fault make it count.
const FLOWED: Duration = Duration::from_secs(1);
/// A fault waits so long for records to flow where it will hit.
const FLOW_PATIENCE: Duration = Duration::from_secs(20);
/// Partitions come back, and so do processes, within this time, or it is a problem of its own.
const BACK_PATIENCE: Duration = Duration::from_mins(1);
/// Batches on their way that a cut of a full pipeline waits for.
const PIPELINE: u64 = 10;
/// The target is moved away by this much, so that batches are on their way for long enough.
const PIPELINE_DELAY: Duration = Duration::from_millis(150);
/// How often it is looked whether something came back.
const STEP: Duration = Duration::from_millis(20);

/// A side of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// A blow that was struck.
struct Blow {
    kind: Kind,
    partitions: Vec<i32>,
    at: Instant,
    struck: bool,
    calm: bool,
}

impl Stage {
    /// Does what the fault says, and waits until the mesh is whole again; a broker comes back on its own time.
    pub(super) async fn strike(&mut self, fault: &Fault, report: &mut Report) -> Result<()> {
        if fault.alone {
            self.wait_for_brokers().await?;
        }
        match fault.kind {
            Kind::WorkerKill | Kind::WorkerRestart | Kind::WorkerPause => {
                self.strike_worker(fault, report).await
            }
            Kind::SourceBrokerKill => self.strike_broker(fault, Side::Source, End::Kill, report).await,
            Kind::SourceBrokerStop => self.strike_broker(fault, Side::Source, End::Stop, report).await,
            Kind::TargetBrokerKill => self.strike_broker(fault, Side::Target, End::Kill, report).await,
            Kind::TargetBrokerStop => self.strike_broker(fault, Side::Target, End::Stop, report).await,
            Kind::SourceCut => self.cut(fault, Side::Source, report).await,
            Kind::TargetCut => self.cut(fault, Side::Target, report).await,
            Kind::PipelineCut => self.cut_pipeline(fault, report).await,
            Kind::LeaderKill => self.kill_leader(fault, report).await,
        }
    }

    /// Waits until the broker that was restarted last has all that it missed.
    pub(super) async fn wait_for_brokers(&mut self) -> Result<()> {
        while let Some(restarted) = self.restarts.join_next().await {
            restarted.context("a restart was interrupted")??;
        }
        Ok(())
    }

    /// Whether all brokers run and are in step.
    fn is_calm(&mut self) -> Result<bool> {
        while let Some(restarted) = self.restarts.try_join_next() {
            restarted.context("a restart was interrupted")??;
        }
        Ok(self.restarts.is_empty())
    }

    fn brokers(&self, side: Side) -> &Brokers {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    /// Waits for records in the partitions that will be hit, and notes whether there are any. What is hit must be hit
    /// directly after this.
    async fn aim(&mut self, fault: &Fault, partitions: Vec<i32>, report: &mut Report) -> Result<Blow> {
        let deadline = Instant::now() + FLOW_PATIENCE;
        while !self.arrivals.flowed(&partitions, FLOWED / 2) && Instant::now() < deadline {
            tokio::time::sleep(STEP).await;
        }
        let (struck, calm) = (self.arrivals.flowed(&partitions, FLOWED), self.is_calm()?);
        report.count(fault.kind, struck);
        Ok(Blow { kind: fault.kind, partitions, at: Instant::now(), struck, calm })
    }

    fn tell(&self, fault: &Fault, blow: &Blow, victim: &str, outcome: &str) {
        let struck = if blow.struck { "" } else { ", NOT STRUCK: no records flowed" };
        let brokers = if blow.calm { "" } else { ", a broker being away" };
        self.say(&format!(
            "{:>3} {} {victim} {:?}{struck}{brokers}{outcome}",
            fault.number,
            fault.kind.name(),
            blow.partitions
        ));
    }

    async fn strike_worker(&mut self, fault: &Fault, report: &mut Report) -> Result<()> {
        let Some((worker, partitions)) = self.choose_worker(fault).await? else {
            report.count(fault.kind, false);
            self.say(&format!("{:>3} {}: no worker has partitions", fault.number, fault.kind.name()));
            return Ok(());
        };
        let blow = self.aim(fault, partitions, report).await?;
        match fault.kind {
            Kind::WorkerPause => {
                self.mesh.signal_worker(&worker, Signal::Stop)?;
                tokio::time::sleep(fault.hold).await;
                self.mesh.signal_worker(&worker, Signal::Cont)?;
                self.take_times(&blow, &worker, fault, report).await;
            }
            Kind::WorkerRestart => {
                self.mesh.signal_worker(&worker, Signal::Kill)?;
                self.mesh.start_worker(&worker)?;
                self.take_times(&blow, &worker, fault, report).await;
            }
            _ => {
                self.mesh.signal_worker(&worker, Signal::Kill)?;
                self.take_times(&blow, &worker, fault, report).await;
                tokio::time::sleep(fault.hold).await;
                self.mesh.start_worker(&worker)?;
            }
        }
        Ok(())
    }

    /// A worker in charge of partitions, with these.
    async fn choose_worker(&mut self, fault: &Fault) -> Result<Option<(String, Vec<i32>)>> {
        let deadline = Instant::now() + FLOW_PATIENCE;
        loop {
            // A new leader knows its workers within seconds only.
            let workers = self.workers().await.unwrap_or_default();
            let chosen = fault.choose(&workers.into_iter().collect::<Vec<_>>());
            if chosen.is_some() || Instant::now() > deadline {
                return Ok(chosen);
            }
            tokio::time::sleep(super::STEP).await;
        }
    }

    async fn workers(&mut self) -> Result<BTreeMap<String, Vec<i32>>> {
        let mut workers: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for topic in self.api.flow_topics(FLOW).await?.topics {
            for partition in topic.partitions {
                if let Some(worker) = partition.worker.strip_prefix("workers/") {
                    workers.entry(worker.to_owned()).or_default().push(partition.partition);
                }
            }
        }
        Ok(workers)
    }

    /// Waits until records of all partitions arrive again, and notes how long that took.
    async fn take_times(&mut self, blow: &Blow, worker: &str, fault: &Fault, report: &mut Report) {
        let deadline = blow.at + fault.hold + BACK_PATIENCE;
        // Until the bar is over, a record may be one that was on its way.
        let settled = blow.at + TAKEOVER_BAR;
        let mut waiting = blow.partitions.clone();
        let mut longest = Duration::ZERO;
        while !waiting.is_empty() && Instant::now() < deadline {
            waiting.retain(|partition| {
                let Some(back) = self.arrivals.back_since(*partition, blow.at, settled) else { return true };
                let time = back.duration_since(blow.at);
                longest = longest.max(time);
                if blow.struck {
                    let (kind, partition, calm) = (blow.kind, *partition, blow.calm);
                    report.takeovers.push(Takeover { kind, partition, time, calm });
                }
                false
            });
            tokio::time::sleep(STEP).await;
        }
        self.tell(fault, blow, worker, &format!(", back after {} ms", longest.as_millis()));
        if !waiting.is_empty() {
            let word = self.own_word().await;
            self.note(
                report,
                &format!("{waiting:?} got no records for {BACK_PATIENCE:?} after {fault:?}; {word}"),
            );
        }
    }

    fn note(&self, report: &mut Report, problem: &str) {
        self.say(problem);
        report.problems.push(problem.to_owned());
    }

    /// Brokers of a side that lead partitions, with these.
    async fn leaders(&self, side: Side) -> Result<Vec<(usize, Vec<i32>)>> {
        let deadline = Instant::now() + FLOW_PATIENCE;
        loop {
            let mut leaders: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
            for (partition, broker) in self.brokers(side).leaders(TOPIC).await.unwrap_or_default() {
                leaders.entry(broker).or_default().push(partition);
            }
            if !leaders.is_empty() {
                return Ok(leaders.into_iter().collect());
            }
            if Instant::now() > deadline {
                bail!("no broker of the {side:?} leads a partition of {TOPIC}");
            }
            tokio::time::sleep(super::STEP).await;
        }
    }

    async fn strike_broker(
        &mut self,
        fault: &Fault,
        side: Side,
        end: End,
        report: &mut Report,
    ) -> Result<()> {
        // One at a time, or a partition may have no replica in step.
        self.wait_for_brokers().await?;
        let leaders = self.leaders(side).await?;
        let (broker, partitions) = fault.choose(&leaders).context("no broker to choose")?;
        let blow = self.aim(fault, partitions, report).await?;
        let brokers = self.brokers(side).clone();
        self.restarts.spawn(brokers.restart(broker, end, fault.hold));
        self.tell(fault, &blow, &format!("broker {broker}"), "");
        Ok(())
    }

    async fn cut(&mut self, fault: &Fault, side: Side, report: &mut Report) -> Result<()> {
        let leaders = self.leaders(side).await?;
        // Every other time all connections, else those to one broker.
        let hit = if fault.pick >> 63 == 0 { leaders } else { fault.choose(&leaders).into_iter().collect() };
        let partitions = hit.iter().flat_map(|(_, partitions)| partitions.iter().copied()).collect();
        let blow = self.aim(fault, partitions, report).await?;
        for (broker, _) in &hit {
            self.brokers(side).cluster().proxy(*broker)?.cut();
        }
        let victims: Vec<usize> = hit.iter().map(|(broker, _)| *broker).collect();
        self.tell(fault, &blow, &format!("brokers {victims:?}"), "");
        Ok(())
    }

    /// Moves the target away until a worker has enough batches on their way, and cuts all connections then.
    async fn cut_pipeline(&mut self, fault: &Fault, report: &mut Report) -> Result<()> {
        let target = std::sync::Arc::clone(self.target.cluster());
        target.proxies().for_each(|proxy| proxy.delay(PIPELINE_DELAY));
        let mut blow = self.aim(fault, self.partitions.clone(), report).await?;
        let deadline = Instant::now() + FLOW_PATIENCE;
        let mut batches = 0;
        while batches < PIPELINE && Instant::now() < deadline {
            tokio::time::sleep(STEP).await;
            batches = self.batches_in_flight().await;
        }
        if blow.struck && (batches < PIPELINE || !self.arrivals.flowed(&blow.partitions, FLOWED)) {
            blow.struck = false;
            report.recount_as_idle(fault.kind);
        }
        target.proxies().for_each(Proxy::cut);
        target.proxies().for_each(|proxy| proxy.delay(Duration::ZERO));
        if blow.struck {
            report.cut_batches.push(batches);
        }
        self.tell(fault, &blow, &format!("{batches} batches in flight"), "");
        Ok(())
    }

    /// The most batches that any one worker has sent and not seen answered.
    async fn batches_in_flight(&self) -> u64 {
        let mut most = 0;
        for worker in self.mesh.worker_names() {
            let Some(address) = self.mesh.worker_metrics(&worker) else { continue };
            most = most.max(figure(address, "mirrormesh_batches_in_flight").await.unwrap_or(0));
        }
        most
    }

    async fn kill_leader(&mut self, fault: &Fault, report: &mut Report) -> Result<()> {
        let blow = self.aim(fault, self.partitions.clone(), report).await?;
        let leader = self.leader().await?;
        self.mesh.signal_coordinator(leader, Signal::Kill)?;
        let killed = Instant::now();
        while let Err(error) = self.api.flow(FLOW).await {
            if killed.elapsed() > BACK_PATIENCE {
                self.mesh.start_coordinator(leader)?;
                bail!(
                    "the API did not answer for {BACK_PATIENCE:?} after coordinator {leader} died: {error}"
                );
            }
            tokio::time::sleep(STEP).await;
        }
        let gap = killed.elapsed();
        tokio::time::sleep(fault.hold).await;
        self.mesh.start_coordinator(leader)?;
        self.wait_for_member(leader).await?;
        let silence = self.arrivals.longest_silence(killed);
        if blow.struck {
            report.api_gaps.push(gap);
            if blow.calm {
                report.leader_silences.push(silence);
            }
        }
        let outcome =
            format!(", API after {} ms, at most {} ms without records", gap.as_millis(), silence.as_millis());
        self.tell(fault, &blow, &format!("coordinator {leader}"), &outcome);
        Ok(())
    }

    async fn leader(&mut self) -> Result<u64> {
        let deadline = Instant::now() + FLOW_PATIENCE;
        loop {
            match self.api.mesh().await {
                Ok(mesh) if mesh.leader_id > 0 => return Ok(mesh.leader_id),
                other if Instant::now() > deadline => bail!("nobody leads: {other:?}"),
                _ => tokio::time::sleep(STEP).await,
            }
        }
    }

    /// A follower forwards, so any answer shows that it is in.
    async fn wait_for_member(&self, id: u64) -> Result<()> {
        let mut api = self.mesh.api_of(id)?;
        let deadline = Instant::now() + BACK_PATIENCE;
        while let Err(error) = api.mesh().await {
            if Instant::now() > deadline {
                bail!("coordinator {id} did not come back within {BACK_PATIENCE:?}: {error}");
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }
}

/// One figure of a process's metrics page, summed over its labels.
async fn figure(address: &str, name: &str) -> Result<u64> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(FLOWED, ask).await.context("no answer")??;
    Ok(sum(&text, name))
}

fn sum(text: &str, name: &str) -> u64 {
    let lines =
        text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_labels_and_nothing_else() {
        let page =
            "# HELP a_b x\n# TYPE a_b gauge\na_b{flow=\"x\"} 3\na_b{flow=\"y\"} 4\na_b_total{} 9\na_b 5\n";
        assert_eq!(sum(page, "a_b"), 12);
        assert_eq!(sum(page, "c"), 0);
    }
}
