//! The requests that we use, and the shapes of their responses.
//!
//! Owns one table per response, field by field in wire order, as in Kafka's message definitions
//! (`clients/src/main/resources/common/message`). A test holds every table against kafka-protocol's own encoding of
//! every version.

use kafka_protocol::messages::{
    ApiVersionsRequest, ConsumerGroupDescribeRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    DescribeProducersRequest, FetchRequest, FindCoordinatorRequest, InitProducerIdRequest, ListGroupsRequest,
    ListOffsetsRequest, MetadataRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use kafka_protocol::protocol::Request;

use super::shape::{Field, Kind};

/// A request with a response that can be checked before it is decoded.
pub(crate) trait Api: Request {
    /// Kafka's name.
    const NAME: &'static str;
    /// The first version whose response has compact lengths and tagged fields.
    const FLEXIBLE_FROM: i16;
    /// The response's fields.
    const SHAPE: &'static [Field];
}

macro_rules! apis {
    ($($request:ty, $name:literal, $flexible_from:literal, $shape:expr;)*) => {
        $(impl Api for $request {
            const NAME: &'static str = $name;
            const FLEXIBLE_FROM: i16 = $flexible_from;
            const SHAPE: &'static [Field] = $shape;
        })*
    };
}

apis! {
    ApiVersionsRequest, "ApiVersions", 3, API_VERSIONS;
    ConsumerGroupDescribeRequest, "ConsumerGroupDescribe", 0, CONSUMER_GROUP_DESCRIBE;
    CreatePartitionsRequest, "CreatePartitions", 2, CREATE_PARTITIONS;
    CreateTopicsRequest, "CreateTopics", 5, CREATE_TOPICS;
    DeleteRecordsRequest, "DeleteRecords", 2, DELETE_RECORDS;
    DeleteTopicsRequest, "DeleteTopics", 4, DELETE_TOPICS;
    DescribeConfigsRequest, "DescribeConfigs", 4, DESCRIBE_CONFIGS;
    DescribeGroupsRequest, "DescribeGroups", 5, DESCRIBE_GROUPS;
    DescribeProducersRequest, "DescribeProducers", 0, DESCRIBE_PRODUCERS;
    FetchRequest, "Fetch", 12, FETCH;
    FindCoordinatorRequest, "FindCoordinator", 3, FIND_COORDINATOR;
    InitProducerIdRequest, "InitProducerId", 2, INIT_PRODUCER_ID;
    ListGroupsRequest, "ListGroups", 3, LIST_GROUPS;
    ListOffsetsRequest, "ListOffsets", 6, LIST_OFFSETS;
    MetadataRequest, "Metadata", 9, METADATA;
    OffsetFetchRequest, "OffsetFetch", 6, OFFSET_FETCH;
    OffsetForLeaderEpochRequest, "OffsetForLeaderEpoch", 4, OFFSET_FOR_LEADER_EPOCH;
    ProduceRequest, "Produce", 9, PRODUCE;
}

const I8: Kind = Kind::Fixed(1);
const BOOL: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);

const fn all(kind: Kind) -> Field {
    Field::always(kind)
}

const fn since(version: i16, kind: Kind) -> Field {
    Field::since(version, kind)
}

const fn until(version: i16, kind: Kind) -> Field {
    Field::until(version, kind)
}

const API_VERSIONS: &[Field] = {
    const API: &[Field] = &[all(I16), all(I16), all(I16)];
    const FEATURE: &[Field] = &[all(Kind::Text), all(I16), all(I16)];
    &[
        all(I16),
        all(Kind::Array(API)),
        since(1, I32),
        Field::tagged(0, 3, Kind::Array(FEATURE)),
        Field::tagged(1, 3, I64),
        Field::tagged(2, 3, Kind::Array(FEATURE)),
        Field::tagged(3, 3, BOOL),
    ]
};

const CONSUMER_GROUP_DESCRIBE: &[Field] = {
    const PARTITIONS: &[Field] = &[all(UUID), all(Kind::Text), all(Kind::Numbers(4))];
    const ASSIGNMENT: &[Field] = &[all(Kind::Array(PARTITIONS))];
    const MEMBER: &[Field] = &[
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Text),
        all(I32),
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Texts),
        all(Kind::Text),
        all(Kind::Struct(ASSIGNMENT)),
        all(Kind::Struct(ASSIGNMENT)),
        since(1, I8),
    ];
    const GROUP: &[Field] = &[
        all(I16),
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Text),
        all(I32),
        all(I32),
        all(Kind::Text),
        all(Kind::Array(MEMBER)),
        all(I32),
    ];
    &[all(I32), all(Kind::Array(GROUP))]
};

