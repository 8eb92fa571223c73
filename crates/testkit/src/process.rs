//! Child processes for tests: started in a process group of their own, logged to a file, signalled, and never left
//! behind.
//!
//! Owns the life of one child and its group; must not know what the program does. Invariant: the group is dead when
//! the [`Process`] is dropped and when this process dies, even by SIGKILL.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::watchdog::WatchedGroup;

/// Waits for one line, so that nothing runs before the watchdog knows of it, and then becomes the program.
const GATE: &str = "read -r go || exit 125; exec \"$@\"";
/// How often an exit is looked for.
const WAIT_STEP: Duration = Duration::from_millis(5);
/// The tail of a log is looked for in its last bytes only.
const TAIL_BYTES_MAX: u64 = 256 * 1024;

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end in order.
    Term,
    /// SIGKILL: end now.
    Kill,
    /// SIGSTOP: stand still.
    Stop,
    /// SIGCONT: go on.
    Cont,
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Term => Self::TERM,
            Signal::Kill => Self::KILL,
            Signal::Stop => Self::STOP,
            Signal::Cont => Self::CONT,
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: Option<PathBuf>,
    log: PathBuf,
}

impl Launch {
    /// A program (a path, or a name to be found on the `PATH`) whose output goes to the end of the file `log`.
    pub fn new(program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
            log: log.into(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable; the others are inherited.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Starts it. A program that is not there is an error here, not later.
    pub fn spawn(&self) -> Result<Process> {
        let program = find_program(&self.program)
            .with_context(|| format!("{} is not there or not on the PATH", self.program.display()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open the log file {}", self.log.display()))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", GATE, "sh"])
            .arg(&program)
            .args(&self.arguments)
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            .process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id();
        let mut running = Running { child, reaped: None, guard: None };
        running.guard = Some(WatchedGroup::new(pid)?);
        // Dropping the pipe after the line gives the program an empty standard input.
        let mut gate = running.child.stdin.take().context("a child has no standard input")?;
        gate.write_all(b"go\n").with_context(|| format!("{} ended at once", program.display()))?;
        Ok(Process { pid, name: program, log: self.log.clone(), state: Mutex::new(State::Running(running)) })
    }
}

/// Resolves a program as the shell does.
pub(crate) fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_path_buf());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|found| found.is_file())
}

#[derive(Debug)]
struct Running {
    child: Child,
    reaped: Option<ExitStatus>,
    guard: Option<WatchedGroup>,
}

impl Running {
    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Whether the leader has ended. It is not reaped by this: as long as it is not, its number can't be reused.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.pid().is_none_or(|pid| waitid(WaitId::Pid(pid), options).is_ok_and(|status| status.is_some()))
    }

    /// Kills what is left of the group, then reaps the leader; once, since afterwards the number may be another's.
    fn finish(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(status) = self.reaped {
            return Ok(status);
        }
        if let Some(pid) = self.pid() {
            // ESRCH (all gone) is the good case.
            kill_process_group(pid, rustix::process::Signal::KILL).ok();
        }
        let status = self.child.wait()?;
        self.reaped = Some(status);
        self.guard = None;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!("cannot reap process {}: {error}", self.child.id());
        }
    }
}

#[derive(Debug)]
enum State {
    Running(Running),
    Ended(ExitStatus),
}

/// A running (or ended) child. Dropping it kills its whole group and waits for the end.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    name: PathBuf,
    log: PathBuf,
    state: Mutex<State>,
}

