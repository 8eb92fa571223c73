//! A mesh of real processes on this machine.
//!
//! Every process is its own group and is reaped when the mesh is dropped. Binaries are taken from the folder of the
//! running program, so what is tested is what was built with it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::process::{Launch, Process, Signal};

use crate::api::Api;

/// How long a process may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct MeshSpec {
    /// Coordinators: 1, 3 or 5.
    pub coordinators: u32,
    /// Source workers.
    pub sources: u32,
    /// Checkpoint workers.
    pub checkpoints: u32,
    /// Heartbeat workers.
    pub heartbeats: u32,
}

impl Default for MeshSpec {
    fn default() -> Self {
        Self { coordinators: 1, sources: 1, checkpoints: 1, heartbeats: 1 }
    }
}

/// Addresses of one coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorAddress {
    /// Node id.
    pub id: u64,
    /// Public API, `host:port`.
    pub api: String,
    /// Mesh side, `host:port`.
    pub mesh: String,
}

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    folder: PathBuf,
    addresses: Vec<CoordinatorAddress>,
    coordinators: Vec<Option<Process>>,
    /// Workers by role and number, e.g. `source-1`.
    workers: Vec<(String, Option<Process>)>,
    /// Metrics addresses of the workers, by name.
    metrics: BTreeMap<String, String>,
}

/// Names the folder of the binaries, if they are elsewhere. Not `MIRRORMESH_…`: the services refuse what they don't know
/// there.
const BINARIES_VARIABLE: &str = "TEST_BINARIES";

/// Where the binaries are: in the folder that `TEST_BINARIES` names, or beside the running program, or one folder
/// up for a test.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BINARIES_VARIABLE) {
        let named = Path::new(&folder).join(name);
        anyhow::ensure!(named.is_file(), "{BINARIES_VARIABLE}: {} is not there", named.display());
        return Ok(named);
    }
    let exe = std::env::current_exe().context("the running program's own path")?;
    let folders = exe.ancestors().skip(1).take(2);
    for folder in folders {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not beside {}: build it with `cargo build --workspace --bins`", exe.display())
}

/// Ports that the kernel gives to nobody who asks for any port: Linux takes those from 32,768 on.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// Free TCP ports on the loopback, all different, and not given out before by this process.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let width = PORTS.end - PORTS.start;
    // Processes that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    let mut ports = Vec::new();
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(PORTS.start + begin.wrapping_add(step) % width)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    bail!("no free ports between {} and {}", PORTS.start, PORTS.end)
}

