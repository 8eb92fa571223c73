//! What a flow does, or would do, with every topic of its source.
//!
//! The coordinator knows no Kafka: a source worker looks. What the mesh itself knows is added here: which topics the flow
//! mirrors already, and which target topics other flows write.

use std::time::Duration;

use mirrormesh_core::control::{ControlState, Written};
use mirrormesh_core::flow::{FlowSpec, PreviewPage, PreviewQuestion, PreviewedTopic};
use mirrormesh_core::ids::{ClusterId, FlowId, WorkerId};
use mirrormesh_core::unit::{ClusterSpec, Role};
use mirrormesh_proto::convert::api::{flow_spec, parse_name, previewed_to_api};
use mirrormesh_proto::page::{page_size, page_start, page_token};
use mirrormesh_proto::v1::{Flow, PreviewFlowTopicsRequest, PreviewFlowTopicsResponse};
use mirrormesh_proto::{Faults, Violations, fingerprint};
use tonic::{Code, Status};

use super::{Context, status};
use crate::leader::Lead;
use crate::queries::QueryFault;

/// How long a worker may take; it gives up a little earlier, with a reason.
const WAIT: Duration = Duration::from_secs(12);

/// Which flow is meant.
enum Subject {
    /// One that exists.
    Existing(FlowId),
    /// One that may be made, or an update of one that exists.
    Draft(Option<FlowId>, Box<FlowSpec>),
}

/// One page of source topics.
pub(super) async fn topics(
    context: &Context,
    request: PreviewFlowTopicsRequest,
) -> Result<PreviewFlowTopicsResponse, Status> {
    let list = format!("preview?{}&{}", request.name, request.flow.as_ref().map_or(0, fingerprint));
    let mut faults = Faults::new();
    let subject = faults.keep(subject(&request.name, request.flow.as_ref()));
    let size = faults.keep(page_size(request.page_size));
    let start = faults.keep(page_start(&list, &request.page_token));
    let ((subject, size), start) = faults.finish_with(subject.zip(size).zip(start))?;
    let (lead, state) = context.read().await?;
    let (id, spec) = match subject {
        Subject::Draft(id, spec) => (id, *spec),
        Subject::Existing(id) => {
            let record = state.flows.get(&id).ok_or_else(|| status::flow_not_found(&id))?;
            let spec = record.spec.clone();
            (Some(id), spec)
        }
    };
    let question = PreviewQuestion {
        source: cluster(&state, &spec.source)?,
        target: cluster(&state, &spec.target)?,
        mesh_id: state.mesh_id.clone(),
        clusters: state.clusters.keys().cloned().collect(),
        after: start.unwrap_or_default(),
        limit: u32::try_from(size).unwrap_or(u32::MAX),
        spec,
    };
    let written = state.written(id.as_ref(), &question.spec);
    let page = ask(&lead, &state, question).await?;
    let shown_last = page.topics.last().filter(|_| page.more);
    Ok(PreviewFlowTopicsResponse {
        next_page_token: shown_last.map(|last| page_token(&list, last.topic.as_str())).unwrap_or_default(),
        topics: page.topics.into_iter().map(|topic| previewed_to_api(settle(topic, &written))).collect(),
    })
}

fn subject(name: &str, flow: Option<&Flow>) -> Result<Subject, Violations> {
    let mut faults = Faults::new();
    let subject = match (name.is_empty(), flow) {
        (false, None) => faults.keep(parse_name::<FlowId>("flows", name, "name")).map(Subject::Existing),
        (true, Some(flow)) => {
            let id = Some(flow.name.as_str()).filter(|name| !name.is_empty());
            let id = id.map(|name| faults.keep(parse_name::<FlowId>("flows", name, "flow.name")));
            faults.keep(flow_spec(flow)).map(|spec| Subject::Draft(id.flatten(), Box::new(spec)))
        }
        _ => {
            faults.push(
                "name",
                "give either `name`, for a flow that exists, or `flow`, for one that need not exist",
            );
            None
        }
    };
    faults.finish_with(subject)
}

