//! A target broker that loses the end of its log and comes back as the leader of the same connections: what is sent on them
//! is taken behind what is left, since a produce request names no leader epoch. With old records, the target has forgotten
//! the flow besides, and takes any sequence.

use crate::knobs::{Fault, Knobs};
use crate::rng::Rng;
use crate::world::World;

impl Knobs {
    /// Losses of the target's end, while little is on its way and most of it is written down.
    pub fn come_back(&mut self, apart: &mut Rng) {
        self.comes_back = true;
        (self.facts.source_compacted, self.facts.target_compacted, self.by_name) = (false, false, false);
        (self.facts.target_append_time, self.last_epoch, self.rules.skip_mirrored) = (false, false, false);
        self.old = apart.pick(&[0, 50, 100, 100]);
        self.expiry_check_ms = apart.pick(&[200, 500, 2_000]);
        self.batch_records = apart.pick(&[1, 1, 2, 5]);
        self.tick_ms = apart.pick(&[100, 300, 1_000]);
        self.fault_every_ms = apart.pick(&[700, 1_500, 3_000]);
        self.faults = vec![Fault::TargetTruncate; 3];
        self.faults.extend([Fault::Cut, Fault::Crash, Fault::Elect]);
        self.faults.extend(apart.pick(&[None, Some(Fault::Pause), Some(Fault::DuplicateOwner)]));
        if !self.rules.sole_writer {
            self.faults.extend([Fault::Foreign; 2]);
        }
    }
}

impl World {
    /// The broker that led before leads again, whatever happened meanwhile.
    pub fn come_back(&mut self) {
        if !self.knobs.comes_back || self.apart.percent(40) {
            return;
        }
        self.checker.refilled |= self.checker.target_lost;
        let epoch = self.target.leader_epoch;
        for connection in &mut self.connections {
            if connection.leader_epoch == epoch - 1 {
                connection.leader_epoch = epoch;
            }
        }
    }
}
