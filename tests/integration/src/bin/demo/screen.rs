//! The progress display: one line that renews itself on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// What is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shown {
    /// Records on the target so far.
    pub(crate) mirrored: u64,
    /// Records to be produced.
    pub(crate) total: u64,
    /// Bytes a second.
    pub(crate) bytes_per_second: f64,
    /// Records behind, if known.
    pub(crate) lag: Option<i64>,
}

/// The display.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    began: Instant,
    last_line: Option<Instant>,
    samples: Vec<(Instant, u64)>,
}

/// Without a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// The estimate looks back this far.
const ESTIMATE_WINDOW: Duration = Duration::from_secs(5);

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            began: Instant::now(),
            last_line: None,
            samples: Vec::new(),
        }
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        if self.terminal {
            print!("\r\x1b[K");
        }
        println!("[{:6.1}s] {text}", self.began.elapsed().as_secs_f64());
    }

    /// Renews the progress.
    pub(crate) fn show(&mut self, shown: Shown) {
        let now = Instant::now();
        self.samples.push((now, shown.mirrored));
        self.samples.retain(|(at, _)| now.duration_since(*at) <= ESTIMATE_WINDOW);
        let due = self.last_line.is_none_or(|at| now.duration_since(at) >= LINE_INTERVAL);
        if !self.terminal && !due {
            return;
        }
        self.last_line = Some(now);
        let lag = shown.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
        let line = format!(
            "mirrored {:>9} of {:>9} records, {:6.1} MB/s, lag {lag} records, ETA {}",
            shown.mirrored,
            shown.total,
            shown.bytes_per_second / 1e6,
            self.estimate(shown)
        );
        if self.terminal {
            print!("\r\x1b[K{line}");
            let _flushed = std::io::stdout().flush();
        } else {
            self.say(&line);
        }
    }

    /// Seconds until all is mirrored at the pace of late.
    fn estimate(&self, shown: Shown) -> String {
        let (Some((first_at, first)), Some((last_at, last))) = (self.samples.first(), self.samples.last())
        else {
            return "?".to_owned();
        };
        let seconds = last_at.duration_since(*first_at).as_secs_f64();
        let rate = (last.saturating_sub(*first)) as f64 / seconds.max(0.001);
        if seconds < 0.5 || rate < 1.0 {
            return "?".to_owned();
        }
        format!("{:.0} s", shown.total.saturating_sub(shown.mirrored) as f64 / rate)
    }
}
