//! Who may depend on whom.
//!
//! Owns the table of allowed edges. Fails closed: what can't be read, or a package without a rule, is a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{capture, cargo};

const CORE: &str = "mirrormesh-core";
const RELAY: &str = "mirrormesh-relay";
const TESTKIT: &str = "mirrormesh-testkit";
const OURS: &str = "mirrormesh-";

/// Which of our packages a package may use.
enum Edges {
    /// These.
    Only(&'static [&'static str]),
    /// Any: tools and tests that nothing depends on.
    Any,
}

/// Each of our packages, by name without `mirrormesh-`. Services never use each other; standalone is all of them.
const TABLE: [(&str, Edges); 14] = [
    ("core", Edges::Only(&[])),
    ("relay", Edges::Only(&["core"])),
    ("proto", Edges::Only(&["core"])),
    // It knows the relay's codecs, which it carries out.
    ("kafka", Edges::Only(&["core", "relay"])),
    ("runtime", Edges::Only(&[])),
    ("worker", Edges::Only(&["core", "proto", "runtime", "kafka"])),
    ("source", Edges::Only(&["core", "relay", "proto", "kafka", "worker", "runtime"])),
    ("checkpoint", Edges::Only(WORKER_SERVICE)),
    ("heartbeat", Edges::Only(WORKER_SERVICE)),
    // The coordinator knows no Kafka.
    ("coordinator", Edges::Only(&["core", "proto", "runtime"])),
    ("standalone", Edges::Only(&["coordinator", "source", "checkpoint", "heartbeat", "runtime"])),
    ("cli", Edges::Only(&["core", "proto"])),
    ("testkit", Edges::Any),
    ("integration", Edges::Any),
];
const WORKER_SERVICE: &[&str] = &["core", "proto", "kafka", "worker", "runtime"];

/// Tasks must build on a machine that has cargo and a C compiler only.
const XTASK: (&str, &[&str]) = ("mirrormesh-xtask", &["anyhow", "clap", "serde_json"]);

/// One speaker per dialect: the only packages that may name these crates, for whatever purpose.
const SPEAKERS: [(&str, &[&str]); 4] = [
    // The test kit speaks the broker's half.
    ("kafka-protocol", &["mirrormesh-kafka", "mirrormesh-testkit"]),
    ("rdkafka", &["mirrormesh-kafka", "mirrormesh-testkit", "mirrormesh-integration"]),
    ("openraft", &["mirrormesh-coordinator"]),
    ("redb", &["mirrormesh-coordinator"]),
];

/// What the pure crates may use, themselves and by way of others. No IO, no runtime, no clock, no serialisation framework.
const PURE_TREE: [&str; 20] = [
    CORE,
    "bytes",
    "thiserror",
    "thiserror-impl",
    "regex",
    "regex-automata",
    "regex-syntax",
    "aho-corasick",
    "memchr",
    "crc-fast",
    "digest",
    "crypto-common",
    "generic-array",
    "typenum",
    "spin",
    "strsim",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];
const PURE_DIRECT: [&str; 6] = [CORE, "bytes", "thiserror", "regex", "strsim", "crc-fast"];

/// Checks the workspace; the violations, one per line of text.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let metadata = capture(cargo(root).args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let packages = read_packages(&metadata)?;
    let mut violations = check_packages(&packages);
    for pure in [CORE, RELAY] {
        let tree =
            capture(cargo(root).args(["tree", "--locked", "-p", pure, "-e", "normal", "--prefix", "none"]))?;
        violations.extend(check_tree(pure, &tree));
    }
    Ok(violations)
}

/// What kind of dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Part of what is shipped (or of its build).
    Product,
    /// Of tests only.
    Dev,
}

/// Dependencies by package.
type Packages = BTreeMap<String, Vec<(String, Kind)>>;

