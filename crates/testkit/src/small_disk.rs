//! A file system that is small enough to be filled: a tmpfs of its own. Mounting one needs root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::account::Account;

/// A mounted file system that belongs to the account of Postgres. It is gone with this value.
#[derive(Debug)]
pub struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one of this size. Fails where we may not.
    pub fn mount(bytes: u64) -> Result<Self> {
        let account = Account::for_server()?;
        let directory = tempfile::Builder::new().prefix("walcast-disk-").tempdir_in("/tmp")?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tmpfs"])
            .arg(directory.path())
            .output()
            .context("cannot run mount")?;
        ensure!(
            mounted.status.success(),
            "a small disk can not be mounted, which needs root: {}",
            String::from_utf8_lossy(&mounted.stderr).trim()
        );
        let disk = Self { directory };
        account.own(disk.path())?;
        Ok(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast()).context("cannot write onto the small disk")?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("cannot fill the small disk"),
            }
        }
    }

    /// Takes away what [`fill`](Self::fill) has written.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("the small disk was not filled")
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a server may still be ending on it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
