//! Sample responses: every array has elements and every optional field is set, in every version.

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Message, StrBytes};
use uuid::Uuid;

use super::super::{Misfit, check, response_header_bytes};
use super::HEAP_BYTES_MAX;
use crate::wire::api::Api;
use crate::wire::decode;
use crate::wire::testing::frame;

/// One kind of response, with a sample in which every array has elements and every optional field is set.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) versions: std::ops::RangeInclusive<i16>,
    pub(super) sample: fn(i16) -> Bytes,
    pub(super) decode: fn(Bytes, i16) -> Result<(), String>,
    pub(super) check: fn(&[u8], i16) -> Result<usize, Misfit>,
}

fn case<R: Api>(sample: fn(i16) -> Bytes) -> Case {
    let versions = R::VERSIONS;
    Case {
        name: R::NAME,
        versions: versions.min..=versions.max,
        sample,
        decode: |frame, version| decode::decode::<R>(frame, version, HEAP_BYTES_MAX).map(drop),
        check: |frame, version| {
            let header = response_header_bytes(frame, R::Response::header_version(version))?;
            let flexible = version >= R::FLEXIBLE_FROM;
            Ok(header + check(&frame[header..], R::SHAPE, version, flexible, HEAP_BYTES_MAX)?)
        },
    }
}

fn text(value: &'static str) -> StrBytes {
    StrBytes::from_static_str(value)
}

#[expect(clippy::unnecessary_wraps, reason = "it is what optional fields take")]
fn some(value: &'static str) -> Option<StrBytes> {
    Some(text(value))
}

fn topic() -> m::TopicName {
    m::TopicName(text("topic"))
}

fn id() -> Uuid {
    Uuid::from_bytes([7; 16])
}

/// The frame behind its length. An unknown tagged field shall be skipped wherever there can be one.
fn body<M: Encodable + HeaderVersion + Message>(response: &M, version: i16) -> Bytes {
    frame(response, version, 1).slice(4..)
}

fn api_versions(version: i16) -> Bytes {
    use m::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
    let mut response = m::ApiVersionsResponse::default().with_api_keys(vec![ApiVersion::default(); 3]);
    if version >= 3 {
        response = response
            .with_supported_features(vec![SupportedFeatureKey::default().with_name(text("f"))])
            .with_finalized_features(vec![FinalizedFeatureKey::default().with_name(text("f"))])
            .with_finalized_features_epoch(3)
            .with_zk_migration_ready(true)
            .with_unknown_tagged_field(9, Bytes::from_static(b"future"));
    }
    body(&response, version)
}

fn metadata(version: i16) -> Bytes {
    use m::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    let nodes = vec![m::BrokerId(1), m::BrokerId(2)];
    let mut partition =
        MetadataResponsePartition::default().with_replica_nodes(nodes.clone()).with_isr_nodes(nodes.clone());
    if version >= 5 {
        partition.offline_replicas = nodes;
    }
    let mut broker = MetadataResponseBroker::default().with_host(text("host")).with_rack(some("rack"));
    let mut topic =
        MetadataResponseTopic::default().with_name(Some(topic())).with_partitions(vec![partition; 2]);
    if version >= 9 {
        broker = broker.with_unknown_tagged_field(0, Bytes::from_static(b"x"));
    }
    if version >= 10 {
        topic.topic_id = id();
    }
    let response = m::MetadataResponse::default()
        .with_brokers(vec![broker; 2])
        .with_cluster_id(some("cluster"))
        .with_topics(vec![topic; 2]);
    body(&response, version)
}

fn fetch(version: i16) -> Bytes {
    use m::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
        PartitionData, SnapshotId,
    };
    let mut partition = PartitionData::default()
        .with_aborted_transactions(Some(vec![AbortedTransaction::default(); 2]))
        .with_records(Some(Bytes::from_static(b"records")));
    if version >= 12 {
        partition = partition
            .with_diverging_epoch(EpochEndOffset::default().with_epoch(1))
            .with_current_leader(LeaderIdAndEpoch::default().with_leader_epoch(1))
            .with_snapshot_id(SnapshotId::default().with_epoch(1))
            .with_unknown_tagged_field(5, Bytes::from_static(b"x"));
    }
    let mut response_topic = FetchableTopicResponse::default().with_partitions(vec![partition; 2]);
    if version >= 13 {
        response_topic.topic_id = id();
    } else {
        response_topic.topic = topic();
    }
    let mut response = m::FetchResponse::default().with_responses(vec![response_topic; 2]);
    if version >= 16 {
        response = response
            .with_node_endpoints(vec![NodeEndpoint::default().with_host(text("h")).with_rack(some("r"))]);
    }
    body(&response, version)
}

