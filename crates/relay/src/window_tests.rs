//! Tests of `window`.

use mirrormesh_core::position::LastBatch;

use super::*;
use crate::rebuild::Run;

const NOW: u64 = 1_800_000_000_000;
const NOW_MS: i64 = 1_800_000_000_000;
const EXPIRATION_MS: i64 = Facts::DEFAULT.target_expiration_ms;

fn window_with(sole: bool, facts: Facts) -> Window {
    Window::new(Place { count: 10, source: 20, target: 30 }, sole, facts, Limits::default())
}

fn window(sole: bool) -> Window {
    window_with(sole, Facts::DEFAULT)
}

fn send_at(w: &mut Window, first: i64, count: i32, max_timestamp: i64) -> u64 {
    let next_source = first + i64::from(count);
    w.sent(Sending {
        run: Run { first, count: i64::from(count) },
        more: Vec::new(),
        next_source,
        bytes: 100,
        last: LastBatch { count, base_timestamp: 0, max_timestamp, body_crc: 1 },
        leader_epoch: 0,
    })
}

fn send(w: &mut Window, first: i64, count: i32) -> u64 {
    send_at(w, first, count, NOW_MS)
}

fn appended(base_offset: i64) -> Answer {
    Answer::Appended { base_offset, append_time: false }
}

#[test]
fn one_in_flight_until_the_first_ack_then_many() {
    let mut w = window(true);
    assert_eq!(w.next_sequence(), 10);
    assert!(w.may_send(1, NOW));
    let a = send(&mut w, 20, 5);
    assert!(!w.may_send(1, NOW), "not before the first ack");
    assert!(matches!(w.answer(a, &appended(30), NOW), Outcome::Mirrored(_)));
    assert_eq!(w.acked(), Place { count: 15, source: 25, target: 35 });
    for i in 0..256 {
        assert!(w.may_send(1, NOW));
        send(&mut w, 25 + i, 1);
    }
    assert!(!w.may_send(1, NOW), "256 in flight");
}

#[test]
fn what_has_not_left_holds_up_further_batches() {
    let mut w = window(true);
    w.waiting(WAITING_BYTES_MAX);
    assert!(w.may_send(1, NOW), "nothing is in flight: nobody would say when it has left");
    let a = send(&mut w, 20, 5);
    assert!(matches!(w.answer(a, &appended(30), NOW), Outcome::Mirrored(_)));
    send(&mut w, 25, 1);
    assert!(!w.may_send(1, NOW));
    w.waiting(WAITING_BYTES_MAX - 1);
    assert!(w.may_send(1, NOW));
}

/// An old batch that was given up may arrive behind a young one, and the target forgets the producer behind it.
#[test]
fn an_old_batch_given_up_closes_the_window() {
    let mut w = window(true);
    let sent = send(&mut w, 20, 1);
    w.answer(sent, &appended(30), NOW);
    let young = send(&mut w, 21, 1);
    send_at(&mut w, 22, 1, NOW_MS - EXPIRATION_MS);
    assert!(matches!(w.answer(young, &Answer::Lost, NOW), Outcome::Failed(_)));
    let mut next = Window::new(w.acked(), true, Facts::DEFAULT, Limits::default());
    next.expect(w.zombies());
    let sent = send(&mut next, 21, 1);
    next.answer(sent, &appended(31), NOW);
    assert!(next.is_armed(NOW) && !next.stays_armed(NOW));
    assert!(next.stays_armed(NOW + WATCH_MS), "by then it has arrived, or never will");
    // A second loss of young ones does not make it forget the old one.
    let lost = send(&mut next, 22, 1);
    next.answer(lost, &Answer::Lost, NOW + 1);
    let mut third = Window::new(next.acked(), true, Facts::DEFAULT, Limits::default());
    third.expect(next.zombies());
    let sent = send(&mut third, 22, 1);
    third.answer(sent, &appended(32), NOW);
    assert!(!third.stays_armed(NOW + WATCH_MS));
}

#[test]
fn idleness_and_other_writers_of_old_records_close_the_window() {
    let mut w = window(true);
    let a = send_at(&mut w, 20, 1, NOW_MS - EXPIRATION_MS);
    w.answer(a, &appended(30), NOW);
    assert!(!w.is_armed(NOW));
    send(&mut w, 21, 1);
    assert!(w.may_send(1, NOW), "as the only writer, what the target accepts out of turn shows");
    for (sole, watched, shared) in [(false, false, None), (true, true, None), (true, false, Some(NOW))] {
        let mut w = window(sole);
        w.share(shared);
        let a = send_at(&mut w, 20, 1, NOW_MS - EXPIRATION_MS);
        w.answer(a, &appended(30), NOW);
        if watched {
            w.watch(NOW);
        }
        send_at(&mut w, 21, 1, NOW_MS - EXPIRATION_MS);
        assert!(!w.may_send(1, NOW), "others may append: {sole} {watched} {shared:?}");
    }

    let mut w = window(true);
    let a = send(&mut w, 20, 1);
    w.answer(a, &appended(30), NOW);
    send(&mut w, 21, 1);
    assert!(w.may_send(1, NOW + IDLE_MS - 1) && !w.may_send(1, NOW + IDLE_MS));
}

