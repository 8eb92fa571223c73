//! Running Java programs against Kafka's jars: brokers, Kafka's own tools, MirrorMaker 2, small programs of ours.
//!
//! Owns the finding of Java and the command line; must not know what a program does.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::jars::JarDir;
use crate::process::{Launch, Process, find_program};
use crate::watchdog::WatchedDirectory;

/// Kafka 4 needs it.
const MAJOR_VERSION_MIN: u32 = 17;
/// More than this of a program's output is cut off.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A Java runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    program: PathBuf,
    banner: String,
}

impl Runtime {
    /// `$JAVA_HOME/bin/java` or the one on the `PATH`; an error if there is none or it is too old.
    pub fn find() -> Result<Self> {
        static FOUND: OnceLock<Runtime> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found.clone());
        }
        let found = Self::look()?;
        Ok(FOUND.get_or_init(|| found).clone())
    }

    fn look() -> Result<Self> {
        let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
        let program = home
            .filter(|path| path.is_file())
            .or_else(|| find_program(Path::new("java")))
            .context("java is not on the PATH; Kafka needs it: apt-get install openjdk-17-jre-headless")?;
        let output = Command::new(&program)
            .arg("-version")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let banner = String::from_utf8_lossy(&output.stderr).into_owned();
        let major = major_version(&banner)
            .with_context(|| format!("{} does not say its version: {banner:?}", program.display()))?;
        if major < MAJOR_VERSION_MIN {
            bail!("{} is Java {major}; Kafka needs {MAJOR_VERSION_MIN} or newer", program.display());
        }
        Ok(Self { program, banner })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Tells one build of Java from another: class data archives work only with the build that made them.
    pub(crate) fn build_id(&self) -> u32 {
        crc32c::crc32c(self.banner.as_bytes())
    }
}

/// The number in `openjdk version "17.0.15" 2025-04-15`.
fn major_version(banner: &str) -> Option<u32> {
    let version = banner.split('"').nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A Java program and how to run it.
#[derive(Debug, Clone)]
pub struct Program {
    jars: JarDir,
    main: String,
    arguments: Vec<String>,
    options: Vec<String>,
    class_path_more: Vec<PathBuf>,
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Program {
    /// A main class on the jars' class path, e.g. `org.apache.kafka.tools.TopicCommand`; or the path of a `.java`
    /// file with a main class, which takes a JDK (a headless runtime has no compiler).
    pub fn new(jars: &JarDir, main: impl Into<String>) -> Self {
        Self {
            jars: jars.clone(),
            main: main.into(),
            arguments: Vec::new(),
            options: Vec::new(),
            class_path_more: Vec::new(),
        }
    }

    /// Adds arguments of the program.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds options of the virtual machine, e.g. `-Xmx1g`.
    #[must_use]
    pub fn options(mut self, options: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Adds a jar or a directory of classes in front of the class path.
    #[must_use]
    pub fn class_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.class_path_more.push(path.into());
        self
    }

    fn command_line(&self) -> Vec<String> {
        let mut class_path: Vec<_> =
            self.class_path_more.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        class_path.push(self.jars.class_path());
        let mut line = self.options.clone();
        // Neither shared files in the temporary directory nor a display.
        line.extend(["-XX:-UsePerfData".to_owned(), "-Djava.awt.headless=true".to_owned()]);
        line.push(self.jars.logging_argument());
        line.extend(["-cp".to_owned(), class_path.join(":"), self.main.clone()]);
        line.extend(self.arguments.iter().cloned());
        line
    }

    /// Starts it as a process that goes on, its output going to the file `log`.
    pub fn spawn(&self, log: impl Into<PathBuf>) -> Result<Process> {
        Launch::new(Runtime::find()?.program(), log).args(self.command_line()).spawn()
    }

    /// Runs it to its end with `stdin` as its standard input. Killed and an error after `timeout`.
    pub async fn run(&self, stdin: &[u8], timeout: Duration) -> Result<Output> {
        // Files instead of pipes: nothing can fill up, and the process is guarded like all others.
        let directory = WatchedDirectory::new("java", false)?;
        let (input, stderr) = (directory.path().join("stdin"), directory.path().join("stderr"));
        std::fs::write(&input, stdin).context("cannot write the input of a Java program")?;
        let script = "in=$1; err=$2; shift 2; exec \"$@\" <\"$in\" 2>\"$err\"";
        let stdout = directory.path().join("stdout");
        let process = Launch::new("sh", &stdout)
            .args(["-c", script, "sh"])
            .args([input.to_string_lossy(), stderr.to_string_lossy()])
            .arg(Runtime::find()?.program().to_string_lossy())
            .args(self.command_line())
            .spawn()?;
        let status = process.wait(timeout).await.with_context(|| format!("running {}", self.main))?;
        Ok(Output { status, stdout: read_output(&stdout)?, stderr: read_output(&stderr)? })
    }

    /// As [`Self::run`], but an exit code other than 0 is an error that holds what the program said.
    pub async fn run_ok(&self, stdin: &[u8], timeout: Duration) -> Result<String> {
        let output = self.run(stdin, timeout).await?;
        if !output.status.success() {
            bail!("{} failed: {}\n{}{}", self.main, output.status, output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }
}

fn read_output(path: &Path) -> Result<String> {
    let mut bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    bytes.truncate(OUTPUT_BYTES_MAX);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15\n"), Some(17));
        assert_eq!(major_version("openjdk version \"25\" 2025-09-16\n"), Some(25));
        assert_eq!(major_version("java version \"1.8.0_392\"\n"), Some(1));
        assert_eq!(major_version("nothing"), None);
    }
}
