//! Topics that were deleted and made again: what is known of the old one must not be taken for the new one.
//!
//! Pure; knows nothing about clusters. What follows from a new topic is the coordinator's decision.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::control::TopicEntry;
use mirrormesh_core::ids::{TopicId, TopicName};
use mirrormesh_core::unit::PartitionStart;

/// Where the partitions of a topic begin, as far as that is known already. Nothing is known of one that was made again
/// on either side: its partitions are asked about anew, since offsets of the old one say nothing.
pub(super) fn known_starts(known: Option<&TopicEntry>, found: &TopicEntry) -> Vec<PartitionStart> {
    let same = |known: TopicId, found: TopicId| !known.differs(found);
    known
        .filter(|k| same(k.source_topic_id, found.source_topic_id))
        .filter(|k| same(k.target_topic_id, found.target_topic_id))
        .map(|k| k.starts.clone())
        .unwrap_or_default()
}

/// Ids that topics had before they were made again. An id never comes twice: a broker that still names one lags
/// behind, and to believe it would mirror the new topic twice.
#[derive(Debug, Default)]
pub(super) struct FormerIds(BTreeMap<TopicName, BTreeSet<TopicId>>);

impl FormerIds {
    /// Does the entry hold an id that was replaced?
    pub(super) fn has(&self, entry: &TopicEntry) -> bool {
        self.0.get(&entry.topic).is_some_and(|former| {
            former.contains(&entry.source_topic_id) || former.contains(&entry.target_topic_id)
        })
    }

    /// Remembers what `next`, which the coordinator took, replaced.
    pub(super) fn replace(&mut self, known: &TopicEntry, next: &TopicEntry) {
        let pairs =
            [(known.source_topic_id, next.source_topic_id), (known.target_topic_id, next.target_topic_id)];
        let replaced = pairs.iter().filter(|(old, new)| old.differs(*new));
        for (old, _) in replaced {
            self.0.entry(next.topic.clone()).or_default().insert(*old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(source: u8, target: u8) -> TopicEntry {
        let start = PartitionStart { source_offset: 5, target_offset: 6, ..PartitionStart::default() };
        TopicEntry {
            topic: TopicName::new("t").unwrap(),
            target_topic: TopicName::new("uk.t").unwrap(),
            source_topic_id: TopicId([source; 16]),
            target_topic_id: TopicId([target; 16]),
            starts: vec![start],
            generations: BTreeMap::new(),
            earliest: Vec::new(),
        }
    }

    #[test]
    fn a_topic_made_again_is_asked_about_anew() {
        let starts =
            |known: Option<&TopicEntry>, source, target| known_starts(known, &entry(source, target)).len();
        let known = entry(1, 2);
        assert_eq!(starts(None, 1, 2), 0);
        assert_eq!(starts(Some(&known), 1, 2), 1);
        assert_eq!(starts(Some(&known), 9, 2), 0, "its log begins elsewhere");
        assert_eq!(starts(Some(&known), 1, 9), 0, "its end on the target is another");
        assert_eq!(starts(Some(&known), 0, 0), 1, "a cluster without ids can't tell");
        assert_eq!(starts(Some(&entry(0, 0)), 1, 2), 1, "ids that are learned late change nothing");
    }

    #[test]
    fn an_id_that_was_replaced_is_not_believed_again() {
        let mut former = FormerIds::default();
        former.replace(&entry(1, 2), &entry(3, 2));
        assert!(former.has(&entry(1, 2)) && !former.has(&entry(3, 2)));
        former.replace(&entry(3, 2), &entry(3, 4));
        assert!(former.has(&entry(3, 2)) && !former.has(&entry(3, 4)) && !former.has(&entry(5, 6)));
        former.replace(&entry(0, 4), &entry(7, 4));
        assert!(!former.has(&entry(0, 4)), "no id is no former id");
        let other = TopicEntry { topic: TopicName::new("u").unwrap(), ..entry(1, 2) };
        assert!(!former.has(&other));
    }
}
