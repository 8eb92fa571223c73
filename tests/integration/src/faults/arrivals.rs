//! When records arrived on the target, by its end offsets: an independent view, past the product and the proxies.
//!
//! Owns the threads that ask, one for each partition with a client of its own: a leader that is away holds up the
//! question of its own partitions only. An end offset is the high watermark, so what is seen is what consumers can read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// How often each partition is asked for: the precision of all times.
pub(super) const STEP: Duration = Duration::from_millis(100);
/// A question to a leader that is away is given up after this.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// A client that got no answer for so long is replaced: some don't find a broker again that was restarted, and a run
/// would take their silence for the mesh's.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of one partition.
#[derive(Debug, Default, Clone)]
struct Track {
    end: i64,
    /// When it was seen to have grown, in order.
    growths: Vec<Instant>,
}

/// Watches one topic. Dropping it ends the threads.
pub(super) struct Arrivals {
    tracks: Arc<Vec<Mutex<Track>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Arrivals {
    /// Starts to watch a topic, which need not exist yet.
    pub(super) fn watch(bootstrap: &str, topic: &str, partitions: i32) -> Result<Self> {
        let tracks: Arc<Vec<Mutex<Track>>> = Arc::new((0..partitions).map(|_| Mutex::default()).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let mut watching = Self { tracks: Arc::clone(&tracks), stop: Arc::clone(&stop), threads: Vec::new() };
        for partition in 0..partitions {
            let question = Question::new(bootstrap, topic, partition)?;
            let (tracks, stop) = (Arc::clone(&tracks), Arc::clone(&stop));
            let thread = std::thread::Builder::new()
                .name(format!("arrivals {partition}"))
                .spawn(move || {
                    let index = usize::try_from(partition).unwrap_or(0);
                    if let Some(track) = tracks.get(index) {
                        question.ask_until(&stop, track);
                    }
                })
                .context("cannot start a thread")?;
            watching.threads.push(thread);
        }
        Ok(watching)
    }

    fn track(&self, partition: i32) -> Option<&Mutex<Track>> {
        self.tracks.get(usize::try_from(partition).ok()?)
    }

    /// Records on the target, as far as seen.
    pub(super) fn total(&self) -> u64 {
        let ends = self.tracks.iter().map(|track| track.lock().end);
        u64::try_from(ends.sum::<i64>()).unwrap_or(0)
    }

    /// Whether records arrived in any of these partitions within this time.
    pub(super) fn flowed(&self, partitions: &[i32], within: Duration) -> bool {
        partitions.iter().filter_map(|p| self.track(*p)).any(|track| {
            let last = track.lock().growths.last().copied();
            last.is_some_and(|last| last.elapsed() <= within)
        })
    }

    /// When records came back to a partition that fell silent after `since`: the end of its longest silence between
    /// `since` and its first record at `settled` or later. None as long as there is no such record. Records that were
    /// on their way when the silence began don't end it.
    pub(super) fn back_since(&self, partition: i32, since: Instant, settled: Instant) -> Option<Instant> {
        back(&self.track(partition)?.lock().growths, since, settled)
    }

    /// The longest time without a record in any one partition, from `since` until now.
    pub(super) fn longest_silence(&self, since: Instant) -> Duration {
        let now = Instant::now();
        self.tracks
            .iter()
            .map(|track| longest_gap(&track.lock().growths, since, now))
            .max()
            .unwrap_or_default()
    }
}

/// One thread's question: where one partition ends.
struct Question {
    bootstrap: String,
    topic: String,
    partition: i32,
    client: BaseConsumer,
    /// When the client answered last, or was made.
    answered: Instant,
}

impl Question {
    fn new(bootstrap: &str, topic: &str, partition: i32) -> Result<Self> {
        let client = client(bootstrap)?;
        let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
        Ok(Self { bootstrap, topic, partition, client, answered: Instant::now() })
    }

    fn ask_until(mut self, stop: &AtomicBool, track: &Mutex<Track>) {
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            match self.client.fetch_watermarks(&self.topic, self.partition, QUESTION_TIMEOUT) {
                Ok((_, end)) => {
                    self.answered = Instant::now();
                    note(track, end, self.answered);
                }
                Err(error) => {
                    tracing::debug!("{}-{}: {error}", self.topic, self.partition);
                    self.refresh();
                }
            }
            std::thread::sleep(STEP.saturating_sub(asked.elapsed()));
        }
    }

    /// Makes it likelier that the next question is answered.
    fn refresh(&mut self) {
        if self.answered.elapsed() < CLIENT_PATIENCE {
            // librdkafka goes on with an answer of old, e.g. "unknown partition", until asked.
            if let Err(error) = self.client.fetch_metadata(Some(&self.topic), QUESTION_TIMEOUT) {
                tracing::debug!("metadata of {}: {error}", self.topic);
            }
            return;
        }
        match client(&self.bootstrap) {
            Ok(client) => (self.client, self.answered) = (client, Instant::now()),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

fn client(bootstrap: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "arrivals")
        .set("allow.auto.create.topics", "false")
        .set("reconnect.backoff.max.ms", "500")
        .set("topic.metadata.refresh.fast.interval.ms", "100")
        .create()
        .context("cannot make a client of the target")
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread that watched a partition panicked");
            }
        }
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").field("total", &self.total()).finish_non_exhaustive()
    }
}

