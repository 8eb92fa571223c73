//! The way of an answer back to the partition, and the mark that a batch of the partition has failed.
//!
//! Invariants: every batch gets exactly one answer, also when the sender task ends; a batch that never left this process
//! is answered `NotSent`, never `Lost`. Must not know how batches are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mirrormesh_relay::answer::Answer;
use tokio::sync::mpsc;

/// The batches of one partition from one position recovery to the next. After a failed batch, no later batch of the same
/// row may be sent.
#[derive(Debug, Default)]
pub(crate) struct Row {
    failed: AtomicBool,
    /// Record bytes of the batches that have not left this process.
    waiting: AtomicU64,
}

impl Row {
    /// No further batch of the row is to be sent.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Record bytes of its batches that have not left this process.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
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
    /// What the batch adds to the bytes of its row that wait.
    waiting: u64,
    /// The answer if nobody gives another one.
    last_word: Option<Answer>,
}

impl Reply {
    /// `id` is the number of the batch in its send window, `bytes` its size. The channel is unbounded, but a send window
    /// never has more batches in flight than its limit.
    pub(crate) fn new(
        id: u64,
        answers: mpsc::UnboundedSender<(u64, Answer)>,
        row: Arc<Row>,
        bytes: usize,
    ) -> Self {
        let waiting = u64::try_from(bytes).unwrap_or(u64::MAX);
        row.waiting.fetch_add(waiting, Ordering::Relaxed);
        Self { id, answers, row, waiting, last_word: Some(Answer::NotSent) }
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
        self.waits_no_more();
    }

    fn waits_no_more(&mut self) {
        self.row.waiting.fetch_sub(std::mem::take(&mut self.waiting), Ordering::Relaxed);
    }

    /// Answers the batch. An answer that is not an append marks the row as failed.
    pub(super) fn give(mut self, answer: Answer) {
        self.last_word = Some(answer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Before the answer: whoever gets it looks what waits.
        self.waits_no_more();
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
        let reply = |id| Reply::new(id, answers.clone(), Arc::clone(&row), 10);
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

    #[test]
    fn bytes_wait_until_they_leave_or_are_answered() {
        let (answers, mut answered) = mpsc::unbounded_channel();
        let row = Arc::new(Row::default());
        let reply = |bytes| Reply::new(0, answers.clone(), Arc::clone(&row), bytes);
        let (mut left, stays) = (reply(10), reply(20));
        assert_eq!(row.waiting(), 30);
        left.leaves();
        assert_eq!(row.waiting(), 20);
        drop(left);
        assert_eq!(row.waiting(), 20, "it does not count twice");
        drop(stays);
        assert_eq!(row.waiting(), 0);
        assert_eq!(answered.try_recv(), Ok((0, Answer::Lost)));
    }
}
