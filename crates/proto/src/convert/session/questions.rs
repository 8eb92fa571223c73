//! What the coordinator asks workers, and their answers.

use mirrormesh_core::flow::PreviewQuestion;
use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::relay::paused::{PausedFigures, PausedSet};

use crate::convert::parts::{each, id, inner, partition, required};
use crate::error::ConvertError;
use crate::mesh;

/// Asks where a source offset is on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranslateQuestion {
    /// The flow.
    pub flow: FlowId,
    /// The source topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// The source offset.
    pub offset: i64,
}

/// A question of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Where is a source offset on the target?
    Translate(TranslateQuestion),
    /// How far behind are partitions that nobody runs, since they are paused?
    Paused(PausedSet),
    /// What does a flow do with the topics of its source? Boxed: it holds a whole flow.
    Preview(Box<PreviewQuestion>),
}

impl Question {
    /// The message that asks this under a query id.
    pub fn to_query(&self, query_id: u64) -> mesh::ServeQueriesResponse {
        let query = mesh::ServeQueriesResponse { query_id, ..Default::default() };
        match self {
            Self::Translate(question) => {
                mesh::ServeQueriesResponse { translate: Some(question.into()), ..query }
            }
            Self::Paused(set) => mesh::ServeQueriesResponse { paused: Some(set.into()), ..query },
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
        match query.paused {
            Some(paused) => {
                PausedSet::try_from(paused).map(Self::Paused).map_err(|fault| fault.within("paused"))
            }
            None => inner(query.translate, "translate").map(Self::Translate),
        }
    }
}

impl From<&TranslateQuestion> for mesh::TranslateQuery {
    fn from(question: &TranslateQuestion) -> Self {
        Self {
            flow_id: question.flow.to_string(),
            topic: question.topic.to_string(),
            partition: question.partition,
            offset: question.offset,
        }
    }
}

impl TryFrom<mesh::TranslateQuery> for TranslateQuestion {
    type Error = ConvertError;

    fn try_from(query: mesh::TranslateQuery) -> Result<Self, ConvertError> {
        Ok(Self {
            flow: id(&query.flow_id, "flow_id")?,
            topic: id(&query.topic, "topic")?,
            partition: partition(query.partition, "partition")?,
            offset: query.offset,
        })
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
