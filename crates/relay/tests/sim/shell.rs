//! The shell of an owner: carries out what its relay asks for, as the source service does, with delays and failures.

use mirrormesh_core::format::batch::entries;
use mirrormesh_core::ids::{ClusterId, TopicName};
use mirrormesh_core::registry::WriterKey;
use mirrormesh_relay::facts::Facts;
use mirrormesh_relay::machine::{Action, Ask, Notice, Relay, Setup, Told};
use mirrormesh_relay::page::SourcePage;
use mirrormesh_relay::resync::Step;

use crate::check::LIVENESS;
use crate::parts::{Event, Fetched, Fetching, Owner};
use crate::record::Fake;
use crate::world::World;

impl World {
    /// A new owner, with what the Raft log knows.
    pub fn assign(&mut self) {
        self.raft.number += 1;
        let o = self.owners.len();
        self.raft.owner = o;
        let setup = Setup {
            mesh_id: "m".to_owned(),
            target_servers: "target:9092".to_owned(),
            source: ClusterId::new("uk").unwrap(),
            flow: Self::flow(),
            topic: TopicName::new("s").unwrap(),
            partition: 0,
            number: self.raft.number,
            detail: self.raft.detail.clone(),
            rules: self.raft.rules,
            limits: self.knobs.limits,
        };
        let most = self.knobs.clock_skew_ms;
        let skew = self.rng.below(2 * most + 1) as i64 - most as i64;
        self.say(|| {
            format!("owner {o} gets assignment {}: {:?} {:?}", setup.number, setup.detail.begun, setup.rules)
        });
        self.owners.push(Owner {
            number: setup.number,
            rules: setup.rules,
            relay: Relay::new(setup),
            alive: true,
            paused_until: 0,
            skew,
            connection: None,
            leader_epoch: self.target.leader_epoch,
            fetching: None,
            stopped: None,
            released: false,
            version: 0,
            newest: None,
            unsure: false,
            said: Vec::new(),
            sent: false,
            notices: Vec::new(),
            refused: 0,
            seen_end: i64::MAX,
            acked: None,
        });
        self.at(0, Event::Tick(o));
    }

    /// Does everything that the relay wants done now.
    pub fn drive(&mut self, o: usize) {
        let now = self.owner_now(o);
        for turn in 0.. {
            let Some(action) = self.owners[o].relay.next(now, &Fake) else { break };
            self.act(o, action);
            if turn > 10_000 {
                self.checker
                    .fail(LIVENESS, format!("owner {o} never comes to rest: {:?}", self.owners[o].relay));
                return;
            }
        }
        let owner = &mut self.owners[o];
        if let Some(fetching) = owner.fetching.as_mut().filter(|f| !f.asked)
            && owner.relay.wants_records()
        {
            fetching.asked = true;
            let session = fetching.session;
            let delay = self.delay();
            self.at(delay, Event::FetchAt(o, session));
        }
    }

    fn act(&mut self, o: usize, action: Action) {
        match action {
            Action::Ask { id, ask } => {
                if let Some(told) = self.registries(o, &ask) {
                    self.owners[o].relay.told(id, told, &Fake);
                } else {
                    let delay = self.delay();
                    self.at(delay, Event::AskAt(o, id, ask));
                }
            }
            Action::Fetch { offset, read_committed, last_epoch } => {
                self.start_fetching(o, offset, read_committed, last_epoch);
            }
            Action::StopFetching => self.owners[o].fetching = None,
            Action::Append(append) => self.send(o, append),
            Action::Write(records) => self.write(o, records),
            Action::Begin(beginning) => {
                self.say(|| format!("owner {o} wants to begin {beginning:?}"));
                let delay = self.delay();
                self.at(delay, Event::BeginAt(o, beginning));
            }
            Action::Notice(notice) => {
                self.say(|| format!("owner {o} notices {notice:?}"));
                if let Some((from, to)) = doubled(&notice) {
                    self.checker.announce(from, to);
                    self.owners[o].unsure = true;
                    self.owners[o].said.push(to);
                }
                self.owners[o].notices.push(notice);
            }
            Action::Skipped(skip) => self.say(|| format!("owner {o} skips {skip:?}")),
            Action::Broken { reason, leader_moved } => {
                self.say(|| format!("owner {o} broke: {reason}"));
                if leader_moved {
                    self.owners[o].leader_epoch = self.target.leader_epoch;
                    self.owners[o].connection = None;
                }
            }
            Action::Wait { reason, attempt, .. } => {
                self.say(|| format!("owner {o} waits: {reason}, attempt {attempt}"));
                // Metadata is looked at again meanwhile.
                if self.owners[o].leader_epoch != self.target.leader_epoch {
                    self.owners[o].leader_epoch = self.target.leader_epoch;
                    self.owners[o].connection = None;
                }
                self.at(100 << attempt.min(4), Event::Resume(o));
            }
            Action::Stopped(stop) => {
                self.say(|| format!("owner {o} stopped: {stop:?}"));
                self.owners[o].stopped = Some(stop);
                self.at(1_000, Event::Operate(o));
            }
            Action::Released => {
                self.say(|| format!("owner {o} released"));
                self.owners[o].released = true;
                if self.raft.owner == o {
                    let delay = self.delay();
                    self.at(delay, Event::Assign);
                }
            }
        }
    }

