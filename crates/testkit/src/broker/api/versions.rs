//! `ApiVersions`: what the broker speaks, by the version of Kafka that it plays.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use crate::broker::call::{Call, Served};
use crate::broker::code;
use crate::jars::KafkaVersion;

/// Key, lowest version, highest version in Kafka 3.9, highest in 4.3.
const RANGES: [(i16, i16, i16, i16); 15] = [
    // Versions 0 to 2 are offered for old clients that look for them, and not taken (KAFKA-18659).
    (0, 0, 11, 13),
    (1, 4, 17, 18),
    (2, 1, 9, 10),
    (3, 0, 12, 13),
    (18, 0, 4, 4),
    (19, 2, 7, 7),
    (20, 1, 6, 6),
    (21, 0, 2, 2),
    (22, 0, 5, 5),
    (23, 2, 4, 4),
    (27, 1, 1, 1),
    (32, 1, 4, 4),
    (37, 0, 3, 3),
    (44, 0, 1, 1),
    (61, 0, 0, 0),
];

/// The versions of a request that are taken.
pub(in crate::broker) fn range(key: i16, version: KafkaVersion) -> Option<(i16, i16)> {
    let (_, min, old, new) = RANGES.iter().find(|(other, ..)| *other == key)?;
    Some((*min, if version == KafkaVersion::V3_9 { *old } else { *new }))
}

impl Served for ApiVersionsRequest {
    async fn serve(self, call: Call) -> Option<ApiVersionsResponse> {
        let kafka = call.shared.look(|state| state.version);
        let known = range(18, kafka).is_some_and(|(_, max)| call.version <= max);
        let offered = RANGES.iter().filter_map(|(key, ..)| {
            let (min, max) = range(*key, kafka)?;
            Some(ApiVersion::default().with_api_key(*key).with_min_version(min).with_max_version(max))
        });
        let refused = if known { code::NONE } else { code::UNSUPPORTED_VERSION };
        let error = call.claimed.whole_error().unwrap_or(refused);
        Some(ApiVersionsResponse::default().with_error_code(error).with_api_keys(offered.collect()))
    }
}
