//! Updates of flows by field mask (AIP-134, AIP-161).
//!
//! An update is made on the flow as users see it, and the result is read as a new flow would be: there is one set of
//! rules, and what is not named keeps its value.

use mirrormesh_core::flow::FlowSpec;
use prost_types::FieldMask;

use super::flow::flow_spec;
use super::flow_view::spec_to_api;
use super::mask::{self, Fields};
use crate::error::{Faults, Violations};
use crate::v1;

/// Fields that the mesh sets (AIP-203).
const OUTPUT_ONLY: [&str; 6] =
    ["state", "conditions", "generation", "progress", "create_time", "update_time"];

/// The specification after an update (AIP-134).
///
/// The fields that the mask names get the update's values, or their defaults where the update leaves them out. Without a
/// mask, the fields that the update fills are changed and all others keep their values. `*` means all fields that can be
/// changed; `source`, `target` and `naming` can't, so there they keep their values unless the update has them. A value
/// that differs there comes through: core refuses it and says so. Paths that can't be used are faults of `update_mask`.
pub fn apply_flow_mask(
    present: &FlowSpec,
    update: &v1::Flow,
    mask: Option<&FieldMask>,
) -> Result<FlowSpec, Violations> {
    let mut faults = Faults::new();
    let new = Fields::of(update)?;
    let mut merged = Fields::of(&spec_to_api(present))?;
    let filled = new.filled(&OUTPUT_ONLY);
    for path in mask::named(mask).unwrap_or(&filled) {
        if path == "*" {
            merged = Fields::of(&all(merged.message()?, update))?;
            continue;
        }
        let snake = mask::snake_case(path);
        let is_output = OUTPUT_ONLY.contains(&snake.split('.').next().unwrap_or_default());
        if !mask::is_address(&snake) && (is_output || !merged.set(&new, &snake)) {
            faults.push("update_mask", mask::refusal(path, "flow", &OUTPUT_ONLY));
        }
    }
    let spec = faults.keep(flow_spec(&merged.message()?));
    faults.finish_with(spec)
}

/// The update, with what can't be changed where it leaves that out.
fn all(present: v1::Flow, update: &v1::Flow) -> v1::Flow {
    let mut merged = update.clone();
    if merged.source.is_empty() {
        merged.source = present.source;
    }
    if merged.target.is_empty() {
        merged.target = present.target;
    }
    if merged.naming.as_ref().is_none_or(|naming| naming.policy.is_none()) {
        merged.naming = present.naming;
    }
    merged
}
