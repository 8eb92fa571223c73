//! `mirrormesh.v1.FlowService`.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use mirrormesh_core::control::{CommandKind, ControlState, Reply};
use mirrormesh_core::ids::FlowId;
use mirrormesh_core::report::Event;
use mirrormesh_proto::convert::api::{
    apply_flow_mask, event_to_api, flow_spec, parse_flow_topic, parse_id, parse_name, write_guard,
};
use mirrormesh_proto::filter::Filter;
use mirrormesh_proto::page::{page_size, page_start, page_token};
use mirrormesh_proto::v1::flow_service_server::FlowService;
use mirrormesh_proto::v1::{
    CreateFlowRequest, DeleteFlowRequest, Flow, FlowTopic, GetFlowRequest, ListFlowEventsRequest,
    ListFlowEventsResponse, ListFlowTopicsRequest, ListFlowTopicsResponse, ListFlowsRequest,
    ListFlowsResponse, PauseFlowRequest, PauseFlowTopicRequest, PreviewFlowTopicsRequest,
    PreviewFlowTopicsResponse, ResumeFlowRequest, ResumeFlowTopicRequest, UpdateFlowRequest,
    WatchFlowRequest, WatchFlowResponse,
};
use mirrormesh_proto::{ConvertError, Faults, fingerprint};
use tonic::{Code, Request, Response, Status};

use super::flow_view::View;
use super::{Context, OVERTAKEN_MAX, page, preview, status, watch};

const LIST: &str = "flows";

/// The service.
#[derive(Debug)]
pub(crate) struct Flows(pub(crate) Context);

impl Flows {
    /// Carries a command out, or rehearses it, and shows the flow after it.
    async fn put(&self, kind: CommandKind, validate_only: bool) -> Result<Response<Flow>, Status> {
        let (reply, rehearsed) = if validate_only {
            let (reply, state) = self.0.rehearse(kind).await?;
            (reply, Some(state))
        } else {
            (self.0.write(kind).await?, None)
        };
        let Reply::Flow(id, record) = &reply else { return Err(status::unexpected(&reply)) };
        let lead = self.0.lead().await?;
        let newest = self.0.raft.newest();
        let state: &ControlState = rehearsed.as_ref().unwrap_or(&newest);
        Ok(Response::new(View::now(&lead, state).flow(id, record)))
    }

    async fn set_paused(
        &self,
        paused: bool,
        fingerprint: u64,
        (name, etag, request_id): (&str, &str, &str),
    ) -> Result<Response<Flow>, Status> {
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<FlowId>("flows", name, "name"));
        let guard = faults.keep(write_guard(request_id, fingerprint, etag, "etag"));
        let (id, guard) = faults.finish_with(id.zip(guard))?;
        self.put(CommandKind::SetPaused { id, paused, guard }, false).await
    }

    /// Carries a pause or resumption of a topic out, and shows the topic after it.
    async fn set_topic_paused(
        &self,
        paused: bool,
        fingerprint: u64,
        (name, partitions, request_id): (&str, Vec<i32>, &str),
    ) -> Result<Response<FlowTopic>, Status> {
        let mut faults = Faults::new();
        let name = faults.keep(parse_flow_topic(name, "name"));
        let guard = faults.keep(write_guard(request_id, fingerprint, "", "etag"));
        for (index, partition) in partitions.iter().enumerate().filter(|(_, partition)| **partition < 0) {
            faults.push(format!("partitions[{index}]"), format!("{partition} is not a partition number"));
        }
        let ((id, topic), guard) = faults.finish_with(name.zip(guard))?;
        let kind = CommandKind::SetTopicPaused { id, topic: topic.clone(), partitions, paused, guard };
        let reply = self.0.write(kind).await?;
        let Reply::Flow(id, record) = &reply else { return Err(status::unexpected(&reply)) };
        let lead = self.0.lead().await?;
        let shown =
            View::now(&lead, &self.0.raft.newest()).topics(id, record, record.topics.get(&topic).into_iter());
        shown.into_iter().next().map(Response::new).ok_or_else(|| {
            status::not_found("FLOW_TOPIC_NOT_FOUND", format_args!("flows/{id}/topics/{topic}"))
        })
    }
}

