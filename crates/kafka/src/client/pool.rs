//! Connections by broker and role.
//!
//! Owns reconnecting: at most one attempt at a time per broker and role, with growing pauses between attempts. Must not
//! know how a broker's address was found.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ConnectionRole;
use crate::backoff::Backoff;
use crate::config::{ExpectedCluster, Limits};
use crate::error::{Error, Result};
use crate::memory::Share;
use crate::wire::conn::Connection;

const RECONNECT_MIN: Duration = Duration::from_millis(10);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// A connection that lived this long was a good one: the next attempt need not wait.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Where a connection leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A broker of the cluster's metadata.
    Node(i32),
    /// An entry of the bootstrap servers: who answers there is not known.
    Bootstrap(usize),
}

/// All connections of a client.
pub(crate) struct Pool {
    client_id: String,
    limits: Limits,
    /// Whose brokers may answer.
    expected: Option<ExpectedCluster>,
    /// Held only to find a slot, never across an await.
    slots: Mutex<HashMap<(Target, ConnectionRole), Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    /// Attempts that have ended.
    attempts: AtomicU64,
    /// Held while connecting: whoever else wants the connection waits for the outcome.
    state: tokio::sync::Mutex<State>,
}

struct State {
    connection: Option<(Connection, Instant)>,
    backoff: Backoff,
    not_before: Option<Instant>,
    last_error: Option<Error>,
}

impl Default for State {
    fn default() -> Self {
        let backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        Self { connection: None, backoff, not_before: None, last_error: None }
    }
}

impl Pool {
    pub(crate) fn new(client_id: &str, limits: Limits, expected: Option<ExpectedCluster>) -> Self {
        Self { client_id: client_id.to_owned(), limits, expected, slots: Mutex::new(HashMap::new()) }
    }

    /// Whether a usable connection is there already.
    pub(crate) fn is_open(&self, target: Target, role: ConnectionRole) -> bool {
        let slot = self.slots.lock().get(&(target, role)).cloned();
        // A slot that is being connected counts as not open.
        slot.is_some_and(|slot| {
            slot.state
                .try_lock()
                .is_ok_and(|state| state.connection.as_ref().is_some_and(|(c, _)| !c.is_closed()))
        })
    }

    /// The connection to `target`, opened if need be. Its address may have changed since it was opened. What is read is
    /// charged to `memory`, the same at every call for one role.
    pub(crate) async fn get(
        &self,
        target: Target,
        role: ConnectionRole,
        address: &str,
        memory: Option<&Share>,
    ) -> Result<Connection> {
        let slot = Arc::clone(self.slots.lock().entry((target, role)).or_default());
        let attempts_before = slot.attempts.load(Ordering::Acquire);
        let mut state = slot.state.lock().await;
        if let Some((connection, _)) = &state.connection
            && !connection.is_closed()
            && connection.broker() == address
        {
            return Ok(connection.clone());
        }
        // Somebody tried while we waited: their failure is ours, or a row of waiters would each pay for an attempt.
        if slot.attempts.load(Ordering::Acquire) != attempts_before
            && let Some(error) = &state.last_error
        {
            return Err(error.clone());
        }
        let outcome = self.reconnect(&mut state, address, memory).await;
        slot.attempts.fetch_add(1, Ordering::Release);
        outcome
    }

    async fn reconnect(
        &self,
        state: &mut State,
        address: &str,
        memory: Option<&Share>,
    ) -> Result<Connection> {
        if let Some((_, since)) = state.connection.take()
            && since.elapsed() >= GOOD_AFTER
        {
            state.backoff.reset();
            state.not_before = None;
        }
        if let Some(not_before) = state.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        // Counted from the attempt's start, and before it: a caller that gives up must not allow a faster next one.
        state.not_before = Some(Instant::now() + state.backoff.delay());
        let memory = memory.cloned();
        let expected = self.expected.as_ref();
        match Connection::connect_within(address, &self.client_id, self.limits, memory, expected).await {
            Ok(connection) => {
                state.connection = Some((connection.clone(), Instant::now()));
                state.last_error = None;
                Ok(connection)
            }
            Err(error) => {
                tracing::debug!(broker = address, %error, "connecting failed");
                state.last_error = Some(error.clone());
                Err(error)
            }
        }
    }
}