fn produce(version: i16) -> Bytes {
    use m::produce_response::{
        BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
        TopicProduceResponse,
    };
    let mut partition = PartitionProduceResponse::default();
    if version >= 8 {
        let error = BatchIndexAndErrorMessage::default().with_batch_index_error_message(some("bad"));
        partition = partition.with_record_errors(vec![error; 2]).with_error_message(some("bad"));
    }
    let mut response = m::ProduceResponse::default();
    if version >= 10 {
        partition = partition.with_current_leader(LeaderIdAndEpoch::default().with_leader_epoch(2));
        response = response.with_node_endpoints(vec![NodeEndpoint::default().with_host(text("h"))]);
    }
    let mut response_topic = TopicProduceResponse::default().with_partition_responses(vec![partition; 2]);
    if version >= 13 {
        response_topic.topic_id = id();
    } else {
        response_topic.name = topic();
    }
    body(&response.with_responses(vec![response_topic; 2]), version)
}

fn list_offsets(version: i16) -> Bytes {
    use m::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    let topic = ListOffsetsTopicResponse::default()
        .with_name(topic())
        .with_partitions(vec![ListOffsetsPartitionResponse::default(); 2]);
    body(&m::ListOffsetsResponse::default().with_topics(vec![topic; 2]), version)
}

fn offset_for_leader_epoch(version: i16) -> Bytes {
    use m::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
    let topic = OffsetForLeaderTopicResult::default()
        .with_topic(topic())
        .with_partitions(vec![EpochEndOffset::default(); 2]);
    body(&m::OffsetForLeaderEpochResponse::default().with_topics(vec![topic; 2]), version)
}

fn describe_producers(version: i16) -> Bytes {
    use m::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
    let partition = PartitionResponse::default()
        .with_error_message(some("bad"))
        .with_active_producers(vec![ProducerState::default(); 2]);
    let topic = TopicResponse::default().with_name(topic()).with_partitions(vec![partition; 2]);
    body(&m::DescribeProducersResponse::default().with_topics(vec![topic; 2]), version)
}

fn init_producer_id(version: i16) -> Bytes {
    body(&m::InitProducerIdResponse::default(), version)
}

fn find_coordinator(version: i16) -> Bytes {
    use m::find_coordinator_response::Coordinator;
    let response = m::FindCoordinatorResponse::default();
    let response = if version >= 4 {
        let coordinator =
            Coordinator::default().with_key(text("g")).with_host(text("h")).with_error_message(some("bad"));
        response.with_coordinators(vec![coordinator; 2])
    } else if version >= 1 {
        response.with_host(text("host")).with_error_message(some("bad"))
    } else {
        response.with_host(text("host"))
    };
    body(&response, version)
}

fn offset_fetch(version: i16) -> Bytes {
    use m::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    };
    let response = m::OffsetFetchResponse::default();
    if version >= 8 {
        let partition = OffsetFetchResponsePartitions::default().with_metadata(some("m"));
        let topic =
            OffsetFetchResponseTopics::default().with_name(topic()).with_partitions(vec![partition; 2]);
        let group = OffsetFetchResponseGroup::default()
            .with_group_id(m::GroupId(text("g")))
            .with_topics(vec![topic; 2]);
        return body(&response.with_groups(vec![group; 2]), version);
    }
    let partition = OffsetFetchResponsePartition::default().with_metadata(some("m"));
    let topic = OffsetFetchResponseTopic::default().with_name(topic()).with_partitions(vec![partition; 2]);
    body(&response.with_topics(vec![topic; 2]), version)
}

fn list_groups(version: i16) -> Bytes {
    use m::list_groups_response::ListedGroup;
    let mut group =
        ListedGroup::default().with_group_id(m::GroupId(text("g"))).with_protocol_type(text("consumer"));
    if version >= 4 {
        group.group_state = text("Stable");
    }
    if version >= 5 {
        group.group_type = text("classic");
    }
    body(&m::ListGroupsResponse::default().with_groups(vec![group; 2]), version)
}

fn describe_groups(version: i16) -> Bytes {
    use m::describe_groups_response::{DescribedGroup, DescribedGroupMember};
    let mut member = DescribedGroupMember::default()
        .with_member_id(text("m"))
        .with_client_id(text("c"))
        .with_client_host(text("h"))
        .with_member_metadata(Bytes::from_static(b"metadata"))
        .with_member_assignment(Bytes::from_static(b"assignment"));
    if version >= 4 {
        member.group_instance_id = some("i");
    }
    let mut group = DescribedGroup::default()
        .with_group_id(m::GroupId(text("g")))
        .with_group_state(text("Stable"))
        .with_protocol_type(text("consumer"))
        .with_protocol_data(text("range"))
        .with_members(vec![member; 2]);
    if version >= 6 {
        group.error_message = some("bad");
    }
    body(&m::DescribeGroupsResponse::default().with_groups(vec![group; 2]), version)
}

