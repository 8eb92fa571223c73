//! When a checkpoint is emitted (`MirrorCheckpointTask.checkpointsForGroup`).

use std::collections::BTreeMap;

/// A checkpoint of one partition of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// Committed source offset.
    pub upstream: i64,
    /// Its translation.
    pub downstream: i64,
}

/// The newest checkpoint of each partition of one group, by target topic and partition.
#[derive(Debug, Clone, Default)]
pub struct CheckpointState {
    emitted: BTreeMap<(String, i32), Emitted>,
}

impl CheckpointState {
    /// Is this checkpoint to be emitted? Yes if none is known, the group went back on the source, or the translation
    /// went forward; so a reader never sees it go back while the group did not.
    pub fn should_emit(&self, topic: &str, partition: i32, new: Emitted) -> bool {
        match self.emitted.get(&(topic.to_owned(), partition)) {
            None => true,
            Some(last) => new.upstream < last.upstream || new.downstream > last.downstream,
        }
    }

    /// Remembers one that was written, or was read back at the start.
    pub fn record(&mut self, topic: &str, partition: i32, emitted: Emitted) {
        self.emitted.insert((topic.to_owned(), partition), emitted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_or_rewound_is_emitted_and_nothing_else() {
        let mut state = CheckpointState::default();
        let at = |upstream, downstream| Emitted { upstream, downstream };
        assert!(state.should_emit("t", 0, at(5, 5)));
        state.record("t", 0, at(5, 5));
        assert!(!state.should_emit("t", 0, at(5, 5)));
        assert!(!state.should_emit("t", 0, at(6, 5)));
        assert!(state.should_emit("t", 0, at(6, 6)));
        assert!(state.should_emit("t", 0, at(2, 2)), "rewound group");
        assert!(state.should_emit("t", 1, at(1, 1)));
    }
}
