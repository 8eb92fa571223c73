//! One group's committed offsets from round to round: which checkpoints are to be written.
//!
//! Owns MirrorMaker 2's rule of emission and what waits; does no IO.
//!
//! A committed offset may be ahead of what is known to be mirrored, and at a busy group it always is: by the time
//! that the mirror has come there, the group has gone on. So offsets wait, and the newest of them that can be
//! translated is taken: a checkpoint of where the group was, exact, a round later.

use std::collections::{BTreeMap, VecDeque};

use mirrormesh_core::flow::TopicRules;
use mirrormesh_core::format::mm2::Checkpoint;
use mirrormesh_core::ids::GroupId;
use mirrormesh_core::translate::{CheckpointState, Emitted, Translation};

/// Offsets that wait for one partition at most; the oldest and the newest are kept.
const WAITING_MAX: usize = 8;

/// An offset as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Negative where the group committed nothing.
    pub(crate) offset: i64,
    /// `""` where the group stored nothing.
    pub(crate) metadata: String,
}

/// What a round gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Round {
    /// To be written.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// Partitions whose newest offset waits for its record to be mirrored.
    pub(crate) pending: usize,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Rounds {
    group: GroupId,
    known: CheckpointState,
    waiting: BTreeMap<(String, i32), VecDeque<(i64, String)>>,
}

impl Rounds {
    /// A group with the checkpoints that were written for it before.
    pub(crate) fn new(group: GroupId, written: impl IntoIterator<Item = Checkpoint>) -> Self {
        let mut rounds = Self { group, known: CheckpointState::default(), waiting: BTreeMap::new() };
        for checkpoint in written {
            rounds.written(&checkpoint);
        }
        rounds
    }

    /// Takes the offsets that the group has committed now.
    pub(crate) fn round(
        &mut self,
        committed: Vec<Committed>,
        rules: &TopicRules,
        mut translate: impl FnMut(&str, i32, i64) -> Translation,
    ) -> Round {
        let mut round = Round::default();
        let mut before = std::mem::take(&mut self.waiting);
        for Committed { topic, partition, offset, metadata } in committed {
            if offset < 0 || !rules.selects(&topic) {
                continue;
            }
            let mut waiting = before.remove(&(topic.clone(), partition)).unwrap_or_default();
            wait(&mut waiting, offset, metadata);
            if let Some(checkpoint) = self.take(&mut waiting, rules, &topic, partition, &mut translate) {
                round.checkpoints.push(checkpoint);
            }
            if !waiting.is_empty() {
                round.pending += 1;
                self.waiting.insert((topic, partition), waiting);
            }
        }
        round
    }

    /// The newest waiting offset that can be translated, if it is to be written; older ones wait no more.
    fn take(
        &self,
        waiting: &mut VecDeque<(i64, String)>,
        rules: &TopicRules,
        topic: &str,
        partition: i32,
        translate: &mut impl FnMut(&str, i32, i64) -> Translation,
    ) -> Option<Checkpoint> {
        let mut newest_first = waiting.iter().enumerate().rev();
        let (index, downstream) = newest_first.find_map(|(index, (offset, _))| {
            match translate(topic, partition, *offset) {
                // Before the first record that was mirrored: reading from there skips nothing that is on the target.
                Translation::At(target) | Translation::TooOld(target) => Some((index, target)),
                Translation::NotYet => None,
            }
        })?;
        let (upstream, metadata) = waiting.drain(..=index).next_back()?;
        let target_topic = rules.checkpoint_topic(topic);
        let emitted = Emitted { upstream, downstream };
        self.known.should_emit(&target_topic, partition, emitted).then(|| Checkpoint {
            group: self.group.as_str().to_owned(),
            topic: target_topic,
            partition,
            upstream,
            downstream,
            metadata,
        })
    }

    /// A checkpoint was written.
    pub(crate) fn written(&mut self, checkpoint: &Checkpoint) {
        let emitted = Emitted { upstream: checkpoint.upstream, downstream: checkpoint.downstream };
        self.known.record(&checkpoint.topic, checkpoint.partition, emitted);
    }
}

