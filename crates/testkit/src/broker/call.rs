//! What a handler gets besides its request, and what it must be able to say of it.

use std::future::Future;
use std::sync::Arc;

use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

use super::code;
use super::fault::Claimed;
use super::partition::Partition;
use super::state::{Shared, State};

/// Topics and partitions that a request names; -1 where it names a topic only.
pub(super) type Mentions = Vec<(String, i32)>;

/// A request that the fake broker serves; one file each in `api`.
pub(super) trait Served: Request + Send {
    /// What a rule for a partition is held against.
    fn mentions(&self, _state: &State) -> Mentions {
        Mentions::new()
    }

    /// Answers; nothing if the request wants no answer.
    fn serve(self, call: Call) -> impl Future<Output = Option<Self::Response>> + Send;
}

/// One request at one node.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) node: i32,
    pub(super) version: i16,
    pub(super) claimed: Claimed,
}

impl Call {
    /// The code that the script wants for a partition.
    pub(super) fn scripted(&self, topic: &str, partition: i32) -> Result<(), i16> {
        self.claimed.error(topic, partition).map_or(Ok(()), Err)
    }

    /// Finds a partition that this node leads, with the epoch that the client believes in (-1 for none).
    pub(super) fn led<'s>(
        &self,
        state: &'s State,
        topic: &str,
        partition: i32,
        epoch: i32,
    ) -> Result<&'s Partition, i16> {
        let found = state.partition(topic, partition).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
        self.check_epoch(found, epoch)?;
        if found.leader == Some(self.node) { Ok(found) } else { Err(code::NOT_LEADER_OR_FOLLOWER) }
    }

    /// A node that holds no replica knows no epoch.
    pub(super) fn check_epoch(&self, partition: &Partition, epoch: i32) -> Result<(), i16> {
        if epoch < 0 || !partition.is_replica(self.node) || epoch == partition.leader_epoch {
            Ok(())
        } else if epoch < partition.leader_epoch {
            Err(code::FENCED_LEADER_EPOCH)
        } else {
            Err(code::UNKNOWN_LEADER_EPOCH)
        }
    }
}

/// The topic of a request that names it by id or, if that is zero, by name.
pub(super) fn resolve(state: &State, name: &TopicName, id: Uuid) -> Result<String, i16> {
    if id.is_nil() {
        return Ok(name.to_string());
    }
    state.topic_by_id(id).map(str::to_owned).ok_or(code::UNKNOWN_TOPIC_ID)
}

/// A name for an answer.
pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Text for an answer.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A leader for an answer; -1 for none.
pub(super) fn leader_of(partition: &Partition) -> BrokerId {
    BrokerId(partition.leader.unwrap_or(-1))
}
