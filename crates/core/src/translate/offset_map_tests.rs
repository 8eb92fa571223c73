//! The offset map against models that list every record.

use super::*;
use proptest::prelude::*;

fn seg(source: i64, target: i64, count: i64) -> Segment {
    Segment { source, target, count }
}

/// Of one owner.
fn one(runs: impl IntoIterator<Item = Segment>, end: Option<(i64, i64)>) -> OffsetMap {
    OffsetMap::new(runs.into_iter().map(|run| (1, run)), end)
}

#[test]
fn translates_within_between_before_and_behind() {
    // 10..19 → 0..9, marker at 20, 21..25 → 10..14, markers at 26 and 27.
    let map = one([seg(10, 0, 10), seg(21, 10, 5)], Some((28, 15)));
    assert_eq!(map.translate(9), Translation::TooOld(0));
    assert_eq!(map.translate(10), Translation::At(0));
    assert_eq!(map.translate(19), Translation::At(9));
    assert_eq!(map.translate(20), Translation::At(10));
    assert_eq!(map.translate(21), Translation::At(10));
    assert_eq!(map.translate(26), Translation::At(15));
    assert_eq!(map.translate(28), Translation::At(15));
    assert_eq!(map.translate(29), Translation::NotYet);
    assert_eq!(OffsetMap::default().translate(0), Translation::NotYet);
    assert_eq!(one([], Some((5, 7))).translate(5), Translation::At(7));
}

#[test]
fn runs_are_joined_and_disorder_is_left_out() {
    let mut map = OffsetMap::default();
    assert!(map.extend(seg(0, 0, 5)));
    assert!(!map.extend(seg(5, 5, 5)));
    assert!(!map.extend(seg(3, 3, 5)), "known already");
    assert!(!map.extend(seg(8, 8, 3)), "reaches further");
    assert!(!map.extend(seg(3, 4, 5)), "nonsense");
    assert!(!map.extend(seg(20, 20, 0)), "empty");
    assert_eq!(map.segments(), &[seg(0, 0, 11)]);
}

#[test]
fn owners_overlap_and_histories_go_back() {
    let map = OffsetMap::new([(2, seg(80, 80, 40)), (1, seg(0, 0, 100))], None);
    assert_eq!(map.segments(), &[seg(0, 0, 120)], "a replay reaches further than what was known");
    // The source lost offsets from 60 on; 60 to 69 are others now.
    let map = OffsetMap::new([(1, seg(0, 0, 60)), (1, seg(62, 60, 8)), (2, seg(60, 68, 10))], None);
    assert_eq!(map.segments(), &[seg(0, 0, 60), seg(60, 68, 10)]);
    assert_eq!(map.translate(64), Translation::At(72));
    assert_eq!(map.translate(71), Translation::NotYet);
}

#[test]
fn a_replaced_owner_that_brings_records_again_takes_nothing_away() {
    // The target had forgotten the flow and took 50 to 59 of the first owner once more, behind 99 of the second one.
    let runs = [(1, seg(0, 0, 60)), (1, seg(50, 100, 10)), (2, seg(60, 60, 40)), (2, seg(100, 110, 20))];
    let map = OffsetMap::new(runs, None);
    assert_eq!(map.segments(), &[seg(0, 0, 100), seg(100, 110, 20)]);
    assert_eq!(map.translate(70), Translation::At(70));
    // As far as it brought what was not there, it counts.
    let runs = [(1, seg(0, 0, 60)), (1, seg(50, 100, 60)), (2, seg(60, 60, 40)), (2, seg(110, 160, 20))];
    assert_eq!(OffsetMap::new(runs, None).translate(105), Translation::At(155));
}

#[test]
fn where_the_target_lost_its_end_the_later_owner_counts() {
    let runs = [(1, seg(0, 0, 100)), (2, seg(82, 80, 30))];
    let map = OffsetMap::new(runs, None);
    assert_eq!(map.segments(), &[seg(0, 0, 80), seg(82, 80, 30)]);
    // One owner's own: what it wrote later counts, and what it wrote of the end before that is no more.
    let map = one([seg(0, 0, 50), seg(60, 50, 50), seg(61, 50, 60)], None);
    assert_eq!((map.translate(70), map.translate(55)), (Translation::At(59), Translation::At(50)));
}

fn coarse(source: i64, target: i64) -> Segment {
    seg(source, target, 0)
}

#[test]
fn behind_a_coarse_place_everything_up_to_the_next_run_is_there() {
    let map = one([seg(0, 0, 5), coarse(8, 5), seg(60, 30, 5), seg(70, 35, 5)], None);
    assert_eq!((map.translate(7), map.translate(8)), (Translation::At(5), Translation::At(5)));
    assert_eq!((map.translate(59), map.translate(60)), (Translation::At(5), Translation::At(30)));
    assert_eq!(map.translate(66), Translation::At(35), "only what follows the place is coarse");
    assert_eq!(map.translate(76), Translation::NotYet);
    let map = one([seg(0, 0, 5), coarse(8, 5)], None);
    assert_eq!(map.translate(9), Translation::NotYet, "what follows is not known of yet");
}