#[tonic::async_trait]
impl FlowService for Flows {
    type WatchFlowStream = BoxStream<'static, Result<WatchFlowResponse, Status>>;

    async fn create_flow(&self, request: Request<CreateFlowRequest>) -> Result<Response<Flow>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let mut faults = Faults::new();
        let id = faults.keep(parse_id::<FlowId>(&request.flow_id, "flow_id"));
        let flow = request.flow.as_ref().ok_or_else(|| ConvertError::new("flow", "is missing"));
        let spec = faults.keep(flow).and_then(|flow| faults.keep(flow_spec(flow)));
        let guard = faults.keep(write_guard(&request_id, fingerprint(&request), "", "flow.etag"));
        let ((id, spec), guard) = faults.finish_with(id.zip(spec).zip(guard))?;
        let kind = CommandKind::PutFlow { id, spec, create: true, start_over: request.start_over, guard };
        self.put(kind, request.validate_only).await
    }

    async fn get_flow(&self, request: Request<GetFlowRequest>) -> Result<Response<Flow>, Status> {
        let id = parse_name::<FlowId>("flows", &request.get_ref().name, "name")?;
        let (lead, state) = self.0.read().await?;
        let record = state.flows.get(&id).ok_or_else(|| status::flow_not_found(&id))?;
        Ok(Response::new(View::now(&lead, &state).flow(&id, record)))
    }

    async fn list_flows(
        &self,
        request: Request<ListFlowsRequest>,
    ) -> Result<Response<ListFlowsResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::new();
        let size = faults.keep(page_size(request.page_size));
        let start = faults.keep(page_start(LIST, &request.page_token));
        let (size, start) = faults.finish_with(size.zip(start))?;
        let (lead, state) = self.0.read().await?;
        let entries = state.flows.iter().map(|(id, record)| (id.as_str(), (id, record)));
        let (entries, last) = page(entries, start.as_deref(), size);
        let view = View::now(&lead, &state);
        Ok(Response::new(ListFlowsResponse {
            flows: entries.into_iter().map(|(id, record)| view.flow(id, record)).collect(),
            next_page_token: last.map(|last| page_token(LIST, last)).unwrap_or_default(),
        }))
    }

    async fn update_flow(&self, request: Request<UpdateFlowRequest>) -> Result<Response<Flow>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let update = request.flow.clone().unwrap_or_default();
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<FlowId>("flows", &update.name, "flow.name"));
        let guard = faults.keep(write_guard(&request_id, fingerprint(&request), &update.etag, "flow.etag"));
        let (id, guard) = faults.finish_with(id.zip(guard))?;
        let unconditional = guard.expected_revision.is_none();
        for _ in 0..OVERTAKEN_MAX {
            let (_, state) = self.0.read().await?;
            let present = state.flows.get(&id).ok_or_else(|| status::flow_not_found(&id))?;
            let spec = apply_flow_mask(&present.spec, &update, request.update_mask.as_ref())?;
            let mut guard = guard.clone();
            // Fields that the mask does not name come from what was read: it must still be the newest.
            guard.expected_revision.get_or_insert(present.revision);
            let kind = CommandKind::PutFlow { id: id.clone(), spec, create: false, start_over: false, guard };
            match self.put(kind, request.validate_only).await {
                Err(status) if unconditional && status.code() == Code::Aborted => {}
                result => return result,
            }
        }
        Err(status::unavailable("OVERTAKEN", format!("flows/{id} is changed too often by others: try again")))
    }

    async fn delete_flow(&self, request: Request<DeleteFlowRequest>) -> Result<Response<()>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<FlowId>("flows", &request.name, "name"));
        let guard = faults.keep(write_guard(&request_id, fingerprint(&request), &request.etag, "etag"));
        let (id, guard) = faults.finish_with(id.zip(guard))?;
        let kind = CommandKind::DeleteFlow { id, guard };
        if request.validate_only {
            self.0.rehearse(kind).await?;
        } else {
            self.0.write(kind).await?;
        }
        Ok(Response::new(()))
    }

    async fn pause_flow(&self, request: Request<PauseFlowRequest>) -> Result<Response<Flow>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.set_paused(true, fingerprint(&request), (&request.name, &request.etag, &request_id)).await
    }

    async fn resume_flow(&self, request: Request<ResumeFlowRequest>) -> Result<Response<Flow>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.set_paused(false, fingerprint(&request), (&request.name, &request.etag, &request_id)).await
    }

    async fn pause_flow_topic(
        &self,
        request: Request<PauseFlowTopicRequest>,
    ) -> Result<Response<FlowTopic>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let fingerprint = fingerprint(&request);
        self.set_topic_paused(true, fingerprint, (&request.name, request.partitions, &request_id)).await
    }

    async fn resume_flow_topic(
        &self,
        request: Request<ResumeFlowTopicRequest>,
    ) -> Result<Response<FlowTopic>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let fingerprint = fingerprint(&request);
        self.set_topic_paused(false, fingerprint, (&request.name, request.partitions, &request_id)).await
    }

    async fn watch_flow(
        &self,
        request: Request<WatchFlowRequest>,
    ) -> Result<Response<Self::WatchFlowStream>, Status> {
        let request = request.into_inner();
        let id = parse_name::<FlowId>("flows", &request.name, "name")?;
        let (lead, state) = self.0.read().await?;
        if !state.flows.contains_key(&id) {
            return Err(status::flow_not_found(&id));
        }
        Ok(Response::new(watch::flow(&self.0, lead, id, request.include_topics).boxed()))
    }

    async fn list_flow_topics(
        &self,
        request: Request<ListFlowTopicsRequest>,
    ) -> Result<Response<ListFlowTopicsResponse>, Status> {
        let request = request.into_inner();
        let topics_list = format!("{}/topics", request.parent);
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<FlowId>("flows", &request.parent, "parent"));
        let size = faults.keep(page_size(request.page_size));
        let start = faults.keep(page_start(&topics_list, &request.page_token));
        let ((id, size), start) = faults.finish_with(id.zip(size).zip(start))?;
        let (lead, state) = self.0.read().await?;
        let record = state.flows.get(&id).ok_or_else(|| status::flow_not_found(&id))?;
        let entries = record.topics.iter().map(|(topic, entry)| (topic.as_str(), entry));
        let (entries, last) = page(entries, start.as_deref(), size);
        Ok(Response::new(ListFlowTopicsResponse {
            topics: View::now(&lead, &state).topics(&id, record, entries.into_iter()),
            next_page_token: last.map(|last| page_token(&topics_list, last)).unwrap_or_default(),
        }))
    }

    async fn preview_flow_topics(
        &self,
        request: Request<PreviewFlowTopicsRequest>,
    ) -> Result<Response<PreviewFlowTopicsResponse>, Status> {
        preview::topics(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_flow_events(
        &self,
        request: Request<ListFlowEventsRequest>,
    ) -> Result<Response<ListFlowEventsResponse>, Status> {
        let request = request.into_inner();
        let events_list = format!("{}/events?{}", request.parent, request.filter);
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<FlowId>("flows", &request.parent, "parent"));
        let size = faults.keep(page_size(request.page_size));
        let start = faults.keep(page_start(&events_list, &request.page_token));
        let filter = faults.keep(Filter::parse(&request.filter, &["subject", "reason"]));
        let ((id, size), (start, filter)) = faults.finish_with(id.zip(size).zip(start.zip(filter)))?;
        // A token names the last event shown: older ones follow.
        let before = start.and_then(|last| last.parse::<u64>().ok()).unwrap_or(u64::MAX);
        let (_, state) = self.0.read().await?;
        if !state.flows.contains_key(&id) {
            return Err(status::flow_not_found(&id));
        }
        let older = |event: &&Event| event.flow == id && event.sequence < before;
        let taken = |event: &&Event| {
            filter.takes(|field| if field == "subject" { &event.subject } else { &event.reason })
        };
        let mut events = state.events.iter().rev().filter(older).filter(taken);
        let page: Vec<_> = events.by_ref().take(size).collect();
        let last = page.last().filter(|_| events.next().is_some());
        Ok(Response::new(ListFlowEventsResponse {
            next_page_token: last
                .map(|event| page_token(&events_list, &event.sequence.to_string()))
                .unwrap_or_default(),
            events: page.into_iter().map(event_to_api).collect(),
        }))
    }
}
