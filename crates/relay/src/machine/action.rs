//! What the machine asks for, and what it is told.

use std::collections::BTreeSet;

use bytes::Bytes;
use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::flow::{FlowSpec, LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicId, TopicName};
use mirrormesh_core::position::{PositionKey, PositionValue};
use mirrormesh_core::registry::{Origin, RegistryKey, RegistryValue, Seen};
use mirrormesh_core::stop::Stop;
use mirrormesh_core::unit::{Generation, PartitionDetail, PartitionStart};

use crate::facts::Facts;
use crate::journal::Stored;
use crate::loss::Loss;
use crate::page::SourcePage;
use crate::path::Path;
use crate::reader::Skip;
use crate::resync::Step;
use crate::window::Limits;

/// What a flow says about records.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Aborted and open transactional records count too.
    pub read_uncommitted: bool,
    /// When records are lost.
    pub on_loss: LossPolicy,
    /// When a record is too large.
    pub on_oversized: OversizedPolicy,
    /// When the target refuses a timestamp.
    pub timestamps: TimestampPolicy,
    /// What any flow mirrored to the source is left out.
    pub skip_mirrored: bool,
    /// Records that can't be mirrored exactly once wait.
    pub require_exactly_once: bool,
    /// No other flow may write to the target topics.
    pub sole_writer: bool,
}

impl Rules {
    /// The rules of a flow for one source topic.
    pub fn of(spec: &FlowSpec, topic: &TopicName) -> Self {
        Self {
            read_uncommitted: spec.read_uncommitted,
            on_loss: spec.loss_policy(topic),
            on_oversized: spec.on_oversized,
            timestamps: spec.timestamps,
            skip_mirrored: spec.skip_mirrored,
            require_exactly_once: spec.require_exactly_once,
            sole_writer: !spec.shared_target,
        }
    }
}

impl Rules {
    /// What was begun with this start does not count as the flow copies now, or is another mesh's: it has to end.
    pub fn differ_from(self, start: PartitionStart) -> bool {
        start.adopted.is_some()
            || self.read_uncommitted != start.read_uncommitted
            || self.skip_mirrored != start.skip_mirrored
    }
}

/// Which partition, and how.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What tells the mesh from others; empty: it claims nothing.
    pub mesh_id: String,
    /// The flow.
    pub flow: FlowId,
    /// Cluster to copy from.
    pub source: ClusterId,
    /// Source topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// Number of the assignment.
    pub number: u64,
    /// What was found out about it.
    pub detail: PartitionDetail,
    /// First contact points of the target, as a person types them.
    pub target_servers: String,
    /// What the flow says.
    pub rules: Rules,
    /// Limits of the send window.
    pub limits: Limits,
}

/// A batch to append.
#[derive(Debug)]
pub struct Append {
    /// Number that the answer carries.
    pub id: u64,
    /// The batch.
    pub batch: StampedBatch,
    /// Which way it went.
    pub path: Path,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Stable name.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
    /// First source offset concerned.
    pub from_offset: Option<i64>,
    /// Source offset behind the last one concerned.
    pub to_offset: Option<i64>,
    /// How many records, if known.
    pub count: Option<i64>,
}

impl From<&Loss> for Notice {
    fn from(loss: &Loss) -> Self {
        Self {
            reason: loss.stop.reason.name(),
            message: loss.stop.message.clone(),
            from_offset: loss.stop.from_offset,
            to_offset: loss.stop.to_offset,
            count: loss.stop.count,
        }
    }
}

