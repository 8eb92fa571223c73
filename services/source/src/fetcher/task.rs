//! The task of a fetcher: which partition is fetched when, and on which of the two connections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use mirrormesh_kafka::wire::fetch::{FetchRequest, FetchResponse};
use mirrormesh_kafka::wire::fetch_session::{FetchBounds, FetchSession, Place};
use mirrormesh_kafka::{Client, ConnectionRole, Error};
use mirrormesh_runtime::clock::now_ms;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::lane::{Lane, Subscribed, at_most};
use super::{Fetched, FetcherLimits, Subscription, page_of, pause};
use crate::memory::Frame;

/// How long a broker may hold the session's fetch when it has nothing.
const WAIT_LONG: Duration = Duration::from_millis(500);
/// The same beside it: those that get ready next wait for this connection.
const WAIT_SHORT: Duration = Duration::from_millis(20);
/// A fetch asks for so much at least, however little memory is left.
const FETCH_BYTES_MIN: usize = 128 * 1024;
/// How often partitions that a throttle may hold are looked at.
const HELD_LOOK: Duration = Duration::from_millis(50);
/// How often subscriptions are looked for that nobody listens to any more.
const SWEEP: Duration = Duration::from_secs(1);

/// A fetch that came back.
struct Done {
    /// The session, if it was its fetch; else the partitions that were in it.
    of: Of,
    result: Result<FetchResponse, Error>,
    took: Duration,
}

enum Of {
    Session(Box<FetchSession>),
    Side(Vec<u64>),
}

pub(super) struct Task {
    client: Client,
    node_id: i32,
    limits: FetcherLimits,
    commands: mpsc::Receiver<Subscription>,
    wake: Arc<Notify>,
    subscriptions: BTreeMap<u64, Subscribed>,
    by_place: HashMap<Place, u64>,
    ready: BTreeSet<u64>,
    blocked: BTreeSet<u64>,
    next_id: u64,
    /// Where the next fetch beside the session begins in the row of partitions, so that each is first in its turn.
    first: u64,
    /// The session, while its fetch is not out.
    session: Option<Box<FetchSession>>,
    /// The session rests until then.
    rests_until: Option<Instant>,
    /// What left the session while its fetch was out.
    left: Vec<Place>,
    side_out: bool,
    /// Nothing in the fetch beside the session had anything the time before.
    side_quiet: bool,
    swept: Instant,
    /// When the session's fetch was last answered, ms since 1970: then the ends of all its partitions were seen.
    session_seen_ms: u64,
}

impl Task {
    pub(super) fn new(
        client: Client,
        node_id: i32,
        limits: FetcherLimits,
        commands: mpsc::Receiver<Subscription>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            client,
            node_id,
            limits,
            commands,
            wake,
            subscriptions: BTreeMap::new(),
            by_place: HashMap::new(),
            ready: BTreeSet::new(),
            blocked: BTreeSet::new(),
            next_id: 0,
            first: 0,
            session: Some(Box::default()),
            rests_until: None,
            left: Vec::new(),
            side_out: false,
            side_quiet: false,
            swept: Instant::now(),
            session_seen_ms: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut out: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        loop {
            while let Ok(subscription) = self.commands.try_recv() {
                self.add(subscription);
            }
            self.unblock();
            while let Some(fetch) = self.next_fetch() {
                out.push(fetch);
            }
            tokio::select! {
                Some(done) = out.next(), if !out.is_empty() => self.finish(done),
                command = self.commands.recv() => match command {
                    Some(subscription) => self.add(subscription),
                    None => return,
                },
                () = self.wake.notified() => {}
                () = rested(self.rests_until) => self.rests_until = None,
                // What they wait for may have happened at another broker.
                () = tokio::time::sleep(HELD_LOOK), if self.is_held() => {}
            }
        }
    }

    /// Partitions are left out that a throttle may hold.
    fn is_held(&self) -> bool {
        !self.blocked.is_empty() && self.limits.throttles.is_limited()
    }