impl Mesh {
    /// Starts everything and waits until the API answers.
    pub async fn start(folder: &Path, spec: &MeshSpec) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let count = spec.coordinators as usize;
        let ports = free_ports(count * 2)?;
        let addresses: Vec<CoordinatorAddress> = ports
            .chunks(2)
            .zip(1_u64..)
            .filter_map(|(pair, id)| match pair {
                [api, mesh] => Some(CoordinatorAddress {
                    id,
                    api: format!("127.0.0.1:{api}"),
                    mesh: format!("127.0.0.1:{mesh}"),
                }),
                _ => None,
            })
            .collect();
        let mut mesh = Self {
            folder: folder.to_owned(),
            addresses,
            coordinators: Vec::new(),
            workers: Vec::new(),
            metrics: BTreeMap::new(),
        };
        for index in 0..count {
            let process = mesh.coordinator_process(index)?;
            mesh.coordinators.push(Some(process));
        }
        for (role, number) in
            [("source", spec.sources), ("checkpoint", spec.checkpoints), ("heartbeat", spec.heartbeats)]
        {
            for n in 1..=number {
                mesh.start_worker(&format!("{role}-{n}"))?;
            }
        }
        mesh.wait_for_api(START_TIMEOUT).await?;
        Ok(mesh)
    }

    /// Addresses of all coordinators, running or not.
    pub fn addresses(&self) -> &[CoordinatorAddress] {
        &self.addresses
    }

    /// The public API through any coordinator that answers.
    pub fn api(&self) -> Result<Api> {
        Api::new(&self.addresses.iter().map(|a| a.api.clone()).collect::<Vec<_>>())
    }

    /// The public API through one coordinator only.
    pub fn api_of(&self, id: u64) -> Result<Api> {
        let address = self.addresses.iter().find(|a| a.id == id).context("no such coordinator")?;
        Api::new(std::slice::from_ref(&address.api))
    }

    async fn wait_for_api(&self, limit: Duration) -> Result<()> {
        let mut api = self.api()?;
        let deadline = Instant::now() + limit;
        loop {
            let Err(error) = api.mesh().await else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("the API did not answer within {limit:?}: {error}\n{}", self.log_tails());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn coordinator_process(&self, index: usize) -> Result<Process> {
        let address = self.addresses.get(index).context("no such coordinator")?;
        let members: Vec<String> =
            self.addresses.iter().map(|a| format!("{}={}/{}", a.id, a.mesh, a.api)).collect();
        let name = format!("coordinator-{}", address.id);
        let data = self.folder.join(&name);
        Launch::new(binary("mirrormesh-coordinator")?, self.log(&name))
            .env("MIRRORMESH_NODE_ID", address.id.to_string())
            .env("MIRRORMESH_DATA_DIR", data.display().to_string())
            .env("MIRRORMESH_API_LISTEN", &address.api)
            .env("MIRRORMESH_MESH_LISTEN", &address.mesh)
            .env("MIRRORMESH_METRICS_LISTEN", "127.0.0.1:0")
            .env("MIRRORMESH_INITIAL_MEMBERS", members.join(","))
            .spawn()
    }

    fn worker_process(&mut self, name: &str) -> Result<Process> {
        if !self.metrics.contains_key(name) {
            let port = free_ports(1)?.first().copied().context("no free port")?;
            self.metrics.insert(name.to_owned(), format!("127.0.0.1:{port}"));
        }
        let metrics = self.metrics.get(name).cloned().unwrap_or_default();
        let role = name.split('-').next().unwrap_or(name);
        let coordinators: Vec<String> = self.addresses.iter().map(|a| a.mesh.clone()).collect();
        Launch::new(binary(&format!("mirrormesh-{role}"))?, self.log(name))
            // As the image has it.
            .env("MALLOC_ARENA_MAX", "2")
            .env("MIRRORMESH_WORKER_ID", name)
            .env("MIRRORMESH_COORDINATORS", coordinators.join(","))
            .env("MIRRORMESH_METRICS_LISTEN", metrics)
            .spawn()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Starts a worker, or starts it again.
    pub fn start_worker(&mut self, name: &str) -> Result<()> {
        let process = self.worker_process(name)?;
        match self.workers.iter_mut().find(|(known, _)| known == name) {
            Some((_, slot)) => *slot = Some(process),
            None => self.workers.push((name.to_owned(), Some(process))),
        }
        Ok(())
    }

    /// Starts a coordinator again, with the data that it had.
    pub fn start_coordinator(&mut self, id: u64) -> Result<()> {
        let index = self.index(id)?;
        let process = self.coordinator_process(index)?;
        if let Some(slot) = self.coordinators.get_mut(index) {
            *slot = Some(process);
        }
        Ok(())
    }

    fn index(&self, id: u64) -> Result<usize> {
        self.addresses.iter().position(|a| a.id == id).with_context(|| format!("no coordinator {id}"))
    }

    /// Sends a signal to a worker; after SIGKILL it is reaped.
    pub fn signal_worker(&mut self, name: &str, signal: Signal) -> Result<()> {
        let slot = self.workers.iter_mut().find(|(known, _)| known == name).map(|(_, slot)| slot);
        let slot = slot.with_context(|| format!("no worker {name}"))?;
        send(slot, signal).with_context(|| format!("worker {name}"))
    }

    /// Sends a signal to a coordinator; after SIGKILL it is reaped.
    pub fn signal_coordinator(&mut self, id: u64, signal: Signal) -> Result<()> {
        let index = self.index(id)?;
        let slot = self.coordinators.get_mut(index).with_context(|| format!("no coordinator {id}"))?;
        send(slot, signal).with_context(|| format!("coordinator {id}"))
    }

    /// Process id of a worker, if it runs.
    pub fn worker_pid(&self, name: &str) -> Option<u32> {
        self.workers.iter().find(|(known, _)| known == name)?.1.as_ref().map(Process::pid)
    }

    /// The last lines of every log, for a failure's message.
    pub fn log_tails(&self) -> String {
        let processes =
            self.coordinators.iter().zip(&self.addresses).map(|(p, a)| (format!("coordinator-{}", a.id), p));
        let workers = self.workers.iter().map(|(name, p)| (name.clone(), p));
        processes
            .chain(workers)
            .filter_map(|(name, process)| process.as_ref().map(|p| format!("--- {name}\n{}", p.log_tail(20))))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Names of all workers, running or not.
    pub fn worker_names(&self) -> Vec<String> {
        self.workers.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Where a worker serves metrics and health, `host:port`.
    pub fn worker_metrics(&self, name: &str) -> Option<&str> {
        self.metrics.get(name).map(String::as_str)
    }
}

fn send(slot: &mut Option<Process>, signal: Signal) -> Result<()> {
    let process = slot.as_ref().context("does not run")?;
    if matches!(signal, Signal::Kill) {
        process.kill()?;
        *slot = None;
        return Ok(());
    }
    process.signal(signal)
}