    // Questions.

    pub fn ask_at(&mut self, o: usize, id: u64, ask: &Ask) {
        if self.hiccup(8) {
            return self.tell(o, id, Told::Failed("UNREACHABLE".to_owned(), "no answer".to_owned()));
        }
        let told = match ask {
            Ask::Facts => Told::Facts(Facts { source_by_name: self.knobs.by_name, ..self.target.facts }),
            Ask::SourceEnds => Told::SourceEnds(self.source.start, self.source.end),
            Ask::NewProducer => {
                self.raft.producers += 1;
                Told::Producer(self.raft.producers)
            }
            Ask::Locate(step) => self.locate(o, step),
            Ask::Origins(_) | Ask::Registry | Ask::Register(_) => return,
        };
        self.tell(o, id, told);
    }

    /// Questions about registries are answered at once: they are topics apart, of which no fault is modelled.
    fn registries(&mut self, o: usize, ask: &Ask) -> Option<Told> {
        Some(match ask {
            Ask::Origins(ids) => {
                Told::Origins(ids.iter().map(|id| (*id, super::source::origin(*id))).collect())
            }
            Ask::Registry => {
                let relay = &self.owners[o].relay;
                let producer_id = relay.generation().generation.producer_id;
                let topic = relay.detail().target_topic.clone();
                let key = WriterKey { producer_id, topic, partition: 0 };
                Told::Registry(Box::new(self.registry.seen(&key, "source")))
            }
            Ask::Register(records) => {
                for (key, value) in records.clone() {
                    self.registry.apply(0, key, value);
                }
                Told::Registered
            }
            _ => return None,
        })
    }

    fn tell(&mut self, o: usize, id: u64, told: Told) {
        let delay = self.delay();
        self.at(delay, Event::Told(o, id, told));
    }

    fn locate(&mut self, o: usize, step: &Step) -> Told {
        let failed = |what: &str| Told::Failed("UNEXPECTED".to_owned(), what.to_owned());
        match step {
            Step::Identity => Told::Identity(Some(self.source.topic), Some(self.target.topic)),
            Step::Positions => Told::Positions(self.stored(o)),
            Step::TargetEnds => {
                self.owners[o].version = self.checker.version;
                self.owners[o].sent = false;
                self.owners[o].unsure = false;
                self.owners[o].newest = self.checker.ledger.last().map(|m| m.generation);
                Told::TargetEnds(self.target.start, self.target.end, self.target.high_watermark)
            }
            Step::TargetRead(offset) => {
                Told::TargetRecords(self.target.read(*offset, self.knobs.fetch_bytes))
            }
            Step::Producer => {
                let id = self.owners[o].relay.generation().generation.producer_id;
                let known = self.target.producers.get(&id);
                if known.is_none() && self.checker.foreign && self.knobs.rules.sole_writer {
                    // The flow says that nobody else writes there, and where nothing else tells how far the mirror got it is
                    // taken at its word.
                    self.ended = Some("another writer where there is none");
                }
                Told::Remembered(known.map(|p| (p.epoch, p.batches.back().map_or(-1, |b| b.1))))
            }
            Step::SourceHistory(epoch) => Told::SourceHistory(self.source.epoch_end(*epoch)),
            Step::SourceRead { offset, last_epoch, .. } if self.source.parts_before(*last_epoch, *offset) => {
                failed("another history")
            }
            Step::SourceRead { offset, read_committed, .. } => {
                if !self.knobs.by_name && self.owners[o].relay.detail().source_topic_id != self.source.topic {
                    return failed("unknown topic id");
                }
                match self.source.fetch(*offset, *read_committed, self.knobs.fetch_bytes) {
                    Some(page) => Told::SourcePage(page),
                    None => Told::SourceOutOfRange,
                }
            }
            Step::SourceEnds => Told::SourceEnds(self.source.start, self.source.end),
            Step::Origins(_) | Step::Done(_) | Step::Lost(..) | Step::Stop(_) | Step::Again(_) => {
                failed("not a question")
            }
        }
    }

