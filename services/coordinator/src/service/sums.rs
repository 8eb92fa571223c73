//! Progress of one partition, and sums of it over a topic or a flow.
//!
//! Pure. Lag itself is worked out in core, the same for API, `WatchFlow` and metrics; rates are the leader's.

use mirrormesh_core::lag::{Lag, LagSum, Outlook};
use mirrormesh_core::report::UnitState;
use mirrormesh_proto::convert::api::timestamp;
use mirrormesh_proto::v1;
use tokio::time::Instant;

use crate::leader::{Look, Tracked};

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) now_ms: u64,
}

/// How far one partition is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) lag: Option<Lag>,
    pub(super) outlook: Outlook,
    /// What is said is of then.
    pub(super) as_of_ms: Option<u64>,
    pub(super) records_rate: f64,
    pub(super) bytes_rate: f64,
}

impl Standing {
    /// Of a partition on which nobody reported.
    pub(super) const UNKNOWN: Self =
        Self { lag: None, outlook: Outlook::Unknown, as_of_ms: None, records_rate: 0.0, bytes_rate: 0.0 };

    /// Of a partition that nobody runs, by what was seen of it: it moves again when somebody resumes it.
    pub(super) fn paused(look: &Look, at: Moment) -> Self {
        let figures = look.figures(at.now_ms);
        let lag = Lag::of(&figures, at.now_ms);
        Self {
            lag,
            outlook: lag.map_or(Outlook::Unknown, Outlook::at_rest),
            as_of_ms: figures.source_end_offset.map(|_| look.at_ms()),
            ..Self::UNKNOWN
        }
    }

    /// `heard_ms` is when its worker reported last.
    pub(super) fn of(tracked: Option<&Tracked>, at: Moment, heard_ms: Option<u64>) -> Self {
        let Some((tracked, figures)) = tracked.and_then(|t| t.report.partition.map(|figures| (t, figures)))
        else {
            return Self::UNKNOWN;
        };
        let lag = Lag::of(&figures, at.now_ms);
        let stale = figures.stale_since_ms.and_then(|ms| u64::try_from(ms).ok());
        let outlook = |lag| match tracked.report.state {
            UnitState::Stopped => Outlook::at_rest(lag),
            // Its position is not known yet: neither is how fast it moves.
            UnitState::Resyncing => Outlook::of(lag, None),
            UnitState::Running | UnitState::Backoff => Outlook::of(lag, tracked.pace(at.now)),
        };
        Self {
            lag,
            outlook: lag.map_or(Outlook::Unknown, outlook),
            as_of_ms: figures.source_end_offset.and_then(|_| stale.or(heard_ms)),
            records_rate: tracked.records.at(at.now),
            bytes_rate: tracked.bytes.at(at.now),
        }
    }
}

/// An outlook as users see it, with its seconds.
pub(super) fn outlook_to_api(outlook: Outlook) -> (v1::Outlook, Option<f64>) {
    let shown = match outlook {
        Outlook::Unknown => v1::Outlook::Unspecified,
        Outlook::CaughtUp => v1::Outlook::CaughtUp,
        Outlook::CatchingUp(_) => v1::Outlook::CatchingUp,
        Outlook::FallingBehind => v1::Outlook::FallingBehind,
    };
    (shown, outlook.seconds())
}

/// Sums over partitions.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) partitions: i64,
    running: i64,
    stopped: i64,
    records: i64,
    bytes: i64,
    lag: LagSum,
    outlook: Option<Outlook>,
    as_of_ms: Option<u64>,
    records_rate: f64,
    bytes_rate: f64,
}

impl Sums {
    /// Adds a partition.
    pub(super) fn add(&mut self, tracked: Option<&Tracked>, standing: &Standing) {
        self.partitions += 1;
        self.lag.add(standing.lag);
        self.outlook = Some(self.outlook.map_or(standing.outlook, |outlook| outlook.and(standing.outlook)));
        self.as_of_ms = match (self.as_of_ms, standing.as_of_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.records_rate += standing.records_rate;
        self.bytes_rate += standing.bytes_rate;
        let Some(tracked) = tracked else { return };
        match tracked.report.state {
            UnitState::Running => self.running += 1,
            UnitState::Stopped => self.stopped += 1,
            UnitState::Resyncing | UnitState::Backoff => {}
        }
        if let Some(figures) = tracked.report.partition {
            self.records = self.records.saturating_add(figures.records);
            self.bytes = self.bytes.saturating_add(figures.bytes);
        }
    }

    /// The sums as users see them.
    pub(super) fn finish(self) -> v1::Progress {
        let lag = self.lag.total();
        let unmeasured = i64::try_from(self.lag.unmeasured()).unwrap_or(i64::MAX);
        let (outlook, eta) = outlook_to_api(self.outlook.unwrap_or(Outlook::Unknown));
        v1::Progress {
            partitions: self.partitions,
            partitions_running: self.running,
            partitions_stopped: self.stopped,
            records: self.records,
            bytes: self.bytes,
            lag_records: lag.map(|lag| lag.records),
            lag_seconds: lag.and_then(|lag| lag.seconds),
            records_per_second: self.records_rate,
            bytes_per_second: self.bytes_rate,
            eta_seconds: eta,
            lag_bytes: lag.and_then(|lag| lag.bytes),
            outlook: outlook.into(),
            progress_time: self.as_of_ms.map(timestamp),
            partitions_unmeasured: unmeasured,
        }
    }
}
