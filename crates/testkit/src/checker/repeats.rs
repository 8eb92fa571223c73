//! Does a topic hold records of the same key more than once?
//!
//! Owns the count over one cluster; must not know a second one. It tells what a producer appended twice (librdkafka does
//! after a broker died: once its sequence was refused it takes a new epoch and sends again what may be there already)
//! from what a mirror doubled: what is twice on the source is twice on the target.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use anyhow::{Context as _, Result};
use rdkafka::message::Message as _;

use super::Options;
use super::reader::{Isolation, Reader};

/// Repeats whose places are kept.
const PLACES_MAX: usize = 10;

/// A record whose key was there before in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// Where the key stood first.
    pub first_offset: i64,
    /// Where it stands again.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}: offset {} again at {}", self.partition, self.first_offset, self.offset)
    }
}

/// What was found in a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repeats {
    /// Records read.
    pub records: u64,
    /// Those of them whose key was there before in the same partition; records without a key count as one key.
    pub repeated: u64,
    /// The first of them.
    pub places: Vec<Place>,
}

/// Reads a topic whole, as a reader of committed records, and counts keys that come again. It takes about 24 bytes of
/// memory per record of the largest partition. Of `options` only the stall timeout is used.
pub async fn count_repeats(bootstrap: &str, topic: &str, options: &Options) -> Result<Repeats> {
    let (bootstrap, topic, options) = (bootstrap.to_owned(), topic.to_owned(), options.clone());
    let count = tokio::task::spawn_blocking(move || {
        let mut reader = Reader::connect("source", &bootstrap, Isolation::Committed)?;
        let mut repeats = Repeats::default();
        for partition in 0..reader.partition_count(&topic)? {
            reader.open(&(topic.clone(), partition), None, None, options.stall_timeout)?;
            count_partition(&mut reader, partition, &mut repeats)?;
            reader.close()?;
        }
        Ok(repeats)
    });
    count.await.context("a count of repeats was interrupted")?
}

fn count_partition(reader: &mut Reader, partition: i32, repeats: &mut Repeats) -> Result<()> {
    let hasher = RandomState::new();
    let mut seen: HashMap<u64, i64> = HashMap::new();
    while let Some(record) = reader.next()? {
        let offset = record.offset();
        repeats.records += 1;
        let first_offset = *seen.entry(hasher.hash_one(record.key())).or_insert(offset);
        if first_offset != offset {
            repeats.repeated += 1;
            if repeats.places.len() < PLACES_MAX {
                repeats.places.push(Place { partition, first_offset, offset });
            }
        }
    }
    Ok(())
}
