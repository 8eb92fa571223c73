//! What a flow does with each topic of its source: the name on the target, or the reason why the topic is left out.
//!
//! Owns the reasons, their stable names and their texts. The topology unit and the preview of a flow both ask here, so a
//! preview shows what the flow does.

use std::collections::{BTreeMap, BTreeSet};

use super::DEFAULT_TOPICS_EXCLUDE;
use super::topic_rules::TopicRules;
use crate::ids::{ClusterId, TopicId, TopicName};
use crate::registry::{Claim, Homes, claimed};

/// Kafka's limit of a topic name, in bytes.
const NAME_BYTES_MAX: usize = 249;

/// A topic as the source's brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTopic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// Kafka keeps its own state in it.
    pub internal: bool,
    /// Why the brokers say nothing about its partitions.
    pub problem: Option<String>,
}

/// Why a topic is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// No include pattern matches it.
    NotSelected,
    /// An exclude pattern matches it.
    Excluded {
        /// The pattern.
        pattern: String,
        /// The pattern is one of the defaults: the user did not write it.
        by_default: bool,
    },
    /// It is an internal topic: Kafka's own, MirrorMaker 2's or a mesh's.
    Internal,
    /// It came from the flow's target: mirroring it would bring records back.
    Loop {
        /// The flow's target.
        target: ClusterId,
    },
    /// A flow of another mesh writes to its target topic.
    Claimed {
        /// The target topic.
        target: TopicName,
        /// Stable name of the reason.
        reason: &'static str,
        /// What it means and what to do.
        message: String,
    },
    /// Its name on the target is not a valid topic name.
    NameInvalid {
        /// The name.
        target: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Its name on the target is longer than Kafka allows.
    NameTooLong {
        /// The name.
        target: String,
    },
    /// Its name on the target is taken. Kafka also refuses two names that differ only in `.` and `_`.
    Collides {
        /// The name.
        target: TopicName,
        /// What has the name: a source topic, or a topic of the target.
        with: String,
    },
    /// The source's brokers say nothing about its partitions.
    Unreadable {
        /// What they say instead.
        problem: String,
    },
}

impl LeftOut {
    /// A claim of another mesh on the target topic.
    pub fn claimed(target: &TopicName, claim: &Claim) -> Self {
        let stop = claimed(target, claim);
        Self::Claimed { target: target.clone(), reason: stop.reason.name(), message: stop.message }
    }

    /// Stable name for machines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotSelected => "NOT_SELECTED",
            Self::Excluded { .. } => "EXCLUDED",
            Self::Internal => "INTERNAL_TOPIC",
            Self::Loop { .. } => "LOOP",
            Self::Claimed { reason, .. } => reason,
            Self::NameInvalid { .. } => "NAME_INVALID",
            Self::NameTooLong { .. } => "NAME_TOO_LONG",
            Self::Collides { .. } => "TARGET_TOPIC_CONFLICT",
            Self::Unreadable { .. } => "TOPIC_UNREADABLE",
        }
    }

    /// What the reason means and what to do, for a person.
    pub fn message(&self) -> String {
        match self {
            Self::NotSelected => "no pattern of topics.include matches the name".to_owned(),
            Self::Excluded { pattern, by_default: false } => {
                format!("the pattern {pattern:?} of topics.exclude matches the name")
            }
            Self::Excluded { pattern, by_default: true } => format!(
                "the default pattern {pattern:?} of topics.exclude matches the name: set topics.exclude, [\"\"] excludes \
                 nothing"
            ),
            Self::Internal => {
                "internal topics are never mirrored: Kafka, MirrorMaker 2 or a mesh keeps its state there, \
                 and names that begin with `__` or end in `.internal` or `-internal` count as such"
                    .to_owned()
            }
            Self::Loop { target } => {
                format!("the topic came from clusters/{target}, so mirroring it would bring its records back")
            }
            Self::Claimed { message, .. } => message.clone(),
            Self::NameInvalid { target, problem } => {
                format!(
                    "its name on the target would be {target:?}, which is not valid: {problem}; rename the topic"
                )
            }
            Self::NameTooLong { target } => format!(
                "its name on the target would be {target}, which has {} characters, and Kafka allows {NAME_BYTES_MAX}: \
                 rename the topic, or choose naming without a prefix",
                target.len()
            ),
            Self::Collides { target, with } => format!(
                "its name on the target would be {target}, which collides with {with}: exclude one of the two, or rename \
                 it (Kafka takes `.` and `_` in topic names for the same)"
            ),
            Self::Unreadable { problem } => {
                format!("the source's brokers don't describe the topic: {problem}")
            }
        }
    }

    /// The user's own patterns don't explain it: a person who named the topic expects it on the target.
    pub(super) fn is_hidden(&self) -> bool {
        !matches!(
            self,
            Self::NotSelected | Self::Excluded { by_default: false, .. } | Self::Unreadable { .. }
        )
    }
}

