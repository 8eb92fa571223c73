//! What a flow does, or would do, with the topics of its source.
//!
//! Answers the coordinator, which knows no Kafka. Both clusters are only read. What is selected and why is core's, and the
//! topology unit asks there too.

use std::collections::BTreeMap;
use std::time::Duration;

use mirrormesh_core::flow::{
    Choice, LeftOut, PreviewPage, PreviewQuestion, SourceTopic, mark_collisions, mark_loops,
};
use mirrormesh_core::identity::SOURCE_IS_TARGET;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicId};
use mirrormesh_core::registry::Registry;
use mirrormesh_core::unit::ClusterSpec;
use mirrormesh_kafka::Client;
use mirrormesh_kafka::client::metadata::TopicInfo;
use mirrormesh_worker::{Failure, cluster_name};
use tokio::time::timeout;

use crate::link::client;
use crate::registry::{Registries, RegistryStore};

/// How long both clusters may take to answer; the coordinator waits a little longer.
const WAIT: Duration = Duration::from_secs(8);

/// Topics as the brokers of the source describe them.
pub(crate) fn described(topics: &[TopicInfo]) -> Vec<SourceTopic> {
    let describe = |topic: &TopicInfo| SourceTopic {
        name: topic.name.to_string(),
        partitions: topic.partitions.len(),
        internal: topic.internal,
        problem: match topic.error.is_ok() {
            true if topic.partitions.is_empty() => Some("it has no partitions yet".to_owned()),
            true => None,
            false => Some(topic.error.to_string()),
        },
    };
    topics.iter().map(describe).collect()
}

/// One page of the topics of the source.
pub(crate) async fn preview(
    question: PreviewQuestion,
    registries: &Registries,
) -> Result<PreviewPage, Failure> {
    let spec = &question.spec;
    let rules = spec
        .topic_rules(&question.clusters)
        .map_err(|error| Failure::new("PATTERN_INVALID", error.to_string()))?;
    let source = End::new(&spec.source, &question.source)?;
    let target = End::new(&spec.target, &question.target)?;
    let look = async {
        let (topics, target_topics) = tokio::try_join!(source.topics(), target.topics())?;
        let mut choices = rules.choose_all(described(&topics), |_| false);
        mark_mirrored((&source, &target), &topics, &mut choices, registries).await?;
        let present: Vec<String> = target_topics.iter().map(|topic| topic.name.to_string()).collect();
        mark_collisions(&mut choices, &present);
        if !spec.adopt {
            mark_claims(&question, (&source, &target), &mut choices, registries).await?;
        }
        Ok::<_, Failure>(choices)
    };
    let choices = timeout(WAIT, look).await.unwrap_or_else(|_| {
        let message = format!(
            "clusters/{} or clusters/{} did not answer within {} s: check their bootstrap_servers, and that the workers \
             can reach the brokers",
            spec.source,
            spec.target,
            WAIT.as_secs()
        );
        Err(Failure::new("CLUSTER_UNREACHABLE", message))
    })?;
    Ok(PreviewPage::of(choices, &question.after, question.limit))
}

/// Marks topics that came from the target, and refuses a target that is the source.
async fn mark_mirrored(
    (source, target): (&End<'_>, &End<'_>),
    topics: &[TopicInfo],
    choices: &mut [Choice],
    registries: &Registries,
) -> Result<(), Failure> {
    let registry = |end: &End<'_>| RegistryStore::new(end.client.clone(), end.spec, None, registries);
    let source_cluster = registry(source).cluster_id().await.map_err(|failure| source.named(failure))?;
    let target_cluster = registry(target).cluster_id().await.map_err(|failure| target.named(failure))?;
    if source_cluster == target_cluster {
        let message = format!(
            "clusters/{} and clusters/{} are one Kafka cluster: its id is {source_cluster}",
            source.id, target.id
        );
        return Err(Failure::new(SOURCE_IS_TARGET, message));
    }
    let look = registry(source);
    let homes = look.look(|registry| registry.homes(&target_cluster)).await;
    let homes = homes.map_err(|failure| source.named(failure))?;
    let ids: BTreeMap<&str, TopicId> =
        topics.iter().map(|topic| (&*topic.name, TopicId(topic.topic_id))).collect();
    mark_loops(choices, &homes, target.id, |name| ids.get(name).copied().unwrap_or_default());
    Ok(())
}

