//! Reports: figures and states of units, and units that were let go.

use mirrormesh_core::report::{Delivery, PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::unit::Unit;

use super::Speaker;
use crate::convert::parts::{each, inner, optional};
use crate::error::ConvertError;
use crate::mesh;

/// What "not known" or "none" is on the wire, where the domain says `None`.
const NONE: i64 = -1;

/// One report of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressReport {
    /// Who reports.
    pub speaker: Speaker,
    /// Number of the report in its stream, from 1.
    pub sequence: u64,
    /// Units whose figures changed since the report before, or all of them in the first report of a stream.
    pub units: Vec<UnitReport>,
    /// Units that will not be touched any more, with the numbers of the assignments that ended.
    pub released: Vec<(Unit, u64)>,
}

impl From<&ProgressReport> for mesh::ReportProgressRequest {
    fn from(report: &ProgressReport) -> Self {
        Self {
            worker_id: report.speaker.worker.to_string(),
            session: report.speaker.session,
            sequence: report.sequence,
            units: report.units.iter().map(Into::into).collect(),
            released: report.released.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<mesh::ReportProgressRequest> for ProgressReport {
    type Error = ConvertError;

    fn try_from(request: mesh::ReportProgressRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            speaker: Speaker::new(&request.worker_id, request.session)?,
            sequence: request.sequence,
            units: each(request.units, "units", UnitReport::try_from)?,
            released: each(request.released, "released", TryInto::try_into)?,
        })
    }
}

impl From<&(Unit, u64)> for mesh::ReleasedUnit {
    fn from((unit, number): &(Unit, u64)) -> Self {
        Self { unit: Some(unit.into()), number: *number }
    }
}

impl TryFrom<mesh::ReleasedUnit> for (Unit, u64) {
    type Error = ConvertError;

    fn try_from(released: mesh::ReleasedUnit) -> Result<Self, ConvertError> {
        Ok((inner(released.unit, "unit")?, released.number))
    }
}

impl From<UnitState> for mesh::unit_report::State {
    fn from(state: UnitState) -> Self {
        match state {
            UnitState::Resyncing => Self::Resyncing,
            UnitState::Running => Self::Running,
            UnitState::Backoff => Self::Backoff,
            UnitState::Stopped => Self::Stopped,
        }
    }
}

fn unit_state(value: i32) -> Result<UnitState, ConvertError> {
    use mesh::unit_report::State;
    match State::try_from(value) {
        Ok(State::Resyncing) => Ok(UnitState::Resyncing),
        Ok(State::Running) => Ok(UnitState::Running),
        Ok(State::Backoff) => Ok(UnitState::Backoff),
        Ok(State::Stopped) => Ok(UnitState::Stopped),
        Ok(State::Unspecified) | Err(_) => {
            Err(ConvertError::new("state", format!("{value} is not a state that this version knows")))
        }
    }
}

impl From<&UnitReport> for mesh::UnitReport {
    fn from(report: &UnitReport) -> Self {
        Self {
            unit: Some((&report.unit).into()),
            number: report.number,
            state: mesh::unit_report::State::from(report.state).into(),
            reason: report.reason.clone(),
            message: report.message.clone(),
            partition: report.partition.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<mesh::UnitReport> for UnitReport {
    type Error = ConvertError;

    fn try_from(report: mesh::UnitReport) -> Result<Self, ConvertError> {
        Ok(Self {
            unit: inner(report.unit, "unit")?,
            number: report.number,
            state: unit_state(report.state)?,
            reason: report.reason,
            message: report.message,
            partition: optional(report.partition, "partition")?,
        })
    }
}

/// A negative number can't be told from "none" on the wire: it is sent as that.
fn or_none(value: Option<i64>) -> i64 {
    value.filter(|value| *value >= 0).unwrap_or(NONE)
}

fn unless_none(value: i64, field: &str) -> Result<Option<i64>, ConvertError> {
    match value {
        NONE => Ok(None),
        0.. => Ok(Some(value)),
        _ => Err(ConvertError::new(field, format!("{value} is neither a number from 0 nor {NONE}"))),
    }
}

impl From<Delivery> for mesh::Delivery {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Unknown => Self::Unspecified,
            Delivery::ExactlyOnce => Self::ExactlyOnce,
            Delivery::TargetMayForget => Self::TargetMayForget,
            Delivery::ContentNotFixed => Self::ContentNotFixed,
            Delivery::SourceByName => Self::SourceByName,
            Delivery::OtherWriters => Self::OtherWriters,
        }
    }
}

/// A guarantee that a newer worker names and this version does not know is not known.
fn delivery(value: i32) -> Delivery {
    match mesh::Delivery::try_from(value) {
        Ok(mesh::Delivery::ExactlyOnce) => Delivery::ExactlyOnce,
        Ok(mesh::Delivery::TargetMayForget) => Delivery::TargetMayForget,
        Ok(mesh::Delivery::ContentNotFixed) => Delivery::ContentNotFixed,
        Ok(mesh::Delivery::SourceByName) => Delivery::SourceByName,
        Ok(mesh::Delivery::OtherWriters) => Delivery::OtherWriters,
        Ok(mesh::Delivery::Unspecified) | Err(_) => Delivery::Unknown,
    }
}

impl From<&PartitionFigures> for mesh::PartitionFigures {
    fn from(figures: &PartitionFigures) -> Self {
        Self {
            source_offset: figures.source_offset,
            source_end_offset: or_none(figures.source_end_offset),
            target_offset: figures.target_offset,
            records: figures.records,
            bytes: figures.bytes,
            oldest_pending_ms: or_none(figures.oldest_pending_ms),
            resyncs: figures.resyncs,
            delivery: mesh::Delivery::from(figures.delivery).into(),
            held_records: figures.held_records,
            source_start_offset: figures.source_start_offset,
            lag_bytes: figures.lag_bytes,
            stale_since_ms: figures.stale_since_ms,
        }
    }
}

impl TryFrom<mesh::PartitionFigures> for PartitionFigures {
    type Error = ConvertError;

    fn try_from(figures: mesh::PartitionFigures) -> Result<Self, ConvertError> {
        Ok(Self {
            source_offset: figures.source_offset,
            source_end_offset: unless_none(figures.source_end_offset, "source_end_offset")?,
            target_offset: figures.target_offset,
            records: figures.records,
            bytes: figures.bytes,
            oldest_pending_ms: unless_none(figures.oldest_pending_ms, "oldest_pending_ms")?,
            resyncs: figures.resyncs,
            delivery: delivery(figures.delivery),
            held_records: figures.held_records,
            source_start_offset: figures.source_start_offset,
            lag_bytes: figures.lag_bytes,
            stale_since_ms: figures.stale_since_ms,
        })
    }
}
