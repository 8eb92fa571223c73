//! The way of an answer back to the partition, and the mark that a batch of the partition has failed.
//!
//! Invariants: every batch gets exactly one answer, also when the sender task ends; a batch that never left this process
//! is answered `NotSent`, never `Lost`. Must not know how batches are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mirrormesh_core::relay::answer::Answer;
use tokio::sync::mpsc;

/// The batches of one partition from one position recovery to the next. After a failed batch, no later batch of the same
/// row may be sent.
#[derive(Debug, Default)]
pub(crate) struct Row {
    failed: AtomicBool,
}

impl Row {
    /// No further batch of the row is to be sent.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Answers one batch. If the reply is dropped, it answers by itself: `NotSent`, or `Lost` if the batch had left.
#[derive(Debug)]
pub(crate) struct Reply {
    id: u64,
    answers: mpsc::UnboundedSender<(u64, Answer)>,
    row: Arc<Row>,
    /// The answer if nobody gives another one.
    last_word: Option<Answer>,
}

impl Reply {
    /// `id` is the number of the batch in its send window. The channel is unbounded, but a send window never has more
    /// batches in flight than its limit.
    pub(crate) fn new(id: u64, answers: mpsc::UnboundedSender<(u64, Answer)>, row: Arc<Row>) -> Self {
        Self { id, answers, row, last_word: Some(Answer::NotSent) }
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn row(&self) -> &Row {
        &self.row
    }

    /// The batch is handed to a connection.
    pub(super) fn leaves(&mut self) {
        self.last_word = Some(Answer::Lost);
    }

    /// Answers the batch. An answer that is not an append marks the row as failed.
    pub(super) fn give(mut self, answer: Answer) {
        self.last_word = Some(answer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some(answer) = self.last_word.take() else { return };
        if !matches!(answer, Answer::Appended { .. }) {
            self.row.fail();
        }
        // A partition that is gone needs no answer.
        let _gone = self.answers.send((self.id, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reply_answers_by_itself() {
        let (answers, mut answered) = mpsc::unbounded_channel();
        let row = Arc::new(Row::default());
        let reply = |id| Reply::new(id, answers.clone(), Arc::clone(&row));
        reply(0).give(Answer::Appended { base_offset: 7, append_time: false });
        assert!(!row.is_failed());
        drop(reply(1));
        assert!(row.is_failed());
        let mut left = reply(2);
        left.leaves();
        drop(left);
        let mut told = Vec::new();
        while let Ok(answer) = answered.try_recv() {
            told.push(answer);
        }
        let appended = Answer::Appended { base_offset: 7, append_time: false };
        assert_eq!(told, [(0, appended), (1, Answer::NotSent), (2, Answer::Lost)]);
    }
}