fn cluster(state: &ControlState, id: &ClusterId) -> Result<ClusterSpec, Status> {
    let record = state.clusters.get(id);
    record
        .map(|record| record.spec.clone())
        .ok_or_else(|| status::not_found("CLUSTER_NOT_FOUND", format_args!("clusters/{id}")))
}

/// Asks the first source worker that takes questions now.
async fn ask(lead: &Lead, state: &ControlState, question: PreviewQuestion) -> Result<PreviewPage, Status> {
    let workers = state.workers.iter().filter(|(_, worker)| worker.role == Role::Source).map(|(id, _)| id);
    for worker in workers {
        match lead.queries.preview(worker, question.clone(), WAIT).await {
            Ok(page) => return Ok(page),
            Err(QueryFault::NotConnected(_) | QueryFault::Busy(_)) => {}
            Err(QueryFault::NoAnswer(worker)) => return Err(no_answer(&worker)),
            Err(QueryFault::Refused { problem, .. }) => return Err(refused(&problem)),
        }
    }
    Err(status::unavailable(
        "NO_WORKER",
        "no source worker is connected, and only a worker can look at the clusters: start mirrormesh-source, or mirrormesh, \
         which holds one",
    ))
}

fn no_answer(worker: &WorkerId) -> Status {
    let message = format!("workers/{worker} did not answer within {} s: try again", WAIT.as_secs());
    status::unavailable("WORKER_SILENT", message)
}

/// A worker says why it can't look as `REASON: text`.
fn refused(problem: &str) -> Status {
    let is_name =
        |reason: &str| reason.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    match problem.split_once(": ").filter(|(reason, _)| is_name(reason)) {
        Some((reason @ "CLUSTER_UNREACHABLE", message)) => status::unavailable(reason, message),
        Some((reason, message)) => status::with_reason(Code::FailedPrecondition, reason, message),
        None => status::with_reason(Code::FailedPrecondition, "PREVIEW_FAILED", problem),
    }
}

/// What the mesh knows goes before what the worker saw: a topic that the flow mirrors already stays its own, whatever
/// stands in the registry; a target topic that another flow writes is taken.
fn settle(mut topic: PreviewedTopic, written: &Written) -> PreviewedTopic {
    let Some(target) = &topic.target else { return topic };
    if written.is_own(&topic.topic, target) {
        topic.left_out = None;
    } else if let Some((reason, message)) = written.conflict(&topic.topic, target) {
        topic.left_out.get_or_insert_with(|| (reason.to_owned(), message));
    }
    topic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_reason_becomes_the_reason_of_the_status() {
        use tonic_types::StatusExt as _;
        for (problem, code, reason) in [
            ("CLUSTER_UNREACHABLE: clusters/uk: no route", Code::Unavailable, "CLUSTER_UNREACHABLE"),
            ("CLUSTER_SETTINGS: clusters/uk: x: y", Code::FailedPrecondition, "CLUSTER_SETTINGS"),
            ("the worker found no answer in time", Code::FailedPrecondition, "PREVIEW_FAILED"),
        ] {
            let status = refused(problem);
            assert_eq!((status.code(), &*status.get_details_error_info().unwrap().reason), (code, reason));
        }
        assert!(
            refused("CLUSTER_UNREACHABLE: clusters/uk: no route").message().contains("clusters/uk: no route")
        );
    }

    #[test]
    fn exactly_one_of_name_and_flow_is_taken() {
        let flow = Flow { source: "clusters/a".into(), target: "clusters/b".into(), ..Flow::default() };
        assert!(matches!(subject("flows/f", None), Ok(Subject::Existing(_))));
        assert!(matches!(subject("", Some(&flow)), Ok(Subject::Draft(None, _))));
        let named = Flow { name: "flows/f".into(), ..flow.clone() };
        assert!(matches!(subject("", Some(&named)), Ok(Subject::Draft(Some(_), _))));
        for (name, flow, field) in [("", None, "name"), ("flows/f", Some(&flow), "name"), ("f", None, "name")]
        {
            let faults = subject(name, flow).err().unwrap();
            assert_eq!(faults.fields().collect::<Vec<_>>(), [field]);
        }
    }
}
