//! CPU time and memory of a process, as Linux tells them in `/proc`; elsewhere nothing is told.

use std::fs;
use std::time::Duration;

/// A process on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

/// What a process has used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads, in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Process {
    /// The process with this id.
    pub fn new(pid: u32) -> Self {
        Process(pid)
    }

    /// This process.
    pub fn this() -> Self {
        Process(std::process::id())
    }

    /// The process that listens on a TCP port of this machine, where this user may see it.
    pub fn listening_on(port: u16) -> Option<Self> {
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
            .into_iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| listener_inode(&table, port))?;
        let wanted = format!("socket:[{inode}]");
        let pids = fs::read_dir("/proc")
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.map(Process).find(|process| process.has_open(&wanted))
    }

    fn has_open(self, link: &str) -> bool {
        let files = fs::read_dir(format!("/proc/{}/fd", self.0)).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == link)
    }

    /// Its id.
    pub fn id(self) -> u32 {
        self.0
    }

    /// What it has used; `None` once it has ended.
    pub fn usage(self) -> Option<Usage> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        Some(Usage { cpu: cpu_of(&stat)?, resident: resident_of(&status)? })
    }
}

/// The inode of the socket that listens on a port: `local_address` is the second field of a line, its state the fourth
/// (0A is listening), its inode the tenth.
fn listener_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        let (_, local_port) = local.rsplit_once(':')?;
        let listens = state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then(|| inode.parse().ok())?
    })
}

/// proc(5), `VmRSS`.
fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

/// proc(5): `utime` and `stime` are the fields 14 and 15, and the second field, the program's name in parentheses,
/// may hold spaces. Linux counts them in hundredths of a second for programs on every architecture it has now.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn memory_and_time_are_read_from_the_lines_that_linux_writes() {
        let status = "Name:\tpolicies\nVmHWM:\t  9000 kB\nVmRSS:\t  1234 kB\nThreads:\t3\n";
        assert_eq!(resident_of(status), Some(1_234 * 1_024));
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 3 0 100 1000 10";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(1_750)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_listens_on_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(Process::listening_on(port), Some(Process::this()));
        assert!(Process::this().usage().unwrap().resident > 0);
    }
}
