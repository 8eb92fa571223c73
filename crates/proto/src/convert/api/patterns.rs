//! Lists of patterns.
//!
//! Owns defaults, limits and the hints about usual mistakes; core compiles.

use mirrormesh_core::flow::{NameFilter, PatternError};

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

/// What a list selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Topics: their names hold letters, digits, `.`, `_` and `-` only.
    Topics,
    /// Consumer groups: their ids may hold anything.
    Groups,
}

/// A list as users see it.
pub(super) fn show(patterns: &[String]) -> Vec<String> {
    if patterns.is_empty() { vec![NOTHING.to_owned()] } else { patterns.to_vec() }
}

/// A list as users sent it: the default if it is empty, nothing if it holds just the empty pattern; otherwise each
/// pattern must compile, and so must all together.
pub(super) fn read(
    patterns: &[String],
    names: Names,
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
    // Compiling can be dear: all patterns are compiled once together; single ones only if something is wrong.
    let suspect = patterns
        .iter()
        .any(|pattern| pattern.len() > PATTERN_BYTES_MAX || impossible(pattern, names).is_some());
    let together = if suspect { None } else { NameFilter::new(patterns, &[]).err() };
    if suspect || together.is_some() {
        let alone = patterns.iter().enumerate();
        let found =
            alone.filter_map(|(index, pattern)| Some((index, check(pattern, names).err()?))).take(FAULTS_MAX);
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

fn check(pattern: &String, names: Names) -> Result<(), String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "a pattern must have at most {PATTERN_BYTES_MAX} bytes, this has {}",
            pattern.len()
        ));
    }
    if let Some(problem) = impossible(pattern, names) {
        return Err(problem);
    }
    NameFilter::new(std::slice::from_ref(pattern), &[])
        .map(|_| ())
        .map_err(|error| format!("pattern {pattern:?} does not compile: {}{}", error.problem, hint(&error)))
}

/// Why a pattern can't match any topic: it holds a character that is in no topic name.
fn impossible(pattern: &str, names: Names) -> Option<String> {
    if names == Names::Groups {
        return None;
    }
    let marked = mark_counts(pattern);
    if marked.contains(',') {
        let parts: Vec<String> =
            marked.split(',').map(|part| part.trim().replace(COUNT_COMMA, ",")).collect();
        let advice = match NameFilter::new(&parts, &[]) {
            Ok(_) => format!("give each topic a pattern of its own, {parts:?}"),
            Err(_) => "give each topic a pattern of its own".to_owned(),
        };
        return Some(format!("pattern {pattern:?} holds a comma, which can't be in a topic name: {advice}"));
    }
    pattern.contains(char::is_whitespace).then(|| {
        let without: String = pattern.split_whitespace().collect();
        format!("pattern {pattern:?} holds a blank, which can't be in a topic name: write {without:?}")
    })
}

/// Stands for the comma of `{m,n}` while a pattern is looked at; it is in no topic name either.
const COUNT_COMMA: &str = "\0";

/// The pattern with another character for the comma in `{m,}` and `{m,n}`, which say how often something repeats.
fn mark_counts(pattern: &str) -> String {
    let mut marked = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, inside)) = rest.split_once('{') {
        marked.push_str(before);
        marked.push('{');
        let is_count = |text: &&str| text.bytes().all(|b| b.is_ascii_digit() || b == b',');
        match inside.split_once('}').map(|(count, _)| count).filter(is_count) {
            Some(count) => {
                marked.push_str(&count.replacen(',', COUNT_COMMA, 1));
                rest = inside.strip_prefix(count).unwrap_or(inside);
            }
            None => rest = inside,
        }
    }
    marked.push_str(rest);
    marked
}

/// What to write instead, after a usual mistake.
fn hint(error: &PatternError) -> &'static str {
    if error.problem.contains("look-around") {
        ": put what is not to be selected into the exclude list"
    } else if error.pattern == "*" {
        ": patterns are regular expressions, everything is `.*`"
    } else if error.problem.contains("repetition operator") {
        ": patterns are regular expressions, any text is `.*`"
    } else {
        ""
    }
}
