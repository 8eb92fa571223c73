//! Refusals as gRPC statuses.

use mirrormesh_core::control::{Reject, RejectCode};
use mirrormesh_proto::{ConvertError, Faults, status_of};
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn reject(code: RejectCode, field: &'static str) -> Status {
    status_of(&Reject { code, reason: "SOME_REASON", field, message: "what to do".into() })
}

#[test]
fn codes_and_reasons_of_refused_commands() {
    for (code, expected) in [
        (RejectCode::NotFound, Code::NotFound),
        (RejectCode::AlreadyExists, Code::AlreadyExists),
        (RejectCode::InvalidArgument, Code::InvalidArgument),
        (RejectCode::FailedPrecondition, Code::FailedPrecondition),
        (RejectCode::Aborted, Code::Aborted),
    ] {
        let status = reject(code, "flow.source");
        assert_eq!((status.code(), status.message()), (expected, "what to do"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SOME_REASON", "mirrormesh"));
    }
}

#[test]
fn the_field_is_named_where_it_is_the_request_that_is_wrong() {
    let status = reject(RejectCode::InvalidArgument, "flow.source");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, "flow.source");
    assert_eq!(violations[0].description, "what to do");
    assert_eq!(violations[0].reason, "SOME_REASON");
    assert!(reject(RejectCode::InvalidArgument, "").get_details_bad_request().is_none());
    assert!(reject(RejectCode::NotFound, "name").get_details_bad_request().is_none());

    let status = reject(RejectCode::FailedPrecondition, "flow.naming");
    assert!(status.get_details_bad_request().is_none());
    let violations = status.get_details_precondition_failure().unwrap().violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].r#type, "SOME_REASON");
    assert_eq!(violations[0].subject, "flow.naming");
    assert_eq!(violations[0].description, "what to do");
}

#[test]
fn one_status_lists_every_fault() {
    let mut faults = Faults::new();
    faults.push("flow.source", "is empty");
    faults.push("flow.topics.include[1]", "does not compile");
    let status = Status::from(faults.finish().unwrap_err());
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "2 fields are not valid, the first: `flow.source`: is empty");
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("FIELD_INVALID", "mirrormesh"));
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["flow.source", "flow.topics.include[1]"]);

    let single = Status::from(ConvertError::new("name", "is empty"));
    assert_eq!(single.message(), "`name`: is empty");
    let whole = Status::from(ConvertError::new("", "is empty"));
    assert_eq!(whole.message(), "is empty");
}

#[test]
fn a_status_always_fits_into_trailers() {
    let mut faults = Faults::new();
    for index in 0..1000 {
        faults.push(format!("flow.topics.include[{index}]"), "ä".repeat(2000));
    }
    let status = Status::from(faults.finish().unwrap_err());
    let listed = status.get_details_bad_request().unwrap().field_violations.len();
    assert!((1..1000).contains(&listed));
    assert!(
        status.message().contains(&format!("{} of them are not listed", 1000 - listed)),
        "{}",
        status.message()
    );
    // Sent percent-encoded (three characters per byte) and base64 respectively; peers take 16 KiB.
    let bytes = status.message().len() * 3 + status.details().len() * 4 / 3;
    assert!(bytes < 14 * 1024, "{bytes}");

    let long = Reject {
        code: RejectCode::InvalidArgument,
        reason: "R",
        field: "flow",
        message: "x".repeat(100_000),
    };
    assert!(status_of(&long).details().len() < 4096);
}
