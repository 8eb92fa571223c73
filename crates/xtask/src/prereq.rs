//! What the project needs from the machine, and how to get it.
//!
//! As root on Debian or a relative of it, missing packages are installed without a question; else one line says what
//! is missing and the command that installs it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::{capture, find_program, show};

/// Kafka 4 needs it.
const JAVA_MAJOR_MIN: u32 = 17;

/// What a task is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compile the workspace: C and C++ of librdkafka, zstd and others, against the system's OpenSSL and zlib.
    Build,
    /// That, and run real Kafka brokers.
    Kafka,
    /// That, and install a program from `PyPI`.
    Python,
}

/// One thing that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// A program on the `PATH`, and the package that brings it.
    Program(&'static str, &'static str),
    /// A library with its headers, by its pkg-config name and one of its headers, and the package that brings it.
    Library(&'static str, &'static str, &'static str),
    /// A Java runtime that is new enough.
    Java,
    /// Python, with what makes an environment that packages can be installed to.
    Python,
}

const BUILD: [Need; 7] = [
    Need::Program("cc", "gcc libc6-dev"),
    Need::Program("c++", "g++"),
    Need::Program("make", "make"),
    Need::Program("perl", "perl"),
    Need::Program("pkg-config", "pkg-config"),
    Need::Library("openssl", "openssl/ssl.h", "libssl-dev"),
    Need::Library("zlib", "zlib.h", "zlib1g-dev"),
];
const KAFKA: [Need; 2] = [Need::Java, Need::Program("mvn", "maven")];

impl Need {
    fn name(self) -> String {
        match self {
            Self::Program(name, _) => name.to_owned(),
            Self::Library(name, _, _) => format!("the headers of {name}"),
            Self::Java => format!("java {JAVA_MAJOR_MIN} or newer"),
            Self::Python => "python3 with venv".to_owned(),
        }
    }

    fn is_met(self) -> bool {
        match self {
            Self::Program(name, _) => find_program(name).is_some(),
            Self::Library(name, header, _) => {
                // Without pkg-config itself, which is a need of its own, its usual place tells.
                quiet("pkg-config", &["--exists", name])
                    || std::path::Path::new("/usr/include").join(header).is_file()
            }
            Self::Python => quiet("python3", &["-c", "import ensurepip, venv"]),
            Self::Java => java_major().is_some_and(|major| major >= JAVA_MAJOR_MIN),
        }
    }
}

/// Makes sure that all is there, installing what is missing if that is possible.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    let root = capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || find_program("apt-get").is_none() {
        bail!(advice(&missing, &packages(&missing, "openjdk-17-jre-headless")));
    }
    println!("missing: {}; installing", names(&missing));
    show(&mut apt(&["update", "-qq"])).context("the package lists could not be fetched")?;
    let packages = packages(&missing, &java_package());
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    let installed = show(install.args(&packages));
    let still = self::missing(purpose);
    if still.is_empty() {
        return Ok(());
    }
    let advice = advice(&still, &packages);
    match installed {
        Ok(()) => bail!(advice),
        Err(error) => Err(error.context(advice)),
    }
}

fn missing(purpose: Purpose) -> Vec<Need> {
    let more: &[Need] = match purpose {
        Purpose::Build => &[],
        Purpose::Kafka => &KAFKA,
        Purpose::Python => &[Need::Python],
    };
    BUILD.iter().chain(more).copied().filter(|need| !need.is_met()).collect()
}

fn names(needs: &[Need]) -> String {
    needs.iter().map(|need| need.name()).collect::<Vec<_>>().join(", ")
}

/// One line: what, and the command.
fn advice(missing: &[Need], packages: &[String]) -> String {
    format!(
        "missing: {}; as root: apt-get update && apt-get install -y --no-install-recommends {}",
        names(missing),
        packages.join(" ")
    )
}

fn packages(missing: &[Need], java: &str) -> Vec<String> {
    let lists = missing.iter().map(|need| match need {
        Need::Program(_, packages) | Need::Library(_, _, packages) => *packages,
        Need::Java => java,
        Need::Python => "python3-venv",
    });
    lists.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// The oldest runtime that will do if the distribution has it, else its newest one.
fn java_package() -> String {
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only", "^openjdk-[0-9]+-jre-headless$"]).stdin(Stdio::null());
    let found = capture(&mut search).unwrap_or_default();
    format!("openjdk-{}-jre-headless", pick_java(&found).unwrap_or(JAVA_MAJOR_MIN))
}

/// From lines such as `openjdk-21-jre-headless - OpenJDK Java runtime`.
fn pick_java(found: &str) -> Option<u32> {
    let mut majors: Vec<u32> = found
        .lines()
        .filter_map(|line| line.strip_prefix("openjdk-")?.split_once("-jre-headless")?.0.parse().ok())
        .filter(|major| *major >= JAVA_MAJOR_MIN)
        .collect();
    majors.sort_unstable();
    if majors.contains(&JAVA_MAJOR_MIN) { Some(JAVA_MAJOR_MIN) } else { majors.last().copied() }
}

fn java_major() -> Option<u32> {
    let home = std::env::var_os("JAVA_HOME").map(|home| std::path::Path::new(&home).join("bin/java"));
    let java = home.filter(|path| path.is_file()).or_else(|| find_program("java"))?;
    let output = Command::new(java).arg("-version").stdin(Stdio::null()).output().ok()?;
    parse_java_major(&String::from_utf8_lossy(&output.stderr))
}

/// The number in `openjdk version "17.0.15" 2025-04-15`.
fn parse_java_major(banner: &str) -> Option<u32> {
    let version = banner.split('"').nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn quiet(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_one_line_with_the_command() {
        let missing = [Need::Program("cc", "gcc libc6-dev"), Need::Java, Need::Program("mvn", "maven")];
        let advice = advice(&missing, &packages(&missing, "openjdk-21-jre-headless"));
        assert_eq!(
            advice,
            "missing: cc, java 17 or newer, mvn; as root: apt-get update && apt-get install -y \
             --no-install-recommends gcc libc6-dev openjdk-21-jre-headless maven"
        );
    }

    #[test]
    fn java_17_is_preferred_then_the_newest() {
        let line = |major| format!("openjdk-{major}-jre-headless - OpenJDK Java runtime\n");
        assert_eq!(pick_java(&(line(11) + &line(17) + &line(21))), Some(17));
        assert_eq!(pick_java(&(line(21) + &line(25))), Some(25));
        assert_eq!(pick_java(&line(11)), None);
        assert_eq!(pick_java(""), None);
    }

    #[test]
    fn java_versions_are_read() {
        assert_eq!(parse_java_major("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(parse_java_major("java version \"1.8.0_392\""), Some(1));
        assert_eq!(parse_java_major(""), None);
    }

    #[test]
    fn what_is_not_there_is_missed() {
        assert!(!Need::Program("no-such-program", "nothing").is_met());
        assert!(!Need::Library("no-such-library", "no/such.h", "nothing").is_met());
        assert!(Need::Program("sh", "dash").is_met());
    }
}
