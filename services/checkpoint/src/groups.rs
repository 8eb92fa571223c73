//! The unit that finds groups.
//!
//! Owns when the source is asked and what is told to the coordinator; which groups are new or gone is `discovery`'s
//! business.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::flow::{FlowSpec, NameFilter, PatternError, TopicRules};
use mirrormesh_core::ids::GroupId;
use mirrormesh_kafka::admin::GroupListing;
use mirrormesh_runtime::complaint::OncePerMinute;
use mirrormesh_worker::{CoordinatorError, Failure, UnitContext};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::discovery::Discovery;
use crate::shared::{Registry, Shared};

/// How long a unit waits after a failure, at least; at most its own interval.
const RETRY: Duration = Duration::from_secs(1);

/// Finds groups until the unit is to stop.
pub(crate) async fn run(context: UnitContext, registry: Arc<Registry>) {
    let stop = context.stop.clone();
    // Nothing is on the way that would have to be waited for: a change that was not acknowledged is found again.
    stop.run_until_cancelled(Box::pin(find(context, &registry))).await;
}

async fn find(mut context: UnitContext, registry: &Registry) {
    let (mut discovery, unread) = (Discovery::default(), OncePerMinute::default());
    let mut spec = context.flow_changes.borrow_and_update().flow.spec.clone();
    loop {
        let begun = Instant::now();
        let found = match registry.of(&context) {
            Ok(shared) => look(&context, &shared, &spec, &mut discovery, &unread).await,
            Err(failure) => Err(failure),
        };
        let interval = Duration::from_millis(spec.discovery_interval_ms);
        let next = match found {
            Ok(()) => {
                if context.report.running("") {
                    tracing::info!(flow = %context.flow_id, known = discovery.count(), "groups are listed");
                }
                begun + interval
            }
            Err(failure) => {
                if context.report.backoff(&failure) {
                    tracing::warn!(flow = %context.flow_id, %failure, "groups can't be listed");
                }
                begun + RETRY.max(interval / 4).min(interval)
            }
        };
        let changed = async {
            if context.flow_changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = changed => {}
        }
        let newest = context.flow_changes.borrow_and_update().flow.spec.clone();
        if selection(&newest) != selection(&spec) {
            discovery.doubt();
        }
        spec = newest;
    }
}

/// What decides which groups count.
fn selection(spec: &FlowSpec) -> [&[String]; 4] {
    [&spec.groups_include, &spec.groups_exclude, &spec.topics_include, &spec.topics_exclude]
}

/// One look at the source.
async fn look(
    context: &UnitContext,
    shared: &Arc<Shared>,
    spec: &FlowSpec,
    discovery: &mut Discovery,
    unread: &OncePerMinute,
) -> Result<(), Failure> {
    let filter = spec.group_filter().map_err(|error| pattern(&error))?;
    let clusters = context.flow_changes.borrow().flow.clusters.clone();
    let rules = Arc::new(spec.topic_rules(&clusters).map_err(|error| pattern(&error))?);
    // An error of one broker fails the listing: what comes back is complete.
    let listing = shared.source.list_groups().await?;
    let (listed, selected, mut rejected) = sort(listing, &filter);
    let mut accepted = BTreeSet::new();
    let mut looks = JoinSet::new();
    for group in discovery.unsettled(&selected).cloned() {
        let (shared, rules) = (Arc::clone(shared), Arc::clone(&rules));
        looks.spawn(async move {
            let counts = counts(&shared, &rules, &group).await;
            (group, counts)
        });
    }
    let mut failed = 0_usize;
    let mut first = None;
    while let Some(look) = looks.join_next().await {
        match look {
            Ok((group, Ok(true))) => drop(accepted.insert(group)),
            Ok((group, Ok(false))) => drop(rejected.insert(group)),
            // One group that can't be looked at must not keep the others out.
            Ok((group, Err(failure))) => {
                failed += 1;
                first.get_or_insert((group, failure));
            }
            Err(error) => tracing::error!(flow = %context.flow_id, %error, "a look at a group failed"),
        }
    }
    let change = discovery.compare(&listed, accepted, &rejected);
    let number = context.assigned.number;
    if !(change.groups.is_empty() && change.removed_groups.is_empty()) {
        let (new, gone) = (change.groups.len(), change.removed_groups.len());
        match context.coordinator.report_inventory(&context.flow_id, number, change.clone()).await {
            Ok(_) => discovery.reported(change),
            Err(error) => return Err(refused(error)),
        }
        let known = discovery.count();
        tracing::info!(flow = %context.flow_id, new, gone, known, "groups of the source changed");
    }
    match first {
        None => discovery.settled(),
        Some((group, failure)) if unread.may_log(std::time::Instant::now()) => {
            tracing::warn!(flow = %context.flow_id, groups = failed, first = %group, %failure,
                "the offsets of groups can't be read");
        }
        Some(_) => {}
    }
    Ok(())
}

