//! The requests that the fake broker serves, one per file.

mod alter_configs;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod describe_configs;
mod describe_producers;
mod fetch;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
mod produce;
mod versions;
mod write_txn_markers;

pub(super) use versions::range;
