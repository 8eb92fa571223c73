//! Checkpoints and heartbeats: MirrorMaker 2's records, read back as its client would.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};

use mirrormesh_testkit::workload::Codec;

use crate::rig::{PATIENCE, Rig, plan, produce, unique};

/// A big-endian reader of MirrorMaker 2's schemas, written apart from the product's own.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_at_checked(N).context("record too short")?;
        self.0 = rest;
        Ok(head.try_into()?)
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(length).context("record too short")?;
        self.0 = rest;
        Ok(String::from_utf8(head.to_vec())?)
    }
}

async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(tokio::time::Instant::now() < deadline, "{what}: not seen");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_offsets_are_translated_exactly() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (topic, group) = (unique("groups"), unique("group"));
    // Records on the target before the mirror begins, so that offsets differ.
    produce(&rig.target, vec![plan(&topic, 1, 25, Codec::None)], None).await?.finish().await?;
    produce(&rig.source, vec![plan(&topic, 1, 1_000, Codec::Lz4)], None).await?.finish().await?;
    probe::commit(&rig.source, &group, &topic, 0, 417).await?;
    let mut flow = crate::rig::identity(&[&topic]);
    flow.groups =
        Some(mirrormesh_proto::v1::GroupSelection { include: vec![group.clone()], exclude: vec![] });
    flow.checkpoints = Some(mirrormesh_proto::v1::CheckpointOptions {
        interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    });
    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;
    rig.caught_up(1).await?;

    for committed in [417_i64, 1_000, 3] {
        probe::commit(&rig.source, &group, &topic, 0, committed).await?;
        let (upstream, downstream) = wait_for("checkpoint", async || {
            let all = probe::read(&rig.target, "uk.checkpoints.internal").await?;
            let mut ours = all.iter().filter_map(|r| checkpoint(r, &group, &topic).transpose());
            let newest = ours.next_back().transpose()?;
            Ok(newest.filter(|(upstream, _)| *upstream == committed))
        })
        .await?;
        ensure!(downstream == upstream + 25, "{upstream} → {downstream}");
    }
    Ok(())
}

/// The offsets of a checkpoint record of this group and topic.
fn checkpoint(record: &Plain, group: &str, topic: &str) -> Result<Option<(i64, i64)>> {
    let mut key = Fields(record.key.as_deref().context("no key")?);
    let (of_group, of_topic, partition) = (key.text()?, key.text()?, i32::from_be_bytes(key.take()?));
    if of_group != group || of_topic != topic {
        return Ok(None);
    }
    ensure!(partition == 0 && key.0.is_empty());
    let mut value = Fields(record.value.as_deref().context("no value")?);
    ensure!(i16::from_be_bytes(value.take()?) == 0, "version");
    let offsets = (i64::from_be_bytes(value.take()?), i64::from_be_bytes(value.take()?));
    value.text()?;
    ensure!(value.0.is_empty());
    Ok(Some(offsets))
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_mirror_maker_records() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    rig.mirror(&[&unique("none")]).await?;
    let seen = wait_for("two heartbeats", async || {
        let all = probe::read(&rig.target, "heartbeats").await.unwrap_or_default();
        Ok((all.len() >= 2).then_some(all))
    })
    .await?;
    for record in seen {
        let mut key = Fields(record.key.as_deref().context("no key")?);
        ensure!((key.text()?, key.text()?) == ("uk".to_owned(), "hq".to_owned()) && key.0.is_empty());
        let mut value = Fields(record.value.as_deref().context("no value")?);
        ensure!(i16::from_be_bytes(value.take()?) == 0, "version");
        ensure!(i64::from_be_bytes(value.take()?) == record.timestamp_ms && value.0.is_empty());
    }
    Ok(())
}
