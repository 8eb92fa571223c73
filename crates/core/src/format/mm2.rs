//! Byte formats of MirrorMaker 2's internal topics: heartbeats, checkpoints, offset syncs.
//!
//! Owns encoding and decoding of keys and values; knows nothing about topics, policies or when a record is written.
//! Fields are Kafka protocol primitives in big-endian order: INT16, INT32, INT64, and STRING as an INT16 length with
//! UTF-8 behind it. Decoding is total: foreign bytes give an error, never a panic. Bytes behind the last field are
//! ignored, as Kafka's `Schema.read` does.

/// Version at the start of heartbeat and checkpoint values.
pub const VERSION: i16 = 0;

/// Why a record is not one of MirrorMaker 2's, or can't be made one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the field does.
    #[error("{field} is cut off: {missing} bytes are missing")]
    Truncated {
        /// The field.
        field: &'static str,
        /// How many bytes are missing.
        missing: usize,
    },
    /// A string says that it has a negative length.
    #[error("{field} has the negative length {length}")]
    NegativeLength {
        /// The field.
        field: &'static str,
        /// What it says.
        length: i16,
    },
    /// A string is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A version that this code doesn't know.
    #[error("version {version} is not known, only {VERSION} is")]
    UnknownVersion {
        /// The version.
        version: i16,
    },
    /// A string is longer than its INT16 length can say.
    #[error("{field} has {bytes} bytes, at most 32767 can be stored")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How long it is.
        bytes: usize,
    },
}

/// A heartbeat (`org.apache.kafka.connect.mirror.Heartbeat`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Alias of the source cluster.
    pub source_alias: String,
    /// Alias of the target cluster.
    pub target_alias: String,
    /// Written at, ms since 1970.
    pub timestamp_ms: i64,
}

impl Heartbeat {
    /// The record's key.
    pub fn encode_key(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::with_capacity(4 + self.source_alias.len() + self.target_alias.len());
        put_string(&mut bytes, "sourceClusterAlias", &self.source_alias)?;
        put_string(&mut bytes, "targetClusterAlias", &self.target_alias)?;
        Ok(bytes)
    }

    /// The record's value.
    pub fn encode_value(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes
    }

    /// Reads a record.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, FormatError> {
        let (mut key, mut value) = (Reader(key), Reader(value));
        value.version()?;
        Ok(Self {
            source_alias: key.string("sourceClusterAlias")?,
            target_alias: key.string("targetClusterAlias")?,
            timestamp_ms: value.i64("timestamp")?,
        })
    }
}

/// A checkpoint (`org.apache.kafka.connect.mirror.Checkpoint`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The consumer group.
    pub group: String,
    /// Topic as it is called on the target.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Committed offset on the source.
    pub upstream: i64,
    /// Its translation on the target.
    pub downstream: i64,
    /// What the group stored with the offset; `""` where it stored nothing, since null can't be encoded.
    pub metadata: String,
}

impl Checkpoint {
    /// The record's key.
    pub fn encode_key(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::with_capacity(8 + self.group.len() + self.topic.len());
        put_string(&mut bytes, "group", &self.group)?;
        put_string(&mut bytes, "topic", &self.topic)?;
        bytes.extend_from_slice(&self.partition.to_be_bytes());
        Ok(bytes)
    }

    /// The record's value.
    pub fn encode_value(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::with_capacity(20 + self.metadata.len());
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.upstream.to_be_bytes());
        bytes.extend_from_slice(&self.downstream.to_be_bytes());
        put_string(&mut bytes, "metadata", &self.metadata)?;
        Ok(bytes)
    }

    /// Reads a record.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, FormatError> {
        let (mut key, mut value) = (Reader(key), Reader(value));
        value.version()?;
        Ok(Self {
            group: key.string("group")?,
            topic: key.string("topic")?,
            partition: key.i32("partition")?,
            upstream: value.i64("upstreamOffset")?,
            downstream: value.i64("offset")?,
            metadata: value.string("metadata")?,
        })
    }
}

/// An offset sync (`org.apache.kafka.connect.mirror.OffsetSync`); its value has no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetSync {
    /// Topic as it is called on the source.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Offset on the source.
    pub upstream: i64,
    /// Offset of the same record on the target.
    pub downstream: i64,
}

impl OffsetSync {
    /// The record's key.
    pub fn encode_key(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::with_capacity(6 + self.topic.len());
        put_string(&mut bytes, "topic", &self.topic)?;
        bytes.extend_from_slice(&self.partition.to_be_bytes());
        Ok(bytes)
    }

    /// The record's value.
    pub fn encode_value(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        bytes.extend_from_slice(&self.upstream.to_be_bytes());
        bytes.extend_from_slice(&self.downstream.to_be_bytes());
        bytes
    }

    /// Reads a record.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, FormatError> {
        let (mut key, mut value) = (Reader(key), Reader(value));
        Ok(Self {
            topic: key.string("topic")?,
            partition: key.i32("partition")?,
            upstream: value.i64("upstreamOffset")?,
            downstream: value.i64("offset")?,
        })
    }
}

