//! What every write carries: the etag (AIP-154) and the request id (AIP-155).

use mirrormesh_core::control::WriteGuard;

use crate::error::{ConvertError, Faults, Violations};

/// Longest request id, in characters.
pub const REQUEST_ID_CHARS_MAX: usize = 64;

/// The etag of a resource: the revision of its last change.
pub fn etag(revision: u64) -> String {
    revision.to_string()
}

/// The revision that a write expects; `None` for an empty etag. Anything that [`etag`] can't have made matches no
/// resource, and is a fault: a write with it must not become an unconditional one.
pub fn expected_revision(etag: &str, field: &str) -> Result<Option<u64>, ConvertError> {
    if etag.is_empty() {
        return Ok(None);
    }
    match etag.parse::<u64>() {
        // Revisions begin at 1; a sign or leading zeros were never given out.
        Ok(revision) if revision > 0 && revision.to_string() == etag => Ok(Some(revision)),
        _ => Err(ConvertError::new(field, "is not an etag that this mesh gave out: read the resource again")),
    }
}

/// The guard of a write. `etag_field` names the etag's field in the request, e.g. `flow.etag`; creations pass an empty
/// etag.
pub fn write_guard(
    request_id: &str,
    fingerprint: u64,
    etag: &str,
    etag_field: &str,
) -> Result<WriteGuard, Violations> {
    let mut faults = Faults::new();
    if request_id.chars().count() > REQUEST_ID_CHARS_MAX {
        faults.push("request_id", format!("must have at most {REQUEST_ID_CHARS_MAX} characters"));
    }
    let expected = faults.keep(expected_revision(etag, etag_field));
    let guard =
        |expected_revision| WriteGuard { request_id: request_id.to_owned(), fingerprint, expected_revision };
    faults.finish_with(expected.map(guard))
}
