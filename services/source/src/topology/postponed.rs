//! Target topics that could not be created or grown: each is tried again after a pause that grows to a minute.
//!
//! Pure: time is an argument. A changed flow makes all of them due at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mirrormesh_core::ids::TopicName;
use mirrormesh_kafka::backoff::pause_after;

use super::Trouble;

/// First pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Failed {
    times: u32,
    due: Instant,
    trouble: Trouble,
}

/// The topics, by their name on the target.
#[derive(Debug, Default)]
pub(super) struct Postponed(BTreeMap<TopicName, Failed>);

impl Postponed {
    /// The topic may be tried.
    pub(super) fn is_due(&self, topic: &TopicName, now: Instant) -> bool {
        self.0.get(topic).is_none_or(|failed| failed.due <= now)
    }

    /// The topic failed. Returns whether that is news: it did not fail before, or for another reason.
    pub(super) fn failed(&mut self, topic: &TopicName, trouble: Trouble, now: Instant) -> bool {
        let before = self.0.get(topic);
        let times = before.map_or(1, |before| before.times.saturating_add(1));
        let pause = pause_after(times, PAUSE_MIN, PAUSE_MAX);
        let is_news = before.is_none_or(|before| before.trouble != trouble);
        self.0.insert(topic.clone(), Failed { times, due: now + pause, trouble });
        is_news
    }

    /// Forgets topics that need nothing any more.
    pub(super) fn retain(&mut self, needed: impl Fn(&TopicName) -> bool) {
        self.0.retain(|topic, _| needed(topic));
    }

    /// Something changed that may mend all of them: they are due now.
    pub(super) fn hurry(&mut self) {
        self.0.clear();
    }

    /// What is wrong with the first of them.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.0.values().next().map(|failed| failed.trouble.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn trouble(text: &str) -> Trouble {
        ("TOPIC_NOT_CREATED".to_owned(), text.to_owned())
    }

    #[test]
    fn pauses_grow_to_a_minute_and_the_reason_is_news_once() {
        let (mut postponed, mut now) = (Postponed::default(), Instant::now());
        let mut pauses = Vec::new();
        for attempt in 0..8 {
            assert!(postponed.is_due(&topic("t"), now));
            assert_eq!(postponed.failed(&topic("t"), trouble("x"), now), attempt == 0);
            let begin = now;
            while !postponed.is_due(&topic("t"), now) {
                now += Duration::from_secs(1);
            }
            pauses.push(now.duration_since(begin).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(postponed.failed(&topic("t"), trouble("y"), now), "another reason is news");
    }

    #[test]
    fn a_failed_topic_is_shown_until_it_needs_nothing() {
        let (mut postponed, now) = (Postponed::default(), Instant::now());
        postponed.failed(&topic("a"), trouble("x"), now);
        assert!(!postponed.is_due(&topic("a"), now) && postponed.is_due(&topic("b"), now));
        assert_eq!(postponed.trouble(), Some(trouble("x")));
        postponed.retain(|topic| topic.as_str() != "a");
        assert_eq!(postponed.trouble(), None);
    }

    #[test]
    fn a_changed_flow_makes_all_due() {
        let (mut postponed, now) = (Postponed::default(), Instant::now());
        postponed.failed(&topic("a"), trouble("x"), now);
        postponed.hurry();
        assert!(postponed.is_due(&topic("a"), now));
    }
}
