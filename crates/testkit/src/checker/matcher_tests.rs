//! What the matcher must find, on sequences in memory.

use super::matcher::{Kind, Matcher, Outcome};
use super::record::{Record, Timestamp};

/// Record `n` of a partition: unlike all others.
fn record(number: i64) -> Record<'static> {
    let text: &'static [u8] = format!("value-{number}").leak().as_bytes();
    Record {
        offset: number,
        timestamp: Timestamp::Created(1_000 + number),
        key: Some(b"key"),
        value: Some(text),
        headers: vec![("a", Some(b"1")), ("b", None)],
    }
}

fn records(count: i64) -> Vec<Record<'static>> {
    (0..count).map(record).collect()
}

/// Judges with one range of announced target offsets. Target records have the offset of their place.
fn judge_announced((from, to): (i64, i64), source: &[i64], target: &[i64]) -> Outcome {
    let mut matcher = Matcher::new(1000).announcing(std::iter::once(from..to).collect());
    let mut target = (0..)
        .zip(target)
        .map(|(offset, number)| Record { offset, ..record(*number) })
        .collect::<Vec<_>>()
        .into_iter();
    let mut source = source.iter().map(|number| record(*number));
    loop {
        let up = source.next();
        let down = target.find(|record| !matcher.take_announced(record));
        if up.is_none() && down.is_none() {
            return matcher.finish();
        }
        matcher.push(up.as_ref(), down.as_ref());
    }
}

fn judge_with(window: usize, source: &[Record<'_>], target: &[Record<'_>]) -> Outcome {
    let mut matcher = Matcher::new(window);
    for index in 0..source.len().max(target.len()) {
        matcher.push(source.get(index), target.get(index));
    }
    matcher.finish()
}

fn judge(source: &[Record<'_>], target: &[Record<'_>]) -> Outcome {
    let outcome = judge_with(1000, source, target);
    // Every source record is exactly one of these, and every target record one of those.
    assert_eq!(outcome.source_records, outcome.matched + outcome.lost + outcome.different, "{outcome:?}");
    assert_eq!(
        outcome.target_records,
        outcome.matched + outcome.duplicated + outcome.different + outcome.extra,
        "{outcome:?}"
    );
    outcome
}

/// lost, duplicated, reordered, different, extra
fn counts(outcome: &Outcome) -> [u64; 5] {
    [outcome.lost, outcome.duplicated, outcome.reordered, outcome.different, outcome.extra]
}

#[test]
fn equal_sequences_are_equal() {
    let outcome = judge(&records(100), &records(100));
    assert!(outcome.is_equal());
    assert_eq!(outcome.matched, 100);
    assert_eq!(counts(&outcome), [0; 5]);
    assert!(judge(&[], &[]).is_equal());
}

#[test]
fn offsets_are_not_compared() {
    let mut target = records(10);
    for record in &mut target {
        record.offset += 1000;
    }
    assert!(judge(&records(10), &target).is_equal());
}

#[test]
fn a_lost_record_is_found_anywhere() {
    for gone in [0, 1, 50, 98, 99] {
        let mut target = records(100);
        target.remove(gone);
        let outcome = judge(&records(100), &target);
        assert!(!outcome.is_equal());
        assert_eq!(counts(&outcome), [1, 0, 0, 0, 0], "record {gone}: {outcome:?}");
        assert_eq!(outcome.differences[0].kind, Kind::Lost);
        assert_eq!(outcome.differences[0].source_offset, Some(i64::try_from(gone).unwrap()));
    }
}

#[test]
fn a_lost_run_is_counted_whole() {
    let mut target = records(500);
    target.drain(100..350);
    let outcome = judge(&records(500), &target);
    assert_eq!(counts(&outcome), [250, 0, 0, 0, 0]);
    assert_eq!(outcome.differences.len(), 10);
    assert_eq!(counts(&judge(&records(500), &[])), [500, 0, 0, 0, 0]);
}

#[test]
fn a_duplicated_record_is_found_anywhere() {
    for again in [0, 50, 99] {
        let mut target = records(100);
        let copy = target[again].clone();
        target.insert(again + 1, copy.clone());
        let outcome = judge(&records(100), &target);
        assert!(!outcome.is_equal());
        assert_eq!(counts(&outcome), [0, 1, 0, 0, 0], "record {again}");
        // Not only beside the first.
        target.remove(again + 1);
        target.push(copy);
        assert_eq!(counts(&judge(&records(100), &target)), [0, 1, 0, 0, 0], "record {again} at the end");
    }
}

#[test]
fn a_replayed_run_is_duplicated_not_reordered() {
    let mut target = records(100);
    let run: Vec<_> = target[40..60].to_vec();
    target.splice(60..60, run);
    assert_eq!(counts(&judge(&records(100), &target)), [0, 20, 0, 0, 0]);
}

#[test]
fn a_swap_is_reordered_and_nothing_else() {
    let mut target = records(100);
    target.swap(10, 11);
    let outcome = judge(&records(100), &target);
    assert!(!outcome.is_equal());
    assert_eq!(counts(&outcome), [0, 0, 1, 0, 0]);
    let mut target = records(100);
    let moved = target.remove(10);
    target.insert(30, moved);
    assert_eq!(counts(&judge(&records(100), &target)), [0, 0, 1, 0, 0]);
}

