//! One node: its ports, its proxy and its process.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use parking_lot::{Mutex, MutexGuard};

use crate::ports::PortLease;
use crate::process::{Launch, Process, Signal};
use crate::proxy::Proxy;

/// A node's addresses stay the same over all its starts.
#[derive(Debug)]
pub(super) struct Node {
    direct: PortLease,
    controller: PortLease,
    proxied: Option<(PortLease, Proxy)>,
    /// The last process, running or ended. A lock, as clusters are shared between tests.
    process: Mutex<Option<Arc<Process>>>,
}

impl Node {
    pub(super) fn reserve(proxied: bool) -> Result<Self> {
        let proxied = if proxied {
            let behind = PortLease::reserve()?;
            let proxy = Proxy::start(behind.address())?;
            Some((behind, proxy))
        } else {
            None
        };
        Ok(Self {
            direct: PortLease::reserve()?,
            controller: PortLease::reserve()?,
            proxied,
            process: Mutex::default(),
        })
    }

    pub(super) fn direct_address(&self) -> String {
        self.direct.address()
    }

    pub(super) fn controller_address(&self) -> String {
        self.controller.address()
    }

    /// Where clients connect to.
    pub(super) fn client_address(&self) -> String {
        self.proxy().map_or_else(|| self.direct_address(), Proxy::address)
    }

    /// Where the broker listens for its proxy, and where the proxy listens.
    pub(super) fn proxied_addresses(&self) -> Option<(String, String)> {
        self.proxied.as_ref().map(|(behind, proxy)| (behind.address(), proxy.address()))
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxied.as_ref().map(|(_, proxy)| proxy)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock()
    }

    fn running(&self) -> Result<Arc<Process>> {
        self.slot().clone().filter(|process| process.is_running()).context("the broker does not run")
    }

    pub(super) fn start(&self, launch: &Launch) -> Result<()> {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|process| process.is_running()) {
            bail!("the broker runs already");
        }
        *slot = Some(Arc::new(launch.spawn()?));
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.running().ok().map(|process| process.pid())
    }

    /// How the last process ended, if it did.
    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        self.slot().as_ref().and_then(|process| process.exit_status())
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    pub(super) fn kill(&self) -> Result<()> {
        self.running()?.kill().map(drop)
    }

    pub(super) async fn stop(&self, timeout: Duration) -> Result<()> {
        self.running()?.terminate(timeout).await.map(drop)
    }
}
