//! The invariants of translation.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::relay::position::{PositionKind, PositionValue};
use mirrormesh_core::relay::stored_map::stored_map;
use mirrormesh_core::translate::Translation;

use crate::check::{Checker, TRANSLATION};
use crate::source::Source;

impl Checker {
    /// I5, I6: what is translated from the journal is where the records are.
    pub fn translation(
        &mut self,
        values: &BTreeMap<PositionKind, &PositionValue>,
        source: &Source,
        there: &BTreeSet<u64>,
        exact: bool,
    ) {
        let Some(present) = self.generations.last().map(|g| g.generation) else { return };
        let (mut chunks, mut positions) = (BTreeMap::new(), Vec::new());
        for (kind, value) in values {
            match (*kind, value) {
                (PositionKind::Segments { producer_id, number, chunk }, PositionValue::Segments(list)) => {
                    chunks.insert((producer_id, number, chunk), list.clone());
                }
                (PositionKind::Position { .. }, PositionValue::Position(position)) => {
                    positions.push(position);
                }
                _ => {}
            }
        }
        let Some(map) = stored_map(&chunks, positions.into_iter(), present.producer_id) else {
            return self.fail(TRANSLATION, format!("nothing can be translated: {chunks:?}"));
        };
        for mirror in self.ledger.iter().filter(|m| !m.again) {
            let info = &source.infos[mirror.uid as usize];
            if info.topic != source.topic || info.gone.is_some() || !there.contains(&mirror.uid) {
                continue;
            }
            let translated = map.translate(info.offset);
            let twice = || self.ledger.iter().any(|m| m.uid == mirror.uid && m.again);
            let right = match translated {
                Translation::At(at) if exact => at == mirror.offset,
                Translation::At(at) => at <= mirror.offset || twice(),
                Translation::TooOld(_) => true,
                Translation::NotYet => false,
            };
            if !right {
                let message = format!(
                    "source offset {} is at {}, translated {translated:?} by {chunks:?}",
                    info.offset, mirror.offset
                );
                return self.fail(TRANSLATION, message);
            }
        }
    }
}
