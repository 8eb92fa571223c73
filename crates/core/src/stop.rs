//! Why a partition stops until somebody acts. The names are part of the API.

use std::fmt;

/// A named reason with what is needed to act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Which reason.
    pub reason: StopReason,
    /// What happened and what to do.
    pub message: String,
    /// First source offset concerned.
    pub from_offset: Option<i64>,
    /// Source offset behind the last one concerned, if known.
    pub to_offset: Option<i64>,
    /// How many records are concerned at most, if known: a source offset may hold none.
    pub count: Option<i64>,
}

impl Stop {
    /// A stop without offsets.
    pub fn new(reason: StopReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), from_offset: None, to_offset: None, count: None }
    }

    /// Adds the source offsets concerned.
    #[must_use]
    pub fn at(mut self, from: i64, to: Option<i64>) -> Self {
        self.from_offset = Some(from);
        self.to_offset = to;
        self
    }

    /// Adds how many records are concerned.
    #[must_use]
    pub fn counting(mut self, count: i64) -> Self {
        self.count = Some(count);
        self
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The reasons.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum StopReason { $($(#[$doc])* $name,)* }

        impl StopReason {
            /// Stable name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The source deleted records before they were mirrored.
    RetentionOverrun = "RETENTION_OVERRUN",
    /// The source's log ends before the place that was mirrored already.
    SourceTruncated = "SOURCE_TRUNCATED",
    /// The source's history differs from the one that was mirrored (KIP-320).
    SourceDiverged = "SOURCE_DIVERGED",
    /// The source topic was deleted and made again.
    SourceRecreated = "SOURCE_RECREATED",
    /// The target topic was deleted and made again.
    TargetRecreated = "TARGET_RECREATED",
    /// The target lost records that were mirrored already.
    TargetTruncated = "TARGET_TRUNCATED",
    /// What the target holds is not what the source holds at that place.
    PositionMismatch = "POSITION_MISMATCH",
    /// The place can't be found any more.
    PositionUnknown = "POSITION_UNKNOWN",
    /// A batch that is damaged or contradicts itself.
    BatchCorrupt = "BATCH_CORRUPT",
    /// A record larger than the target takes.
    RecordTooLarge = "RECORD_TOO_LARGE",
    /// A timestamp that the target refuses.
    TimestampRefused = "TIMESTAMP_REFUSED",
    /// The target refuses a batch for its content.
    TargetRefused = "TARGET_REFUSED",
    /// The partition was mirrored without a producer id, as an earlier version could.
    TargetNotIdempotent = "TARGET_NOT_IDEMPOTENT",
    /// Another owner writes under a newer epoch.
    Fenced = "FENCED",
    /// A batch of a flow stands where the registry says that none of that flow can.
    OriginUnclear = "ORIGIN_UNCLEAR",
    /// The source is another Kafka cluster than the one that was mirrored from.
    SourceClusterChanged = "SOURCE_CLUSTER_CHANGED",
    /// A flow of another mesh writes to the target topic.
    FlowClaimed = "FLOW_CLAIMED",
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
