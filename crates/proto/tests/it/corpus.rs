//! Bytes that some version stored (`.hex`), and what they mean (`.txt`, the text format of Protocol Buffers): every later
//! version reads them alike.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use mirrormesh_core::ids::{FlowId, TopicId, TopicName};
use mirrormesh_core::position::{PositionKey, PositionKind};
use mirrormesh_core::registry::{ClaimKey, RegistryKey, WriterKey};
use mirrormesh_core::unit::Generation;
use mirrormesh_proto::convert::command::{decode_command, encode_command};
use mirrormesh_proto::convert::position::{decode_key, decode_value, encode_key, encode_value};
use mirrormesh_proto::convert::registry::{
    decode_registry_key, decode_registry_value, encode_registry_key, encode_registry_value,
};
use mirrormesh_proto::convert::state::{decode_state, encode_state};
use mirrormesh_proto::{ConvertError, MESH_DESCRIPTORS};

use prost_reflect::text_format::FormatOptions;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _};

use crate::samples;

/// Set to write files of samples that have none yet. Present files are never written.
const WRITE: &str = "MIRRORMESH_WRITE_CORPUS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/store-v1")
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(40) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The message that a kind of bytes holds, and how today's version writes what it reads of them.
fn read(kind: &str, bytes: &[u8]) -> Result<(&'static str, Vec<u8>), ConvertError> {
    let key = |kind| PositionKey {
        flow: FlowId::new("any").unwrap(),
        target_topic_id: TopicId::default(),
        partition: 0,
        kind,
    };
    let slot = PositionKind::Position { generation: Generation { producer_id: 0, epoch: 0 }, slot: 0 };
    let value = |kind| decode_value(&key(kind), bytes).map(|v| encode_value(&v));
    let any = || TopicName::new("any").unwrap();
    let registry = |key: RegistryKey| decode_registry_value(&key, bytes).map(|v| encode_registry_value(&v));
    let writer = RegistryKey::Writer(WriterKey { producer_id: 0, topic: any(), partition: 0 });
    let claim = RegistryKey::Claim(ClaimKey { source_cluster: String::new(), topic: any() });
    let (message, again) = match kind {
        "command" => ("Command", decode_command(bytes).map(|v| encode_command(&v))),
        "state" => ("State", decode_state(bytes).map(|v| encode_state(&v))),
        "key" => ("PositionKey", decode_key(bytes).map(|v| encode_key(&v))),
        "registry-key" => ("RegistryKey", decode_registry_key(bytes).map(|v| encode_registry_key(&v))),
        "writer" => ("Writer", registry(writer)),
        "claim" => ("Claim", registry(claim)),
        "position" => ("Position", value(slot)),
        "segments" => ("Segments", value(PositionKind::Segments { producer_id: 0, number: 0, chunk: 0 })),
        _ => panic!("unknown kind {kind}"),
    };
    Ok((message, again?))
}

/// What bytes mean: the message that today's version writes for them.
fn meaning(kind: &str, bytes: &[u8]) -> Result<DynamicMessage, ConvertError> {
    // One for all: messages of two pools are never equal.
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(MESH_DESCRIPTORS).unwrap());
    let (message, again) = read(kind, bytes)?;
    let described = POOL.get_message_by_name(&format!("mirrormesh.store.v1.{message}")).unwrap();
    Ok(DynamicMessage::decode(described, again.as_slice()).unwrap())
}

/// Names of the files with one extension.
fn names(extension: &str) -> BTreeSet<String> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let wanted = files.filter(|path| path.extension().is_some_and(|e| e == extension));
    wanted.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn write_missing() {
    let write = |name: &str, extension: &str, content: &str| {
        let path = folder().join(format!("{name}.{extension}"));
        if !path.exists() {
            fs::write(path, content).unwrap();
        }
    };
    for (name, bytes) in samples::all() {
        write(&name, "hex", &to_hex(&bytes));
    }
    for name in names("hex") {
        let bytes = from_hex(&fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap());
        let meaning = meaning(name.split('_').next().unwrap(), &bytes).unwrap();
        let text = meaning.to_text_format_with_options(&FormatOptions::new().pretty(true));
        write(&name, "txt", &(text + "\n"));
    }
}

#[test]
fn stored_bytes_are_read_for_ever() {
    if std::env::var_os(WRITE).is_some() {
        write_missing();
    }
    let stored = names("hex");
    assert_eq!(stored, names("txt"), "every value has its text");
    for name in &stored {
        let bytes = from_hex(&fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap());
        let expected = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
        let kind = name.split('_').next().unwrap();
        let meant = meaning(kind, &bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        // A field that came later and has its default is in neither, so that the files stay as they are.
        let expected = DynamicMessage::parse_text_format(meant.descriptor(), &expected).unwrap();
        assert_eq!(meant, expected, "{name} is read as something else");
        let again = read(kind, &bytes).unwrap().1;
        let twice = meaning(kind, &again).unwrap_or_else(|error| panic!("{name}, written again: {error}"));
        assert_eq!(twice, meant, "{name}: what today's version writes is read alike");
        if kind == "key" || kind == "registry-key" {
            assert_eq!(read(kind, &bytes).unwrap().1, bytes, "{name}: compaction compares the bytes of keys");
        }
    }
}

#[test]
fn every_sample_is_in_the_corpus() {
    let stored = names("hex");
    let missing: Vec<_> =
        samples::all().into_iter().map(|(name, _)| name).filter(|name| !stored.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "run the tests once with {WRITE}=1 to write {missing:?}, and commit the files"
    );
}

#[test]
fn every_kind_of_command_is_in_the_corpus() {
    let kinds: BTreeSet<_> = names("hex")
        .iter()
        .filter(|name| name.starts_with("command_"))
        .map(|name| {
            let bytes = from_hex(&fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap());
            decode_command(&bytes).unwrap().kind.name()
        })
        .collect();
    assert_eq!(kinds.len(), 17, "a new kind of command needs a sample: {kinds:?}");
}
