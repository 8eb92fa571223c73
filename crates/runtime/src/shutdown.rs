//! Stopping a process in good order.
//!
//! Owns the token that says "stop" and the signal handlers that pull it. It must not know what
//! stops: everyone who runs holds a [`Shutdown`] and ends when it is cancelled.

use std::future::Future;
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Says when to stop. Clones share one state; children stop with their parent, not the reverse.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Installs handlers for SIGTERM and SIGINT that trigger this shutdown. A second signal ends
    /// the process at once with 128 + the signal's number.
    ///
    /// The handlers work as long as the returned guard lives. Must be called inside a tokio runtime.
    pub fn on_signals(&self) -> io::Result<SignalGuard> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        let task = tokio::spawn(async move {
            let mut next = async move || {
                tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", SignalKind::terminate()),
                    _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
                }
            };
            let (name, _) = next().await;
            info!(signal = name, "stopping, a second signal ends the process at once");
            shutdown.trigger();
            let (name, kind) = next().await;
            warn!(signal = name, "second signal, ending at once");
            std::process::exit(128 + kind.as_raw_value());
        });
        Ok(SignalGuard { task })
    }

    /// Asks everyone to stop. Calling it again changes nothing.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Waits until someone has asked to stop. Cancel safe.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Like [`Shutdown::cancelled`], as a future that borrows nothing.
    pub fn cancelled_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Whether someone has asked to stop.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// A shutdown for a part: it stops with this one, and stopping it leaves this one alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// The token itself, for code that takes one.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// Keeps the signal handlers of [`Shutdown::on_signals`] at work.
#[must_use = "signals are no longer handled once the guard is dropped"]
#[derive(Debug)]
pub struct SignalGuard {
    task: JoinHandle<()>,
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_reverse() {
        let parent = Shutdown::new();
        let (first, second) = (parent.child(), parent.child());
        first.trigger();
        first.cancelled().await;
        assert!(!parent.is_triggered());
        assert!(!second.is_triggered());
        parent.clone().trigger();
        second.cancelled().await;
        assert!(parent.is_triggered());
    }
}