fn read_packages(metadata: &str) -> Result<Packages> {
    let value: Value =
        serde_json::from_str(metadata).context("`cargo metadata` said something that is not JSON")?;
    let list =
        value.get("packages").and_then(Value::as_array).context("`cargo metadata` told no packages")?;
    let mut packages = Packages::new();
    for package in list {
        let name = text(package, "name")?;
        let dependencies = package
            .get("dependencies")
            .and_then(Value::as_array)
            .with_context(|| format!("{name}: no dependencies"))?;
        let mut edges = Vec::new();
        for dependency in dependencies {
            let kind = match dependency.get("kind") {
                None | Some(Value::Null) => Kind::Product,
                Some(kind) if kind == "build" => Kind::Product,
                Some(kind) if kind == "dev" => Kind::Dev,
                Some(kind) => bail!("{name}: an unknown kind of dependency: {kind}"),
            };
            edges.push((text(dependency, "name")?, kind));
        }
        packages.insert(name, edges);
    }
    if !packages.contains_key(CORE) {
        bail!("`cargo metadata` did not tell of {CORE}");
    }
    Ok(packages)
}

fn text(value: &Value, key: &str) -> Result<String> {
    value
        .get(key)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("`cargo metadata`: no {key}"))
}

fn check_packages(packages: &Packages) -> Vec<String> {
    let mut violations = Vec::new();
    for (package, dependencies) in packages {
        violations.extend(check_edges(package, dependencies));
        for (dependency, _) in dependencies {
            let speakers = SPEAKERS.iter().find(|(name, _)| name == dependency);
            if let Some((_, allowed)) = speakers.filter(|(_, allowed)| !allowed.contains(&package.as_str())) {
                violations.push(format!("{package} -> {dependency}: only {} may use it", allowed.join(", ")));
            }
        }
    }
    violations
}

fn check_edges(package: &str, dependencies: &[(String, Kind)]) -> Vec<String> {
    if package == XTASK.0 {
        return outside(package, dependencies, XTASK.1, "tasks must build with cargo and a C compiler only");
    }
    let mut violations = Vec::new();
    if [CORE, RELAY].contains(&package) {
        let product: Vec<_> =
            dependencies.iter().filter(|(_, kind)| *kind == Kind::Product).cloned().collect();
        violations.extend(outside(package, &product, &PURE_DIRECT, "core and relay are pure"));
    }
    let short = package.strip_prefix(OURS);
    let Some((_, edges)) = TABLE.iter().find(|(name, _)| Some(*name) == short) else {
        violations.push(format!("{package} has no rule: add it to the table in crates/xtask/src/deps.rs"));
        return violations;
    };
    let Edges::Only(allowed) = edges else { return violations };
    for (dependency, kind) in dependencies {
        let Some(other) = dependency.strip_prefix(OURS) else { continue };
        let for_tests = dependency == TESTKIT && *kind == Kind::Dev;
        if !for_tests && !allowed.contains(&other) {
            let list = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            let what = if *kind == Kind::Dev { " (for tests)" } else { "" };
            violations.push(format!("{package} -> {dependency}{what}: of ours it may use: {list}"));
        }
    }
    violations
}

/// Dependencies that are not in the list.
fn outside(package: &str, dependencies: &[(String, Kind)], allowed: &[&str], reason: &str) -> Vec<String> {
    let wrong = dependencies.iter().filter(|(name, _)| !allowed.contains(&name.as_str()));
    wrong.map(|(name, _)| format!("{package} -> {name}: {reason}; allowed: {}", allowed.join(", "))).collect()
}

