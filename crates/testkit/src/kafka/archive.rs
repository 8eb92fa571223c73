//! The archive of a broker's parsed classes: where it is, and the option that uses it.

use std::path::PathBuf;

use anyhow::Result;

use crate::jars::JarDir;
use crate::java::Runtime;

/// The option that uses the archive.
pub(super) fn archive_option(jars: &JarDir) -> Result<Option<String>> {
    let archive = archive(jars)?;
    Ok(archive.is_file().then(|| format!("-XX:SharedArchiveFile={}", archive.display())))
}

pub(super) fn archive(jars: &JarDir) -> Result<PathBuf> {
    Ok(jars.root().join(format!("classes-{:08x}.jsa", Runtime::find()?.build_id())))
}