#[test]
fn nothing_follows_an_old_batch_beside_other_writers() {
    let mut w = window(false);
    let a = send(&mut w, 20, 1);
    w.answer(a, &appended(30), NOW);
    assert!(w.is_armed(NOW) && w.may_send(1, NOW));
    send_at(&mut w, 21, 1, NOW_MS - EXPIRATION_MS);
    assert!(!w.may_send(1, NOW), "when it is appended the target may forget us");
    let own = Facts { target_append_time: true, ..Facts::DEFAULT };
    let mut w = window_with(true, own);
    w.looked_at();
    let a = send_at(&mut w, 20, 1, 0);
    w.answer(a, &Answer::Appended { base_offset: 30, append_time: true }, NOW);
    send_at(&mut w, 21, 1, 0);
    assert!(w.may_send(1, NOW), "the target's own times are young");
    let short = Facts { target_expiration_ms: 60_000, ..Facts::DEFAULT };
    let mut w = window_with(true, short);
    let a = send_at(&mut w, 20, 1, NOW_MS - 59_000);
    w.answer(a, &appended(30), NOW);
    assert!(!w.is_armed(NOW), "the target's own setting counts");
}

#[test]
fn a_failure_stops_everything_and_later_acks_do_not_move_the_place() {
    let mut w = window(true);
    let a = send(&mut w, 20, 5);
    w.answer(a, &appended(30), NOW);
    let (b, c) = (send(&mut w, 25, 5), send(&mut w, 30, 5));
    assert!(matches!(w.answer(b, &Answer::Lost, NOW), Outcome::Failed(Verdict::Resync { .. })));
    assert!(!w.may_send(1, NOW) && !w.is_empty());
    assert_eq!(w.answer(c, &appended(40), NOW), Outcome::Drained);
    assert!(w.is_empty() && w.is_failed());
    assert_eq!(w.acked().source, 25);
}

#[test]
fn an_unexpected_offset_is_a_failure_unless_others_write() {
    let mut w = window(true);
    let a = send(&mut w, 20, 5);
    assert!(matches!(w.answer(a, &appended(31), NOW), Outcome::Failed(_)));
    let mut w = window(false);
    let a = send(&mut w, 20, 5);
    w.answer(a, &appended(30), NOW);
    let b = send(&mut w, 25, 5);
    assert!(matches!(w.answer(b, &appended(38), NOW), Outcome::Mirrored(m) if m.segment.target == 38));
    let c = send(&mut w, 30, 1);
    assert!(matches!(w.answer(c, &appended(42), NOW), Outcome::Failed(_)), "never down");
}

#[test]
fn others_are_looked_at_where_the_target_may_have_forgotten() {
    let mut w = window(false);
    let a = send(&mut w, 20, 5);
    assert!(
        matches!(w.answer(a, &appended(33), NOW), Outcome::Failed(_)),
        "it may be a repeat of another owner's"
    );
    let looked_at = w.unexpected().unwrap();
    for (n, sure) in [(15, true), (16, false)] {
        let place = Place { count: n, source: 25, target: 38 };
        let mut w = Window::new(place, false, Facts::DEFAULT, Limits::default());
        w.settle(looked_at);
        let a = send(&mut w, 25, 1);
        let outcome = w.answer(a, &appended(40), NOW);
        assert_eq!(matches!(outcome, Outcome::Mirrored(_)), sure, "n {n}: {outcome:?}");
    }
    let mut w = window(false);
    w.share(Some(NOW));
    let a = send(&mut w, 20, 1);
    w.answer(a, &appended(30), NOW);
    let b = send(&mut w, 21, 1);
    assert!(matches!(w.answer(b, &appended(33), NOW), Outcome::Failed(_)), "another owner's old batch");
}

#[test]
fn a_duplicate_is_looked_at_whatever_the_content() {
    for source_compacted in [false, true] {
        let mut w = window_with(true, Facts { source_compacted, ..Facts::DEFAULT });
        let a = send(&mut w, 20, 5);
        let failed = w.answer(a, &Answer::Appended { base_offset: 30, append_time: true }, NOW);
        assert!(matches!(failed, Outcome::Failed(Verdict::Resync { reason: "DUPLICATE_ANSWER", .. })));
        assert_eq!(w.acked().count, 10, "what stands there need not be what was sent");
    }
}