fn note(track: &Mutex<Track>, end: i64, at: Instant) {
    let mut track = track.lock();
    // A leader that was just elected may tell an older high watermark for a moment.
    if end > track.end {
        track.end = end;
        track.growths.push(at);
    }
}

fn back(growths: &[Instant], since: Instant, settled: Instant) -> Option<Instant> {
    let first = growths.partition_point(|at| *at < since);
    let last = growths.partition_point(|at| *at < settled);
    let (mut before, mut longest, mut end) = (since, Duration::ZERO, None);
    for at in growths.get(first..=last)?.iter().copied() {
        let silence = at.saturating_duration_since(before);
        if silence >= longest {
            (longest, end) = (silence, Some(at));
        }
        before = at;
    }
    end
}

fn longest_gap(growths: &[Instant], since: Instant, now: Instant) -> Duration {
    let first = growths.partition_point(|at| *at < since);
    let (mut last, mut longest) = (since, Duration::ZERO);
    for at in growths.iter().skip(first).copied().chain([now]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(partitions: usize) -> Arrivals {
        let tracks = Arc::new((0..partitions).map(|_| Mutex::default()).collect());
        Arrivals { tracks, stop: Arc::default(), threads: Vec::new() }
    }

    #[test]
    fn only_growth_is_an_arrival() {
        let seen = arrivals(2);
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        note(&seen.tracks[1], 5, at(100));
        note(&seen.tracks[1], 5, at(200));
        note(&seen.tracks[1], 4, at(300));
        note(&seen.tracks[1], 6, at(400));
        assert_eq!(seen.total(), 6);
        assert_eq!(seen.back_since(1, at(150), at(150)), Some(at(400)));
        assert_eq!(seen.back_since(1, at(150), at(401)), None);
        assert_eq!(seen.back_since(0, at(0), at(0)), None);
        assert!(!seen.flowed(&[0], Duration::from_mins(1)));
        assert!(seen.flowed(&[0, 1], Duration::from_mins(1)));
        assert!(!seen.flowed(&[2], Duration::from_mins(1)));
    }

    #[test]
    fn a_takeover_ends_the_longest_silence_and_no_echo_does() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        // Killed at 1000; what was on its way arrives until 1700; the next owner begins at 4300.
        let growths = [900, 1_000, 1_100, 1_700, 4_300, 4_400, 5_900, 6_100, 9_900].map(at);
        assert_eq!(back(&growths, at(1_000), at(6_000)), Some(at(4_300)));
        // Nobody has begun yet.
        assert_eq!(back(&growths[..4], at(1_000), at(6_000)), None);
        // Late ones are seen as late.
        assert_eq!(back(&[at(900), at(1_100), at(9_000)], at(1_000), at(6_000)), Some(at(9_000)));
    }

    #[test]
    fn silence_counts_its_two_ends() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let growths = [at(0), at(100), at(500), at(600)];
        assert_eq!(longest_gap(&growths, at(50), at(700)), Duration::from_millis(400));
        assert_eq!(longest_gap(&growths, at(550), at(2_000)), Duration::from_millis(1_400));
        assert_eq!(longest_gap(&[], at(0), at(10)), Duration::from_millis(10));
    }
}
