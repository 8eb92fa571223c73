//! The descriptor sets: what reflection shows to users, and that no `.proto` file was forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mirrormesh_proto::{ERROR_DETAIL_DESCRIPTORS, MESH_DESCRIPTORS, PUBLIC_DESCRIPTORS};
use prost::Message;
use prost_types::FileDescriptorSet;

/// Our own files in a set.
fn files(set: &[u8]) -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(set).unwrap();
    set.file.into_iter().filter_map(|file| file.name).filter(|name| name.starts_with("mirrormesh/")).collect()
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_file_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut expected = BTreeSet::new();
    collect(&root, &root, &mut expected);
    assert_eq!(files(MESH_DESCRIPTORS), expected, "the lists in build.rs");
}

#[test]
fn users_see_the_public_api_only() {
    let public = files(PUBLIC_DESCRIPTORS);
    assert!(public.iter().all(|name| name.starts_with("mirrormesh/v1/")), "{public:?}");
    let set = FileDescriptorSet::decode(PUBLIC_DESCRIPTORS).unwrap();
    let services: BTreeSet<_> =
        set.file.iter().flat_map(|file| &file.service).filter_map(|s| s.name.clone()).collect();
    let expected = ["ClusterService", "FlowService", "MeshService", "WorkerService"];
    assert_eq!(services, expected.map(str::to_owned).into());
}

#[test]
fn the_types_of_error_details_are_described() {
    let set = FileDescriptorSet::decode(ERROR_DETAIL_DESCRIPTORS).unwrap();
    let rpc = set.file.iter().filter(|file| file.package.as_deref() == Some("google.rpc"));
    let messages: BTreeSet<&str> =
        rpc.flat_map(|file| &file.message_type).filter_map(|m| m.name.as_deref()).collect();
    for sent in ["ErrorInfo", "BadRequest", "RetryInfo", "Status"] {
        assert!(messages.contains(sent), "{messages:?}");
    }
    // What they are made of is in the set too, whatever a client knows by itself.
    let present: BTreeSet<&str> = set.file.iter().filter_map(|file| file.name.as_deref()).collect();
    let needed: BTreeSet<&str> =
        set.file.iter().flat_map(|file| &file.dependency).map(String::as_str).collect();
    assert!(needed.is_subset(&present), "{needed:?} {present:?}");
}