/// `cargo tree`'s lines are `name vVERSION ...`.
fn check_tree(pure: &str, tree: &str) -> Vec<String> {
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if !names.contains(pure) || names.len() < 2 {
        return vec![format!("`cargo tree` did not tell what {pure} uses")];
    }
    names
        .into_iter()
        .filter(|name| *name != pure && !PURE_TREE.contains(name))
        .map(|name| format!("{pure} uses {name} (see `cargo tree -p {pure} -i {name}`): it is pure"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace as `cargo metadata` tells it; `name:dev` marks a dependency of tests.
    fn metadata(packages: &[(&str, &[&str])]) -> String {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<Value> = dependencies
                    .iter()
                    .map(|text| {
                        let (name, kind) = text.split_once(':').unwrap_or((text, ""));
                        let kind = if kind.is_empty() { Value::Null } else { Value::from(kind) };
                        serde_json::json!({ "name": name, "kind": kind })
                    })
                    .collect();
                serde_json::json!({ "name": name, "dependencies": dependencies })
            })
            .collect();
        serde_json::json!({ "packages": packages }).to_string()
    }

    fn violations(package: &str, dependencies: &[&str]) -> Vec<String> {
        let mut packages = vec![(package, dependencies)];
        if package != CORE {
            packages.push((CORE, &["bytes"]));
        }
        check_packages(&read_packages(&metadata(&packages)).unwrap())
    }

    #[test]
    fn the_layers_are_kept() {
        assert!(
            violations("mirrormesh-worker", &["mirrormesh-core", "mirrormesh-kafka", "tokio"]).is_empty()
        );
        assert!(violations("mirrormesh-coordinator", &["mirrormesh-runtime", "openraft", "redb"]).is_empty());
        for (package, dependency) in [
            ("mirrormesh-proto", "mirrormesh-runtime"),
            ("mirrormesh-runtime", "mirrormesh-core"),
            ("mirrormesh-kafka", "mirrormesh-proto"),
            ("mirrormesh-coordinator", "mirrormesh-kafka"),
            ("mirrormesh-source", "mirrormesh-checkpoint"),
            ("mirrormesh-source", "mirrormesh-coordinator:dev"),
            ("mirrormesh-standalone", "mirrormesh-kafka"),
            ("mirrormesh-worker", "mirrormesh-worker-two:build"),
        ] {
            let found = violations(package, &[dependency]);
            assert_eq!(found.len(), 1, "{package} -> {dependency}: {found:?}");
        }
    }

    #[test]
    fn the_test_kit_is_for_tests() {
        assert!(violations("mirrormesh-kafka", &["mirrormesh-testkit:dev"]).is_empty());
        assert_eq!(violations("mirrormesh-kafka", &["mirrormesh-testkit"]).len(), 1);
        assert_eq!(violations("mirrormesh-kafka", &["mirrormesh-testkit:build"]).len(), 1);
        assert!(
            violations("mirrormesh-integration", &["mirrormesh-testkit", "mirrormesh-kafka", "rdkafka"])
                .is_empty()
        );
    }

    #[test]
    fn dialects_have_one_speaker() {
        for (package, dependency) in [
            ("mirrormesh-source", "rdkafka"),
            ("mirrormesh-source", "rdkafka:dev"),
            ("mirrormesh-source", "kafka-protocol"),
            ("mirrormesh-worker", "openraft"),
            ("mirrormesh-standalone", "redb"),
        ] {
            let found = violations(package, &[dependency]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains("only"), "{found:?}");
        }
    }

    #[test]
    fn core_is_pure() {
        assert!(violations(CORE, &["bytes", "thiserror", "regex", "crc-fast", "proptest:dev"]).is_empty());
        assert_eq!(violations(CORE, &["tokio"]).len(), 1);
        assert_eq!(violations(CORE, &["serde:build"]).len(), 1);
        let sound = "mirrormesh-core v0.1.0 (somewhere)\nbytes v1.11.0\nregex v1.12.2\nmemchr v2.7.6 (*)\n";
        assert!(check_tree(CORE, sound).is_empty());
        let found = check_tree(CORE, &format!("{sound}serde v1.0.0\ntokio v1.54.1\n"));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn tasks_need_little() {
        assert!(violations("mirrormesh-xtask", &["anyhow", "clap", "serde_json"]).is_empty());
        assert_eq!(violations("mirrormesh-xtask", &["mirrormesh-core"]).len(), 1);
        assert_eq!(violations("mirrormesh-xtask", &["tokio:dev"]).len(), 1);
    }

    #[test]
    fn a_package_without_a_rule_is_refused() {
        assert_eq!(violations("mirrormesh-new", &[]).len(), 1);
        assert_eq!(violations("something-else", &[]).len(), 1);
    }

    #[test]
    fn silence_is_no_pass() {
        for metadata in ["", "{}", "[]", r#"{"packages":[]}"#, r#"{"packages":[{"name":"mirrormesh-core"}]}"#]
        {
            assert!(read_packages(metadata).is_err(), "{metadata}");
        }
        let odd = metadata(&[(CORE, &["bytes:strange"])]);
        assert!(read_packages(&odd).is_err());
        assert_eq!(check_tree(CORE, "").len(), 1);
        assert_eq!(check_tree(CORE, "mirrormesh-core v0.1.0\n").len(), 1);
        assert_eq!(check_tree(CORE, "error: something\nbytes v1\n").len(), 1);
    }
}
