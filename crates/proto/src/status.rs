//! gRPC statuses with machine-readable details (AIP-193).
//!
//! Owns codes, reasons and limits: a status travels in HTTP/2 trailers, which peers refuse above some 16 KiB.

use std::collections::HashMap;

use mirrormesh_core::control::{Reject, RejectCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::{ConvertError, Violations};

/// `ErrorInfo.domain` of every refusal.
pub const DOMAIN: &str = "mirrormesh";

/// `ErrorInfo.reason` when fields of a request are wrong in themselves.
const FIELD_INVALID: &str = "FIELD_INVALID";

/// Longest text of a message or a description, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Text of all field violations of one status, in bytes; faults beyond it are counted in the message.
const VIOLATIONS_BYTES_MAX: usize = 4096;

/// Cuts a text at a character's border.
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let kept: String = text
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= TEXT_BYTES_MAX)
        .map(|(_, c)| c)
        .collect();
    kept + "…"
}

fn field_violation(fault: &ConvertError) -> FieldViolation {
    let mut violation = FieldViolation::new(cut(&fault.field), cut(&fault.problem));
    FIELD_INVALID.clone_into(&mut violation.reason);
    violation
}

impl From<Violations> for Status {
    /// `INVALID_ARGUMENT` with one field violation per fault. Only when the details would not fit into trailers are
    /// the last faults left out, and the message says how many.
    fn from(violations: Violations) -> Self {
        let mut bytes = 0;
        let listed: Vec<FieldViolation> = violations
            .iter()
            .map(field_violation)
            .take_while(|violation| {
                bytes += violation.field.len() + violation.description.len();
                bytes <= VIOLATIONS_BYTES_MAX
            })
            .collect();
        let count = violations.iter().count();
        let first = violations.iter().next().map(|fault| cut(&fault.to_string())).unwrap_or_default();
        let message = match (count, count.saturating_sub(listed.len())) {
            (1, _) => first,
            (_, 0) => format!("{count} fields are not valid, the first: {first}"),
            (_, left_out) => {
                format!("{count} fields are not valid, {left_out} of them are not listed, the first: {first}")
            }
        };
        let mut details = ErrorDetails::new();
        details.set_error_info(FIELD_INVALID, DOMAIN, HashMap::new()).set_bad_request(listed);
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}

impl From<ConvertError> for Status {
    fn from(fault: ConvertError) -> Self {
        Violations::from(fault).into()
    }
}

/// The status of a refused command: its code, its reason with [`DOMAIN`], and the field at fault where there is one.
pub fn status_of(reject: &Reject) -> Status {
    let message = cut(&reject.message);
    let mut details = ErrorDetails::new();
    details.set_error_info(reject.reason, DOMAIN, HashMap::new());
    let code = match reject.code {
        RejectCode::NotFound => Code::NotFound,
        RejectCode::AlreadyExists => Code::AlreadyExists,
        RejectCode::Aborted => Code::Aborted,
        RejectCode::InvalidArgument => {
            if !reject.field.is_empty() {
                let mut violation = FieldViolation::new(reject.field, message.clone());
                reject.reason.clone_into(&mut violation.reason);
                details.set_bad_request(vec![violation]);
            }
            Code::InvalidArgument
        }
        RejectCode::FailedPrecondition => {
            details.add_precondition_failure_violation(reject.reason, reject.field, message.clone());
            Code::FailedPrecondition
        }
    };
    Status::with_error_details(code, message, details)
}
