//! Every reason that the product names is explained in `docs/`: conditions, events, stops, errors of the API.
//!
//! Goes by the text: a literal in capitals with underscores is a reason, unless it is somebody else's name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::source_text::{code_of, is_test, list};

/// Packages that name reasons. Kafka's own names and what runs the process are elsewhere.
const PACKAGES: [&str; 9] = [
    "crates/core",
    "crates/relay",
    "crates/proto",
    "crates/worker",
    "services/coordinator",
    "services/source",
    "services/checkpoint",
    "services/heartbeat",
    "services/standalone",
];
/// What begins so is set by cargo or in the environment.
const NOT_OURS_PREFIXES: [&str; 3] = ["CARGO_", "OUT_DIR", "MIRRORMESH_"];
/// Names of gRPC and Kafka that the product reads.
const NOT_OURS: [&str; 11] = [
    "ALREADY_EXISTS",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNKNOWN_TOPIC_ID",
    "UNKNOWN_TOPIC_OR_PARTITION",
];

/// What the check found.
#[derive(Debug)]
pub(crate) struct Reasons {
    /// How many there are.
    pub(crate) count: usize,
    /// Those that no document names, and where each stands.
    pub(crate) violations: Vec<String>,
}

/// Checks the workspace.
pub(crate) fn check(root: &Path) -> Result<Reasons> {
    let mut documents = String::new();
    let folder = root.join("docs");
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents +=
                &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        }
    }
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    for package in PACKAGES {
        let source = root.join(package).join("src");
        for file in list(&source)? {
            let inside = file.strip_prefix(&source)?;
            if inside.iter().any(|part| is_test(&part.to_string_lossy())) {
                continue;
            }
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            for reason in literals(&code_of(&text)) {
                named.entry(reason).or_insert_with(|| format!("{package}/src/{}", inside.display()));
            }
        }
    }
    Ok(judge(&named, &documents))
}

fn judge(named: &BTreeMap<String, String>, documents: &str) -> Reasons {
    let words: Vec<&str> = documents.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let missing = named.iter().filter(|(reason, _)| !words.contains(&reason.as_str()));
    let violations = missing.map(|(reason, place)| format!("{place} names {reason}: no file in docs/ does"));
    Reasons { count: named.len(), violations: violations.collect() }
}

/// Reasons among the literals of a text.
fn literals(code: &str) -> Vec<String> {
    let is_reason = |text: &&str| {
        let capitals = text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let ours =
            !NOT_OURS.contains(text) && !NOT_OURS_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        let whole = text.starts_with(|c: char| c.is_ascii_uppercase()) && !text.ends_with('_');
        capitals && whole && text.contains('_') && ours
    };
    // Between two quotes is a literal or the code between two of them: neither is in capitals by chance.
    code.split('"').filter(is_reason).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_document_names_is_told_with_its_place() {
        let named =
            literals("fn f() { g(\"NOT_THERE\", \"is there\", \"IS_THERE\", \"NOT_FOUND\", \"x_Y\") }");
        assert_eq!(named, ["NOT_THERE", "IS_THERE"]);
        let named = named.into_iter().map(|reason| (reason, "a.rs".to_owned())).collect();
        let found = judge(&named, "| `IS_THERE`, `NOT_THERE_EITHER` |");
        assert_eq!(
            (found.count, found.violations),
            (2, vec!["a.rs names NOT_THERE: no file in docs/ does".into()])
        );
    }
}