/// What a flow does with one source topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The source topic.
    pub topic: SourceTopic,
    /// Its name on the target, or why it is left out.
    pub outcome: Result<TopicName, LeftOut>,
}

impl TopicRules {
    /// What the flow does with one source topic, by the topic alone.
    pub fn choose(&self, topic: &SourceTopic) -> Result<TopicName, LeftOut> {
        if topic.internal {
            return Err(LeftOut::Internal);
        }
        let target = self.choose_by_name(&topic.name)?;
        match &topic.problem {
            None => Ok(target),
            Some(problem) => Err(LeftOut::Unreadable { problem: problem.clone() }),
        }
    }

    /// What the flow does with a topic of this name.
    pub(super) fn choose_by_name(&self, name: &str) -> Result<TopicName, LeftOut> {
        if self.is_internal(name) {
            return Err(LeftOut::Internal);
        }
        if !self.passes_as_heartbeats(name) {
            if !self.filter().includes(name) {
                return Err(LeftOut::NotSelected);
            }
            if let Some(pattern) = self.filter().excluded_by(name) {
                let by_default = DEFAULT_TOPICS_EXCLUDE.contains(&pattern);
                return Err(LeftOut::Excluded { pattern: pattern.to_owned(), by_default });
            }
        }
        if self.is_cycle(name) {
            return Err(LeftOut::Loop { target: self.target().clone() });
        }
        let target = self.target_topic(name);
        TopicName::new(&target).map_err(|invalid| match target.len() {
            ..=NAME_BYTES_MAX => LeftOut::NameInvalid { target, problem: invalid.problem },
            _ => LeftOut::NameTooLong { target },
        })
    }

    /// What the flow does with all topics of its source, in the order of their names. Of several source topics with one
    /// target name the one that is mirrored already (`is_mirrored`) keeps the name, or else the first.
    pub fn choose_all(
        &self,
        mut topics: Vec<SourceTopic>,
        is_mirrored: impl Fn(&str) -> bool,
    ) -> Vec<Choice> {
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        let choose = |topic: SourceTopic| Choice { outcome: self.choose(&topic), topic };
        let mut choices: Vec<Choice> = topics.into_iter().map(choose).collect();
        let mut holders: BTreeMap<String, (bool, String)> = BTreeMap::new();
        for Choice { topic, outcome } in &choices {
            let Ok(target) = outcome else { continue };
            let mirrored = is_mirrored(&topic.name);
            let holder = holders
                .entry(collision_key(target.as_str()))
                .or_insert_with(|| (mirrored, topic.name.clone()));
            if mirrored && !holder.0 {
                *holder = (mirrored, topic.name.clone());
            }
        }
        for Choice { topic, outcome } in &mut choices {
            let Ok(target) = outcome else { continue };
            let holder = holders.get(&collision_key(target.as_str())).filter(|holder| holder.1 != topic.name);
            if let Some((_, holder)) = holder {
                let with = format!("that of the source topic {holder}");
                *outcome = Err(LeftOut::Collides { target: target.clone(), with });
            }
        }
        choices
    }
}

