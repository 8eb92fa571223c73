//! The question what a flow does with the topics of its source, and its answer.

use mirrormesh_core::flow::{PreviewPage, PreviewQuestion, PreviewedTopic};

use crate::convert::parts::{each, id, ids, inner};
use crate::error::ConvertError;
use crate::mesh;

impl From<&PreviewQuestion> for mesh::PreviewQuery {
    fn from(question: &PreviewQuestion) -> Self {
        Self {
            spec: Some((&question.spec).into()),
            source: Some((&question.source).into()),
            target: Some((&question.target).into()),
            mesh_id: question.mesh_id.clone(),
            known_clusters: question.clusters.iter().map(ToString::to_string).collect(),
            after: question.after.clone(),
            limit: question.limit,
        }
    }
}

impl TryFrom<mesh::PreviewQuery> for PreviewQuestion {
    type Error = ConvertError;

    fn try_from(query: mesh::PreviewQuery) -> Result<Self, ConvertError> {
        Ok(Self {
            spec: inner(query.spec, "spec")?,
            source: inner(query.source, "source")?,
            target: inner(query.target, "target")?,
            mesh_id: query.mesh_id,
            clusters: ids(query.known_clusters, "known_clusters")?.into_iter().collect(),
            after: query.after,
            limit: query.limit,
        })
    }
}

/// The message that answers with a page.
pub fn preview_answer(page: PreviewPage) -> mesh::PreviewAnswer {
    let topic = |topic: PreviewedTopic| {
        let (reason, message) = topic.left_out.unwrap_or_default();
        mesh::PreviewedTopic {
            topic: topic.topic.to_string(),
            partitions: topic.partitions,
            target_topic: topic.target.map(|target| target.to_string()).unwrap_or_default(),
            reason,
            message,
        }
    };
    mesh::PreviewAnswer { topics: page.topics.into_iter().map(topic).collect(), more: page.more }
}

/// The page in an answer.
pub fn preview_page(answer: mesh::PreviewAnswer) -> Result<PreviewPage, ConvertError> {
    let topics = each(answer.topics, "topics", |topic| {
        let target = Some(topic.target_topic).filter(|target| !target.is_empty());
        Ok(PreviewedTopic {
            topic: id(&topic.topic, "topic")?,
            partitions: topic.partitions,
            target: target.map(|target| id(target, "target_topic")).transpose()?,
            left_out: (!topic.reason.is_empty()).then_some((topic.reason, topic.message)),
        })
    })?;
    Ok(PreviewPage { topics, more: answer.more })
}