/// Marks topics whose target topics a flow of another mesh writes.
async fn mark_claims(
    question: &PreviewQuestion,
    (source, target): (&End<'_>, &End<'_>),
    choices: &mut [Choice],
    registries: &Registries,
) -> Result<(), Failure> {
    let registry = |end: &End<'_>| RegistryStore::new(end.client.clone(), end.spec, None, registries);
    let source_cluster = registry(source).cluster_id().await.map_err(|failure| source.named(failure))?;
    let mark = |registry: &Registry| {
        for choice in choices.iter_mut() {
            let Ok(topic) = &choice.outcome else { continue };
            let claim = registry.claim(&source_cluster, topic);
            if let Some(claim) = claim.filter(|claim| claim.mesh_id != question.mesh_id) {
                choice.outcome = Err(LeftOut::claimed(topic, claim));
            }
        }
    };
    registry(target).look(mark).await.map_err(|failure| target.named(failure))
}

/// One end of the flow.
struct End<'a> {
    id: &'a ClusterId,
    spec: &'a ClusterSpec,
    client: Client,
}

impl<'a> End<'a> {
    /// Connects to nothing yet.
    fn new(id: &'a ClusterId, spec: &'a ClusterSpec) -> Result<Self, Failure> {
        let name =
            FlowId::new(id.as_str()).map_err(|error| Failure::new("CLUSTER_SETTINGS", error.to_string()))?;
        let end = |client| Self { id, spec, client };
        client("preview", &cluster_name(id), &name, spec).map(end).map_err(|failure| named(id, failure))
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>, Failure> {
        self.client.topics(None).await.map_err(|error| self.named(error.into()))
    }

    fn named(&self, failure: Failure) -> Failure {
        named(self.id, failure)
    }
}

/// A failure that says which cluster it is about.
fn named(id: &ClusterId, failure: Failure) -> Failure {
    Failure::new(failure.reason, format!("clusters/{id}: {}", failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::flow::FlowSpec;
    use mirrormesh_kafka::ErrorCode;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn an_unreachable_cluster_is_named() {
        let cluster = |id| ClusterId::new(id).unwrap();
        let nowhere = || ClusterSpec {
            bootstrap_servers: vec!["127.0.0.1:1".to_owned()],
            properties: BTreeMap::new(),
            kafka_cluster_id: None,
        };
        let question = PreviewQuestion {
            spec: FlowSpec::new(cluster("uk"), cluster("hq")),
            source: nowhere(),
            target: nowhere(),
            mesh_id: "m".to_owned(),
            clusters: BTreeSet::new(),
            after: String::new(),
            limit: 10,
        };
        let failure = preview(question, &Registries::default()).await.unwrap_err();
        assert_eq!(failure.reason, "CLUSTER_UNREACHABLE");
        assert!(failure.message.contains("clusters/"), "{failure}");
    }

    #[test]
    fn a_topic_that_brokers_do_not_describe_has_a_problem() {
        let topic = |error, internal| TopicInfo {
            name: "t".into(),
            topic_id: Default::default(),
            internal,
            error,
            partitions: Vec::new(),
        };
        let found =
            described(&[topic(ErrorCode::NONE, true), topic(ErrorCode::TOPIC_AUTHORIZATION_FAILED, false)]);
        assert!(
            found[0].internal && found[0].problem.as_ref().is_some_and(|why| why.contains("no partitions"))
        );
        assert!(found[1].problem.as_ref().is_some_and(|why| why.contains("AUTHORIZATION")), "{found:?}");
    }
}