/// Leaves out topics whose target names differ only in `.` and `_` from topics that are on the target: Kafka refuses to
/// create them.
pub fn mark_collisions(choices: &mut [Choice], target_topics: &[String]) {
    let present: BTreeMap<String, &String> =
        target_topics.iter().map(|name| (collision_key(name), name)).collect();
    for choice in choices {
        let Ok(target) = &choice.outcome else { continue };
        let other =
            present.get(&collision_key(target.as_str())).filter(|other| other.as_str() != target.as_str());
        if let Some(other) = other {
            let with = format!("the topic {other} on the target");
            choice.outcome = Err(LeftOut::Collides { target: target.clone(), with });
        }
    }
}

/// Leaves out topics that came from the flow's target, by what the registry of the source says; returns their names.
/// `id_of` tells the present ids of the source's topics.
pub fn mark_loops(
    choices: &mut [Choice],
    homes: &Homes,
    target: &ClusterId,
    id_of: impl Fn(&str) -> TopicId,
) -> BTreeSet<TopicName> {
    let mut left_out = BTreeSet::new();
    for choice in choices {
        let (Ok(name), Ok(on_target)) = (TopicName::new(&choice.topic.name), &choice.outcome) else {
            continue;
        };
        if homes.is_loop(&name, id_of(name.as_str()), on_target) {
            choice.outcome = Err(LeftOut::Loop { target: target.clone() });
            left_out.insert(name);
        }
    }
    left_out
}

