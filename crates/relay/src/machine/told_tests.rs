//! Tests of the way from an answer to who waits for it.

use super::tests::{Bench, RULES};
use super::*;
use crate::testing::Fake;

fn asked(bench: &mut Bench) -> (u64, Ask) {
    match bench.relay.next(bench.now_ms, &Fake) {
        Some(Action::Ask { id, ask }) => (id, ask),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_to_an_earlier_question_says_nothing() {
    let mut b = Bench::new(RULES);
    let (first, ask) = asked(&mut b);
    assert_eq!(ask, Ask::Facts);
    b.relay.told(first, Told::Facts(Facts::DEFAULT), &Fake);
    let (second, ask) = asked(&mut b);
    assert_eq!(ask, Ask::Registry);
    // As it would come from a shell that repeats itself, or is late.
    b.relay.told(first, Told::Failed("LATE".to_owned(), String::new()), &Fake);
    assert!(b.relay.next(b.now_ms, &Fake).is_none(), "the second question is open still");
    b.relay.told(second, Told::Failed("NOW".to_owned(), String::new()), &Fake);
    let waits = b.relay.next(b.now_ms, &Fake);
    assert!(matches!(waits, Some(Action::Wait { reason, .. }) if reason == "NOW"));
}

#[test]
fn an_answer_to_another_question_is_a_failure_and_no_silence() {
    let mut b = Bench::new(RULES);
    let (id, _) = asked(&mut b);
    b.relay.told(id, Told::Registered, &Fake);
    let waits = b.relay.next(b.now_ms, &Fake);
    assert!(matches!(waits, Some(Action::Wait { reason, .. }) if reason == "ANSWER_MISTAKEN"));
    b.relay.resume();
    assert_eq!(asked(&mut b).1, Ask::Facts, "and it is tried again");
}

#[test]
fn a_recovery_that_is_told_something_else_begins_again() {
    let mut b = Bench::new(RULES);
    loop {
        let (id, ask) = match b.next() {
            Some(Action::Ask { id, ask }) => (id, ask),
            other => panic!("{other:?}"),
        };
        if ask == Ask::Facts {
            b.relay.told(id, Told::Facts(Facts::DEFAULT), &Fake);
        } else {
            b.relay.told(id, Told::Registered, &Fake);
            break;
        }
    }
    let waits = b.next();
    assert!(matches!(waits, Some(Action::Wait { reason, .. }) if reason == "ANSWER_MISTAKEN"));
}
