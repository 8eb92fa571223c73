//! What the coordinator asks workers, and their answers.

use mirrormesh_core::flow::PreviewQuestion;
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::paused::{PausedFigures, PausedSet};

use crate::convert::parts::{each, id, inner, partition, required};
use crate::error::ConvertError;
use crate::mesh;

/// A question of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How far behind are partitions that nobody runs, since they are paused?
    Paused(Box<PausedSet>),
    /// What does a flow do with the topics of its source?
    Preview(Box<PreviewQuestion>),
}

impl Question {
    /// The message that asks this under a query id.
    pub fn to_query(&self, query_id: u64) -> mesh::ServeQueriesResponse {
        let query = mesh::ServeQueriesResponse { query_id, ..Default::default() };
        match self {
            Self::Paused(set) => mesh::ServeQueriesResponse { paused: Some((&**set).into()), ..query },
            Self::Preview(question) => {
                mesh::ServeQueriesResponse { preview: Some((&**question).into()), ..query }
            }
        }
    }
}

impl TryFrom<mesh::ServeQueriesResponse> for Question {
    type Error = ConvertError;

    fn try_from(query: mesh::ServeQueriesResponse) -> Result<Self, ConvertError> {
        if let Some(preview) = query.preview {
            return PreviewQuestion::try_from(preview)
                .map(|question| Self::Preview(Box::new(question)))
                .map_err(|fault| fault.within("preview"));
        }
        inner(query.paused, "paused").map(|set| Self::Paused(Box::new(set)))
    }
}

impl From<&PausedSet> for mesh::PausedQuery {
    fn from(set: &PausedSet) -> Self {
        let partition = |(topic, partition, detail): &(TopicName, i32, _)| mesh::PausedPartition {
            topic: topic.to_string(),
            partition: *partition,
            detail: Some(mesh::AssignedPartition::from(detail)),
        };
        Self {
            flow_id: set.flow.to_string(),
            source: Some((&set.source).into()),
            target: Some((&set.target).into()),
            positions_topic: set.positions_topic.clone(),
            revision: set.revision,
            partitions: set.partitions.iter().map(partition).collect(),
        }
    }
}

impl TryFrom<mesh::PausedQuery> for PausedSet {
    type Error = ConvertError;

    fn try_from(query: mesh::PausedQuery) -> Result<Self, ConvertError> {
        Ok(Self {
            flow: id(&query.flow_id, "flow_id")?,
            source: inner(query.source, "source")?,
            target: inner(query.target, "target")?,
            positions_topic: query.positions_topic,
            revision: query.revision,
            partitions: each(query.partitions, "partitions", |paused| {
                let number = partition(paused.partition, "partition")?;
                Ok((id(&paused.topic, "topic")?, number, inner(paused.detail, "detail")?))
            })?,
        })
    }
}

/// The answer about paused partitions.
pub fn paused_answer(figures: &PausedFigures) -> mesh::PausedAnswer {
    let partitions = figures.iter().map(|(topic, partition, figures)| mesh::PausedFigures {
        topic: topic.to_string(),
        partition: *partition,
        figures: Some(figures.into()),
    });
    mesh::PausedAnswer { partitions: partitions.collect() }
}

/// What an answer says about paused partitions.
pub fn paused_figures(answer: mesh::PausedAnswer) -> Result<PausedFigures, ConvertError> {
    each(answer.partitions, "partitions", |paused| {
        let number = partition(paused.partition, "partition")?;
        let figures = required(paused.figures, "figures")?;
        Ok((id(&paused.topic, "topic")?, number, figures.try_into()?))
    })
}