/// Adds an offset to those that wait. A group that went back does not want the later ones any more.
fn wait(waiting: &mut VecDeque<(i64, String)>, offset: i64, metadata: String) {
    while waiting.back().is_some_and(|(last, _)| offset <= *last) {
        waiting.pop_back();
    }
    if waiting.len() == WAITING_MAX {
        waiting.pop_back();
    }
    waiting.push_back((offset, metadata));
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::flow::FlowSpec;
    use mirrormesh_core::ids::ClusterId;

    fn rules() -> TopicRules {
        let spec = FlowSpec {
            topics_exclude: vec!["secret.*".into()],
            ..FlowSpec::new(ClusterId::new("source1").unwrap(), ClusterId::new("target2").unwrap())
        };
        TopicRules::new(&spec, &std::collections::BTreeSet::new()).unwrap()
    }

    fn rounds() -> Rounds {
        Rounds::new(GroupId::new("g").unwrap(), [])
    }

    fn commit(topic: &str, offset: i64) -> Vec<Committed> {
        vec![Committed { topic: topic.into(), partition: 2, offset, metadata: "m".into() }]
    }

    /// Mirrored up to `end`, one to one.
    fn up_to(end: i64) -> impl FnMut(&str, i32, i64) -> Translation {
        move |_, _, offset| if offset <= end { Translation::At(offset) } else { Translation::NotYet }
    }

    fn upstreams(round: &Round) -> Vec<i64> {
        round.checkpoints.iter().map(|checkpoint| checkpoint.upstream).collect()
    }

    /// Writes what a round gave.
    fn settle(rounds: &mut Rounds, round: &Round) {
        round.checkpoints.iter().for_each(|checkpoint| rounds.written(checkpoint));
    }

    #[test]
    fn names_are_those_of_the_target() {
        let mut rounds = rounds();
        for (topic, target) in [
            ("topic3", "source1.topic3"),
            ("target2.topic3", "topic3"),
            ("source6.topic7", "source1.source6.topic7"),
        ] {
            let round = rounds.round(commit(topic, 4), &rules(), up_to(10));
            let expected = Checkpoint {
                group: "g".into(),
                topic: target.into(),
                partition: 2,
                upstream: 4,
                downstream: 4,
                metadata: "m".into(),
            };
            assert_eq!(round.checkpoints, [expected]);
        }
    }

    #[test]
    fn what_is_not_selected_or_not_committed_is_left_out() {
        let mut rounds = rounds();
        assert_eq!(rounds.round(commit("secret-1", 4), &rules(), up_to(10)), Round::default());
        assert_eq!(rounds.round(commit("t", -1), &rules(), up_to(10)), Round::default());
    }

    #[test]
    fn checkpoints_go_forward_unless_the_group_goes_back() {
        let written = Checkpoint {
            group: "g".into(),
            topic: "source1.t".into(),
            partition: 2,
            upstream: 250,
            downstream: 201,
            metadata: String::new(),
        };
        let mut rounds = Rounds::new(GroupId::new("g").unwrap(), [written]);
        let give = |rounds: &mut Rounds, upstream, downstream| {
            let round = rounds.round(commit("t", upstream), &rules(), |_, _, _| Translation::At(downstream));
            settle(rounds, &round);
            upstreams(&round)
        };
        assert!(give(&mut rounds, 250, 176).is_empty(), "the translation went back");
        assert!(give(&mut rounds, 370, 176).is_empty());
        assert_eq!(give(&mut rounds, 400, 376), [400]);
        assert!(give(&mut rounds, 400, 376).is_empty(), "nothing new");
        assert_eq!(give(&mut rounds, 399, 375), [399], "the group went back");
    }

    #[test]
    fn a_busy_group_gets_checkpoints_though_it_is_always_ahead() {
        let mut rounds = rounds();
        let mut seen = Vec::new();
        for step in 1..=5 {
            let round = rounds.round(commit("t", step * 100), &rules(), up_to(step * 100 - 50));
            assert_eq!(round.pending, 1);
            settle(&mut rounds, &round);
            seen.extend(upstreams(&round));
        }
        assert_eq!(seen, [100, 200, 300, 400]);
        let round = rounds.round(commit("t", 500), &rules(), up_to(500));
        assert_eq!((upstreams(&round), round.pending), (vec![500], 0));
    }

    #[test]
    fn a_group_that_goes_back_forgets_what_it_waited_for() {
        let mut rounds = rounds();
        assert_eq!(rounds.round(commit("t", 100), &rules(), up_to(0)).pending, 1);
        assert_eq!(rounds.round(commit("t", 40), &rules(), up_to(0)).pending, 1);
        assert!(rounds.waiting.values().all(|waiting| waiting.len() == 1));
        let round = rounds.round(commit("t", 40), &rules(), up_to(1_000));
        assert_eq!(upstreams(&round), [40]);
    }

    #[test]
    fn little_waits_and_the_oldest_is_not_starved() {
        let mut rounds = rounds();
        for offset in 1..=100 {
            assert_eq!(rounds.round(commit("t", offset), &rules(), up_to(0)).pending, 1);
        }
        let lengths: Vec<usize> = rounds.waiting.values().map(VecDeque::len).collect();
        assert_eq!(lengths, [WAITING_MAX]);
        assert_eq!(upstreams(&rounds.round(commit("t", 101), &rules(), up_to(1))), [1]);
        assert_eq!(upstreams(&rounds.round(commit("t", 101), &rules(), up_to(200))), [101]);
    }

    #[test]
    fn what_is_too_old_gets_the_earliest_known_place() {
        let round = rounds().round(commit("t", 3), &rules(), |_, _, _| Translation::TooOld(70));
        assert_eq!((round.checkpoints[0].upstream, round.checkpoints[0].downstream), (3, 70));
    }

    #[test]
    fn partitions_without_an_offset_wait_no_more() {
        let mut rounds = rounds();
        rounds.round(commit("t", 100), &rules(), up_to(0));
        rounds.round(Vec::new(), &rules(), up_to(0));
        assert!(rounds.waiting.is_empty());
    }
}
