//! What an owner stores outside of itself: positions on the target, generations in the Raft log.

use std::collections::BTreeMap;

use mirrormesh_core::position::{PositionKey, PositionKind, PositionValue};
use mirrormesh_core::unit::{Generation, PartitionGeneration};
use mirrormesh_relay::journal::Stored;
use mirrormesh_relay::machine::Beginning;

use crate::parts::Event;
use crate::world::World;

/// So many writes at most a lost or old state of the topic lacks.
const WRITES_LACKING: u64 = 6;

impl World {
    /// The positions that an owner is told. Now and then they are old: the broker that answers has not all of them yet.
    pub fn stored(&mut self, o: usize) -> Stored {
        let mut upto = self.positions.len();
        if !self.healing && self.apart.percent(self.knobs.stale_positions) {
            upto -= self.apart.below(1 + WRITES_LACKING.min(upto as u64)) as usize;
            let all = self.positions.len();
            self.say(|| format!("owner {o} is told {upto} of {all} writes of positions"));
        }
        let target = self.owners[o].relay.detail().target_topic_id;
        let mut stored = Stored::default();
        let state: BTreeMap<_, _> = self.positions[..upto].iter().map(|(key, value)| (key, value)).collect();
        for (key, value) in state {
            if key.target_topic_id != target {
                continue;
            }
            if let (PositionKind::Position { slot, .. }, Some(PositionValue::Position(p))) = (key.kind, value)
            {
                stored.positions.push((slot, p.clone()));
            }
        }
        stored
    }

    /// The topic of positions loses what was written last, though it was acknowledged; false if there is nothing.
    pub fn lose_stored(&mut self) -> bool {
        let most = WRITES_LACKING.min(self.positions.len() as u64);
        let lost = self.apart.below(1 + most) as usize;
        self.positions.truncate(self.positions.len() - lost);
        lost > 0
    }

    pub fn write(&mut self, o: usize, records: Vec<(PositionKey, Option<PositionValue>)>) {
        for (_, value) in &records {
            if let Some(PositionValue::Position(p)) = value {
                self.say(|| {
                    format!(
                        "owner {o} writes position n {} source {} target {}, {:?}",
                        p.count, p.source_offset, p.target_offset, p.source_epochs
                    )
                });
                if p.generation == self.raft.detail.begun.generation {
                    self.checker.position(p, self.target.high_watermark, &self.source);
                }
            }
        }
        let failing = self.now < self.writes_fail_until;
        let (applied, answered) = (!failing || self.rng.percent(50), !failing);
        let delay = self.delay();
        if applied {
            self.at(delay, Event::WriteAt(o, records, answered));
        }
        if !answered {
            self.at(delay + 100, Event::Written(o, false));
        }
    }

    pub fn write_at(&mut self, o: usize, records: Vec<(PositionKey, Option<PositionValue>)>, answered: bool) {
        self.positions.extend(records);
        if answered {
            let delay = self.delay();
            self.at(delay, Event::Written(o, true));
        }
    }

    /// The Raft log: only the present owner begins a generation; a repeat is answered alike.
    pub fn begin_at(&mut self, o: usize, beginning: &Beginning) {
        let present = self.raft.detail.begun;
        let answer = if self.owners[o].number != self.raft.number {
            Err(("ASSIGNMENT_CHANGED".to_owned(), "another owner has it".to_owned()))
        } else if beginning.after == present.generation {
            let Generation { producer_id, epoch } = beginning.after;
            let generation = match beginning.offered {
                Some(offered) if epoch == i16::MAX => Generation { producer_id: offered, epoch: 0 },
                _ => Generation { producer_id, epoch: epoch + 1 },
            };
            let begun = PartitionGeneration { generation, start: beginning.start };
            let own = self.raft.begun_by == Some(o);
            let refused = self.owners[o].refused > 1;
            let readable = self.owners[o].seen_end > beginning.start.source_offset;
            let acked = self.owners[o].acked == Some(beginning.after);
            let late = self.owners[o].newest.is_some_and(|newest| newest != beginning.after);
            let handed = own
                || acked
                || late
                || !beginning.notices.is_empty()
                || refused
                || !readable
                || self.owners[o].unsure
                || self.owners[o].said.contains(&beginning.start.target_offset);
            self.checker.handed_over(o, &beginning.after, handed);
            self.raft.begun_by = Some(o);
            self.raft.before = Some(beginning.after);
            self.raft.detail.begun = begun;
            self.say(|| format!("the Raft log begins {begun:?}"));
            self.checker.begun(begun, &beginning.notices, &self.source, self.target.bytes_min);
            Ok(begun)
        } else if self.raft.before == Some(beginning.after) && present.start == beginning.start {
            Ok(present)
        } else {
            Err(("GENERATION_CHANGED".to_owned(), "another generation is present".to_owned()))
        };
        let delay = self.delay();
        if answer.is_ok() && self.hiccup(50) {
            // The answer is lost: the worker asks again.
            let again = Beginning { ..beginning.clone() };
            self.at(delay + 500, Event::BeginAt(o, again));
            return;
        }
        self.at(delay, Event::Begun(o, answer));
    }
}