/// A generation to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The one that ends.
    pub after: Generation,
    /// A fresh producer id, where the epochs have run out.
    pub offered: Option<i64>,
    /// Where it begins.
    pub start: PartitionStart,
    /// What is to be kept in the same step.
    pub notices: Vec<Notice>,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Action {
    /// Find something out → [`Relay::told`](super::Relay::told), with the same id. It takes the place of any earlier question:
    /// what comes of that one is not waited for any more.
    Ask {
        /// Tells the question's answer from those of others.
        id: u64,
        /// The question.
        ask: Ask,
    },
    /// Fetch from this source offset on, in place of any earlier fetching → [`Relay::fetched`](super::Relay::fetched),
    /// [`Relay::out_of_range`](super::Relay::out_of_range) or [`Relay::source_failed`](super::Relay::source_failed).
    Fetch {
        /// Where to begin.
        offset: i64,
        /// Leave out transactions that are open or aborted.
        read_committed: bool,
        /// Leader epoch of what is before it, -1 when not known: where a leader's history parts before the offset, it must
        /// not answer with records (KIP-595), which ends the fetching as a failure.
        last_epoch: i32,
    },
    /// Fetch no more.
    StopFetching,
    /// Append → [`Relay::answer`](super::Relay::answer), in the order of asking.
    Append(Append),
    /// Write these records to the positions topic, in order; no value is a tombstone →
    /// [`Relay::written`](super::Relay::written).
    Write(Vec<(PositionKey, Option<PositionValue>)>),
    /// Begin a generation by the Raft log → [`Relay::begun`](super::Relay::begun).
    Begin(Beginning),
    /// Tell.
    Notice(Notice),
    /// A batch was left out on purpose.
    Skipped(Skip),
    /// The pipeline broke for this reason; the leader of the target partition may have moved.
    Broken {
        /// Stable name.
        reason: &'static str,
        /// Ask for the leader again.
        leader_moved: bool,
    },
    /// Wait a while, longer with every attempt → [`Relay::resume`](super::Relay::resume).
    Wait {
        /// Stable name.
        reason: String,
        /// What is wrong.
        message: String,
        /// How often it was waited for without success.
        attempt: u32,
    },
    /// Stopped until somebody acts.
    Stopped(Stop),
    /// It was asked to stop, and nothing is left to be done.
    Released,
}

/// What is to be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Settings of both partitions → [`Told::Facts`].
    Facts,
    /// What the resync machine wants to know.
    Locate(Step),
    /// Log start and log end of the source → [`Told::SourceEnds`].
    SourceEnds,
    /// A fresh producer id from the target → [`Told::Producer`].
    NewProducer,
    /// Whose are these producer ids in the source partition, after the source's registry was read to its end →
    /// [`Told::Origins`].
    Origins(BTreeSet<i64>),
    /// What stands for the partition in the target's registry, after it was read to its end → [`Told::Registry`].
    Registry,
    /// Write these records to the target's registry → [`Told::Registered`], once they are acknowledged.
    Register(Vec<(RegistryKey, RegistryValue)>),
}

/// What was found out.
#[derive(Debug, Clone)]
pub enum Told {
    /// Settings.
    Facts(Facts),
    /// Topic ids, source and target; `None` where the topic does not exist.
    Identity(Option<TopicId>, Option<TopicId>),
    /// What is stored.
    Positions(Stored),
    /// Log start, log end, high watermark of the target.
    TargetEnds(i64, i64, i64),
    /// Raw records of the target; empty if there are none.
    TargetRecords(Bytes),
    /// Epoch and last sequence that the target remembers of our producer id.
    Remembered(Option<(i16, i32)>),
    /// Where a leader epoch ends on the source.
    SourceHistory(Option<EpochEnd>),
    /// Records of the source.
    SourcePage(SourcePage),
    /// The source does not have the offset.
    SourceOutOfRange,
    /// Log start and log end of the source.
    SourceEnds(i64, i64),
    /// A fresh producer id.
    Producer(i64),
    /// Whose producer ids are.
    Origins(Vec<(i64, Origin)>),
    /// What stands in the registry.
    Registry(Box<Seen>),
    /// It stands there.
    Registered,
    /// It could not be found out: a stable name, and what is wrong.
    Failed(String, String),
}
