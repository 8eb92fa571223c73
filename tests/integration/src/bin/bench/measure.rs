//! What a process used: CPU from `/proc/PID/stat`, memory from `/proc/PID/status`, sockets from `/proc/PID/fd`; and
//! what machine this is.

use std::time::{SystemTime, UNIX_EPOCH};

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
    /// Resident memory in bytes now.
    pub(crate) resident_bytes: u64,
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
    anyhow::ensure!(fields.first() != Some(&"Z"), "the process ended");
    let ticks =
        |index: usize| -> Result<f64> { Ok(fields.get(index).context("stat is short")?.parse::<f64>()?) };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0 kB");
        Ok(line.split_whitespace().next().unwrap_or("0").parse::<u64>()? * 1024)
    };
    Ok(Usage {
        user_s: ticks(11)? / TICKS_PER_SECOND,
        system_s: ticks(12)? / TICKS_PER_SECOND,
        peak_bytes: bytes("VmHWM:")?,
        resident_bytes: bytes("VmRSS:")?,
    })
}

/// How many sockets a process has open, listening ones included.
pub(crate) fn sockets(pid: u32) -> Result<usize> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).context("the process ended")?;
    let links = folder.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    Ok(links.filter(|link| link.to_string_lossy().starts_with("socket:")).count())
}

/// The machine in one line: processors, memory, kernel.
pub(crate) fn hardware() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let cores = info.lines().filter(|l| l.starts_with("processor")).count();
    let model = info.lines().find(|l| l.starts_with("model name")).and_then(value);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find(|l| l.starts_with("MemTotal")).and_then(value).unwrap_or_default();
    let kib: f64 = kib.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores of {}, {:.0} GiB, Linux {}",
        model.as_deref().unwrap_or("an unknown processor"),
        kib / f64::from(1 << 20),
        kernel.trim()
    )
}

/// Today in UTC, `2026-11-26`.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let (year, month, day) = civil(i64::try_from(seconds / 86_400).unwrap_or(0));
    format!("{year:04}-{month:02}-{day:02}")
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The value in the middle; the higher one of two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
