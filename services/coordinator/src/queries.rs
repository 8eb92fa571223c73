//! Questions to workers: the coordinator itself knows no Kafka.
//!
//! Owns the open `ServeQueries` streams of one leadership and the questions that wait for an answer. Bounded: a
//! worker that answers slowly gets no more questions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::flow::{PreviewPage, PreviewQuestion};
use mirrormesh_core::ids::WorkerId;
use mirrormesh_core::paused::{PausedFigures, PausedSet};
use mirrormesh_proto::convert::session::{Question, paused_figures, preview_page};
use mirrormesh_proto::mesh::{ServeQueriesRequest, ServeQueriesResponse};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Questions that one worker may have open.
const OPEN_MAX: usize = 64;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryFault {
    /// The worker has no open stream.
    #[error("worker {0} answers no questions now")]
    NotConnected(WorkerId),
    /// It has too many open questions.
    #[error("worker {0} has too many open questions")]
    Busy(WorkerId),
    /// It did not answer in time, or its stream ended.
    #[error("worker {0} did not answer")]
    NoAnswer(WorkerId),
    /// It said that it can't.
    #[error("worker {worker} could not answer: {problem}")]
    Refused {
        /// The worker.
        worker: WorkerId,
        /// What it said.
        problem: String,
    },
}

/// The open streams.
#[derive(Debug, Default)]
pub(crate) struct Queries(Mutex<BTreeMap<WorkerId, Stream>>);

#[derive(Debug)]
struct Stream {
    connection: u64,
    questions: mpsc::Sender<ServeQueriesResponse>,
    open: Arc<Open>,
}

/// What waits for an answer on one stream.
#[derive(Debug, Default)]
struct Open(Mutex<(u64, BTreeMap<u64, oneshot::Sender<ServeQueriesRequest>>)>);

/// The coordinator's end of one worker's stream; the worker is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Questions to send.
    pub(crate) questions: mpsc::Receiver<ServeQueriesResponse>,
    open: Arc<Open>,
}

impl Connection {
    /// Where answers are handed in.
    pub(crate) fn answers(&self) -> Answers {
        Answers(Arc::clone(&self.open))
    }
}

/// Hands answers to those who asked.
#[derive(Debug, Clone)]
pub(crate) struct Answers(Arc<Open>);

impl Answers {
    /// Takes an answer; one that nobody waits for any more is dropped.
    pub(crate) fn take(&self, answer: ServeQueriesRequest) {
        let waiting = self.0.0.lock().1.remove(&answer.query_id);
        if let Some(waiting) = waiting {
            // Who asked may have given up meanwhile.
            drop(waiting.send(answer));
        }
    }
}

impl Queries {
    /// Opens a worker's stream; an earlier one of the same worker gets no more questions.
    pub(crate) fn connect(&self, worker: &WorkerId, connection: u64) -> Connection {
        let (questions, receiver) = mpsc::channel(OPEN_MAX);
        let open = Arc::<Open>::default();
        let stream = Stream { connection, questions, open: Arc::clone(&open) };
        self.0.lock().insert(worker.clone(), stream);
        Connection { questions: receiver, open }
    }

    /// A stream ended.
    pub(crate) fn disconnect(&self, worker: &WorkerId, connection: u64) {
        let mut streams = self.0.lock();
        if streams.get(worker).is_some_and(|stream| stream.connection == connection) {
            streams.remove(worker);
        }
    }

    /// Asks a worker how far behind paused partitions are; what it could not look at is not in the answer.
    pub(crate) async fn paused(
        &self,
        worker: &WorkerId,
        set: PausedSet,
        wait: Duration,
    ) -> Result<PausedFigures, QueryFault> {
        let answer = self.ask(worker, &Question::Paused(Box::new(set)), wait).await?;
        let paused = answer.paused.ok_or_else(|| QueryFault::NoAnswer(worker.clone()))?;
        paused_figures(paused)
            .map_err(|error| QueryFault::Refused { worker: worker.clone(), problem: error.to_string() })
    }

