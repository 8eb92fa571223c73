//! `InitProducerId`: a fresh producer id. Transactional ids have no coordinator here.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::broker::call::{Call, Served};
use crate::broker::code;

impl Served for InitProducerIdRequest {
    async fn serve(self, call: Call) -> Option<InitProducerIdResponse> {
        let none = code::COORDINATOR_NOT_AVAILABLE;
        let refused = self.transactional_id.as_ref().map(|_| none);
        if let Some(code) = call.claimed.whole_error().or(refused) {
            let answer = InitProducerIdResponse::default().with_error_code(code);
            return Some(answer.with_producer_id(ProducerId(-1)).with_producer_epoch(-1));
        }
        let id = call.shared.change(|state| {
            let id = state.next_producer_id;
            state.next_producer_id += 1;
            id
        });
        Some(InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0))
    }
}
