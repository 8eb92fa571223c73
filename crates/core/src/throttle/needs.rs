//! What a partition's part of a throttle is worth: those that wait share what the others leave.
//!
//! Owns the weights that a limit is divided by among workers. A partition that waits, or of which nothing is known,
//! weighs most; one that gets along with less weighs at least what it takes, so that it keeps room to grow and never
//! less than its even part when it does wait. Weights are coarse and don't follow small changes: each change of a share
//! is sent to the workers. Must not know who owns what.

use std::collections::BTreeMap;

use super::Throttle;
use crate::ids::{FlowId, TopicName};

/// Of a partition that takes all it gets.
const WEIGHT_MAX: u32 = 256;
/// The weights below.
const STEPS: [u32; 4] = [1, 4, 16, 64];
/// A weight holds this many times what the partition takes, in halves: at least, and at most before it sinks.
const ROOM_HALVES: (u128, u128) = (3, 12);

/// What a partition takes, and whether it would take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// A throttle holds it back.
    pub waits: bool,
    /// Bytes mirrored per second.
    pub bytes_per_second: u64,
    /// Records mirrored per second.
    pub records_per_second: u64,
}

/// How much one partition counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Where the flow's limit is shared.
    pub of_flow: u32,
    /// Where its topic's limit is shared.
    pub of_topic: u32,
}

impl Default for Weight {
    fn default() -> Self {
        Self { of_flow: WEIGHT_MAX, of_topic: WEIGHT_MAX }
    }
}

/// The weights of one flow's partitions; one that is not named weighs most.
pub type FlowWeights = BTreeMap<TopicName, BTreeMap<i32, Weight>>;

/// The weights of all partitions of throttled flows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weights(BTreeMap<FlowId, FlowWeights>);

impl Weights {
    /// Of one partition.
    pub fn of(&self, flow: &FlowId, topic: &TopicName, partition: i32) -> Weight {
        let known = self.0.get(flow).and_then(|flow| flow.get(topic));
        known.and_then(|topic| topic.get(&partition)).copied().unwrap_or_default()
    }

    /// Of one flow, if any of its partitions weighs less than most.
    pub fn of_flow(&self, flow: &FlowId) -> Option<&FlowWeights> {
        self.0.get(flow)
    }

    /// Sets those of one flow.
    pub fn put(&mut self, flow: &FlowId, weights: FlowWeights) {
        if !weights.is_empty() {
            self.0.insert(flow.clone(), weights);
        }
    }
}

/// The needs of the partitions of one topic, and the topic's limit.
#[derive(Debug, Clone, Default)]
pub struct TopicNeeds {
    /// The topic's own limit.
    pub throttle: Throttle,
    /// By partition; `None` where nothing is known.
    pub partitions: BTreeMap<i32, Option<Need>>,
}

impl TopicNeeds {
    /// The topic takes nearly all that its own limit allows: what its partitions wait for is not the flow's limit.
    fn is_at_its_limit(&self) -> bool {
        let known = || self.partitions.values().flatten();
        let bytes: u64 = known().map(|need| need.bytes_per_second).sum();
        let records: u64 = known().map(|need| need.records_per_second).sum();
        let near = |rate: u64, limit: u64| rate >= limit / 4 * 3;
        self.throttle.bytes_per_second.is_some_and(|limit| near(bytes, limit.get()))
            || self.throttle.records_per_second.is_some_and(|limit| near(records, limit.get()))
    }
}

/// What the partitions of one flow weigh, under the flow's limit and by what they weighed before.
pub fn weigh(
    throttle: Throttle,
    topics: &BTreeMap<&TopicName, TopicNeeds>,
    before: Option<&FlowWeights>,
) -> FlowWeights {
    let all = topics.values().map(|topic| topic.partitions.len()).sum();
    let mut weights = FlowWeights::new();
    for (&name, topic) in topics {
        let before = before.and_then(|before| before.get(name));
        let at_limit = topic.is_at_its_limit();
        for (partition, need) in &topic.partitions {
            let before = before.and_then(|topic| topic.get(partition)).copied().unwrap_or_default();
            let in_flow = need.map(|need| Need { waits: need.waits && !at_limit, ..need });
            let weight = Weight {
                of_flow: weight(in_flow, throttle, all, before.of_flow),
                of_topic: weight(*need, topic.throttle, topic.partitions.len(), before.of_topic),
            };
            if weight != Weight::default() {
                weights.entry(name.clone()).or_default().insert(*partition, weight);
            }
        }
    }
    weights
}