const CREATE_PARTITIONS: &[Field] = {
    const TOPIC: &[Field] = &[all(Kind::Text), all(I16), all(Kind::Text)];
    &[all(I32), all(Kind::Array(TOPIC))]
};

const CREATE_TOPICS: &[Field] = {
    const CONFIG: &[Field] = &[all(Kind::Text), all(Kind::Text), all(BOOL), all(I8), all(BOOL)];
    const TOPIC: &[Field] = &[
        all(Kind::Text),
        since(7, UUID),
        all(I16),
        all(Kind::Text),
        since(5, I32),
        since(5, I16),
        since(5, Kind::Array(CONFIG)),
        Field::tagged(0, 5, I16),
    ];
    &[all(I32), all(Kind::Array(TOPIC))]
};

const DELETE_RECORDS: &[Field] = {
    const PARTITION: &[Field] = &[all(I32), all(I64), all(I16)];
    const TOPIC: &[Field] = &[all(Kind::Text), all(Kind::Array(PARTITION))];
    &[all(I32), all(Kind::Array(TOPIC))]
};

const DELETE_TOPICS: &[Field] = {
    const TOPIC: &[Field] = &[all(Kind::Text), since(6, UUID), all(I16), since(5, Kind::Text)];
    &[all(I32), all(Kind::Array(TOPIC))]
};

const DESCRIBE_CONFIGS: &[Field] = {
    const SYNONYM: &[Field] = &[all(Kind::Text), all(Kind::Text), all(I8)];
    const CONFIG: &[Field] = &[
        all(Kind::Text),
        all(Kind::Text),
        all(BOOL),
        all(I8),
        all(BOOL),
        all(Kind::Array(SYNONYM)),
        since(3, I8),
        since(3, Kind::Text),
    ];
    const RESOURCE: &[Field] =
        &[all(I16), all(Kind::Text), all(I8), all(Kind::Text), all(Kind::Array(CONFIG))];
    &[all(I32), all(Kind::Array(RESOURCE))]
};

const DESCRIBE_GROUPS: &[Field] = {
    const MEMBER: &[Field] = &[
        all(Kind::Text),
        since(4, Kind::Text),
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Blob),
        all(Kind::Blob),
    ];
    const GROUP: &[Field] = &[
        all(I16),
        since(6, Kind::Text),
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Text),
        all(Kind::Array(MEMBER)),
        since(3, I32),
    ];
    &[since(1, I32), all(Kind::Array(GROUP))]
};

const DESCRIBE_PRODUCERS: &[Field] = {
    const PRODUCER: &[Field] = &[all(I64), all(I32), all(I32), all(I64), all(I32), all(I64)];
    const PARTITION: &[Field] = &[all(I32), all(I16), all(Kind::Text), all(Kind::Array(PRODUCER))];
    const TOPIC: &[Field] = &[all(Kind::Text), all(Kind::Array(PARTITION))];
    &[all(I32), all(Kind::Array(TOPIC))]
};

/// Brokers that a fetch or produce response points to.
const NODE_ENDPOINT: &[Field] = &[all(I32), all(Kind::Text), all(I32), all(Kind::Text)];

const FETCH: &[Field] = {
    const ABORTED: &[Field] = &[all(I64), all(I64)];
    const EPOCH_END: &[Field] = &[all(I32), all(I64)];
    const LEADER: &[Field] = &[all(I32), all(I32)];
    const SNAPSHOT: &[Field] = &[all(I64), all(I32)];
    const PARTITION: &[Field] = &[
        all(I32),
        all(I16),
        all(I64),
        all(I64),
        since(5, I64),
        all(Kind::Array(ABORTED)),
        since(11, I32),
        all(Kind::Blob),
        Field::tagged(0, 12, Kind::Struct(EPOCH_END)),
        Field::tagged(1, 12, Kind::Struct(LEADER)),
        Field::tagged(2, 12, Kind::Struct(SNAPSHOT)),
    ];
    const TOPIC: &[Field] = &[until(12, Kind::Text), since(13, UUID), all(Kind::Array(PARTITION))];
    &[
        all(I32),
        since(7, I16),
        since(7, I32),
        all(Kind::Array(TOPIC)),
        Field::tagged(0, 16, Kind::Array(NODE_ENDPOINT)),
    ]
};