impl Process {
    /// The process id; the process group has the same number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that holds its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if let State::Running(running) = &mut *state
            && running.has_ended()
            && let Ok(status) = running.finish()
        {
            *state = State::Ended(status);
        }
        state
    }

    /// Sends a signal to the whole group. An error if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &*self.state() {
            State::Ended(status) => {
                bail!("cannot send {signal:?} to {}: it has ended: {status}", self.describe())
            }
            State::Running(running) => {
                let pid = running.pid().context("a process id does not fit")?;
                kill_process_group(pid, signal.into())
                    .with_context(|| format!("cannot send {signal:?} to {}", self.describe()))
            }
        }
    }

    /// The exit status, if it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match &*self.state() {
            State::Running(_) => None,
            State::Ended(status) => Some(*status),
        }
    }

    /// Whether it has not ended; a stopped (paused) process is running.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Waits for its end.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} did not end within {timeout:?}; its log ends:\n{}",
                    self.describe(),
                    self.log_tail(20)
                );
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    }

    /// SIGTERM, and SIGKILL if that did not end it within `timeout`. An error if it had to be killed.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status() {
            return Ok(status);
        }
        self.signal(Signal::Term)?;
        match self.wait(timeout).await {
            Ok(status) => Ok(status),
            Err(error) => {
                self.kill()?;
                Err(error.context("killed since SIGTERM did not end it"))
            }
        }
    }

    /// SIGKILL to the group, and waits for the end. Nothing happens if it has ended.
    pub fn kill(&self) -> Result<ExitStatus> {
        let mut state = self.state();
        let status = match &mut *state {
            State::Ended(status) => return Ok(*status),
            State::Running(running) => {
                running.finish().with_context(|| format!("cannot kill {}", self.describe()))?
            }
        };
        *state = State::Ended(status);
        Ok(status)
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines).unwrap_or_else(|error| format!("cannot read {}: {error}", self.log.display()))
    }

    fn describe(&self) -> String {
        let name = self
            .name
            .file_name()
            .map_or_else(|| self.name.display().to_string(), |n| n.to_string_lossy().into());
        format!("{name} (process {})", self.pid)
    }
}

/// Whether the status says "ended by this signal".
pub fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(rustix::process::Signal::from(signal).as_raw())
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all.iter().skip(all.len().saturating_sub(lines)).copied().collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let directory = tempfile::tempdir().unwrap();
        let process = Launch::new("sh", directory.path().join("log")).args(["-c", script]).spawn().unwrap();
        (directory, process)
    }

    /// A killed grandchild stays in the group as a zombie until init has reaped it: hence the patience.
    async fn group_vanishes(pid: u32) -> bool {
        let group = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        for _ in 0..400 {
            if rustix::process::test_kill_process_group(group).is_err() {
                return true;
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
        false
    }

    #[tokio::test]
    async fn output_and_status_are_kept() {
        let (_directory, process) = shell("echo one; echo two >&2; cat; exit 3");
        let status = process.wait(Duration::from_secs(10)).await.unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log_tail(10), "one\ntwo");
        assert_eq!(process.log_tail(1), "two");
        assert!(!process.is_running());
        assert!(process.signal(Signal::Term).is_err());
    }

    #[tokio::test]
    async fn signals_arrive() {
        let (_directory, process) = shell("sleep 1000");
        assert!(process.is_running());
        assert!(process.wait(Duration::from_millis(30)).await.is_err());
        process.signal(Signal::Stop).unwrap();
        process.signal(Signal::Cont).unwrap();
        let status = process.terminate(Duration::from_secs(10)).await.unwrap();
        assert!(ended_by(status, Signal::Term), "{status}");
    }

    #[tokio::test]
    async fn grandchildren_die_with_the_group() {
        let (_directory, process) = shell("sleep 1000 & sleep 1000 & echo ready; wait");
        let pid = process.pid();
        process.signal(Signal::Stop).unwrap();
        drop(process);
        assert!(group_vanishes(pid).await);
    }

    #[tokio::test]
    async fn a_leader_that_ends_takes_its_group_along() {
        let (_directory, process) = shell("sleep 1000 & exit 0");
        process.wait(Duration::from_secs(10)).await.unwrap();
        let pid = process.pid();
        assert!(group_vanishes(pid).await);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Launch::new("no-such-program", "unused").spawn().unwrap_err();
        assert!(format!("{error:#}").contains("no-such-program is not there"), "{error:#}");
    }
}
