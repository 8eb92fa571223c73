//! Lists of patterns.
//!
//! Owns defaults and limits; core compiles.

use mirrormesh_core::flow::NameFilter;

use crate::error::Faults;

/// Patterns in one list at most: every pattern costs memory in every worker.
const PATTERNS_MAX: usize = 1_000;
/// Longest pattern, in bytes; checked before anything is compiled.
const PATTERN_BYTES_MAX: usize = 2_048;

/// Faulty patterns of one list that are told at most; more would not fit into an answer.
const FAULTS_MAX: usize = 100;

/// The only pattern of a list that matches nothing: no name is empty. Protobuf can't tell an empty list from an absent
/// one, which means the default.
const NOTHING: &str = "";

/// A list as users see it.
pub(super) fn show(patterns: &[String]) -> Vec<String> {
    if patterns.is_empty() { vec![NOTHING.to_owned()] } else { patterns.to_vec() }
}

/// A list as users sent it: the default if it is empty, nothing if it holds just the empty pattern; otherwise each
/// pattern must compile, and so must all together.
pub(super) fn read(
    patterns: &[String],
    default: impl FnOnce() -> Vec<String>,
    field: &str,
    faults: &mut Faults,
) -> Vec<String> {
    match patterns {
        [] => return default(),
        [only] if only == NOTHING => return Vec::new(),
        _ => {}
    }
    if patterns.len() > PATTERNS_MAX {
        let problem = format!("holds {} patterns, at most {PATTERNS_MAX} are allowed", patterns.len());
        faults.push(field, problem);
        return Vec::new();
    }
    // Compiling can be dear: what is right is compiled once, and only what is wrong is looked at one by one.
    let too_long = patterns.iter().any(|pattern| pattern.len() > PATTERN_BYTES_MAX);
    let together = if too_long { None } else { NameFilter::new(patterns, &[]).err() };
    if too_long || together.is_some() {
        let alone = patterns.iter().enumerate();
        let found =
            alone.filter_map(|(index, pattern)| Some((index, check(pattern).err()?))).take(FAULTS_MAX);
        let found: Vec<_> = found.collect();
        if let (true, Some(error)) = (found.is_empty(), together) {
            faults.push(field, format!("the patterns do not compile together: {}", error.problem));
        }
        for (index, problem) in found {
            faults.push(format!("{field}[{index}]"), problem);
        }
    }
    patterns.to_vec()
}

fn check(pattern: &String) -> Result<(), String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "a pattern must have at most {PATTERN_BYTES_MAX} bytes, this has {}",
            pattern.len()
        ));
    }
    NameFilter::new(std::slice::from_ref(pattern), &[])
        .map(|_| ())
        .map_err(|error| format!("pattern {pattern:?} does not compile: {}", error.problem))
}