    pub fn told(&mut self, o: usize, id: u64, told: Told) {
        self.say(|| match &told {
            Told::TargetRecords(b) => format!("owner {o} told of {} bytes of the target", b.len()),
            Told::SourcePage(p) => format!("owner {o} told of {} bytes of the source", p.records.len()),
            Told::Positions(s) => format!(
                "owner {o} told positions {:?}",
                s.positions
                    .iter()
                    .map(|(s, p)| (*s, p.generation.epoch, p.count, p.source_offset, p.target_offset))
                    .collect::<Vec<_>>()
            ),
            told => format!("owner {o} told {told:?}"),
        });
        self.owners[o].relay.told(id, told, &Fake);
        self.drive(o);
    }

    // Fetching.

    fn start_fetching(&mut self, o: usize, offset: i64, committed: bool, last_epoch: i32) {
        self.say(|| format!("owner {o} fetches from {offset}, committed {committed}, epoch {last_epoch}"));
        self.sessions += 1;
        let session = self.sessions;
        let known = self.owners[o].relay.detail().source_topic_id;
        let fresh = !self.owners[o].sent;
        if fresh && self.owners[o].relay.generation().generation == self.raft.detail.begun.generation {
            if !self.knobs.facts.source_compacted {
                self.checker.found(offset, self.owners[o].version, &self.source);
            }
            self.checker.passed(offset, known, &self.source, "fetching goes on behind it");
        }
        let (epoch, topic) = (self.source.epoch, self.source.topic);
        self.owners[o].fetching =
            Some(Fetching { session, offset, committed, asked: false, epoch, last_epoch, topic });
    }

    pub fn fetch_at(&mut self, o: usize, session: u64) {
        let Some(fetching) = self.owners[o].fetching.as_ref().filter(|f| f.session == session) else {
            return;
        };
        let (offset, committed) = (fetching.offset, fetching.committed);
        // By topic id, as Kafka 3.1 and later have it; by name, a topic that is made again ends the session at least.
        let known = self.owners[o].relay.detail().source_topic_id;
        let other =
            fetching.topic != self.source.topic || (!self.knobs.by_name && known != self.source.topic);
        // A fetch tells the leader epoch that it knows: a new leader refuses it, whatever its log holds.
        let moved = fetching.epoch != self.source.epoch;
        // The broker compares the histories (Partition.readRecords, since Kafka 2.7).
        let parted = self.source.parts_before(fetching.last_epoch, offset);
        let fetched = if other || moved || parted || self.hiccup(2) {
            Fetched::Failed
        } else {
            match self.source.fetch(offset, committed, self.knobs.fetch_bytes) {
                Some(page) => Fetched::Page(Box::new(page)),
                None => Fetched::OutOfRange,
            }
        };
        let delay = self.delay();
        self.at(delay, Event::Fetched(o, session, fetched));
    }

    pub fn fetched(&mut self, o: usize, session: u64, fetched: Fetched) {
        let owner = &mut self.owners[o];
        let Some(fetching) = owner.fetching.as_mut().filter(|f| f.session == session) else { return };
        match fetched {
            Fetched::Page(page) => {
                let page: SourcePage = *page;
                let before = fetching.offset;
                for entry in entries(page.records.clone()).flatten() {
                    fetching.offset = fetching.offset.max(entry.next_offset());
                    fetching.last_epoch = -1;
                }
                fetching.asked = false;
                owner.seen_end = page.end_offset;
                let empty = fetching.offset == before;
                owner.relay.fetched(page, &Fake);
                if empty {
                    // A broker holds an empty fetch for a while.
                    owner.fetching.as_mut().unwrap().asked = true;
                    self.drive(o);
                    let wait = 20 + self.delay();
                    if self.owners[o].fetching.as_ref().is_some_and(|f| f.session == session) {
                        self.at(wait, Event::FetchAt(o, session));
                    }
                    return;
                }
            }
            Fetched::OutOfRange => {
                owner.fetching = None;
                owner.relay.out_of_range();
            }
            Fetched::Failed => {
                owner.fetching = None;
                owner.relay.source_failed("SOURCE_FAILED", "it failed");
            }
        }
        self.drive(o);
    }
}

/// Which target offsets a notice says to hold records twice.
fn doubled(notice: &Notice) -> Option<(i64, i64)> {
    if notice.reason != "RECORDS_DOUBLED" {
        return None;
    }
    let mut numbers = notice.message.split(' ').filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