    /// Asks a worker what a flow does with the topics of its source.
    pub(crate) async fn preview(
        &self,
        worker: &WorkerId,
        question: PreviewQuestion,
        wait: Duration,
    ) -> Result<PreviewPage, QueryFault> {
        let answer = self.ask(worker, &Question::Preview(Box::new(question)), wait).await?;
        let preview = answer.preview.ok_or_else(|| QueryFault::NoAnswer(worker.clone()))?;
        preview_page(preview)
            .map_err(|error| QueryFault::Refused { worker: worker.clone(), problem: error.to_string() })
    }

    async fn ask(
        &self,
        worker: &WorkerId,
        question: &Question,
        wait: Duration,
    ) -> Result<ServeQueriesRequest, QueryFault> {
        let (sender, open) = {
            let streams = self.0.lock();
            let stream = streams.get(worker).ok_or_else(|| QueryFault::NotConnected(worker.clone()))?;
            (stream.questions.clone(), Arc::clone(&stream.open))
        };
        let (answered, answer) = oneshot::channel();
        let id = {
            let mut open = open.0.lock();
            if open.1.len() >= OPEN_MAX {
                return Err(QueryFault::Busy(worker.clone()));
            }
            open.0 += 1;
            let id = open.0;
            open.1.insert(id, answered);
            id
        };
        let asked = sender.try_send(question.to_query(id)).is_ok();
        let answer = if asked { timeout(wait, answer).await.ok().and_then(Result::ok) } else { None };
        open.0.lock().1.remove(&id);
        let answer = answer.ok_or_else(|| QueryFault::NoAnswer(worker.clone()))?;
        if answer.error.is_empty() {
            Ok(answer)
        } else {
            Err(QueryFault::Refused { worker: worker.clone(), problem: answer.error })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::FlowId;
    use mirrormesh_core::unit::ClusterSpec;
    use mirrormesh_proto::convert::session::paused_answer;

    fn question() -> PausedSet {
        let cluster = || ClusterSpec {
            bootstrap_servers: vec!["a:9092".to_owned()],
            properties: BTreeMap::new(),
            kafka_cluster_id: None,
        };
        PausedSet {
            flow: FlowId::new("f").unwrap(),
            source: cluster(),
            target: cluster(),
            positions_topic: "p".to_owned(),
            revision: 1,
            partitions: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_question_gets_its_own_answer() {
        let (queries, worker) = (Queries::default(), WorkerId::new("w").unwrap());
        let wait = Duration::from_secs(5);
        assert_eq!(
            queries.paused(&worker, question(), wait).await,
            Err(QueryFault::NotConnected(worker.clone()))
        );
        let mut connection = queries.connect(&worker, 1);
        let answers = connection.answers();
        let answering = async {
            let asked = connection.questions.recv().await.unwrap();
            assert_eq!(asked.paused.unwrap().flow_id, "f");
            let other = ServeQueriesRequest { query_id: 99, ..ServeQueriesRequest::default() };
            answers.take(other);
            let paused = Some(paused_answer(&PausedFigures::default()));
            answers.take(ServeQueriesRequest { query_id: asked.query_id, paused, ..Default::default() });
        };
        let (answer, ()) = tokio::join!(queries.paused(&worker, question(), wait), answering);
        assert_eq!(answer, Ok(PausedFigures::default()));
        queries.disconnect(&worker, 0);
        assert_eq!(queries.0.lock().len(), 1, "an older stream's end does not end the newer one");
        queries.disconnect(&worker, 1);
        assert!(queries.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_worker_is_given_up() {
        let (queries, worker) = (Queries::default(), WorkerId::new("w").unwrap());
        let _connection = queries.connect(&worker, 1);
        let answer = queries.paused(&worker, question(), Duration::from_secs(1)).await;
        assert_eq!(answer, Err(QueryFault::NoAnswer(worker)));
    }
}
