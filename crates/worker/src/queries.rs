//! Answers to the coordinator's questions.
//!
//! Owns the stream and its limits; what is answered is the service's business (`QueryHandler`).

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use mirrormesh_proto::convert::session::Question;
use mirrormesh_proto::mesh::{ServeQueriesRequest, ServeQueriesResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::link::{Link, coordinator_pause};
use crate::unit::QueryHandler;
use crate::wire::{self, Answer};

/// Questions worked on at a time; further ones wait in the stream.
const QUESTIONS_MAX: usize = 16;
/// A question that is not answered in this time is answered with an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers questions in this session; never returns. A stream that ends is opened again: losing it says nothing about
/// the session.
pub(crate) async fn serve(link: Link, handler: Option<Arc<dyn QueryHandler>>) {
    let Some(handler) = handler else { return std::future::pending().await };
    let mut pause = coordinator_pause();
    loop {
        let status = serve_stream(&link, &*handler).await;
        tracing::debug!(%status, "the stream of questions ended");
        pause.wait().await;
    }
}

async fn serve_stream(link: &Link, handler: &dyn QueryHandler) -> Status {
    let (sender, receiver) = mpsc::channel(QUESTIONS_MAX + 1);
    if sender.send(wire::first_answer(link)).await.is_err() {
        return Status::unavailable("the stream of answers is closed");
    }
    let mut questions = match wire::serve_queries(link.clone(), ReceiverStream::new(receiver)).await {
        Ok(questions) => questions,
        Err(status) => return status,
    };
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            question = questions.message(), if answers.len() < QUESTIONS_MAX => match question {
                Ok(Some(question)) => answers.push(answer(link, handler, question)),
                Ok(None) => return Status::unavailable("the coordinator ended the stream of questions"),
                Err(status) => return status,
            },
            Some(answer) = answers.next() => if sender.send(answer).await.is_err() {
                return Status::unavailable("the stream of answers is closed");
            },
        }
    }
}

async fn answer(
    link: &Link,
    handler: &dyn QueryHandler,
    question: ServeQueriesResponse,
) -> ServeQueriesRequest {
    let (id, question) = wire::question(question);
    let answer = async {
        match question? {
            Question::Paused(set) => handler.paused(*set).await.map(Answer::Paused),
            Question::Preview(question) => handler.preview(*question).await.map(Answer::Preview),
        }
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    wire::answer(link, id, answer.unwrap_or_else(|_| Err("the worker found no answer in time".to_owned())))
}
