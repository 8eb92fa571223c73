//! Rings of flows that keep names.

use super::*;
use crate::control::Reject;

fn identity(source: &str, target: &str) -> FlowSpec {
    FlowSpec { naming: Naming::Identity, shared_target: true, ..spec(source, target) }
}

/// Clusters a to e, and these flows.
fn world(flows: &[(&str, FlowSpec)]) -> ControlState {
    let mut state = ControlState::default();
    for cluster in ["a", "b", "c", "d"] {
        run(&mut state, put_cluster(cluster, &format!("{cluster}:9092"), true)).unwrap();
    }
    run(&mut state, put_cluster("c-again", "c:9092", true)).unwrap();
    for (id, spec) in flows {
        run(&mut state, put_flow(id, spec.clone(), true)).unwrap();
    }
    state
}

fn run(state: &mut ControlState, kind: CommandKind) -> Result<(), Reject> {
    match state.apply(&Command { at_ms: 1, kind }).reply {
        Reply::Rejected(reject) => Err(reject),
        _ => Ok(()),
    }
}

#[test]
fn two_flows_that_face_each_other_and_chains_are_fine() {
    world(&[
        ("ab", identity("a", "b")),
        ("ba", identity("b", "a")),
        ("bc", identity("b", "c")),
        ("cb", identity("c", "b")),
        ("cd", identity("c", "d")),
    ]);
}

#[test]
fn a_ring_of_three_is_refused_by_name() {
    let mut state =
        world(&[("ab", identity("a", "b")), ("ba", identity("b", "a")), ("bc", identity("b", "c"))]);
    let before = state.clone();
    let reject = run(&mut state, put_flow("ca", identity("c", "a"), true)).unwrap_err();
    assert_eq!((reject.reason, reject.field), ("MIRROR_RING", "flow.records.forward_mirrored"));
    let ring = "flows/ca (c → a), flows/ab (a → b), flows/bc (b → c)";
    assert!(reject.message.contains(ring), "{}", reject.message);
    assert_eq!(state, before);

    let same = run(&mut state, put_flow("ca", identity("c-again", "a"), true)).unwrap_err();
    assert_eq!(same.reason, "MIRROR_RING", "another name of the same cluster");

    let quiet = FlowSpec { skip_mirrored: true, ..identity("c", "a") };
    run(&mut state, put_flow("ca", quiet, true)).unwrap();
    let reject = run(&mut state, put_flow("ca", identity("c", "a"), false)).unwrap_err();
    assert_eq!(reject.reason, "MIRROR_RING", "an update closes it too");
}

#[test]
fn a_longer_ring_is_refused_and_what_cannot_meet_is_not() {
    let flows = [("ab", identity("a", "b")), ("bc", identity("b", "c")), ("cd", identity("c", "d"))];
    assert!(run(&mut world(&flows), put_flow("da", identity("d", "a"), true)).is_err());
    assert!(run(&mut world(&flows), put_flow("da", spec("d", "a"), true)).is_ok(), "prefixes tell");
    let off = FlowSpec { records_enabled: false, ..identity("d", "a") };
    assert!(run(&mut world(&flows), put_flow("da", off, true)).is_ok(), "it copies no records");
    let rename = FlowSpec { naming: Naming::Rename(BTreeMap::new()), ..spec("d", "a") };
    assert!(run(&mut world(&flows), put_flow("da", rename, true)).is_err());

    let only = |source: &str, target: &str, topic: &str| FlowSpec {
        topics_include: vec![topic.to_owned()],
        ..identity(source, target)
    };
    let named = [("ab", only("a", "b", "x")), ("bc", only("b", "c", "x.*"))];
    assert!(run(&mut world(&named), put_flow("ca", only("c", "a", "y"), true)).is_ok(), "other topics");
    assert!(run(&mut world(&named), put_flow("ca", only("c", "a", "x"), true)).is_err());
    let patterns = [("ab", only("a", "b", "x.*")), ("bc", only("b", "c", "y.*"))];
    assert!(run(&mut world(&patterns), put_flow("ca", only("c", "a", "z.*"), true)).is_err(), "who knows");
}