    fn add(&mut self, wanted: Subscription) {
        let place = (Arc::clone(&wanted.topic), wanted.partition);
        if let Some(&earlier) = self.by_place.get(&place) {
            self.forget(earlier);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.by_place.insert(place, id);
        self.subscriptions.insert(id, Subscribed::new(wanted, &self.limits));
        self.ready.insert(id);
    }

    /// Takes a subscription out of everything.
    fn forget(&mut self, id: u64) -> Option<Subscribed> {
        let gone = self.subscriptions.remove(&id)?;
        self.ready.remove(&id);
        self.blocked.remove(&id);
        let place = (Arc::clone(&gone.wanted.topic), gone.wanted.partition);
        if gone.lane == Lane::Session {
            match &mut self.session {
                Some(session) => session.remove(&place),
                None => self.left.push(place.clone()),
            }
        }
        if self.by_place.get(&place) == Some(&id) {
            self.by_place.remove(&place);
        }
        Some(gone)
    }

    /// Lets those go on whose consumers have room again, and forgets those that nobody listens to.
    fn unblock(&mut self) {
        let subscriptions = &self.subscriptions;
        let seen_ms = self.session_seen_ms;
        let ended = |id: &u64| subscriptions.get(id).is_none_or(Subscribed::is_closed);
        let mut gone: Vec<u64> = self.blocked.iter().copied().filter(ended).collect();
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            gone = subscriptions.keys().copied().filter(ended).collect();
            subscriptions
                .values()
                .filter(|s| s.lane == Lane::Session)
                .for_each(|s| s.wanted.end.seen(seen_ms));
        }
        let has_room = |id: &u64| subscriptions.get(id).is_some_and(Subscribed::has_room);
        let free: Vec<u64> = self.blocked.iter().copied().filter(has_room).collect();
        for id in free {
            self.put(id, Lane::Ready);
        }
        for id in gone {
            self.forget(id);
        }
    }

    fn put(&mut self, id: u64, lane: Lane) {
        let Some(s) = self.subscriptions.get_mut(&id) else { return };
        s.lane = lane;
        self.ready.remove(&id);
        self.blocked.remove(&id);
        match lane {
            Lane::Ready => drop(self.ready.insert(id)),
            Lane::Blocked => drop(self.blocked.insert(id)),
            Lane::Session | Lane::Side => {}
        }
    }