/// Kafka uses `_` for `.` in the names of metrics, so it takes two names for the same that differ only there.
fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::flow::{FlowSpec, Naming, Surprises};
    use crate::registry::{ClaimKey, Registry, RegistryKey, RegistryValue};
    use std::collections::BTreeSet;

    pub(crate) fn flow(include: &[&str]) -> FlowSpec {
        let cluster = |id| ClusterId::new(id).unwrap();
        FlowSpec {
            topics_include: include.iter().map(|&pattern| pattern.to_owned()).collect(),
            ..FlowSpec::new(cluster("uk"), cluster("hq"))
        }
    }

    fn topic(name: &str) -> SourceTopic {
        SourceTopic { name: name.to_owned(), partitions: 1, internal: false, problem: None }
    }

    pub(crate) fn rules(spec: &FlowSpec) -> TopicRules {
        TopicRules::new(spec, &BTreeSet::new()).unwrap()
    }

    pub(crate) fn choices(spec: &FlowSpec, names: &[&str]) -> Vec<Choice> {
        rules(spec).choose_all(names.iter().map(|name| topic(name)).collect(), |_| false)
    }

    /// `topic: target or reason`, one for each topic.
    fn outcomes(choices: &[Choice]) -> Vec<String> {
        let outcome = |choice: &Choice| match &choice.outcome {
            Ok(target) => format!("{}: {target}", choice.topic.name),
            Err(why) => format!("{}: {}", choice.topic.name, why.reason()),
        };
        choices.iter().map(outcome).collect()
    }

    #[test]
    fn each_topic_has_a_target_or_a_reason() {
        let mut spec = flow(&["orders.*", "hq\\..*", "x.replica", "mm.internal"]);
        spec.topics_exclude.push("orders-old".to_owned());
        let long = format!("orders{}", "x".repeat(243));
        let names = [
            "orders",
            "orders-old",
            "payments",
            "hq.orders",
            "x.replica",
            "mm.internal",
            "__consumer_offsets",
            "heartbeats",
            "hq.heartbeats",
            &long,
        ];
        assert_eq!(
            outcomes(&choices(&spec, &names)),
            [
                "__consumer_offsets: INTERNAL_TOPIC".to_owned(),
                "heartbeats: uk.heartbeats".to_owned(),
                "hq.heartbeats: LOOP".to_owned(),
                "hq.orders: LOOP".to_owned(),
                "mm.internal: INTERNAL_TOPIC".to_owned(),
                "orders: uk.orders".to_owned(),
                "orders-old: EXCLUDED".to_owned(),
                format!("{long}: NAME_TOO_LONG"),
                "payments: NOT_SELECTED".to_owned(),
                "x.replica: EXCLUDED".to_owned(),
            ]
        );
        let flagged = SourceTopic { internal: true, ..topic("orders") };
        assert_eq!(rules(&spec).choose(&flagged), Err(LeftOut::Internal));
        let problem = Some("LEADER_NOT_AVAILABLE".to_owned());
        let why = rules(&spec).choose(&SourceTopic { problem, ..topic("orders") }).unwrap_err();
        assert!(why.message().contains("LEADER_NOT_AVAILABLE"), "{}", why.message());
        let excluded = rules(&spec).choose(&topic("orders-old")).unwrap_err();
        assert!(excluded.message().contains("\"orders-old\""), "{}", excluded.message());
    }

    #[test]
    fn the_choice_and_the_target_name_agree() {
        let spec = flow(&["orders.*", ".*x"]);
        let rules = rules(&spec);
        for name in ["orders", "hq.x", "a-internal", "x.replica", "heartbeats", "hq.heartbeats", "y"] {
            assert_eq!(rules.choose(&topic(name)).ok(), rules.target_of(name), "{name}");
        }
    }

    #[test]
    fn one_of_two_topics_with_one_target_name_is_mirrored() {
        let renames = [("a", "x"), ("b", "x"), ("c", "y_1"), ("d", "y.1")];
        let renames = renames.map(|(from, to)| (from.to_owned(), to.to_owned()));
        let spec = FlowSpec { naming: Naming::Rename(renames.into()), ..flow(&[".*"]) };
        let names = ["d", "c", "b", "a"].map(topic).to_vec();
        let by_name = rules(&spec).choose_all(names.clone(), |_| false);
        let conflict = "TARGET_TOPIC_CONFLICT";
        assert_eq!(
            outcomes(&by_name),
            ["a: x".into(), format!("b: {conflict}"), "c: y_1".into(), format!("d: {conflict}")]
        );
        let kept = rules(&spec).choose_all(names, |topic| topic == "b");
        assert_eq!(outcomes(&kept)[..2], [format!("a: {conflict}"), "b: x".to_owned()]);
        let shown = Surprises::of(&spec, &rules(&spec), &by_name);
        assert_eq!(shown.left_out.len(), 2, "a collision is shown, however the topic was selected");
    }

    #[test]
    fn names_that_collide_on_the_target_are_left_out() {
        let mut choices = choices(&flow(&[".*"]), &["a.b", "c", "d.e"]);
        mark_collisions(&mut choices, &["uk_a_b".to_owned(), "uk.c".to_owned(), "other".to_owned()]);
        assert_eq!(outcomes(&choices), ["a.b: TARGET_TOPIC_CONFLICT", "c: uk.c", "d.e: uk.d.e"]);
        assert!(choices[0].outcome.as_ref().unwrap_err().message().contains("uk_a_b"));
    }

    #[test]
    fn topics_that_came_from_the_target_are_left_out() {
        let named = |name| TopicName::new(name).unwrap();
        let mut registry = Registry::default();
        for (offset, (topic, home)) in (0..).zip([("remote.t", "t"), ("both", "both")]) {
            let claim = Claim {
                mesh_id: "another".into(),
                flow: crate::ids::FlowId::new("f").unwrap(),
                source: ClusterId::new("remote").unwrap(),
                source_topic: Some(named(home)),
            };
            let key = ClaimKey { source_cluster: "hq-id".into(), topic: named(topic) };
            registry.apply(offset, RegistryKey::Claim(key), RegistryValue::Claim(claim));
        }
        let homes = registry.homes("hq-id");
        let prefixed = flow(&[".*"]);
        let same = FlowSpec { naming: Naming::Identity, ..flow(&[".*"]) };
        for (spec, expected) in [(prefixed, vec!["both", "remote.t"]), (same, vec!["remote.t"])] {
            let mut choices = choices(&spec, &["both", "remote.t", "t"]);
            let left_out = mark_loops(&mut choices, &homes, &spec.target, |_| TopicId::default());
            // Under an unchanged name `both` goes back to itself, batch by batch; `remote.t` would be a second `t`.
            assert_eq!(left_out.iter().map(TopicName::as_str).collect::<Vec<_>>(), expected);
            for choice in choices {
                let is_loop = choice.outcome.as_ref().err().is_some_and(|why| why.reason() == "LOOP");
                assert_eq!(is_loop, expected.contains(&choice.topic.name.as_str()), "{choice:?}");
            }
        }
    }
}
