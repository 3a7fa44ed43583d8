//! What processes cost: CPU and memory, from the kernel's accounting.

use std::fs;

/// Kernel ticks per second (`USER_HZ`), fixed at 100 on Linux.
const TICKS: f64 = 100.0;

/// CPU seconds of a process, its threads included.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    let stat = Stat::read(pid)?;
    Some(stat.own)
}

/// Megabytes of memory that a process holds.
pub(crate) fn rss_mb(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kb: f64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kb / 1024.0)
}

/// CPU seconds of the server that `backend` belongs to: its living children and those it has reaped.
/// `None` where the server runs elsewhere.
pub(crate) fn postgres_cpu_s(backend: i32) -> Option<f64> {
    let backend = Stat::read(u32::try_from(backend).ok()?)?;
    let postmaster = Stat::read(backend.parent)?;
    if !postmaster.name.contains("postgres") {
        return None;
    }
    let mut total = postmaster.own + postmaster.reaped;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::read(pid)
            && stat.parent == backend.parent
        {
            total += stat.own;
        }
    }
    Some(total)
}

/// The fields of `/proc/PID/stat` (proc(5)) that are needed here.
struct Stat {
    name: String,
    parent: u32,
    own: f64,
    reaped: f64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = text.rsplit_once(')')?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self {
            name: head.split_once('(')?.1.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            own: (ticks(11)? + ticks(12)?) / TICKS,
            reaped: (ticks(13)? + ticks(14)?) / TICKS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_time() {
        let pid = std::process::id();
        assert!(rss_mb(pid).is_some_and(|mb| mb > 1.0));
        assert!(cpu_s(pid).is_some());
    }
}