    /// The next fetch, if there is anything to fetch and a connection for it.
    fn next_fetch(&mut self) -> Option<BoxFuture<'static, Done>> {
        // Those beside the session that are quiet are about to join it.
        let joins = self.side_out && self.side_quiet;
        let rests = self.rests_until.is_some();
        if let Some(mut session) = self.session.take_if(|_| !joins && !rests) {
            let (subscriptions, ready) = (&mut self.subscriptions, &mut self.ready);
            ready.retain(|id| match subscriptions.get_mut(id) {
                // A session tells of an end only when it moved: who does not know it yet would wait for ever.
                Some(s) if s.knows_end() => {
                    s.lane = Lane::Session;
                    session.set(s.request());
                    false
                }
                Some(_) => true,
                None => false,
            });
            if !session.is_empty() {
                return Some(self.fetch_session(session));
            }
            self.session = Some(session);
        }
        if self.side_out || self.ready.is_empty() || joins {
            return None;
        }
        Some(self.fetch_aside())
    }

    /// As much as there is memory for: what can't be read would hold up the whole connection.
    fn fetch_bytes(&self) -> i32 {
        let most = (self.limits.memory.left() / 2).max(FETCH_BYTES_MIN);
        let most = i32::try_from(most).unwrap_or(i32::MAX).min(self.limits.fetch_bytes);
        at_most(self.limits.throttles.fetch_bytes(), most)
    }

    fn fetch_session(&self, mut session: Box<FetchSession>) -> BoxFuture<'static, Done> {
        let bounds = FetchBounds {
            max_wait: WAIT_LONG,
            max_bytes: self.fetch_bytes(),
            read_committed: self.limits.read_committed,
        };
        let (client, node_id, memory) = (self.client.clone(), self.node_id, self.limits.memory.clone());
        Box::pin(async move {
            let began = Instant::now();
            let result = match client.connection_within(node_id, ConnectionRole::FetchSession, &memory).await
            {
                Ok(connection) => session.fetch(&connection, bounds).await,
                Err(error) => Err(error),
            };
            Done { of: Of::Session(session), result, took: began.elapsed() }
        })
    }

    fn fetch_aside(&mut self) -> BoxFuture<'static, Done> {
        let mut members: Vec<u64> = std::mem::take(&mut self.ready).into_iter().collect();
        let turn = members.partition_point(|id| *id < self.first);
        members.rotate_left(turn);
        self.first = members.first().map_or(0, |id| id + 1);
        self.side_out = true;
        self.side_quiet = true;
        let mut partitions = Vec::with_capacity(members.len());
        for id in &members {
            if let Some(s) = self.subscriptions.get_mut(id) {
                s.lane = Lane::Side;
                self.side_quiet &= s.quiet;
                partitions.push(s.request());
            }
        }
        let request = FetchRequest {
            max_wait: WAIT_SHORT,
            min_bytes: 1,
            max_bytes: self.fetch_bytes(),
            read_committed: self.limits.read_committed,
            partitions,
        };
        let (client, node_id, memory) = (self.client.clone(), self.node_id, self.limits.memory.clone());
        Box::pin(async move {
            let began = Instant::now();
            let result = match client.connection_within(node_id, ConnectionRole::FetchBeside, &memory).await {
                Ok(connection) => connection.fetch(&request).await,
                Err(error) => Err(error),
            };
            Done { of: Of::Side(members), result, took: began.elapsed() }
        })
    }

    fn finish(&mut self, done: Done) {
        let Done { of, result, took } = done;
        match of {
            Of::Session(mut session) => {
                for place in self.left.drain(..) {
                    session.remove(&place);
                }
                if result.is_err() {
                    session.clear();
                }
                let brought = result.as_ref().map_or(0, |response| response.frame_bytes);
                self.rests_until = pause::rest(session.len(), brought).map(|rest| Instant::now() + rest);
                self.session = Some(session);
                match result {
                    Ok(response) => {
                        self.session_seen_ms = now_ms();
                        self.distribute(response, Lane::Session, took);
                    }
                    Err(error) => {
                        let members = self.in_lane(Lane::Session);
                        self.lost(members, &error);
                    }
                }
            }
            Of::Side(members) => {
                self.side_out = false;
                match result {
                    Ok(response) => self.distribute(response, Lane::Side, took),
                    Err(error) => return self.lost(members, &error),
                }
                let now = now_ms();
                for id in members {
                    let Some(s) = self.subscriptions.get(&id).filter(|s| s.lane == Lane::Side) else {
                        continue;
                    };
                    s.wanted.end.seen(now);
                    self.release(id);
                }
            }
        }
    }

    fn in_lane(&self, lane: Lane) -> Vec<u64> {
        self.subscriptions.iter().filter(|(_, s)| s.lane == lane).map(|(id, _)| *id).collect()
    }

    fn lost(&mut self, members: Vec<u64>, error: &Error) {
        let text = error.to_string();
        for id in members {
            self.end(id, Fetched::Lost(text.clone()));
        }
    }

    fn distribute(&mut self, response: FetchResponse, lane: Lane, took: Duration) {
        let frame = Frame::new(response.frame_bytes);
        for partition in response.partitions {
            let place = (Arc::clone(&partition.topic), partition.partition);
            let Some(&id) = self.by_place.get(&place) else { continue };
            // What was subscribed anew meanwhile has nothing to do with this answer.
            let Some(s) = self.subscriptions.get_mut(&id).filter(|s| s.lane == lane) else { continue };
            if partition.diverging.is_some() {
                self.end(id, Fetched::Lost("the source's history parts before the offset".to_owned()));
                continue;
            }
            if !partition.error.is_ok() {
                self.end(id, Fetched::Refused(partition.error));
                continue;
            }
            let brought = partition.records.len();
            s.deliver(page_of(partition, self.limits.read_committed), &frame, &self.wake);
            s.learn(brought, took, &self.limits);
            self.stay_or_release(id, &place);
        }
    }

    /// A partition of the session stays in it, further on, while its consumer has room.
    fn stay_or_release(&mut self, id: u64, place: &Place) {
        let Some(s) = self.subscriptions.get(&id).filter(|s| s.lane == Lane::Session) else { return };
        let Some(session) = &mut self.session else { return };
        if s.has_room() {
            session.set(s.request());
        } else {
            session.remove(place);
            self.put(id, Lane::Blocked);
        }
    }

    fn release(&mut self, id: u64) {
        let room = self.subscriptions.get(&id).is_some_and(Subscribed::has_room);
        self.put(id, if room { Lane::Ready } else { Lane::Blocked });
    }

    fn end(&mut self, id: u64, last: Fetched) {
        if let Some(s) = self.forget(id) {
            // A subscriber that has no room or is gone finds the channel closed, which says the same.
            let _gone = s.wanted.pages.try_send(last);
        }
    }
}

async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
