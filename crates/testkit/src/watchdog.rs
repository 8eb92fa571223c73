//! A shell process that cleans up after us when we can't: it kills our process groups and removes our directories as
//! soon as we are gone, however we went (statics are never dropped, and `kill -9` runs no code).
//!
//! Owns the list of what has to go. It learns of our end by the end of file on its standard input, whose other end
//! only this process holds (std opens pipes close-on-exec). It is in a process group of its own and ignores the
//! signals of the terminal. `PR_SET_PDEATHSIG` is no alternative: it needs unsafe code and fires when the *thread*
//! that started the child ends.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

/// Directories are only ever removed when their name begins so.
pub(crate) const DIRECTORY_PREFIX: &str = "mirrormesh-";

const SCRIPT: &str = r#"
set -f
trap '' HUP INT QUIT TERM
nl='
'
groups=
directories=
without() {
  rest=
  IFS=$nl
  for item in $1; do
    [ "$item" = "$2" ] || rest="$rest$item$nl"
  done
  unset IFS
}
while IFS= read -r line; do
  case $line in
    "+group "*) groups="$groups${line#+group }$nl" ;;
    "-group "*) without "$groups" "${line#-group }"; groups=$rest ;;
    "+directory "*) directories="$directories${line#+directory }$nl" ;;
    "-directory "*) without "$directories" "${line#-directory }"; directories=$rest ;;
  esac
done
for group in $groups; do
  kill -s KILL -- "-$group"
done
IFS=$nl
for directory in $directories; do
  case $directory in
    /*/mirrormesh-*) rm -rf -- "$directory" || { sleep 1; rm -rf -- "$directory"; } ;;
  esac
done
"#;

static WATCHDOG: OnceLock<Mutex<Option<Child>>> = OnceLock::new();

fn start() -> Result<Child> {
    Command::new("sh")
        .args(["-c", SCRIPT, "mirrormesh-watchdog"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start sh, which kills child processes when this one dies")
}

fn tell(line: &str) -> Result<()> {
    if line.trim_end_matches('\n').contains('\n') {
        bail!("cannot watch over a name with a line break: {line:?}");
    }
    let mut slot = WATCHDOG.get_or_init(Mutex::default).lock();
    let child = match &mut *slot {
        Some(child) => child,
        none => none.insert(start()?),
    };
    let pipe = child.stdin.as_mut().context("the watchdog has no standard input")?;
    pipe.write_all(line.as_bytes()).context("the watchdog process is gone")
}

/// A process group that dies with us; given up when dropped.
#[derive(Debug)]
pub(crate) struct WatchedGroup(u32);

impl WatchedGroup {
    pub(crate) fn new(group: u32) -> Result<Self> {
        tell(&format!("+group {group}\n"))?;
        Ok(Self(group))
    }
}

impl Drop for WatchedGroup {
    fn drop(&mut self) {
        if let Err(error) = tell(&format!("-group {}\n", self.0)) {
            tracing::warn!("cannot tell the watchdog that group {} ended: {error:#}", self.0);
        }
    }
}

/// A directory that is removed when dropped, and when we die.
#[derive(Debug)]
pub(crate) struct WatchedDirectory {
    path: PathBuf,
    keep: bool,
}

impl WatchedDirectory {
    /// Makes a directory with a unique name in the system's directory for temporary files.
    /// With `keep` it stays for ever.
    pub(crate) fn new(name: &str, keep: bool) -> Result<Self> {
        Self::within(&std::env::temp_dir(), name, keep)
    }

    /// As [`Self::new`], in the directory `root`, which must exist.
    pub(crate) fn within(root: &Path, name: &str, keep: bool) -> Result<Self> {
        let root = std::path::absolute(root).context("a directory without a place")?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{DIRECTORY_PREFIX}{name}-"))
            .tempdir_in(&root)
            .with_context(|| format!("cannot make a temporary directory in {}", root.display()))?
            .keep();
        if !keep {
            tell(&format!("+directory {}\n", path.display()))?;
        }
        Ok(Self { path, keep })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WatchedDirectory {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
        if let Err(error) = tell(&format!("-directory {}\n", self.path.display())) {
            tracing::warn!("cannot tell the watchdog that {} is gone: {error:#}", self.path.display());
        }
    }
}
