//! Which target offsets the flow announced as holding records twice or out of order, read from its events.
//!
//! Owns the reading of the event's text: an event carries source offsets as numbers, and target offsets only in its
//! message. Must not know what stands at these offsets.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_proto::v1;
use mirrormesh_testkit::checker::Ranges;

use super::stage::{FLOW, Stage};

/// The event that announces copies.
const REASON: &str = "RECORDS_DOUBLED";
/// What the flow announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// The target offsets, by topic and partition.
    pub(super) ranges: Ranges,
}

impl Announced {
    /// From the events of a flow, in any order.
    fn from_events(events: &[v1::FlowEvent]) -> Result<Self> {
        let mut announced = Self::default();
        for event in events.iter().filter(|event| event.reason == REASON) {
            let read = || {
                let (topic, partition) = event.subject.rsplit_once('/').context("no partition")?;
                anyhow::Ok(((topic.to_owned(), partition.parse::<i32>()?), range(event)?))
            };
            let (place, range) = read().with_context(|| format!("the event cannot be read: {event:?}"))?;
            announced.ranges.entry(place).or_default().push(range);
        }
        Ok(announced)
    }

    /// How many ranges there are.
    pub(super) fn count(&self) -> usize {
        self.ranges.values().map(Vec::len).sum()
    }

    /// How many offsets the ranges have together.
    pub(super) fn offsets(&self) -> i64 {
        self.ranges.values().flatten().map(|range| range.end - range.start).sum()
    }
}

/// The target offsets in an event's message, checked against its count. The message says `the target's offsets 4711 to
/// 4720 hold …`; the second offset is behind the last one.
fn range(event: &v1::FlowEvent) -> Result<Range<i64>> {
    let (_, rest) = event.message.split_once("target").context("nothing about the target")?;
    let (_, rest) = rest.split_once("offsets ").context("no target offsets")?;
    let mut words = rest.split([' ', ',', ';', ':']);
    let from: i64 = words.next().context("no first offset")?.parse()?;
    ensure!(words.next() == Some("to"), "no range of target offsets");
    let to: i64 = words.next().context("no last offset")?.parse()?;
    ensure!(event.count == Some(to - from), "the count is not that of the target offsets");
    Ok(from..to)
}

impl Stage {
    /// What the flow has announced. An error if events are gone, since an announcement may be among them.
    pub(super) async fn announced(&mut self) -> Result<Announced> {
        let events = self.api.all_flow_events(FLOW).await?;
        let oldest = events.iter().map(|event| event.sequence).min().unwrap_or(1);
        ensure!(oldest <= 1, "the mesh has forgotten the events before number {oldest}");
        Announced::from_events(&events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: &str, message: &str, count: i64) -> v1::FlowEvent {
        v1::FlowEvent {
            reason: REASON.to_owned(),
            subject: subject.to_owned(),
            message: message.to_owned(),
            count: Some(count),
            ..v1::FlowEvent::default()
        }
    }

    #[test]
    fn ranges_are_read_by_partition() -> Result<()> {
        let events = [
            event("load/3", "the target's offsets 10 to 14 hold records that stand there twice", 4),
            event("load/3", "the target's offsets 20 to 21 held records", 1),
            event("a/b/0", "the target's offsets 0 to 5: twice", 5),
            v1::FlowEvent { reason: "RETENTION_NEAR".to_owned(), ..event("load/1", "no offsets", 7) },
        ];
        let announced = Announced::from_events(&events)?;
        assert_eq!((announced.count(), announced.offsets()), (3, 10));
        let of = |topic: &str, partition| announced.ranges[&(topic.to_owned(), partition)].as_slice();
        assert_eq!(of("load", 3), [10..14, 20..21]);
        assert_eq!(of("a/b", 0).first(), Some(&(0..5)));
        Ok(())
    }

    /// A change of the event's text must fail loudly: silently, it would make false differences of true announcements.
    #[test]
    fn an_unreadable_announcement_is_an_error() {
        for (subject, message, count) in [
            ("load/3", "offsets 10 to 14 stand there twice", 4),
            ("load/3", "the target's offsets 10 and 14 stand there twice", 4),
            ("load/3", "the target's offsets 10 to 14 stand there twice", 5),
            ("load", "the target's offsets 10 to 14 stand there twice", 4),
        ] {
            let read = Announced::from_events(&[event(subject, message, count)]);
            assert!(read.is_err(), "{subject} {message} {count}");
        }
    }
}
