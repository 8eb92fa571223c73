//! What is paused of a topic.

use std::collections::BTreeSet;

/// What is paused of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicPause {
    /// All of it, partitions that it will get too.
    All,
    /// These partitions.
    Partitions(BTreeSet<i32>),
}

impl TopicPause {
    pub(super) fn has(&self, partition: i32) -> bool {
        match self {
            Self::All => true,
            Self::Partitions(partitions) => partitions.contains(&partition),
        }
    }

    /// With these more; none means all.
    pub(super) fn with(self, more: &[i32]) -> Self {
        match self {
            Self::Partitions(mut partitions) if !more.is_empty() => {
                partitions.extend(more);
                Self::Partitions(partitions)
            }
            Self::All | Self::Partitions(_) => Self::All,
        }
    }

    /// Without these of so many partitions; none means all.
    pub(super) fn without(self, fewer: &[i32], count: i32) -> Self {
        let mut left = match self {
            _ if fewer.is_empty() => BTreeSet::new(),
            Self::All => (0..count).collect(),
            Self::Partitions(partitions) => partitions,
        };
        left.retain(|partition| !fewer.contains(partition));
        Self::Partitions(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_add_up_and_come_apart() {
        let some = |list: &[i32]| TopicPause::Partitions(list.iter().copied().collect());
        assert_eq!(some(&[]).with(&[1]).with(&[2, 1]), some(&[1, 2]));
        assert_eq!(some(&[1]).with(&[]), TopicPause::All);
        assert_eq!(TopicPause::All.with(&[3]), TopicPause::All, "it stays whole, with what is to come");
        assert_eq!(some(&[1, 2]).without(&[1], 4), some(&[2]));
        assert_eq!(TopicPause::All.without(&[1], 4), some(&[0, 2, 3]));
        assert_eq!(TopicPause::All.without(&[], 4), some(&[]));
        assert!(TopicPause::All.has(9) && some(&[1]).has(1) && !some(&[1]).has(0));
    }
}
