//! Memory and CPU time of this process, as Linux tells them in `/proc`; nothing elsewhere.

use std::fs;
use std::time::Duration;

/// Resident memory in bytes.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    resident_of(&status)
}

/// CPU time of all threads so far, in steps of 10 ms.
pub fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    cpu_time_of(&stat)
}

/// proc(5), `VmRSS`.
fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

/// proc(5): `utime` and `stime` are the fields 14 and 15, and the second field, the program's name in parentheses,
/// may hold spaces. Linux counts them in hundredths of a second for programs on every architecture it has now.
fn cpu_time_of(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_read_from_the_lines_that_linux_writes() {
        let status = "Name:\tpolicies\nVmHWM:\t  9000 kB\nVmRSS:\t  1234 kB\nThreads:\t3\n";
        assert_eq!(resident_of(status), Some(1_234 * 1_024));
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 3 0 100 1000 10";
        assert_eq!(cpu_time_of(stat), Some(Duration::from_millis(1_750)));
    }
}