/// Has the group an offset on a selected topic?
async fn counts(shared: &Shared, rules: &TopicRules, group: &GroupId) -> Result<bool, Failure> {
    let committed = shared.committed(group).await?;
    Ok(committed.iter().any(|found| found.offset >= 0 && rules.selects(&found.topic)))
}

/// All groups; those that the patterns select; those that they don't. Groups of other kinds (Connect workers, share
/// groups, streams of other protocols) are none.
fn sort(
    listing: Vec<GroupListing>,
    filter: &NameFilter,
) -> (BTreeSet<GroupId>, BTreeSet<GroupId>, BTreeSet<GroupId>) {
    let consumers = listing.into_iter().filter(is_consumer_group);
    let listed: BTreeSet<GroupId> = consumers.filter_map(|found| GroupId::new(&found.group).ok()).collect();
    let (selected, rejected) = listed.iter().cloned().partition(|group| filter.matches(group.as_str()));
    (listed, selected, rejected)
}

/// A group that commits offsets as consumers do: of the classic protocol with the protocol type `consumer`, or none if
/// it only ever committed; or of the new one (KIP-848).
fn is_consumer_group(found: &GroupListing) -> bool {
    let kind = found.group_type.to_ascii_lowercase();
    matches!(kind.as_str(), "" | "classic" | "consumer")
        && matches!(found.protocol_type.as_str(), "" | "consumer")
}

fn pattern(error: &PatternError) -> Failure {
    Failure::new("PATTERN_INVALID", error.to_string())
}

fn refused(error: CoordinatorError) -> Failure {
    match error {
        CoordinatorError::Outdated { reason, message }
        | CoordinatorError::Refused { reason, message, .. } => Failure::new(reason, message),
        CoordinatorError::Cancelled => Failure::new("STOPPING", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(group: &str, protocol_type: &str, group_type: &str) -> GroupListing {
        GroupListing {
            group: group.into(),
            protocol_type: protocol_type.into(),
            state: "Stable".into(),
            group_type: group_type.into(),
        }
    }

    #[test]
    fn only_groups_of_consumers_are_listed_and_the_patterns_select() {
        let listings = vec![
            listing("classic", "consumer", "classic"),
            listing("simple", "", "classic"),
            listing("old-broker", "consumer", ""),
            listing("kip-848", "consumer", "Consumer"),
            listing("connect", "connect", "classic"),
            listing("share", "share", "share"),
            listing("", "consumer", "classic"),
            listing("console-consumer-1", "consumer", "classic"),
        ];
        let filter = NameFilter::new(&[".*".into()], &["console-consumer-.*".into()]).unwrap();
        let (listed, selected, rejected) = sort(listings, &filter);
        let names = |set: &BTreeSet<GroupId>| set.iter().map(|g| g.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&listed), ["classic", "console-consumer-1", "kip-848", "old-broker", "simple"]);
        assert_eq!(names(&selected), ["classic", "kip-848", "old-broker", "simple"]);
        assert_eq!(names(&rejected), ["console-consumer-1"]);
    }
}
