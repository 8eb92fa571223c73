//! What a process used: CPU from `/proc/PID/stat`, peak memory from `/proc/PID/status`.

use anyhow::{Context as _, Result};

/// Linux reports CPU time in these units per second on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resources of one process so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// CPU seconds in user mode.
    pub(crate) user_s: f64,
    /// CPU seconds in the kernel.
    pub(crate) system_s: f64,
    /// Highest resident memory in bytes.
    pub(crate) peak_bytes: u64,
}

impl Usage {
    pub(crate) fn cpu_s(self) -> f64 {
        self.user_s + self.system_s
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { user_s: self.user_s - before.user_s, system_s: self.system_s - before.system_s, ..self }
    }
}

/// Reads a process's usage.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process ended")?;
    // The name may hold spaces: fields are counted behind its closing bracket.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| -> Result<f64> { Ok(fields.get(index).context("stat is short")?.parse::<f64>()?) };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    let kib: u64 = peak.split_whitespace().next().unwrap_or("0").parse()?;
    Ok(Usage {
        user_s: ticks(11)? / TICKS_PER_SECOND,
        system_s: ticks(12)? / TICKS_PER_SECOND,
        peak_bytes: kib * 1024,
    })
}
