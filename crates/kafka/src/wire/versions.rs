//! Which version of each request a broker takes.
//!
//! Owns the outcome of `ApiVersions`. Versions are chosen on the range of the *request*: kafka-protocol decodes some
//! responses one version higher than it can ask for.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::{StrBytes, VersionRange};

use super::api::Api;
use super::decode;
use crate::error::{Error, ErrorCode};

/// From version 4 on a broker can be told not to create what it is asked about (Kafka 0.11).
pub(crate) const METADATA_VERSIONS: VersionRange = VersionRange { min: 4, max: 13 };

/// The version that is tried first. A broker that does not know it says so in the form of version 0 (KIP-511).
pub(crate) const FIRST_TRY: i16 = 3;

/// Version ranges by request key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versions(BTreeMap<i16, (i16, i16)>);

/// What a broker said to `ApiVersions`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Negotiated {
    /// What it takes.
    Known(Versions),
    /// It does not know the version of this request; ask again with this one.
    AskAgain(i16),
    /// It refused.
    Refused(ErrorCode),
}

impl Versions {
    /// The highest version that both sides know and that lies within `ours`.
    pub(crate) fn select(&self, key: i16, ours: VersionRange) -> Option<i16> {
        let (min, max) = *self.0.get(&key)?;
        let highest = ours.max.min(max);
        (highest >= ours.min.max(min)).then_some(highest)
    }

    /// As [`Versions::select`], for a request whose `broker` shall be named in the error.
    pub(crate) fn require<R: Api>(&self, broker: &str, ours: VersionRange) -> Result<i16, Error> {
        self.select(R::KEY, ours).ok_or_else(|| Error::Unsupported {
            broker: broker.into(),
            api: R::NAME,
            ours: ours.to_string(),
            theirs: match self.0.get(&R::KEY) {
                Some((min, max)) => format!("{min}..{max}"),
                None => "none".to_owned(),
            },
        })
    }

    fn from_response(response: &ApiVersionsResponse) -> Self {
        Self(response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect())
    }
}

/// The request of this version.
pub(crate) fn request() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("mirrormesh"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")))
}

/// Reads the answer to a request of version `asked`.
pub(crate) fn read(frame: &Bytes, asked: i16, heap_bytes_max: usize) -> Result<Negotiated, String> {
    // The response header has no tagged fields in any version, so the code always stands at the same place.
    let code = frame.get(4..6).and_then(|code| code.try_into().ok()).map(i16::from_be_bytes);
    if code == Some(ErrorCode::UNSUPPORTED_VERSION.0) && asked > 0 {
        return Ok(Negotiated::AskAgain(version_after_refusal(frame, asked, heap_bytes_max)));
    }
    let response = decode::decode::<ApiVersionsRequest>(frame.clone(), asked, heap_bytes_max)?;
    let code = ErrorCode(response.error_code);
    if !code.is_ok() {
        return Ok(Negotiated::Refused(code));
    }
    Ok(Negotiated::Known(Versions::from_response(&response)))
}

/// The highest version that the refusal offers, else 0, which every broker knows.
fn version_after_refusal(frame: &Bytes, asked: i16, heap_bytes_max: usize) -> i16 {
    let Ok(response) = decode::decode::<ApiVersionsRequest>(frame.clone(), 0, heap_bytes_max) else {
        return 0;
    };
    let below = VersionRange { min: 0, max: asked - 1 };
    Versions::from_response(&response)
        .select(<ApiVersionsRequest as kafka_protocol::protocol::Request>::KEY, below)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(entries: &[(i16, i16, i16)]) -> Versions {
        Versions(entries.iter().map(|(key, min, max)| (*key, (*min, *max))).collect())
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        let versions = versions(&[(0, 3, 13), (1, 4, 6), (2, 20, 21)]);
        let ours = |min, max| VersionRange { min, max };
        assert_eq!(versions.select(0, ours(3, 12)), Some(12));
        assert_eq!(versions.select(1, ours(4, 18)), Some(6));
        assert_eq!(versions.select(1, ours(7, 18)), None);
        assert_eq!(versions.select(2, ours(1, 10)), None);
        assert_eq!(versions.select(3, ours(0, 1)), None);
    }
}
