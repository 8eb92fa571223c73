//! One record from (seed, topic, number). Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Content, TopicPlan};

/// Filler comes from here: compressible by about half, as real text is.
const POOL_BYTES: usize = 64 * 1024;
/// Records that share a millisecond.
const RECORDS_PER_MS: u64 = 16;

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `SplitMix64`: a good 64-bit number from any other one.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A source of numbers from a seed; the same on every machine and in every version.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = mix(self.0);
        self.0
    }

    /// Less than `bound`, which must not be 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }
}

/// A header of a made record.
pub type Header = (&'static str, Option<Vec<u8>>);

/// A made record; its buffers are used again for the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Partition.
    pub partition: i32,
    /// Timestamp in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, if `has_key`.
    pub key: Vec<u8>,
    /// Whether the key is not null.
    pub has_key: bool,
    /// Value, if `has_value`.
    pub value: Vec<u8>,
    /// Whether the value is not null.
    pub has_value: bool,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl Made {
    /// The key; `None` is null.
    pub fn key(&self) -> Option<&[u8]> {
        self.has_key.then_some(&self.key)
    }

    /// The value; `None` is null.
    pub fn value(&self) -> Option<&[u8]> {
        self.has_value.then_some(&self.value)
    }
}

/// Makes the records of one topic.
#[derive(Debug, Clone)]
pub struct Maker {
    seed: u64,
    partitions: i32,
    value_bytes: usize,
    content: Content,
    abort_ratio: f64,
    first_timestamp_ms: i64,
    pool: Vec<u8>,
}

impl Maker {
    /// For a topic of a workload with this seed and first timestamp.
    pub fn new(seed: u64, first_timestamp_ms: i64, plan: &TopicPlan) -> Self {
        let seed = mix(seed ^ u64::from(crc32c::crc32c(plan.name.as_bytes())));
        let mut dice = Dice(seed);
        let words: Vec<u64> = (0..64).map(|_| dice.roll()).collect();
        let mut pool = Vec::with_capacity(POOL_BYTES);
        while pool.len() < POOL_BYTES {
            // Half noise, half one of a few words.
            let word = words.get(dice.below(words.len())).copied().unwrap_or(0);
            pool.extend(dice.roll().to_le_bytes());
            pool.extend(word.to_le_bytes());
        }
        Self {
            seed,
            partitions: plan.partitions.max(1),
            value_bytes: plan.value_bytes,
            content: plan.content,
            abort_ratio: plan.transactional.map_or(0.0, |transactions| transactions.abort_ratio),
            first_timestamp_ms,
            pool,
        }
    }

    /// Whether transaction `number` is aborted.
    pub fn aborts(&self, number: u64) -> bool {
        // 53 bits, as many as a double holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let drawn = (mix(self.seed ^ mix(number)) >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < self.abort_ratio
    }

    /// Fills `made` with record `number` of the topic.
    pub fn make(&self, number: u64, made: &mut Made) {
        let mut dice = Dice(mix(self.seed.wrapping_add(number)));
        made.partition = i32::try_from(number % u64::from(self.partitions.unsigned_abs())).unwrap_or(0);
        made.timestamp_ms = self.first_timestamp_ms + i64::try_from(number / RECORDS_PER_MS).unwrap_or(0);
        made.headers.clear();
        made.key.clear();
        made.value.clear();
        made.has_key = true;
        made.has_value = true;
        match self.content {
            Content::Plain => {
                made.key.extend(number.to_be_bytes());
                self.fill(number, self.value_bytes, &mut dice, &mut made.value);
            }
            Content::Mixed => self.make_mixed(number, &mut dice, made),
            Content::Random => {
                made.key.extend(number.to_be_bytes());
                made.value.extend(number.to_be_bytes());
                while made.value.len() < self.value_bytes {
                    made.value.extend(dice.roll().to_le_bytes());
                }
                made.value.truncate(self.value_bytes.max(size_of::<u64>()));
            }
        }
    }

    fn make_mixed(&self, number: u64, dice: &mut Dice, made: &mut Made) {
        // Producers may give any timestamps: some step back by up to a tenth of a second.
        if dice.percent(10) {
            made.timestamp_ms -= i64::try_from(dice.below(100)).unwrap_or(0);
        }
        match dice.below(100) {
            0..10 => made.has_key = false,
            10..12 => {}
            // Keys repeat, as they do in compacted topics.
            _ => made.key.extend(format!("key-{}", dice.below(1000)).bytes()),
        }
        match dice.below(100) {
            0..8 => made.has_value = false,
            8..10 => {}
            _ => {
                let length = 1 + dice.below(self.value_bytes.max(1) * 2);
                self.fill(number, length, dice, &mut made.value);
            }
        }
        // What can't hold its number in the value holds it in a header.
        if made.value.len() < size_of::<u64>() {
            made.headers.push(("seq", Some(number.to_be_bytes().to_vec())));
        }
        for _ in 0..dice.below(4).min(3 - made.headers.len()) {
            let key = ["trace-id", "source", "kind"].get(dice.below(3)).copied().unwrap_or("kind");
            let value = match dice.below(10) {
                0 => None,
                1 => Some(Vec::new()),
                _ => Some(dice.roll().to_be_bytes().to_vec()),
            };
            made.headers.push((key, value));
        }
    }

    /// The number first, then filler; just filler where the number doesn't fit.
    fn fill(&self, number: u64, length: usize, dice: &mut Dice, value: &mut Vec<u8>) {
        if length >= size_of::<u64>() {
            value.extend(number.to_be_bytes());
        }
        while value.len() < length {
            let start = dice.below(POOL_BYTES);
            let end = POOL_BYTES.min(start + length - value.len());
            value.extend_from_slice(self.pool.get(start..end).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn made(maker: &Maker, number: u64) -> Made {
        let mut made = Made::default();
        maker.make(number, &mut made);
        made
    }

    #[test]
    fn the_seed_decides() {
        let plan = TopicPlan::new("t", 3, 0).mixed();
        let one = Maker::new(1, 0, &plan);
        let two = Maker::new(2, 0, &plan);
        assert!((0..1000).all(|n| made(&one, n) == made(&Maker::new(1, 0, &plan), n)));
        assert!((0..1000).any(|n| made(&one, n) != made(&two, n)));
    }

    #[test]
    fn mixed_records_hold_every_kind_and_differ() {
        let maker = Maker::new(7, 1_000_000, &TopicPlan::new("t", 1, 0).mixed());
        let all: Vec<_> = (0..20_000).map(|n| made(&maker, n)).collect();
        let count = |test: &dyn Fn(&Made) -> bool| all.iter().filter(|m| test(m)).count();
        assert!(count(&|m| m.key().is_none()) > 1000);
        assert!(count(&|m| m.key() == Some(&[])) > 100);
        assert!(count(&|m| m.value().is_none()) > 1000);
        assert!(count(&|m| m.value() == Some(&[])) > 100);
        assert!(count(&|m| m.headers.is_empty()) > 1000);
        assert!(count(&|m| m.headers.len() == 3) > 1000);
        assert!(count(&|m| m.headers.iter().any(|(_, v)| v.is_none())) > 100);
        assert!(count(&|m| m.headers.iter().any(|(_, v)| v.as_ref().is_some_and(Vec::is_empty))) > 100);
        let distinct: BTreeSet<_> = all
            .iter()
            .map(|m| (m.key().map(<[u8]>::to_vec), m.value().map(<[u8]>::to_vec), m.headers.clone()))
            .collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn plain_records_are_exact() {
        let maker = Maker::new(7, 5, &TopicPlan::new("t", 4, 0).value_bytes(1024));
        let record = made(&maker, 33);
        assert_eq!(record.partition, 1);
        assert_eq!(record.timestamp_ms, 7);
        assert_eq!((record.key.len(), record.value.len(), record.headers.len()), (8, 1024, 0));
    }

    #[test]
    fn random_records_are_exact_and_share_nothing() {
        let maker = Maker::new(7, 5, &TopicPlan::new("t", 4, 0).value_bytes(101).random());
        let values: Vec<_> = (0..10_000).map(|n| made(&maker, n).value).collect();
        assert!(values.iter().all(|value| value.len() == 101));
        for at in [8, 16, 50, 85, 93] {
            let words: BTreeSet<_> = values.iter().map(|value| &value[at..at + 8]).collect();
            assert_eq!(words.len(), values.len(), "words at {at} repeat");
        }
    }

    #[test]
    fn the_abort_ratio_is_kept() {
        let maker = Maker::new(3, 0, &TopicPlan::new("t", 1, 0).transactions(10, 0.3));
        let aborted = (0..10_000).filter(|n| maker.aborts(*n)).count();
        assert!((2_800..3_200).contains(&aborted), "{aborted}");
        let never = Maker::new(3, 0, &TopicPlan::new("t", 1, 0));
        assert!((0..1000).all(|n| !never.aborts(n)));
    }
}