fn put_string(bytes: &mut Vec<u8>, field: &'static str, text: &str) -> Result<(), FormatError> {
    let length = i16::try_from(text.len()).map_err(|_| FormatError::TooLong { field, bytes: text.len() })?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

/// What is left of the bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], FormatError> {
        let missing = || FormatError::Truncated { field, missing: count.saturating_sub(self.0.len()) };
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(missing)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, FormatError> {
        self.array(field).map(i16::from_be_bytes)
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, FormatError> {
        self.array(field).map(i32::from_be_bytes)
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, FormatError> {
        self.array(field).map(i64::from_be_bytes)
    }

    fn string(&mut self, field: &'static str) -> Result<String, FormatError> {
        let length = self.i16(field)?;
        let count = usize::try_from(length).map_err(|_| FormatError::NegativeLength { field, length })?;
        let bytes = self.take(field, count)?;
        str::from_utf8(bytes).map(str::to_owned).map_err(|_| FormatError::NotUtf8 { field })
    }

    fn version(&mut self) -> Result<(), FormatError> {
        match self.i16("version")? {
            VERSION => Ok(()),
            version => Err(FormatError::UnknownVersion { version }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn heartbeat_is_mm2s_byte_for_byte() {
        let heartbeat = Heartbeat {
            source_alias: "source-1".into(),
            target_alias: "target-2".into(),
            timestamp_ms: 1_234_567_890,
        };
        assert_eq!(heartbeat.encode_key().unwrap(), unhex("0008736f757263652d3100087461726765742d32"));
        assert_eq!(heartbeat.encode_value(), unhex("000000000000499602d2"));
    }

    #[test]
    fn checkpoint_is_mm2s_byte_for_byte() {
        let checkpoint = Checkpoint {
            group: "group-1".into(),
            topic: "topic-2".into(),
            partition: 3,
            upstream: 4,
            downstream: 5,
            metadata: "metadata-6".into(),
        };
        assert_eq!(checkpoint.encode_key().unwrap(), unhex("000767726f75702d310007746f7069632d3200000003"));
        assert_eq!(
            checkpoint.encode_value().unwrap(),
            unhex("000000000000000000040000000000000005000a6d657461646174612d36")
        );
    }

    #[test]
    fn offset_sync_is_mm2s_byte_for_byte() {
        let sync = OffsetSync { topic: "topic-1".into(), partition: 2, upstream: 3, downstream: 4 };
        assert_eq!(sync.encode_key().unwrap(), unhex("0007746f7069632d3100000002"));
        assert_eq!(sync.encode_value(), unhex("00000000000000030000000000000004"));
    }

    #[test]
    fn malformed_records_are_refused_by_field() {
        let key = unhex("0008736f757263652d3100087461726765742d32");
        let value = unhex("000000000000499602d2");
        assert_eq!(
            Heartbeat::decode(&key[..15], &value).unwrap_err(),
            FormatError::Truncated { field: "targetClusterAlias", missing: 5 }
        );
        assert_eq!(
            Heartbeat::decode(&key, &unhex("000100000000499602d2")).unwrap_err(),
            FormatError::UnknownVersion { version: 1 }
        );
        assert_eq!(
            Heartbeat::decode(&unhex("ffff"), &value).unwrap_err(),
            FormatError::NegativeLength { field: "sourceClusterAlias", length: -1 }
        );
        assert_eq!(
            Heartbeat::decode(&unhex("0001ff"), &value).unwrap_err(),
            FormatError::NotUtf8 { field: "sourceClusterAlias" }
        );
        let long = OffsetSync { topic: "t".repeat(32_768), partition: 0, upstream: 0, downstream: 0 };
        assert_eq!(long.encode_key().unwrap_err(), FormatError::TooLong { field: "topic", bytes: 32_768 });
    }

    proptest! {
        #[test]
        fn heartbeats_round_trip(source_alias in ".{0,40}", target_alias in ".{0,40}", timestamp_ms: i64) {
            let heartbeat = Heartbeat { source_alias, target_alias, timestamp_ms };
            let decoded = Heartbeat::decode(&heartbeat.encode_key().unwrap(), &heartbeat.encode_value());
            prop_assert_eq!(decoded.unwrap(), heartbeat);
        }

        #[test]
        fn checkpoints_round_trip(
            (group, topic, metadata) in (".{0,40}", ".{0,40}", ".{0,40}"),
            (partition, upstream, downstream) in any::<(i32, i64, i64)>(),
        ) {
            let checkpoint = Checkpoint { group, topic, partition, upstream, downstream, metadata };
            let decoded =
                Checkpoint::decode(&checkpoint.encode_key().unwrap(), &checkpoint.encode_value().unwrap());
            prop_assert_eq!(decoded.unwrap(), checkpoint);
        }

        #[test]
        fn offset_syncs_round_trip(
            topic in ".{0,40}",
            (partition, upstream, downstream) in any::<(i32, i64, i64)>(),
        ) {
            let sync = OffsetSync { topic, partition, upstream, downstream };
            let decoded = OffsetSync::decode(&sync.encode_key().unwrap(), &sync.encode_value());
            prop_assert_eq!(decoded.unwrap(), sync);
        }

        /// No bytes make a decoder panic, and what it takes it can write again.
        #[test]
        fn decoding_is_total(key in prop::collection::vec(any::<u8>(), 0..64),
                             value in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(heartbeat) = Heartbeat::decode(&key, &value) {
                prop_assert!(key.starts_with(&heartbeat.encode_key().unwrap()));
                prop_assert!(value.starts_with(&heartbeat.encode_value()));
            }
            if let Ok(checkpoint) = Checkpoint::decode(&key, &value) {
                prop_assert!(key.starts_with(&checkpoint.encode_key().unwrap()));
                prop_assert!(value.starts_with(&checkpoint.encode_value().unwrap()));
            }
            if let Ok(sync) = OffsetSync::decode(&key, &value) {
                prop_assert!(key.starts_with(&sync.encode_key().unwrap()));
                prop_assert!(value.starts_with(&sync.encode_value()));
            }
        }
    }
}
