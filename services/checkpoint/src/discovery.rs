//! Which groups are new and which are gone.
//!
//! Owns the comparison of listings with what was reported; does no IO.

use std::collections::BTreeSet;

use mirrormesh_core::control::InventoryChange;
use mirrormesh_core::ids::GroupId;

/// What a groups unit knows.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    reported: BTreeSet<GroupId>,
    /// Reported groups that the last complete listing did not hold.
    missing: BTreeSet<GroupId>,
    /// Reported groups that are to be looked at again, since the flow's patterns changed.
    doubtful: BTreeSet<GroupId>,
}

impl Discovery {
    /// The flow's patterns changed: what was reported may not be selected any more.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = self.reported.clone();
    }

    /// Groups of a listing whose offsets must be looked at: those that were not reported yet or are in doubt.
    pub(crate) fn unsettled<'a>(&self, selected: &'a BTreeSet<GroupId>) -> impl Iterator<Item = &'a GroupId> {
        selected.iter().filter(|group| !self.reported.contains(*group) || self.doubtful.contains(*group))
    }

    /// Compares with a complete listing. `listed` are all groups of the source, `rejected` those that the patterns
    /// don't select or whose offsets name no selected topic, `accepted` those that were looked at and count. A
    /// reported group that is not listed is only removed when it was not in the listing before either: a broker that
    /// just took over a group may not list it for a moment.
    pub(crate) fn compare(
        &mut self,
        listed: &BTreeSet<GroupId>,
        accepted: BTreeSet<GroupId>,
        rejected: &BTreeSet<GroupId>,
    ) -> InventoryChange {
        let missing: BTreeSet<GroupId> = self.reported.difference(listed).cloned().collect();
        let gone = missing.intersection(&self.missing).chain(self.reported.intersection(rejected));
        let removed_groups: BTreeSet<GroupId> = gone.cloned().collect();
        let groups = accepted.into_iter().filter(|group| !self.reported.contains(group)).collect();
        self.missing = missing;
        InventoryChange {
            groups,
            removed_groups: removed_groups.into_iter().collect(),
            ..InventoryChange::default()
        }
    }

    /// The coordinator has taken the change.
    pub(crate) fn reported(&mut self, change: InventoryChange) {
        for group in &change.removed_groups {
            self.reported.remove(group);
            self.missing.remove(group);
        }
        self.reported.extend(change.groups);
    }

    /// The groups in doubt were looked at.
    pub(crate) fn settled(&mut self) {
        self.doubtful.clear();
    }

    /// How many groups are reported.
    pub(crate) fn count(&self) -> usize {
        self.reported.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<GroupId> {
        names.iter().map(|name| GroupId::new(name).unwrap()).collect()
    }

    fn names(groups: &[GroupId]) -> Vec<&str> {
        groups.iter().map(GroupId::as_str).collect()
    }

    fn round(discovery: &mut Discovery, listed: &[&str], accepted: &[&str]) -> (Vec<String>, Vec<String>) {
        let change = discovery.compare(&set(listed), set(accepted), &BTreeSet::new());
        let own = |groups: &[GroupId]| names(groups).into_iter().map(str::to_owned).collect();
        let said = (own(&change.groups), own(&change.removed_groups));
        discovery.reported(change);
        said
    }

    #[test]
    fn a_group_is_gone_after_two_listings_without_it() {
        let mut discovery = Discovery::default();
        assert_eq!(round(&mut discovery, &["a", "b"], &["a", "b"]).0, ["a", "b"]);
        assert_eq!(round(&mut discovery, &["a"], &[]), (vec![], vec![]));
        assert_eq!(round(&mut discovery, &["a", "b"], &[]), (vec![], vec![]), "it came back");
        assert_eq!(round(&mut discovery, &["a"], &[]), (vec![], vec![]));
        assert_eq!(round(&mut discovery, &["a"], &[]).1, ["b"]);
        assert_eq!(round(&mut discovery, &["a"], &[]), (vec![], vec![]));
        assert_eq!(discovery.count(), 1);
    }

    #[test]
    fn a_change_that_was_not_taken_is_said_again() {
        let mut discovery = Discovery::default();
        let first = discovery.compare(&set(&["a"]), set(&["a"]), &BTreeSet::new());
        let second = discovery.compare(&set(&["a"]), set(&["a"]), &BTreeSet::new());
        assert_eq!(first, second);
        assert_eq!(names(&second.groups), ["a"]);
    }

    #[test]
    fn only_new_and_doubtful_groups_are_looked_at() {
        let mut discovery = Discovery::default();
        round(&mut discovery, &["a"], &["a"]);
        let selected = set(&["a", "b"]);
        assert_eq!(discovery.unsettled(&selected).map(GroupId::as_str).collect::<Vec<_>>(), ["b"]);
        discovery.doubt();
        assert_eq!(discovery.unsettled(&selected).count(), 2);
        let change = discovery.compare(&selected, set(&["b"]), &set(&["a"]));
        assert_eq!((names(&change.groups), names(&change.removed_groups)), (vec!["b"], vec!["a"]));
        discovery.reported(change);
        discovery.settled();
        assert_eq!(discovery.unsettled(&set(&["b"])).count(), 0);
    }
}
