//! A source that goes back to what it had lost: an unclean election made a replica the leader that lacked the end of the
//! log, it took other records, and a second one makes the first replica the leader again, which never truncated its log.
//! What was read in between is lost, what was lost before is there, and no epoch that was read last is in its history.

use std::collections::BTreeMap;

use crate::check::{Checker, ORDER};
use crate::knobs::{Fault, Knobs};
use crate::rng::Rng;
use crate::source::{Batch, Gone, Source};

/// The log of the replica that does not lead.
#[derive(Debug)]
pub struct Other {
    log: Vec<Batch>,
    end: i64,
    history: Vec<(i32, i64)>,
}

impl Knobs {
    /// The source is changed by nothing else, and nothing tells what was mirrored but positions.
    pub fn go_back(&mut self, apart: &mut Rng) {
        (self.facts.source_compacted, self.facts.target_compacted, self.by_name) = (false, false, false);
        (self.transactions, self.last_epoch) = (0, false);
        self.batch_records = apart.pick(&[1, 2, 5]);
        self.fault_every_ms = apart.pick(&[300, 700, 1_500]);
        let others = [Fault::SourceRetain, Fault::SourceRecreate, Fault::SourceCompact, Fault::TargetCompact];
        self.faults.retain(|fault| !others.contains(fault));
        self.faults.extend([Fault::SourceTruncate, Fault::SourceReturn, Fault::SourceReturn]);
    }
}

impl Source {
    /// What the replica has that leads now, before it loses its end.
    pub fn keep_other(&mut self) {
        self.other = Some(Other { log: self.log.clone(), end: self.end, history: self.history.clone() });
    }

    /// An unclean election of the other replica; false if there is none.
    pub fn go_back(&mut self) -> bool {
        let Some(Other { log, end, history }) = self.other.take() else { return false };
        for batch in &self.log {
            Self::forget(&mut self.infos, batch, Gone::Truncated);
        }
        for (_, rec) in log.iter().flat_map(|batch| &batch.records) {
            self.infos[rec.uid as usize].gone = None;
        }
        let log = std::mem::replace(&mut self.log, log);
        let history = std::mem::replace(&mut self.history, history);
        self.other = Some(Other { log, end: std::mem::replace(&mut self.end, end), history });
        self.high_watermark = self.end;
        self.elect();
        true
    }
}

impl Checker {
    /// I3: of what the source has in the end, each record stands behind the one before, if it is looked at where it was
    /// appended last. What somebody said of may stand elsewhere.
    pub fn in_order_at_the_end(&mut self, source: &Source) {
        let there: BTreeMap<u64, i64> = self.ledger.iter().map(|m| (m.uid, m.offset)).collect();
        let mut before = (-1, 0);
        for (_, rec) in source.log.iter().flat_map(|batch| &batch.records) {
            let Some(offset) = there.get(&rec.uid).filter(|_| !self.is_announced(rec.uid)) else { continue };
            if *offset < before.0 {
                let message =
                    format!("record {} stands at {offset}, {} before it at {}", rec.uid, before.1, before.0);
                return self.fail(ORDER, message);
            }
            before = (*offset, rec.uid);
        }
    }
}
