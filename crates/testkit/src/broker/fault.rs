//! Scripted faults: what a test wants to go wrong with the next requests.
//!
//! Owns the rules and which request takes which. Must not know how a fault is carried out.

use std::collections::BTreeMap;
use std::time::Duration;

/// A request of Kafka's protocol, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in Kafka")]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    WriteTxnMarkers = 27,
    DescribeConfigs = 32,
    CreatePartitions = 37,
    IncrementalAlterConfigs = 44,
    DescribeProducers = 61,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not handled; answered with this code, for the rule's partition or for all that it names.
    Error(i16),
    /// Not handled; the connection is closed.
    DropBefore,
    /// Handled; the connection is closed instead of the answer.
    DropAnswer,
    /// Handled after this time; what comes behind it on the connection waits as well.
    Delay(Duration),
    /// Handled at once, answered after this time.
    DelayAnswer(Duration),
    /// Not handled and never answered; nothing behind it on the connection is read.
    Mute,
    /// Handled, but never answered; nothing behind it on the connection is read.
    MuteAnswer,
    /// Handled; one byte of the answer's record bytes is changed (`Fetch`).
    CorruptRecords,
}

/// Which requests a fault strikes. `Rule::new(Api::Produce, Fault::Error(6))` strikes the next one of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    api: Api,
    fault: Fault,
    node: Option<i32>,
    partition: Option<(String, i32)>,
    times: u32,
    after: u32,
}

impl Rule {
    /// The next request of this kind.
    pub fn new(api: Api, fault: Fault) -> Self {
        Self { api, fault, node: None, partition: None, times: 1, after: 0 }
    }

    /// The next so many of them.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// All of them, until the rule is taken back.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u32::MAX)
    }

    /// Lets so many of them pass first.
    #[must_use]
    pub fn after(mut self, passed: u32) -> Self {
        self.after = passed;
        self
    }

    /// Only those that name this partition. [`Fault::Error`] is answered for it alone.
    #[must_use]
    pub fn partition(mut self, topic: impl Into<String>, partition: i32) -> Self {
        self.partition = Some((topic.into(), partition));
        self
    }

    /// Only those to this node.
    #[must_use]
    pub fn node(mut self, node: i32) -> Self {
        self.node = Some(node);
        self
    }
}

/// Names a rule that was given to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// All rules, oldest first, and what was counted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: BTreeMap<RuleId, Rule>,
    fired: BTreeMap<RuleId, u32>,
    requests: BTreeMap<i16, u64>,
    next: u64,
}

/// What one request takes with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Claimed {
    pub(super) faults: Vec<Fault>,
    whole: Option<i16>,
    partitions: BTreeMap<(String, i32), i16>,
}

impl Claimed {
    /// The code that the script wants for a partition.
    pub(super) fn error(&self, topic: &str, partition: i32) -> Option<i16> {
        self.whole.or_else(|| self.partitions.get(&(topic.to_owned(), partition)).copied())
    }

    /// The code that the script wants for everything.
    pub(super) fn whole_error(&self) -> Option<i16> {
        self.whole
    }
}

impl Faults {
    pub(super) fn add(&mut self, rule: Rule) -> RuleId {
        self.next += 1;
        let id = RuleId(self.next);
        self.rules.insert(id, rule);
        id
    }

    pub(super) fn remove(&mut self, id: RuleId) {
        self.rules.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn fired(&self, id: RuleId) -> u32 {
        self.fired.get(&id).copied().unwrap_or(0)
    }

    pub(super) fn requests(&self, api: Api) -> u64 {
        self.requests.get(&(api as i16)).copied().unwrap_or(0)
    }

    /// Counts a request and finds what it meets: of the rules with the same scope, the oldest one.
    pub(super) fn claim(&mut self, key: i16, node: i32, mentions: &[(String, i32)]) -> Claimed {
        *self.requests.entry(key).or_default() += 1;
        let mut claimed = Claimed::default();
        let mut scopes: Vec<Option<(String, i32)>> = Vec::new();
        let mut used_up = Vec::new();
        for (id, rule) in &mut self.rules {
            let here = rule.api as i16 == key
                && rule.node.is_none_or(|only| only == node)
                && rule.partition.as_ref().is_none_or(|partition| mentions.contains(partition));
            if !here || scopes.contains(&rule.partition) {
                continue;
            }
            scopes.push(rule.partition.clone());
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            *self.fired.entry(*id).or_default() += 1;
            rule.times = if rule.times == u32::MAX { u32::MAX } else { rule.times - 1 };
            if rule.times == 0 {
                used_up.push(*id);
            }
            match (&rule.fault, &rule.partition) {
                (Fault::Error(code), None) => claimed.whole = Some(*code),
                (Fault::Error(code), Some(partition)) => {
                    claimed.partitions.insert(partition.clone(), *code);
                }
                (fault, _) => claimed.faults.push(fault.clone()),
            }
        }
        used_up.iter().for_each(|id| self.remove(*id));
        claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_strike_in_order_and_end() {
        let mut faults = Faults::default();
        let first = faults.add(Rule::new(Api::Produce, Fault::Error(6)).times(2).partition("t", 1));
        faults.add(Rule::new(Api::Produce, Fault::DropAnswer).after(1));
        faults.add(Rule::new(Api::Produce, Fault::Error(3)).node(2).always());
        let t1 = [("t".to_owned(), 1)];
        let claimed = faults.claim(0, 1, &t1);
        assert_eq!((claimed.error("t", 1), claimed.error("t", 0), claimed.faults.len()), (Some(6), None, 0));
        let claimed = faults.claim(0, 1, &t1);
        assert_eq!((claimed.error("t", 1), claimed.faults), (Some(6), vec![Fault::DropAnswer]));
        assert!(faults.claim(0, 1, &t1).error("t", 1).is_none());
        assert_eq!(faults.claim(0, 2, &[]).whole_error(), Some(3));
        assert_eq!((faults.fired(first), faults.requests(Api::Produce)), (2, 4));
    }
}