const FIND_COORDINATOR: &[Field] = {
    const COORDINATOR: &[Field] =
        &[all(Kind::Text), all(I32), all(Kind::Text), all(I32), all(I16), all(Kind::Text)];
    &[
        since(1, I32),
        until(3, I16),
        Field::between(1, 3, Kind::Text),
        until(3, I32),
        until(3, Kind::Text),
        until(3, I32),
        since(4, Kind::Array(COORDINATOR)),
    ]
};

const INIT_PRODUCER_ID: &[Field] = &[all(I32), all(I16), all(I64), all(I16), since(6, I64), since(6, I16)];

const LIST_GROUPS: &[Field] = {
    const GROUP: &[Field] = &[all(Kind::Text), all(Kind::Text), since(4, Kind::Text), since(5, Kind::Text)];
    &[since(1, I32), all(I16), all(Kind::Array(GROUP))]
};

const LIST_OFFSETS: &[Field] = {
    const PARTITION: &[Field] = &[all(I32), all(I16), all(I64), all(I64), since(4, I32)];
    const TOPIC: &[Field] = &[all(Kind::Text), all(Kind::Array(PARTITION))];
    &[since(2, I32), all(Kind::Array(TOPIC))]
};

const METADATA: &[Field] = {
    const BROKER: &[Field] = &[all(I32), all(Kind::Text), all(I32), since(1, Kind::Text)];
    const PARTITION: &[Field] = &[
        all(I16),
        all(I32),
        all(I32),
        since(7, I32),
        all(Kind::Numbers(4)),
        all(Kind::Numbers(4)),
        since(5, Kind::Numbers(4)),
    ];
    const TOPIC: &[Field] = &[
        all(I16),
        all(Kind::Text),
        since(10, UUID),
        since(1, BOOL),
        all(Kind::Array(PARTITION)),
        since(8, I32),
    ];
    &[
        since(3, I32),
        all(Kind::Array(BROKER)),
        since(2, Kind::Text),
        since(1, I32),
        all(Kind::Array(TOPIC)),
        Field::between(8, 10, I32),
        since(13, I16),
    ]
};

const OFFSET_FETCH: &[Field] = {
    const PARTITION: &[Field] = &[all(I32), all(I64), since(5, I32), all(Kind::Text), all(I16)];
    const TOPIC: &[Field] = &[until(9, Kind::Text), since(10, UUID), all(Kind::Array(PARTITION))];
    const GROUP: &[Field] = &[all(Kind::Text), all(Kind::Array(TOPIC)), all(I16)];
    &[since(3, I32), until(7, Kind::Array(TOPIC)), Field::between(2, 7, I16), since(8, Kind::Array(GROUP))]
};

const OFFSET_FOR_LEADER_EPOCH: &[Field] = {
    const PARTITION: &[Field] = &[all(I16), all(I32), all(I32), all(I64)];
    const TOPIC: &[Field] = &[all(Kind::Text), all(Kind::Array(PARTITION))];
    &[all(I32), all(Kind::Array(TOPIC))]
};

const PRODUCE: &[Field] = {
    const LEADER: &[Field] = &[all(I32), all(I32)];
    const RECORD_ERROR: &[Field] = &[all(I32), all(Kind::Text)];
    const PARTITION: &[Field] = &[
        all(I32),
        all(I16),
        all(I64),
        all(I64),
        since(5, I64),
        since(8, Kind::Array(RECORD_ERROR)),
        since(8, Kind::Text),
        Field::tagged(0, 10, Kind::Struct(LEADER)),
    ];
    const TOPIC: &[Field] = &[until(12, Kind::Text), since(13, UUID), all(Kind::Array(PARTITION))];
    &[all(Kind::Array(TOPIC)), all(I32), Field::tagged(0, 10, Kind::Array(NODE_ENDPOINT))]
};