#[test]
fn runs_are_placed_one_after_the_other() {
    let mut w = window(true);
    let a = w.sent(Sending {
        run: Run { first: 20, count: 2 },
        more: vec![Run { first: 25, count: 1 }, Run { first: 30, count: 2 }],
        next_source: 40,
        bytes: 100,
        last: LastBatch { count: 5, ..LastBatch::default() },
        leader_epoch: 0,
    });
    let Outcome::Mirrored(m) = w.answer(a, &appended(30), NOW) else { panic!() };
    let all: Vec<_> =
        std::iter::once(m.segment).chain(m.more).map(|s| (s.source, s.target, s.count)).collect();
    assert_eq!(all, [(20, 30, 2), (25, 32, 1), (30, 33, 2)]);
    assert_eq!(w.acked(), Place { count: 15, source: 40, target: 35 });
}

#[test]
fn passed_offsets_wait_for_what_is_in_flight() {
    let mut w = window(true);
    assert!(w.passed(22, 0));
    let a = send(&mut w, 22, 3);
    assert!(!w.passed(26, 0));
    assert_eq!(w.acked().source, 22);
    w.answer(a, &appended(30), NOW);
    assert_eq!(w.acked(), Place { count: 13, source: 26, target: 33 });
}

#[test]
fn what_is_passed_behind_a_batch_changes_nothing_of_its_epoch() {
    let mut w = window(true);
    let a = send(&mut w, 20, 3);
    for (next, epoch) in [(25, 0), (30, 2), (33, 2), (34, 5)] {
        assert!(!w.passed(next, epoch));
    }
    let Outcome::Mirrored(m) = w.answer(a, &appended(30), NOW) else { panic!() };
    assert_eq!((m.source_leader_epoch, m.passed), (0, vec![(2, 25), (5, 33)]));
    assert_eq!(w.acked().source, 34);
}

#[test]
fn another_owner_of_the_generation_closes_the_window() {
    let mut before = window(true);
    let a = send(&mut before, 20, 1);
    before.answer(a, &Answer::Appended { base_offset: 30, append_time: true }, NOW);
    let mut w = window(true);
    w.share(before.shared_ms());
    let a = send(&mut w, 20, 1);
    w.answer(a, &appended(30), NOW);
    assert!(w.is_armed(NOW) && !w.stays_armed(NOW), "its next batch may be an old one");
    send(&mut w, 21, 1);
    assert!(!w.may_send(1, NOW));
    assert!(w.stays_armed(NOW + IDLE_MS));
}

#[test]
fn where_a_duplicate_cannot_be_told_the_first_append_is_looked_at() {
    for believed in [false, true] {
        let mut w = window_with(true, Facts { target_append_time: true, ..Facts::DEFAULT });
        if believed {
            w.looked_at();
        }
        let a = send(&mut w, 20, 5);
        let outcome = w.answer(a, &Answer::Appended { base_offset: 30, append_time: true }, NOW);
        assert_eq!(matches!(outcome, Outcome::Mirrored(_)), believed, "{outcome:?}");
        assert_eq!(w.acked().count == 15, believed, "what stands there need not be what was sent");
    }
}

#[test]
fn before_the_first_append_of_a_generation_a_shift_may_be_an_older_one() {
    let start = Place { count: 0, source: 20, target: 30 };
    let mut w = Window::new(start, false, Facts::DEFAULT, Limits::default());
    let a = send(&mut w, 20, 1);
    assert!(matches!(w.answer(a, &appended(31), NOW), Outcome::Failed(_)), "who was quicker?");
    let mut w = Window::new(start, false, Facts::DEFAULT, Limits::default());
    let a = send(&mut w, 20, 1);
    w.answer(a, &appended(30), NOW);
    let b = send(&mut w, 21, 1);
    assert!(matches!(w.answer(b, &appended(35), NOW), Outcome::Mirrored(_)), "others write here");
}

#[test]
fn behind_a_new_producer_id_every_shift_is_looked_at_for_a_while() {
    for (later_ms, looked_at) in [(WATCH_MS - 1, true), (WATCH_MS, false)] {
        let mut w = window(false);
        w.watch(NOW);
        let a = send(&mut w, 20, 1);
        w.answer(a, &appended(30), NOW);
        let b = send(&mut w, 21, 1);
        let outcome = w.answer(b, &appended(32), NOW + later_ms);
        assert_eq!(matches!(outcome, Outcome::Failed(_)), looked_at, "{outcome:?}");
    }
}

#[test]
fn the_oldest_in_flight_is_known_whatever_the_order() {
    let mut w = window(true);
    let a = send(&mut w, 20, 1);
    w.answer(a, &appended(30), NOW);
    let old = NOW_MS - EXPIRATION_MS;
    let ids: Vec<u64> = [NOW_MS, old, NOW_MS, NOW_MS - 5]
        .iter()
        .zip(21..)
        .map(|(t, at)| send_at(&mut w, at, 1, *t))
        .collect();
    let mut armed = Vec::new();
    for (id, base) in ids.into_iter().zip(31..) {
        armed.push(w.stays_armed(NOW));
        w.answer(id, &appended(base), NOW);
    }
    // The second is the last batch once it is appended, until the third is.
    assert_eq!(armed, [false, false, false, true]);
    assert!(w.stays_armed(NOW));
}