#[test]
fn a_coarse_place_goes_back_stays_and_gives_way_as_a_run_does() {
    // The source lost its end within what is coarse, and then before it.
    let map = one([coarse(0, 0), seg(60, 30, 5), seg(50, 35, 5)], None);
    assert_eq!((map.translate(40), map.translate(52)), (Translation::At(0), Translation::At(37)));
    let map = one([coarse(10, 0), seg(60, 30, 5), seg(5, 35, 5)], None);
    assert_eq!((map.translate(7), map.translate(12)), (Translation::At(37), Translation::NotYet));
    let map = one([seg(0, 0, 20), coarse(10, 20), seg(60, 30, 5)], None);
    assert_eq!((map.translate(9), map.translate(15)), (Translation::At(9), Translation::At(20)));
    // A later owner knows the first ones of it.
    let map = OffsetMap::new([(1, coarse(0, 0)), (1, seg(60, 30, 5)), (2, seg(0, 0, 8))], None);
    assert_eq!((map.translate(7), map.translate(8)), (Translation::At(7), Translation::At(8)));
    // A replaced owner's records behind a later owner's coarse ones are not known to be new.
    let runs = [(2, coarse(0, 0)), (1, seg(50, 40, 10)), (2, seg(100, 50, 5))];
    assert_eq!(OffsetMap::new(runs, None).translate(70), Translation::At(0));
}

/// What happens to a partition.
#[derive(Debug, Clone)]
enum Happening {
    /// The present owner mirrors so many records behind so many offsets that hold none.
    Mirrors(i64, i64),
    /// A new owner, which knows of the last so many records and writes them down again.
    Replaced(i64),
    /// So many of the newest records come again: a new owner did not find them.
    FallsBack(i64),
    /// The source loses so many offsets and uses them again.
    Truncated(i64),
    /// An owner that was replaced brings so many records once more that end so many before the newest one.
    Straggles(i64, i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        5 => (0_i64..3, 1_i64..8).prop_map(|(hole, count)| Happening::Mirrors(hole, count)),
        1 => (0_i64..12).prop_map(Happening::Replaced),
        1 => (1_i64..12).prop_map(Happening::FallsBack),
        1 => (1_i64..12).prop_map(Happening::Truncated),
        1 => (1_i64..6, 0_i64..6).prop_map(|(count, back)| Happening::Straggles(count, back)),
    ]
}

/// Lists every record of the target and what the owners wrote of it.
#[derive(Debug, Default)]
struct Model {
    /// Source offsets of the target's records, of those that the source still has.
    target: Vec<Option<i64>>,
    /// Source offsets of what the stream mirrored, oldest first.
    stream: Vec<(i64, i64)>,
    source: i64,
    owner: u64,
    runs: Vec<(u64, Segment)>,
}

impl Model {
    fn mirror(&mut self, count: i64) {
        let target = i64::try_from(self.target.len()).unwrap();
        self.runs.push((self.owner, seg(self.source, target, count)));
        for i in 0..count {
            self.stream.push((self.source + i, target + i));
            self.target.push(Some(self.source + i));
        }
        self.source += count;
    }

    fn replaced(&mut self, known: i64) {
        self.owner += 1;
        let from = self.stream.len().saturating_sub(usize::try_from(known).unwrap());
        let again = self.stream[from..].iter().map(|&(source, target)| (self.owner, seg(source, target, 1)));
        self.runs.extend(again);
    }

    fn back(&mut self, records: i64, gone: bool) {
        let from = self.stream.len().saturating_sub(usize::try_from(records).unwrap());
        let Some(&(source, _)) = self.stream.get(from) else { return };
        self.stream.truncate(from);
        self.owner += 1;
        self.source = source;
        if gone {
            self.forget(|of| of >= source);
        }
    }

    fn forget(&mut self, gone: impl Fn(i64) -> bool) {
        for source in &mut self.target {
            *source = source.filter(|source| !gone(*source));
        }
    }

    fn straggle(&mut self, count: i64, back: i64) {
        let most = self.stream.len().saturating_sub(usize::try_from(back).unwrap());
        let from = most.saturating_sub(usize::try_from(count).unwrap());
        // Before the present owner has a record there, who comes again is no straggler but the stream.
        if self.owner < 2 || self.runs.iter().all(|(owner, _)| *owner < self.owner) {
            return;
        }
        for (source, _) in self.stream[from..most].iter().copied() {
            let target = i64::try_from(self.target.len()).unwrap();
            self.runs.push((self.owner - 1, seg(source, target, 1)));
            self.target.push(Some(source));
        }
    }

