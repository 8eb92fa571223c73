//! What a connection to a broker is for.
//!
//! A broker handles the requests of a connection one after the other. So each kind of work has a connection of its own:
//! nothing waits for a long fetch or a slow append.

/// One connection of a client to a broker. Requests of one role stay in order, those of another are not held up by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionRole {
    /// Everything but records.
    Control,
    /// Only whether the broker answers at all.
    Probe,
    /// Appends to internal topics.
    InternalTopics,
    /// The fetch session of a flow.
    FetchSession,
    /// Fetches beside the session.
    FetchBeside,
    /// Fetches of position recovery.
    Recovery,
    /// Fetches that look at the lag of paused partitions.
    LagProbe,
    /// Appends of records. Partitions are spread over the numbers.
    Produce(u32),
    /// Appends to partitions that were slow lately.
    ProduceSlow(u32),
}
