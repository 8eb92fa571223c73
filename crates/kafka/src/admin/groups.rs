//! Consumer groups: which there are, who is in them, and what they have committed.
//!
//! Owns finding coordinators. Must not know how offsets are translated or when a group may be written to.

use std::sync::Arc;

use futures::future::try_join_all;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, ListGroupsRequest,
    OffsetFetchRequest,
};
use kafka_protocol::protocol::{Message as _, VersionRange};

use super::topics::missing;
use super::{text, words};

use crate::client::{Client, worth_asking_again};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::api::Api;

/// Version 4 and later ask for many keys at once in another form; one at a time is all we need.
const FIND_COORDINATOR_VERSIONS: VersionRange = VersionRange { min: 1, max: 3 };
/// Version 8 and later ask for many groups at once in another form. Before version 2 all offsets of a group could not
/// be asked for.
const OFFSET_FETCH_VERSIONS: VersionRange = VersionRange { min: 2, max: 7 };
/// What old versions of `DescribeGroups` call a group that they do not have.
const STATE_DEAD: &str = "Dead";

/// A group as its coordinator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group: Arc<str>,
    /// `consumer` for consumers, empty for groups that only have offsets.
    pub protocol_type: String,
    /// `Stable`, `Empty` and so on; empty on brokers before 2.6.
    pub state: String,
    /// `classic`, `consumer`, `share`, `streams`; empty on brokers before 3.8.
    pub group_type: String,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: String,
    /// Its static id, if it has one.
    pub instance_id: Option<String>,
    /// Its client id.
    pub client_id: String,
    /// Its host.
    pub client_host: String,
}

/// A group in detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group: Arc<str>,
    /// Whether it could be described.
    pub error: ErrorCode,
    /// The broker's words.
    pub message: Option<Arc<str>>,
    /// `Stable`, `Empty`, `Dead` (unknown) and so on.
    pub state: String,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next offset that the group will read.
    pub offset: i64,
    /// The epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// The consumer's note.
    pub metadata: String,
}

