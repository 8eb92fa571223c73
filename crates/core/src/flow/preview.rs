//! The question what a flow does, or would do, with the topics of its source, and the answer.

use std::collections::BTreeSet;

use super::FlowSpec;
use super::selection::{Choice, LeftOut};
use crate::ids::{ClusterId, TopicName};
use crate::unit::ClusterSpec;

/// The question. Both clusters are only read for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewQuestion {
    /// What to copy and how.
    pub spec: FlowSpec,
    /// The cluster to copy from.
    pub source: ClusterSpec,
    /// The cluster to copy to.
    pub target: ClusterSpec,
    /// What tells this mesh from others.
    pub mesh_id: String,
    /// Ids of all clusters of the mesh.
    pub clusters: BTreeSet<ClusterId>,
    /// Only topics behind this name are in the answer.
    pub after: String,
    /// How many topics the answer holds at most.
    pub limit: u32,
}

/// The answer: topics in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreviewPage {
    /// The topics.
    pub topics: Vec<PreviewedTopic>,
    /// There are more behind the last one.
    pub more: bool,
}

/// What a flow does with one source topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewedTopic {
    /// The source topic.
    pub topic: TopicName,
    /// Its partitions.
    pub partitions: u32,
    /// Its name on the target; `None` if it can't have one.
    pub target: Option<TopicName>,
    /// Why it is left out: a stable name, and a text. `None` if it is mirrored.
    pub left_out: Option<(String, String)>,
}

impl PreviewPage {
    /// The page behind `after` of all choices, which come in the order of their names.
    pub fn of(choices: Vec<Choice>, after: &str, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let behind = choices.into_iter().filter(|choice| choice.topic.name.as_str() > after);
        let mut topics: Vec<PreviewedTopic> =
            behind.filter_map(PreviewedTopic::of).take(limit.saturating_add(1)).collect();
        let more = topics.len() > limit;
        topics.truncate(limit);
        Self { topics, more }
    }
}

impl PreviewedTopic {
    /// `None` for a name that Kafka does not allow: no broker has such a topic.
    fn of(Choice { topic, outcome }: Choice) -> Option<Self> {
        let left_out = outcome.as_ref().err().map(|why| (why.reason().to_owned(), why.message()));
        let target = match outcome {
            Ok(target) | Err(LeftOut::Collides { target, .. } | LeftOut::Claimed { target, .. }) => {
                Some(target)
            }
            Err(_) => None,
        };
        let partitions = u32::try_from(topic.partitions).unwrap_or(u32::MAX);
        Some(Self { topic: TopicName::new(&topic.name).ok()?, partitions, target, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{SourceTopic, TopicRules};

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let cluster = |id| ClusterId::new(id).unwrap();
        let spec = FlowSpec::new(cluster("uk"), cluster("hq"));
        let rules = TopicRules::new(&spec, &BTreeSet::new()).unwrap();
        let topic =
            |name: &str| SourceTopic { name: name.into(), partitions: 2, internal: false, problem: None };
        let choices = || rules.choose_all(["c", "a", "hq.b"].map(topic).to_vec(), |_| false);
        let names = |page: &PreviewPage| page.topics.iter().map(|t| t.topic.to_string()).collect::<Vec<_>>();
        let first = PreviewPage::of(choices(), "", 2);
        assert_eq!((names(&first), first.more), (vec!["a".to_owned(), "c".to_owned()], true));
        assert_eq!(first.topics[0].target.as_ref().unwrap().as_str(), "uk.a");
        let last = PreviewPage::of(choices(), "c", 2);
        assert_eq!((names(&last), last.more), (vec!["hq.b".to_owned()], false));
        assert_eq!(last.topics[0].left_out.as_ref().unwrap().0, "LOOP");
        assert_eq!(PreviewPage::of(choices(), "hq.b", 2), PreviewPage::default());
    }
}
