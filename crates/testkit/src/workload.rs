//! Records made from a seed, and the threads that produce them.
//!
//! Owns what a workload is and how it is run; must not know who reads it. Every record is a function of (seed, topic,
//! number), so a run can be had again from its seed; every record of a partition differs from every other one, since
//! it carries its number (in the value; in the header `seq` when the value is null or empty).

mod record;
mod run;

pub use record::{Header, Made, Maker};
pub use run::{Progress, Report, Run};

/// How a topic's batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The name in Kafka's settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What the records of a topic look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// All alike: a key of 8 bytes, a value of exactly `value_bytes`, no headers. For benchmarks.
    #[default]
    Plain,
    /// Everything that Kafka allows: null and empty keys and values, values from 1 byte to twice `value_bytes`, up to
    /// three headers, null and empty header values, repeated header keys, timestamps that step back.
    Mixed,
    /// As plain ones, but all bytes of the value behind the number are random: nothing to compress, no two alike.
    Random,
}

/// How a topic's records are put into transactions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transactions {
    /// Records in each transaction.
    pub every: u64,
    /// The share of transactions that is aborted, 0 to 1.
    pub abort_ratio: f64,
}

/// What goes into one topic.
#[derive(Debug, Clone)]
pub struct TopicPlan {
    /// The topic; it must be there.
    pub name: String,
    /// How many partitions get records: record `i` goes to partition `i % partitions`.
    pub partitions: i32,
    /// How many records in all partitions together, those of aborted transactions included.
    pub records: u64,
    /// How batches are compressed.
    pub codec: Codec,
    /// Bytes of a value; see [`Content`].
    pub value_bytes: usize,
    /// What the records look like.
    pub content: Content,
    /// Whether they come in transactions.
    pub transactional: Option<Transactions>,
}

impl TopicPlan {
    /// Plain records of 100 bytes, not compressed, no transactions.
    pub fn new(name: impl Into<String>, partitions: i32, records: u64) -> Self {
        Self {
            name: name.into(),
            partitions,
            records,
            codec: Codec::None,
            value_bytes: 100,
            content: Content::Plain,
            transactional: None,
        }
    }

    /// Sets the codec.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the size of values.
    #[must_use]
    pub fn value_bytes(mut self, value_bytes: usize) -> Self {
        self.value_bytes = value_bytes;
        self
    }

    /// Makes the records as varied as Kafka allows.
    #[must_use]
    pub fn mixed(mut self) -> Self {
        self.content = Content::Mixed;
        self
    }

    /// Makes the values random bytes.
    #[must_use]
    pub fn random(mut self) -> Self {
        self.content = Content::Random;
        self
    }

    /// Puts every `every` records into a transaction and aborts this share of them.
    #[must_use]
    pub fn transactions(mut self, every: u64, abort_ratio: f64) -> Self {
        self.transactional = Some(Transactions { every, abort_ratio });
        self
    }
}

/// What is produced: every topic by a producer and a thread of its own, with acks=all and idempotence.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Decides every byte; print it where a run may fail.
    pub seed: u64,
    /// The topics.
    pub topics: Vec<TopicPlan>,
    /// Timestamp of the first record, in milliseconds since 1970. Sixteen records share a millisecond.
    pub first_timestamp_ms: i64,
    /// At most so many records a second in each topic.
    pub rate_max: Option<u64>,
    /// How long a producer collects a batch, in milliseconds.
    pub linger_ms: u32,
    /// The largest batch in bytes.
    pub batch_bytes: u32,
    /// How long a record may take, faults included, in milliseconds.
    pub delivery_timeout_ms: u32,
}

impl Workload {
    /// No topics yet; timestamps begin an hour ago.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            topics: Vec::new(),
            first_timestamp_ms: record::now_ms() - 3_600_000,
            rate_max: None,
            linger_ms: 5,
            batch_bytes: 256 * 1024,
            delivery_timeout_ms: 300_000,
        }
    }

    /// Adds a topic.
    #[must_use]
    pub fn topic(mut self, plan: TopicPlan) -> Self {
        self.topics.push(plan);
        self
    }

    /// Sets the most records a second in each topic.
    #[must_use]
    pub fn rate(mut self, records_per_second: u64) -> Self {
        self.rate_max = Some(records_per_second);
        self
    }

    /// Sets the timestamp of the first record.
    #[must_use]
    pub fn first_timestamp_ms(mut self, first_timestamp_ms: i64) -> Self {
        self.first_timestamp_ms = first_timestamp_ms;
        self
    }

    /// Sets how long a producer collects a batch, in milliseconds.
    #[must_use]
    pub fn linger_ms(mut self, linger_ms: u32) -> Self {
        self.linger_ms = linger_ms;
        self
    }

    /// Sets the largest batch in bytes.
    #[must_use]
    pub fn batch_bytes(mut self, batch_bytes: u32) -> Self {
        self.batch_bytes = batch_bytes;
        self
    }
}
