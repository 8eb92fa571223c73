//! A source that loses its end just when the owner loses a connection: other records come to stand where those that are
//! still on their way to the target were read. Of two such batches the second fits behind whatever stands where the first
//! should, under the generation that the owner goes on with (`relay/machine/inherited.rs`).

use crate::knobs::{Fault, Knobs};
use crate::rng::Rng;
use crate::world::World;

impl Knobs {
    /// Batches of equal length, many of them on their way, and nothing that would part the generation otherwise.
    pub fn lose_ends(&mut self, apart: &mut Rng) {
        self.loses_end = true;
        (self.facts.source_compacted, self.facts.target_compacted, self.by_name) = (false, false, false);
        (self.old, self.transactions, self.last_epoch) = (0, 0, false);
        self.batch_records = apart.pick(&[1, 1, 1, 3]);
        self.record_bytes = apart.pick(&[40, 300]);
        self.fetch_bytes = apart.pick(&[400, 2_000]);
        self.limits.batches_max = apart.pick(&[5, 64]);
        self.limits.bytes_max = 8 << 20;
        self.fault_every_ms = apart.pick(&[700, 1_500]);
        self.faults = vec![Fault::Cut, Fault::Cut, Fault::SourceElect, Fault::Slow, Fault::Stall];
        self.faults.extend(apart.pick(&[None, Some(Fault::Crash), Some(Fault::Pause), Some(Fault::Restart)]));
    }
}

impl World {
    /// An owner gave up a connection with so many batches on their way.
    pub fn lose_end(&mut self, o: usize, batches: usize) {
        if !self.knobs.loses_end || self.healing || o != self.raft.owner || batches < 2 {
            return;
        }
        let now = self.owner_now(o);
        let at = self.owners[o].relay.figures(now).source_offset;
        if at <= self.source.start || at >= self.source.end || self.produced + 40 > self.knobs.records {
            return;
        }
        self.source.truncate(at);
        self.checker.source_cut = true;
        for _ in 0..self.apart.within(1, 6) {
            self.produce();
        }
        self.source.high_watermark = self.source.end;
        let (end, epoch) = (self.source.end, self.source.epoch);
        self.say(|| format!("source: an unclean election at {at}, ends at {end}, epoch {epoch}"));
        self.happened.insert(Fault::SourceTruncate);
        self.fired.push(Fault::SourceTruncate);
    }

    /// When what is on its way arrives: while the owner looks for its place, or soon after.
    pub fn strays_of_lost_end(&mut self, batches: usize) -> Option<(u64, u64)> {
        let soon = self.apart.below(24 * self.knobs.delay_ms);
        self.knobs.loses_end.then_some((batches as u64, soon))
    }
}
