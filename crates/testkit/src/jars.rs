//! Kafka's jars: fetched from Maven once per version, kept in the workspace's `.kafka` directory.
//!
//! Owns the directory's layout and the fetch; must not know what is run with the jars.
//!
//! ```text
//! .kafka/4.3.1.lock            only one process fetches at a time
//! .kafka/4.3.1/pom.xml         what was fetched: a changed pom fetches again
//! .kafka/4.3.1/libs/*.jar      the class path
//! .kafka/4.3.1/logging.properties
//! .kafka/4.3.1/bootstrap.checkpoint, classes-*.jsa      made by `kafka::prepare`
//! ```

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::find_program;

/// Pinned, as Maven's own default differs from one distribution to the next.
const COPY_GOAL: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
/// Overrides where the jars are kept.
const DIRECTORY_VARIABLE: &str = "MIRRORMESH_KAFKA_JARS";
const LOG4J2: &str = include_str!("../kafka/log4j2.properties");
const LOG4J1: &str = include_str!("../kafka/log4j1.properties");

/// The versions of Kafka that can be run; each is pinned by a pom in this crate's `kafka` directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum KafkaVersion {
    /// 4.3.1.
    #[default]
    V4_3,
    /// 3.9.2, the last one of the old major version.
    V3_9,
}

impl KafkaVersion {
    /// All of them, newest first.
    pub const ALL: [Self; 2] = [Self::V4_3, Self::V3_9];

    /// The whole version number.
    pub fn number(self) -> &'static str {
        match self {
            Self::V4_3 => "4.3.1",
            Self::V3_9 => "3.9.2",
        }
    }

    fn pom(self) -> &'static str {
        match self {
            Self::V4_3 => include_str!("../kafka/pom-4.3.xml"),
            Self::V3_9 => include_str!("../kafka/pom-3.9.xml"),
        }
    }

    fn logging(self) -> &'static str {
        match self {
            Self::V4_3 => LOG4J2,
            Self::V3_9 => LOG4J1,
        }
    }
}

impl fmt::Display for KafkaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// The jars of one version, all there.
#[derive(Debug, Clone)]
pub struct JarDir {
    version: KafkaVersion,
    root: PathBuf,
    jars: Vec<PathBuf>,
}

impl JarDir {
    /// The version they are of.
    pub fn version(&self) -> KafkaVersion {
        self.version
    }

    /// The directory of this version; what is derived from the jars is kept here too.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The class path for `java -cp`. The order is always the same: class data archives depend on it.
    pub fn class_path(&self) -> String {
        let paths: Vec<_> = self.jars.iter().map(|jar| jar.to_string_lossy()).collect();
        paths.join(":")
    }

    /// The argument that makes Kafka log to standard output.
    pub fn logging_argument(&self) -> String {
        let file = self.root.join("logging.properties");
        match self.version {
            KafkaVersion::V4_3 => format!("-Dlog4j2.configurationFile={}", file.display()),
            KafkaVersion::V3_9 => format!("-Dlog4j.configuration=file:{}", file.display()),
        }
    }

    /// Takes the lock of this version, waiting for another process that holds it.
    pub(crate) fn lock(&self) -> Result<File> {
        lock(&self.root)
    }

    fn open(version: KafkaVersion, root: &Path) -> Result<Option<Self>> {
        if fs::read_to_string(root.join("pom.xml")).ok().as_deref() != Some(version.pom())
            || fs::read_to_string(root.join("logging.properties")).ok().as_deref() != Some(version.logging())
        {
            return Ok(None);
        }
        // Without `..` in it: the class path goes into logs and class archives.
        let root = root.canonicalize().with_context(|| format!("cannot resolve {}", root.display()))?;
        let jars = list_jars(&root.join("libs"))?;
        Ok(Some(Self { version, root, jars }))
    }
}

/// Makes sure that the jars are there. The first time this takes Maven, a network and some seconds.
/// Blocks; several processes may call it at once.
pub fn ensure(version: KafkaVersion) -> Result<JarDir> {
    let root = home().join(version.number());
    if let Some(found) = JarDir::open(version, &root)? {
        return Ok(found);
    }
    fs::create_dir_all(home()).with_context(|| format!("cannot make {}", home().display()))?;
    let _lock = lock(&root)?;
    if let Some(found) = JarDir::open(version, &root)? {
        return Ok(found);
    }
    fetch(version, &root)?;
    JarDir::open(version, &root)?
        .with_context(|| format!("the jars of Kafka {version} are incomplete in {}", root.display()))
}

fn home() -> PathBuf {
    std::env::var_os(DIRECTORY_VARIABLE)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.kafka"), PathBuf::from)
}

fn lock(root: &Path) -> Result<File> {
    let mut name = root.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let file =
        File::create(&path).with_context(|| format!("cannot open the lock file {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Fetches into a directory beside the final one and renames it when it is whole.
fn fetch(version: KafkaVersion, root: &Path) -> Result<()> {
    let maven = find_program(Path::new("mvn")).with_context(|| {
        format!("mvn is not on the PATH; it fetches the jars of Kafka {version}: apt-get install maven")
    })?;
    let home = root.parent().context("the jar directory has no parent")?;
    let staging = tempfile::Builder::new()
        .prefix(&format!("{version}-staging-"))
        .tempdir_in(home)
        .with_context(|| format!("cannot make a directory in {}", home.display()))?;
    let pom = staging.path().join("pom.xml");
    fs::write(&pom, version.pom()).with_context(|| format!("cannot write {}", pom.display()))?;
    fs::write(staging.path().join("logging.properties"), version.logging())
        .context("cannot write a log setting")?;
    let libs = staging.path().join("libs");
    tracing::info!("fetching the jars of Kafka {version}");
    let output = Command::new(&maven)
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .args([COPY_GOAL, "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", maven.display()))?;
    if !output.status.success() {
        bail!("mvn could not fetch the jars of Kafka {version}: {}", first_error(&output.stdout));
    }
    list_jars(&libs)?;
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    fs::rename(staging.keep(), root).with_context(|| format!("cannot make {}", root.display()))
}

/// Maven says the reason in its first line of error.
fn first_error(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().find(|line| line.contains("ERROR"));
    first.or_else(|| lines.next()).unwrap_or("it said nothing").to_owned()
}

fn list_jars(libs: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(libs).with_context(|| format!("cannot list {}", libs.display()))?;
    let mut jars = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", libs.display()))?.path();
        if path.extension() == Some(OsStr::new("jar")) {
            jars.push(path);
        }
    }
    jars.sort();
    if !jars
        .iter()
        .any(|jar| jar.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kafka_2.13-")))
    {
        bail!("{} holds no Kafka broker", libs.display());
    }
    Ok(jars)
}
