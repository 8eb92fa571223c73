//! The invariants of translation.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::position::{PositionKind, PositionValue};
use mirrormesh_core::stored_map::stored_map;
use mirrormesh_core::translate::Translation;

use crate::check::{Checker, TRANSLATION};
use crate::source::{Source, State};

impl Checker {
    /// I5, I6: what is translated from the journal is where the records are.
    pub fn translation(
        &mut self,
        values: &BTreeMap<PositionKind, Option<&PositionValue>>,
        source: &Source,
        there: &BTreeSet<(u64, i64)>,
        exact: bool,
    ) {
        let Some(present) = self.generations.last().map(|g| g.generation) else { return };
        let (mut chunks, mut positions) = (BTreeMap::new(), Vec::new());
        for (kind, value) in values {
            match (*kind, value) {
                (
                    PositionKind::Segments { producer_id, number, chunk },
                    Some(PositionValue::Segments(list)),
                ) => {
                    chunks.insert((producer_id, number, chunk), list.clone());
                }
                (PositionKind::Position { .. }, Some(PositionValue::Position(position))) => {
                    positions.push(position);
                }
                _ => {}
            }
        }
        let Some(map) = stored_map(&chunks, positions.into_iter(), present.producer_id) else {
            return self.fail(TRANSLATION, format!("nothing can be translated: {chunks:?}"));
        };
        // A consumer skips nothing if the newest copy of every record is at or behind the place where it goes on. What the
        // cleaner took and the mirror brought again stands at its second place only.
        let standing = self.ledger.iter().filter(|m| there.contains(&(m.uid, m.offset)));
        let newest: BTreeMap<u64, i64> = standing.map(|m| (m.uid, m.offset)).collect();
        for (uid, offset) in newest {
            let info = &source.infos[uid as usize];
            if info.topic != source.topic || info.gone.is_some() {
                continue;
            }
            // It was said that it is left out: an owner that was replaced brought it all the same.
            if self.is_named(uid) {
                continue;
            }
            // What is mirrored again under another rule comes without what no reader of the source sees.
            let again = !exact || self.is_announced(uid);
            if again && matches!(info.state, State::Open | State::Aborted) {
                continue;
            }
            let translated = map.translate(info.offset);
            let right = match translated {
                // A marker in between is nothing that a consumer reads. Where the source lost its end, what it lost may be
                // read before.
                Translation::At(at) if exact && at < offset => {
                    self.source_cut || !there.iter().any(|(_, there)| (at..offset).contains(there))
                }
                Translation::At(at) if exact => at == offset,
                Translation::At(at) => at <= offset,
                Translation::TooOld(_) => true,
                Translation::NotYet => false,
            };
            if !right {
                let message = format!(
                    "source offset {} is at {offset}, translated {translated:?} by {chunks:?}",
                    info.offset
                );
                return self.fail(TRANSLATION, message);
            }
        }
    }
}