impl Client {
    /// All groups of the cluster, asked from every broker.
    ///
    /// # Errors
    /// If any broker could not be asked: its groups would be missing.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let cluster = self.cluster().await?;
        let listed = cluster.brokers.iter().map(|broker| self.list_groups_at(broker.node_id));
        let mut groups: Vec<GroupListing> = try_join_all(listed).await?.into_iter().flatten().collect();
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        groups.dedup_by(|a, b| a.group == b.group);
        Ok(groups)
    }

    async fn list_groups_at(&self, node: i32) -> Result<Vec<GroupListing>> {
        let request = ListGroupsRequest::default();
        self.retrying("listing groups", worth_asking_again, || async {
            let timeout = self.limits().request_timeout;
            let (broker, response) =
                self.call_node(node, &request, ListGroupsRequest::VERSIONS, timeout).await?;
            let code = ErrorCode(response.error_code);
            if !code.is_ok() {
                return Err(Error::Broker { broker, api: ListGroupsRequest::NAME, code, message: None });
            }
            let groups = response.groups.iter().map(|group| GroupListing {
                group: group.group_id.as_str().into(),
                protocol_type: group.protocol_type.to_string(),
                state: group.group_state.to_string(),
                group_type: group.group_type.to_string(),
            });
            Ok(groups.collect())
        })
        .await
    }

    /// All offsets that a group has committed. A group that does not exist has none.
    pub async fn fetch_group_offsets(&self, group: &str) -> Result<Vec<CommittedOffset>> {
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(None)
            .with_require_stable(false);
        self.retrying("fetching group offsets", worth_asking_again, || async {
            let (_, response) = self.call_coordinator(group, &request, OFFSET_FETCH_VERSIONS).await?;
            let code = ErrorCode(response.error_code);
            if code == ErrorCode::GROUP_ID_NOT_FOUND {
                return Ok(Vec::new());
            }
            self.check_group(OffsetFetchRequest::NAME, group, code)?;
            let mut offsets = Vec::new();
            for topic in &response.topics {
                let name: Arc<str> = topic.name.as_str().into();
                for partition in &topic.partitions {
                    let code = ErrorCode(partition.error_code);
                    self.check_partition(
                        OffsetFetchRequest::NAME,
                        &name,
                        partition.partition_index,
                        code,
                        None,
                    )?;
                    // -1: nothing is committed.
                    if partition.committed_offset >= 0 {
                        offsets.push(CommittedOffset {
                            topic: Arc::clone(&name),
                            partition: partition.partition_index,
                            offset: partition.committed_offset,
                            leader_epoch: partition.committed_leader_epoch,
                            metadata: partition
                                .metadata
                                .as_ref()
                                .map(ToString::to_string)
                                .unwrap_or_default(),
                        });
                    }
                }
            }
            Ok(offsets)
        })
        .await
    }

    /// Describes groups in the order of the question, those of the new consumer protocol (KIP-848) too. A group that
    /// does not exist is `Dead` or has [`ErrorCode::GROUP_ID_NOT_FOUND`].
    pub async fn describe_groups(&self, groups: &[&str]) -> Result<Vec<GroupDescription>> {
        try_join_all(groups.iter().map(|group| self.describe_group(group))).await
    }

    async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let classic = self
            .retrying("describing a group", worth_asking_again, || async {
                let (broker, response) =
                    self.call_coordinator(group, &request, DescribeGroupsRequest::VERSIONS).await?;
                let found = response.groups.iter().find(|found| found.group_id.as_str() == group);
                let Some(found) = found else { return Err(missing::<DescribeGroupsRequest>(&broker, group)) };
                let code = ErrorCode(found.error_code);
                if code.is_coordinator_error() {
                    self.check_group(DescribeGroupsRequest::NAME, group, code)?;
                }
                Ok(classic_description(found))
            })
            .await?;
        if classic.error != ErrorCode::GROUP_ID_NOT_FOUND && classic.state != STATE_DEAD {
            return Ok(classic);
        }
        // It may be of the new kind, which has a request of its own; an old broker has neither.
        match self.describe_consumer_group(group).await {
            Ok(Some(consumer)) => Ok(consumer),
            Ok(None) | Err(Error::Unsupported { .. }) => Ok(classic),
            Err(error) => Err(error),
        }
    }

    async fn describe_consumer_group(&self, group: &str) -> Result<Option<GroupDescription>> {
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text(group))]);
        self.retrying("describing a consumer group", worth_asking_again, || async {
            let versions = ConsumerGroupDescribeRequest::VERSIONS;
            let (broker, response) = self.call_coordinator(group, &request, versions).await?;
            let found = response.groups.iter().find(|found| found.group_id.as_str() == group);
            let Some(found) = found else {
                return Err(missing::<ConsumerGroupDescribeRequest>(&broker, group));
            };
            let error = ErrorCode(found.error_code);
            if matches!(error, ErrorCode::GROUP_ID_NOT_FOUND | ErrorCode::UNSUPPORTED_VERSION) {
                return Ok(None);
            }
            if error.is_coordinator_error() {
                self.check_group(ConsumerGroupDescribeRequest::NAME, group, error)?;
            }
            let members = found.members.iter().map(|member| GroupMember {
                member_id: member.member_id.to_string(),
                instance_id: member.instance_id.as_ref().map(ToString::to_string),
                client_id: member.client_id.to_string(),
                client_host: member.client_host.to_string(),
            });
            Ok(Some(GroupDescription {
                group: group.into(),
                error,
                message: words(found.error_message.as_ref()),
                state: found.group_state.to_string(),
                protocol_type: "consumer".to_owned(),
                members: members.collect(),
            }))
        })
        .await
    }

    /// Sends a request to a group's coordinator; after a failure it is looked up again by the next one.
    async fn call_coordinator<R: Api>(
        &self,
        group: &str,
        request: &R,
        versions: VersionRange,
    ) -> Result<(Arc<str>, R::Response)> {
        let node = self.coordinator(group).await?;
        let outcome = self.call_node(node, request, versions, self.limits().request_timeout).await;
        if outcome.as_ref().is_err_and(Error::is_connection_error) {
            self.coordinators().forget(group);
        }
        outcome
    }

    async fn coordinator(&self, group: &str) -> Result<i32> {
        if let Some(node) = self.coordinators().get(group) {
            return Ok(node);
        }
        let request = FindCoordinatorRequest::default().with_key(text(group)).with_key_type(0);
        let timeout = self.limits().request_timeout;
        let (_, response) = self.call_any(&request, FIND_COORDINATOR_VERSIONS, timeout).await?;
        let code = ErrorCode(response.error_code);
        let message = words(response.error_message.as_ref());
        let api = FindCoordinatorRequest::NAME;
        code.ok().map_err(|code| Error::Group { group: group.into(), api, code, message })?;
        self.coordinators().learn(group, response.node_id.0);
        Ok(response.node_id.0)
    }

    fn check_group(&self, api: &'static str, group: &str, code: ErrorCode) -> Result<()> {
        if code.is_coordinator_error() {
            self.coordinators().forget(group);
        }
        code.ok().map_err(|code| Error::Group { group: group.into(), api, code, message: None })
    }
}

fn classic_description(found: &DescribedGroup) -> GroupDescription {
    let members = found.members.iter().map(|member| GroupMember {
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
    });
    GroupDescription {
        group: found.group_id.as_str().into(),
        error: ErrorCode(found.error_code),
        message: words(found.error_message.as_ref()),
        state: found.group_state.to_string(),
        protocol_type: found.protocol_type.to_string(),
        members: members.collect(),
    }
}