fn consumer_group_describe(version: i16) -> Bytes {
    use m::consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
    let partitions = TopicPartitions::default()
        .with_topic_id(id())
        .with_topic_name(topic())
        .with_partitions(vec![1, 2, 3]);
    let assignment = Assignment::default().with_topic_partitions(vec![partitions; 2]);
    let member = Member::default()
        .with_member_id(text("m"))
        .with_instance_id(some("i"))
        .with_rack_id(some("r"))
        .with_subscribed_topic_names(vec![topic(), topic()])
        .with_subscribed_topic_regex(some(".*"))
        .with_assignment(assignment.clone())
        .with_target_assignment(assignment);
    let group = DescribedGroup::default().with_group_id(m::GroupId(text("g"))).with_members(vec![member; 2]);
    body(&m::ConsumerGroupDescribeResponse::default().with_groups(vec![group; 2]), version)
}

fn create_topics(version: i16) -> Bytes {
    use m::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
    let mut result = CreatableTopicResult::default().with_name(topic()).with_error_message(some("bad"));
    if version >= 5 {
        let config = CreatableTopicConfigs::default().with_name(text("n")).with_value(some("v"));
        result = result.with_configs(Some(vec![config; 2])).with_topic_config_error_code(5);
    }
    if version >= 7 {
        result.topic_id = id();
    }
    body(&m::CreateTopicsResponse::default().with_topics(vec![result; 2]), version)
}

fn create_partitions(version: i16) -> Bytes {
    use m::create_partitions_response::CreatePartitionsTopicResult;
    let result = CreatePartitionsTopicResult::default().with_name(topic()).with_error_message(some("bad"));
    body(&m::CreatePartitionsResponse::default().with_results(vec![result; 2]), version)
}

fn delete_topics(version: i16) -> Bytes {
    use m::delete_topics_response::DeletableTopicResult;
    let mut result = DeletableTopicResult::default().with_name(Some(topic()));
    if version >= 5 {
        result.error_message = some("bad");
    }
    if version >= 6 {
        result.topic_id = id();
    }
    body(&m::DeleteTopicsResponse::default().with_responses(vec![result; 2]), version)
}

fn delete_records(version: i16) -> Bytes {
    use m::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
    let topic = DeleteRecordsTopicResult::default()
        .with_name(topic())
        .with_partitions(vec![DeleteRecordsPartitionResult::default(); 2]);
    body(&m::DeleteRecordsResponse::default().with_topics(vec![topic; 2]), version)
}

fn describe_configs(version: i16) -> Bytes {
    use m::describe_configs_response::{
        DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
    };
    let synonym = DescribeConfigsSynonym::default().with_name(text("s")).with_value(some("v"));
    let mut config = DescribeConfigsResourceResult::default()
        .with_name(text("n"))
        .with_value(some("v"))
        .with_synonyms(vec![synonym; 2]);
    if version >= 3 {
        config.documentation = some("words");
    }
    let result = DescribeConfigsResult::default()
        .with_error_message(some("bad"))
        .with_resource_name(text("t"))
        .with_configs(vec![config; 2]);
    body(&m::DescribeConfigsResponse::default().with_results(vec![result; 2]), version)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case::<m::ApiVersionsRequest>(api_versions),
        case::<m::ConsumerGroupDescribeRequest>(consumer_group_describe),
        case::<m::CreatePartitionsRequest>(create_partitions),
        case::<m::CreateTopicsRequest>(create_topics),
        case::<m::DeleteRecordsRequest>(delete_records),
        case::<m::DeleteTopicsRequest>(delete_topics),
        case::<m::DescribeConfigsRequest>(describe_configs),
        case::<m::DescribeGroupsRequest>(describe_groups),
        case::<m::DescribeProducersRequest>(describe_producers),
        case::<m::FetchRequest>(fetch),
        case::<m::FindCoordinatorRequest>(find_coordinator),
        case::<m::InitProducerIdRequest>(init_producer_id),
        case::<m::ListGroupsRequest>(list_groups),
        case::<m::ListOffsetsRequest>(list_offsets),
        case::<m::MetadataRequest>(metadata),
        case::<m::OffsetFetchRequest>(offset_fetch),
        case::<m::OffsetForLeaderEpochRequest>(offset_for_leader_epoch),
        case::<m::ProduceRequest>(produce),
    ]
}