/// What one of so many partitions weighs. An even part of the limit is worth [`WEIGHT_MAX`].
fn weight(need: Option<Need>, throttle: Throttle, partitions: usize, before: u32) -> u32 {
    let Some(need) = need.filter(|need| !need.waits && throttle != Throttle::NONE) else {
        return WEIGHT_MAX;
    };
    let halves = |rate: u64, limit: u64, room: u128| {
        let even_parts = u128::from(rate) * u128::try_from(partitions).unwrap_or(u128::MAX);
        even_parts.saturating_mul(u128::from(WEIGHT_MAX) * room) / (2 * u128::from(limit.max(1)))
    };
    let at_least = |room| {
        let bytes = throttle.bytes_per_second.map(|limit| halves(need.bytes_per_second, limit.get(), room));
        let records =
            throttle.records_per_second.map(|limit| halves(need.records_per_second, limit.get(), room));
        let needed = bytes.max(records).unwrap_or(0);
        STEPS.into_iter().find(|step| u128::from(*step) >= needed).unwrap_or(WEIGHT_MAX)
    };
    before.clamp(at_least(ROOM_HALVES.0), at_least(ROOM_HALVES.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn limit(bytes: u64) -> Throttle {
        Throttle { bytes_per_second: NonZeroU64::new(bytes), ..Throttle::NONE }
    }

    fn takes(bytes_per_second: u64) -> Need {
        Need { bytes_per_second, ..Need::default() }
    }

    fn waits(bytes_per_second: u64) -> Need {
        Need { waits: true, bytes_per_second, ..Need::default() }
    }

    /// Rounds of looking: a partition gets what it weighs, of the limit, and takes as much of it as it wants.
    fn settle(limit_bytes: u64, wants: &[u64], rounds: usize) -> (Vec<u64>, Vec<FlowWeights>) {
        let name = TopicName::new("t").unwrap();
        let (mut before, mut taken) = (FlowWeights::new(), vec![0; wants.len()]);
        let mut seen = Vec::new();
        for _ in 0..rounds {
            let of = |p: usize| {
                let topic = before.get(&name);
                topic.and_then(|t| t.get(&i32::try_from(p).unwrap())).copied().unwrap_or_default().of_flow
            };
            let all: u64 = (0..wants.len()).map(|p| u64::from(of(p))).sum();
            let gets: Vec<u64> = (0..wants.len()).map(|p| limit_bytes * u64::from(of(p)) / all).collect();
            let needs = wants
                .iter()
                .zip(&gets)
                .map(|(&want, &gets)| Some(if want > gets { waits(gets) } else { takes(want) }));
            let partitions = (0..).zip(needs).collect();
            taken = wants.iter().zip(&gets).map(|(&want, &gets)| want.min(gets)).collect();
            let topics = BTreeMap::from([(&name, TopicNeeds { throttle: Throttle::NONE, partitions })]);
            before = weigh(limit(limit_bytes), &topics, Some(&before));
            seen.push(before.clone());
        }
        (taken, seen)
    }

    #[test]
    fn what_quiet_partitions_leave_goes_to_those_that_wait() {
        let mut wants = vec![0; 15];
        wants.push(u64::MAX / 1_000);
        let (taken, seen) = settle(16_000_000, &wants, 6);
        assert!(taken[15] > 15_000_000, "{taken:?}");
        assert!(seen.windows(2).skip(2).all(|pair| pair[0] == pair[1]), "it stays so: {seen:?}");
    }

    #[test]
    fn who_gets_along_with_less_has_it_and_two_that_wait_have_the_same() {
        let (taken, seen) = settle(9_000_000, &[1_000_000, 100_000_000, 100_000_000, 20_000], 6);
        assert_eq!((taken[0], taken[3]), (1_000_000, 20_000));
        assert_eq!(taken[1], taken[2]);
        assert!(taken[1] > 2_500_000, "{taken:?}");
        assert!(seen.windows(2).skip(2).all(|pair| pair[0] == pair[1]), "it stays so: {seen:?}");
        // All wait: even parts.
        let (taken, _) = settle(9_000_000, &[100_000_000; 3], 3);
        assert_eq!(taken, [3_000_000; 3]);
    }

    #[test]
    fn a_weight_does_not_follow_small_changes() {
        let even = 1_000_000;
        let weight = |rate, before| weight(Some(takes(rate)), limit(4 * even), 4, before);
        assert_eq!(weight(0, WEIGHT_MAX), 1);
        assert_eq!(weight(30_000, WEIGHT_MAX), 64, "six times as much must fit before it sinks");
        assert_eq!((weight(30_000, 64), weight(30_000, 16), weight(30_000, 1)), (64, 16, 16));
        assert_eq!(weight(45_000, 16), 64, "one and a half times as much has to fit");
        assert_eq!(weight(900_000, 1), WEIGHT_MAX);
        assert_eq!(weight(u64::MAX, 1), WEIGHT_MAX);
    }

    #[test]
    fn a_topic_at_its_own_limit_waits_for_no_more_of_the_flows() {
        let name = TopicName::new("t").unwrap();
        let partitions = BTreeMap::from([(0, Some(waits(900))), (1, Some(takes(0)))]);
        let topics =
            |throttle| BTreeMap::from([(&name, TopicNeeds { throttle, partitions: partitions.clone() })]);
        let weights = weigh(limit(1_000_000), &topics(limit(1_000)), None);
        assert_eq!(weights[&name][&0], Weight { of_flow: 4, of_topic: WEIGHT_MAX });
        assert_eq!(weights[&name][&1], Weight { of_flow: 1, of_topic: 1 });
        let weights = weigh(limit(1_000_000), &topics(limit(10_000)), None);
        assert!(!weights[&name].contains_key(&0), "it waits for the flow's, and weighs most");
        assert!(weigh(Throttle::NONE, &topics(Throttle::NONE), None).is_empty(), "nothing to share");
        let unknown = BTreeMap::from([(0, None)]);
        let topics = BTreeMap::from([(&name, TopicNeeds { throttle: limit(1), partitions: unknown })]);
        assert!(weigh(limit(1), &topics, None).is_empty(), "not known, so it weighs most");
    }

    #[test]
    fn records_count_like_bytes() {
        let throttle = Throttle { records_per_second: NonZeroU64::new(1_000), ..Throttle::NONE };
        let need = Need { records_per_second: 600, bytes_per_second: 1, waits: false };
        assert_eq!(weight(Some(need), throttle, 2, 1), WEIGHT_MAX);
        assert_eq!(weight(Some(Need { records_per_second: 1, ..need }), throttle, 2, WEIGHT_MAX), 4);
    }
}