    fn happens(&mut self, happening: &Happening) {
        match *happening {
            Happening::Mirrors(hole, count) => {
                // Where records come again, compaction took what holds none now.
                let (from, to) = (self.source, self.source + hole);
                self.forget(|source| (from..to).contains(&source));
                self.source += hole;
                self.mirror(count);
            }
            Happening::Replaced(known) => self.replaced(known),
            Happening::FallsBack(records) => self.back(records, false),
            Happening::Truncated(records) => self.back(records, true),
            Happening::Straggles(count, back) => self.straggle(count, back),
        }
    }

    /// The last place where a consumer that wants everything from this source offset on may begin. What stands behind the
    /// place of the stream comes again.
    fn last_safe(&self, asked: i64) -> i64 {
        let mut newest = BTreeMap::new();
        for (target, source) in self.target.iter().enumerate() {
            if let Some(source) = source.filter(|source| (asked..self.source).contains(source)) {
                newest.insert(source, i64::try_from(target).unwrap());
            }
        }
        newest.into_values().min().unwrap_or(i64::MAX)
    }
}

proptest! {
    /// I5, I6, I7 where every record stands once.
    #[test]
    fn translation_is_exact_and_monotone(runs in prop::collection::vec((0_i64..4, 1_i64..6), 1..12)) {
        let (mut source, mut target) = (3, 11);
        let mut map = one([], Some((source, target)));
        let mut records = Vec::new();
        for (hole, count) in runs {
            source += hole;
            map.extend(seg(source, target, count));
            for i in 0..count { records.push((source + i, target + i)); }
            source += count;
            target += count;
        }
        let mut previous = i64::MIN;
        for asked in records[0].0..=source {
            let exact = records.iter().find(|(s, _)| *s >= asked).map_or(target, |(_, t)| *t);
            prop_assert_eq!(map.translate(asked), Translation::At(exact));
            prop_assert!(exact >= previous);
            previous = exact;
        }
        prop_assert_eq!(map.translate(source + 1), Translation::NotYet);
    }

    /// Whichever stretches are made coarse: nothing lies behind where it is, nothing goes back, and what is not coarse is exact.
    #[test]
    fn coarse_stretches_are_translated_to_their_begin(
        runs in prop::collection::vec((1_i64..4, 1_i64..6), 20..60), made in prop::collection::vec(any::<bool>(), 12),
    ) {
        let (mut source, mut target, mut exact) = (0, 0, Vec::new());
        for (hole, count) in runs {
            source += hole;
            exact.push(seg(source, target, count));
            source += count;
            target += count;
        }
        let whole = one(exact.iter().copied(), None);
        let mut stored = Vec::new();
        let mut ranges = Vec::new();
        for (index, chunk) in exact.chunks(5).enumerate() {
            let (first, last) = (chunk[0], chunk[chunk.len() - 1]);
            if made[index] && chunk.len() > 2 {
                stored.extend([coarse(first.source, first.target), last]);
                ranges.push(first.source..last.source);
            } else {
                stored.extend(chunk);
            }
        }
        let map = one(stored, None);
        let mut previous = i64::MIN;
        for asked in exact[0].source..source {
            let (Translation::At(at), Translation::At(is)) = (map.translate(asked), whole.translate(asked)) else {
                panic!("{asked}")
            };
            prop_assert!(at <= is && at >= previous);
            if !ranges.iter().any(|range| range.contains(&asked)) {
                prop_assert_eq!(at, is);
            }
            previous = at;
        }
    }

    /// Whatever comes again, and whatever offsets the source uses again: nobody skips a record, nothing goes back, and where
    /// only histories change what is mirrored is where it stands.
    #[test]
    fn nothing_is_skipped_whatever_comes_again(happenings in prop::collection::vec(happening(), 1..40)) {
        let mut model = Model { owner: 1, ..Model::default() };
        let mut doubled = false;
        for happening in &happenings {
            model.happens(happening);
            doubled |= matches!(happening, Happening::FallsBack(_) | Happening::Straggles(..));
        }
        let map = OffsetMap::new(model.runs.iter().copied(), None);
        let mut previous = i64::MIN;
        for asked in 0..=model.source {
            let at = match map.translate(asked) {
                Translation::At(at) | Translation::TooOld(at) => at,
                Translation::NotYet => continue,
            };
            prop_assert!(at >= previous, "{} goes back", asked);
            previous = at;
            let safe = model.last_safe(asked);
            prop_assert!(at <= safe, "{} is at {}, safe is {}: {:?}", asked, at, safe, model);
        }
        for (source, target) in &model.stream {
            if !doubled {
                prop_assert_eq!(map.translate(*source), Translation::At(*target));
            }
        }
    }
}