/// Changes record 7 of 20 and expects exactly one difference that names the change.
fn change(words: &str, edit: impl Fn(&mut Record<'static>)) {
    let mut target = records(20);
    edit(&mut target[7]);
    let outcome = judge(&records(20), &target);
    assert!(!outcome.is_equal(), "{words}");
    assert_eq!(counts(&outcome), [0, 0, 0, 1, 0], "{words}: {outcome:?}");
    let difference = &outcome.differences[0];
    assert_eq!((difference.source_offset, difference.target_offset), (Some(7), Some(7)));
    assert!(difference.what.contains(words), "{difference}");
}

#[test]
fn a_change_of_anything_is_found() {
    change("value \"value-7\" (7 bytes) became \"value-8x\"", |r| r.value = Some(b"value-8x"));
    change("became null", |r| r.value = None);
    change("became \"\" (0 bytes)", |r| r.value = Some(b""));
    change("key \"key\" (3 bytes) became \"kez\"", |r| r.key = Some(b"kez"));
    change("key \"key\" (3 bytes) became null", |r| r.key = None);
    change("headers", |r| r.headers[0].1 = Some(b"2"));
    change("headers", |r| r.headers[0].0 = "A");
    change("headers", |r| r.headers[1].1 = Some(b""));
    change("headers", |r| r.headers.swap(0, 1));
    change("headers", |r| r.headers.truncate(1));
    change("timestamp Created(1007) became Created(1008)", |r| r.timestamp = Timestamp::Created(1008));
    change("became Appended(1007)", |r| r.timestamp = Timestamp::Appended(1007));
}

#[test]
fn null_and_empty_differ_both_ways() {
    for (was, is) in [(None, Some(&b""[..])), (Some(&b""[..]), None)] {
        let (mut source, mut target) = (records(3), records(3));
        source[1].key = was;
        target[1].key = is;
        assert_eq!(counts(&judge(&source, &target)), [0, 0, 0, 1, 0]);
        assert_ne!(source[1].digest(), target[1].digest());
    }
}

#[test]
fn a_record_from_nowhere_is_extra() {
    let mut target = records(100);
    target.insert(50, record(7_000));
    let outcome = judge(&records(100), &target);
    assert!(!outcome.is_equal());
    assert_eq!(counts(&outcome), [0, 0, 0, 0, 1]);
}

#[test]
fn everything_at_once_is_told_apart() {
    let mut target = records(300);
    target[250].value = Some(b"changed");
    target.swap(200, 201);
    target.insert(151, record(150));
    target.remove(50);
    assert_eq!(counts(&judge(&records(300), &target)), [1, 1, 1, 1, 0]);
}

#[test]
fn records_that_are_truly_equal_are_counted() {
    let same = |offset| Record { offset, ..record(0) };
    let source: Vec<_> = (0..50).map(same).collect();
    assert!(judge(&source, &source).is_equal());
    assert_eq!(counts(&judge(&source, &source[..49])), [1, 0, 0, 0, 0]);
    let more: Vec<_> = (0..51).map(same).collect();
    assert_eq!(counts(&judge(&source, &more)), [0, 1, 0, 0, 0]);
    // A loss before them must not make duplicates of them.
    let mut source = source;
    source.insert(0, record(9));
    assert_eq!(counts(&judge(&source, &source[1..])), [1, 0, 0, 0, 0]);
}

#[test]
fn beyond_the_window_nothing_is_called_equal() {
    let outcome = judge_with(10, &records(100), &records(100)[40..]);
    assert!(!outcome.is_equal());
    assert_eq!(outcome.source_records, 100);
    let mut target = records(100);
    let moved = target.remove(0);
    target.push(moved);
    assert!(!judge_with(10, &records(100), &target).is_equal());
    // A wide displacement at the beginning does not spoil what comes later.
    let mut target = records(100);
    target.drain(0..5);
    assert_eq!(counts(&judge_with(10, &records(100), &target)), [5, 0, 0, 0, 0]);
}

/// Batch 2 failed unnoticed, batch 3 followed it, and both were mirrored again: 1 3 2 3.
#[test]
fn a_hole_that_was_announced_and_filled_is_equal() {
    let (source, target) = ([1, 2, 3, 4], [1, 3, 2, 3, 4]);
    let outcome = judge_announced((1, 2), &source, &target);
    assert!(outcome.is_equal(), "{outcome:?}");
    assert_eq!((outcome.matched, outcome.announced), (4, 1));
    let outcome = judge_announced((0, 0), &source, &target);
    assert_eq!(counts(&outcome), [0, 1, 1, 0, 0], "nothing was announced");
    // Without its second copy the first one is still out of order.
    let outcome = judge_announced((3, 4), &source, &target);
    assert!(!outcome.is_equal(), "{outcome:?}");
    assert_eq!(outcome.reordered, 1);
}

#[test]
fn an_announcement_hides_no_loss() {
    // 3 is only among the announced ones: it is there.
    let outcome = judge_announced((1, 2), &[1, 2, 3, 4], &[1, 3, 2, 4]);
    assert!(outcome.is_equal(), "{outcome:?}");
    assert_eq!((outcome.matched, outcome.announced), (4, 0));
    let outcome = judge_announced((1, 3), &[1, 2, 3, 4], &[1, 3, 3, 4]);
    assert_eq!(counts(&outcome), [1, 0, 0, 0, 0]);
    assert_eq!((outcome.matched, outcome.announced), (3, 1));
}

#[test]
fn an_announced_record_from_nowhere_is_extra() {
    let outcome = judge_announced((1, 3), &[1, 2, 3], &[1, 700, 2, 2, 3]);
    assert!(!outcome.is_equal());
    assert_eq!(counts(&outcome), [0, 0, 0, 0, 1]);
    assert_eq!(outcome.differences[0].target_offset, Some(1));
}

#[test]
fn doubles_outside_announced_ranges_are_doubles() {
    let outcome = judge_announced((2, 4), &[1, 2, 3, 4], &[1, 2, 1, 2, 3, 3, 4]);
    assert!(!outcome.is_equal());
    assert_eq!((counts(&outcome), outcome.announced), ([0, 1, 0, 0, 0], 2));
}
