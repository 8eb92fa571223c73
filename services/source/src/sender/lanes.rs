//! Which connection to a target broker carries a partition.
//!
//! A broker answers the requests of a connection one after the other, and a request waits for all of its partitions. So
//! partitions whose replicas are on the same brokers share connections: a replica that is slow holds up only partitions
//! that have a replica on the same broker. Partitions that were slow lately go apart. Must not know what is sent.

use std::collections::HashMap;

use mirrormesh_kafka::ConnectionRole;

/// Connections for the first set of replicas that is seen on a broker. Many clusters have only this one.
const FIRST_SET_LANES: u32 = 2;
/// Sets of replicas that are told apart on each broker; further sets share their connections.
const SETS_MAX: usize = 8;
/// Connections for partitions that were slow lately.
const SLOW_LANES: u32 = 8;

/// The connections to the brokers of one target.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Sets of replicas by leader, in the order in which they were seen.
    sets: HashMap<i32, Vec<u64>>,
}

impl Lanes {
    /// The lane of a partition that this broker leads. `place` tells partitions apart, `replica_set` sets of replicas.
    pub(crate) fn lane(&mut self, node_id: i32, replica_set: u64, place: u32, slow: bool) -> ConnectionRole {
        if slow {
            return ConnectionRole::ProduceSlow(place % SLOW_LANES);
        }
        let sets = self.sets.entry(node_id).or_default();
        let index = match sets.iter().position(|known| *known == replica_set) {
            Some(index) => index,
            None if sets.len() < SETS_MAX => {
                sets.push(replica_set);
                sets.len() - 1
            }
            None => usize::try_from(replica_set % SETS_MAX as u64).unwrap_or(0),
        };
        ConnectionRole::Produce(match u32::try_from(index).unwrap_or(0) {
            0 => place % FIRST_SET_LANES,
            other => FIRST_SET_LANES + other - 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_set_of_replicas_has_two_lanes() {
        let mut lanes = Lanes::default();
        let used: BTreeSet<ConnectionRole> = (0..20).map(|place| lanes.lane(1, 77, place, false)).collect();
        assert_eq!(used, BTreeSet::from([ConnectionRole::Produce(0), ConnectionRole::Produce(1)]));
    }

    #[test]
    fn sets_of_replicas_share_no_lane() {
        let mut lanes = Lanes::default();
        let mut seen = BTreeSet::new();
        for set in 0..8 {
            let used: BTreeSet<ConnectionRole> =
                (0..20).map(|place| lanes.lane(1, 100 + set, place, false)).collect();
            assert!(used.is_disjoint(&seen), "{set}: {used:?} {seen:?}");
            seen.extend(used);
        }
        let further: BTreeSet<ConnectionRole> =
            (0..100).map(|set| lanes.lane(1, 900 + set, 0, false)).collect();
        assert!(further.is_subset(&seen), "further sets share them: {further:?}");
        assert_eq!(lanes.lane(1, 100, 4, false), ConnectionRole::Produce(0), "a partition stays where it is");
        assert_eq!(
            lanes.lane(2, 107, 4, false),
            ConnectionRole::Produce(0),
            "another broker has sets of its own"
        );
    }

    #[test]
    fn slow_partitions_go_apart() {
        let mut lanes = Lanes::default();
        let slow: BTreeSet<ConnectionRole> = (0..20).map(|place| lanes.lane(1, 5, place, true)).collect();
        assert_eq!(slow.len(), 8);
        assert!(slow.iter().all(|lane| matches!(lane, ConnectionRole::ProduceSlow(_))), "{slow:?}");
    }
}
