//! The unprivileged account that Postgres runs under when we are root: the server refuses to run as root.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result};

/// Who runs the server: ourselves, or an account that root drops to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// We are not root: nothing to change.
    Ourselves,
    /// We are root: the server gets these ids.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// The account `postgres`, or `nobody` where there is none; ourselves when we are not root.
    pub(crate) fn for_server() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ourselves);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id_of("-u", name), id_of("-g", name)) {
                return Ok(Self::Other { uid, gid });
            }
        }
        anyhow::bail!(
            "Postgres refuses to run as root and there is neither an account postgres nor nobody to run it under"
        )
    }

    /// Makes `command` run under this account.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Self::Other { uid, gid } = *self {
            command.uid(uid).gid(gid);
        }
    }

    /// Hands a file or directory over to this account.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        match *self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot hand {} over to the account of Postgres", path.display())),
        }
    }

    /// The first directory on the way to `path` that this account may not enter.
    pub(crate) fn obstacle(&self, path: &Path) -> Option<PathBuf> {
        let Self::Other { uid, gid } = *self else {
            return None;
        };
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        above
            .into_iter()
            .find(|directory| !may_enter(directory, uid, gid).unwrap_or(true))
            .map(Path::to_path_buf)
    }
}

fn may_enter(directory: &Path, uid: u32, gid: u32) -> io::Result<bool> {
    let metadata = fs::metadata(directory)?;
    let mode = metadata.permissions().mode();
    let bit = match (metadata.uid() == uid, metadata.gid() == gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    Ok(mode & bit != 0)
}

/// `id` knows every source of accounts of the machine, `/etc/passwd` is only one of them.
fn id_of(what: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([what, name]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_closed_to_others_is_named_as_the_obstacle() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let closed = root.path().join("closed");
        let inside = closed.join("data");
        fs::create_dir_all(&inside).expect("directories");
        for (path, mode) in [(root.path(), 0o755), (closed.as_path(), 0o700), (inside.as_path(), 0o755)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
        }
        let stranger = Account::Other { uid: 4_000_001, gid: 4_000_001 };
        assert_eq!(stranger.obstacle(&inside), Some(closed));
        assert_eq!(Account::Ourselves.obstacle(&inside), None);
    }
}
