//! Where a partition's batches come from: which of them a flow mirrored there, and so must not be mirrored back.
//!
//! Owns what is known of each producer id. An id is classified once, when the registry was read to its end after the
//! batch was: it is final then, since a flow's id stands in the registry before the flow's first append. So the n-th
//! record of a generation is the same for every worker.

use std::collections::BTreeMap;

use mirrormesh_core::format::batch::BatchHeader;
use mirrormesh_core::registry::Origin;
use mirrormesh_core::stop::{Stop, StopReason};

/// Ids that are remembered; with more, all are forgotten and asked for anew, which costs a look at most.
const KNOWN_MAX: usize = 10_000;

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    known: BTreeMap<i64, Origin>,
}

/// What to do with a batch for where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// Nothing speaks against it.
    Mirror,
    /// It was mirrored there.
    Skip,
    /// Its producer id has to be looked up first.
    Unknown(i64),
    /// The registry contradicts the log.
    Stop(Stop),
}

impl Origins {
    /// Takes up what was looked up.
    pub fn learn(&mut self, found: impl IntoIterator<Item = (i64, Origin)>) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(found);
    }

    /// Judges a batch. `skip_mirrored`: what any flow mirrored is left out.
    pub fn judge(&self, header: &BatchHeader, skip_mirrored: bool) -> Passage {
        if header.producer_id < 0 {
            return Passage::Mirror;
        }
        match self.known.get(&header.producer_id) {
            None => Passage::Unknown(header.producer_id),
            Some(Origin::Client) => Passage::Mirror,
            Some(Origin::Flow { first_offset: Some(first), from_target }) if *first <= header.base_offset => {
                if *from_target || skip_mirrored {
                    Passage::Skip
                } else {
                    Passage::Mirror
                }
            }
            Some(Origin::Flow { first_offset, .. }) => Passage::Stop(contradiction(header, *first_offset)),
        }
    }
}

fn contradiction(header: &BatchHeader, first: Option<i64>) -> Stop {
    let BatchHeader { base_offset, producer_id, .. } = header;
    let registered = first.map_or_else(
        || "not for this partition".to_owned(),
        |first| format!("for this partition from offset {first} on"),
    );
    let message = format!(
        "the batch at source offset {base_offset} carries producer id {producer_id} of a flow, which is registered \
         {registered}: whether it must be mirrored is not known; an unclean election may have moved the log's end back, or \
         the flow wrote before it was registered; exclude the topic, or create this flow anew with start_over and start \
         latest"
    );
    Stop::new(StopReason::OriginUnclear, message).at(*base_offset, Some(header.next_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::format::samples::header;

    fn of(producer_id: i64, base: i64) -> BatchHeader {
        BatchHeader { producer_id, ..header(base, 2) }
    }

    #[test]
    fn what_comes_from_the_target_is_never_mirrored_back() {
        let mut origins = Origins::default();
        let flow = |from_target| Origin::Flow { from_target, first_offset: Some(10) };
        assert_eq!(origins.judge(&of(7, 10), false), Passage::Unknown(7));
        origins.learn([(7, flow(true)), (8, flow(false)), (9, Origin::Client)]);
        for skip_mirrored in [false, true] {
            assert_eq!(origins.judge(&of(7, 10), skip_mirrored), Passage::Skip);
            assert_eq!(origins.judge(&of(9, 0), skip_mirrored), Passage::Mirror);
            assert_eq!(origins.judge(&of(-1, 0), skip_mirrored), Passage::Mirror, "no id is never ours");
        }
        assert_eq!(origins.judge(&of(8, 12), false), Passage::Mirror, "a chain goes on");
        assert_eq!(origins.judge(&of(8, 12), true), Passage::Skip, "unless it is not to");
    }

    #[test]
    fn an_id_that_is_not_registered_there_stops() {
        let mut origins = Origins::default();
        let flow = |first_offset| Origin::Flow { from_target: true, first_offset };
        origins.learn([(7, flow(Some(10))), (8, flow(None))]);
        for header in [of(7, 9), of(8, 50)] {
            let Passage::Stop(stop) = origins.judge(&header, false) else { panic!("{header:?}") };
            assert_eq!(stop.reason.name(), "ORIGIN_UNCLEAR");
            assert_eq!(stop.from_offset, Some(header.base_offset));
        }
    }

    #[test]
    fn memory_is_bounded_and_what_was_forgotten_is_asked_for_again() {
        let mut origins = Origins::default();
        for id in 0..20_000 {
            origins.learn([(id, Origin::Client)]);
        }
        assert!(origins.known.len() <= KNOWN_MAX);
        assert_eq!(origins.judge(&of(0, 0), false), Passage::Unknown(0));
        assert_eq!(origins.judge(&of(19_999, 0), false), Passage::Mirror);
    }
}
