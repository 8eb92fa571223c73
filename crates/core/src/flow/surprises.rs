//! What a person should know who selected topics of which none, or not all, are mirrored.
//!
//! Pure texts and rules about them; the topology unit makes conditions of them.

use std::collections::{BTreeMap, BTreeSet};

use super::nearest::nearest;
use super::selection::{Choice, LeftOut};
use super::spec::FlowSpec;
use super::topic_rules::TopicRules;
use crate::ids::TopicName;

/// Names and patterns that one text shows at most.
const SHOWN_MAX: usize = 3;

/// What the user of a flow may not expect of its selection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surprises {
    /// The flow selects no topic: why that is, and the names that come nearest.
    pub nothing_selected: Option<String>,
    /// Topics that an include pattern names literally and that another rule leaves out, with the reason and a text.
    pub left_out: BTreeMap<TopicName, (&'static str, String)>,
}

impl Surprises {
    /// Of what a flow does with the topics of its source.
    pub fn of(spec: &FlowSpec, rules: &TopicRules, choices: &[Choice]) -> Self {
        let literals = spec.topics_include.iter().map(|pattern| literal(pattern));
        let mut named: BTreeSet<String> =
            literals.filter(|(_, whole)| *whole).map(|(text, _)| text).collect();
        // A dot stands for any character, but who writes a name means the name.
        named.extend(spec.topics_include.iter().cloned());
        let left_out = choices.iter().filter_map(|Choice { topic, outcome }| {
            let why = outcome.as_ref().err().filter(|why| why.is_hidden())?;
            // A collision is a mistake, however the topic was selected.
            if !named.contains(&topic.name) && !matches!(why, LeftOut::Collides { .. }) {
                return None;
            }
            let text = format!("topics.include selects the topic, but it is not mirrored: {}", why.message());
            Some((TopicName::new(&topic.name).ok()?, (why.reason(), text)))
        });
        Self { nothing_selected: nothing_selected(spec, rules, choices), left_out: left_out.collect() }
    }
}

/// Why no topic is selected, if none is. An empty cluster is no surprise for a flow of all topics.
fn nothing_selected(spec: &FlowSpec, rules: &TopicRules, choices: &[Choice]) -> Option<String> {
    let users: Vec<&Choice> =
        choices.iter().filter(|choice| choice.outcome != Err(LeftOut::Internal)).collect();
    let all = spec.topics_include.iter().any(|pattern| pattern == ".*");
    let selects_nothing = spec.topics_include.is_empty() || !spec.records_enabled;
    let selected = users.iter().any(|choice| rules.selects(&choice.topic.name));
    if selects_nothing || selected || (all && users.is_empty()) {
        return None;
    }
    let excluded = users.iter().find_map(|choice| match &choice.outcome {
        Err(why @ LeftOut::Excluded { .. }) => {
            Some(format!("{} is excluded: {}", choice.topic.name, why.message()))
        }
        _ => None,
    });
    let names = users.iter().map(|choice| choice.topic.name.as_str());
    let near = nearest(spec.topics_include.iter().map(|pattern| literal(pattern).0), names, SHOWN_MAX);
    let hint = match (excluded, near.is_empty()) {
        (Some(excluded), _) => excluded,
        (None, false) => format!("the nearest names are {}", near.join(", ")),
        (None, true) => "no name comes near".to_owned(),
    };
    let more = spec.topics_include.len().saturating_sub(SHOWN_MAX);
    let shown: Vec<&String> = spec.topics_include.iter().take(SHOWN_MAX).collect();
    let more = if more > 0 { format!(" and {more} more patterns") } else { String::new() };
    Some(format!(
        "topics.include {shown:?}{more} selects none of the {} topics of clusters/{}: {hint}; correct topics.include with \
         UpdateFlow, PreviewFlowTopics shows what a flow selects",
        users.len(),
        spec.source
    ))
}

/// A pattern without its escapes, up to the first character that stands for something else; whether that is all of it.
fn literal(pattern: &str) -> (String, bool) {
    let mut text = String::with_capacity(pattern.len());
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped) if !escaped.is_ascii_alphanumeric() => text.push(escaped),
                _ => return (text, false),
            },
            '.' if characters.peek().is_some_and(|next| matches!(next, '*' | '+' | '?' | '{')) => {
                return (text, false);
            }
            '*' | '+' | '?' | '{' | '[' | '(' | '|' | '^' | '$' => return (text, false),
            other => text.push(other),
        }
    }
    (text, true)
}

#[cfg(test)]
mod tests {
    use super::super::selection::tests::{choices, flow, rules};
    use super::*;

    fn surprises(spec: &FlowSpec, names: &[&str]) -> Surprises {
        Surprises::of(spec, &rules(spec), &choices(spec, names))
    }

    #[test]
    fn a_typo_is_shown_with_the_nearest_names() {
        let names = ["orders.eu", "orders.us", "payments", "__consumer_offsets", "heartbeats"];
        let said = surprises(&flow(&["ordres.*"]), &names).nothing_selected.unwrap();
        assert!(said.contains("ordres") && said.contains("orders.eu, orders.us"), "{said}");
        assert!(!said.contains("payments"), "{said}");
        let said = surprises(&flow(&["nothing-like-it"]), &names).nothing_selected.unwrap();
        assert!(said.contains("no name comes near") && said.contains("none of the 4 topics"), "{said}");
        let mut excluded = flow(&["orders.*"]);
        excluded.topics_exclude = vec!["o.*".to_owned()];
        let said = surprises(&excluded, &names).nothing_selected.unwrap();
        assert!(said.contains("orders.eu is excluded") && said.contains("\"o.*\""), "{said}");
        assert_eq!(surprises(&flow(&["ordres.*", "pay.*"]), &names).nothing_selected, None);
    }

    #[test]
    fn nothing_is_selected_on_purpose_without_a_word() {
        assert_eq!(surprises(&flow(&[]), &["a"]), Surprises::default());
        assert_eq!(surprises(&flow(&[".*"]), &["__consumer_offsets"]), Surprises::default());
        assert!(surprises(&flow(&["a"]), &[]).nothing_selected.is_some(), "what was named is missing");
        let no_records = FlowSpec { records_enabled: false, ..flow(&["b"]) };
        assert_eq!(surprises(&no_records, &["a"]), Surprises::default());
    }

    #[test]
    fn a_named_topic_that_is_left_out_is_shown() {
        let spec = flow(&["x\\.replica", "hq.orders", "__offsets", ".*"]);
        let shown =
            surprises(&spec, &["x.replica", "hq.orders", "__offsets", "hq.other", "y.replica", "good"]);
        let reasons: Vec<_> =
            shown.left_out.iter().map(|(topic, (reason, _))| (topic.as_str(), *reason)).collect();
        assert_eq!(
            reasons,
            [("__offsets", "INTERNAL_TOPIC"), ("hq.orders", "LOOP"), ("x.replica", "EXCLUDED")]
        );
        assert_eq!(shown.nothing_selected, None);
        let beginning = surprises(&flow(&["hq.orders.*", "good"]), &["hq.orders", "good"]);
        assert!(beginning.left_out.is_empty(), "a pattern of many topics names none of them");
        let mut own = flow(&["orders"]);
        own.topics_exclude = vec!["orders".to_owned()];
        assert!(surprises(&own, &["orders"]).left_out.is_empty(), "the user's own pattern is no surprise");
    }
}
