//! The directory of one cluster: data, log, password, socket; the removal of what dead processes left.

use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::account::Account;

const TEMPORARY_PREFIX: &str = "walcast-pg-";
/// A temporary directory that nobody has locked is someone's who is just making it, unless it is older than this.
const UNLOCKED_AGE: Duration = Duration::from_mins(1);
/// A Unix socket's path has room for 107 bytes; Postgres appends `/.s.PGSQL.12345.lock` to the directory.
const SOCKET_DIRECTORY_BYTES_MAX: usize = 107 - 20;

/// One cluster's directory. While it lives, a lock on the file `owner.lock` says that the directory is in use;
/// the kernel lifts the lock when the owner dies, so what is left behind can be told from what is used.
#[derive(Debug)]
pub(crate) struct Home {
    root: PathBuf,
    socket_directory: PathBuf,
    account: Account,
    // Dropped in this order: the directories are gone before the locks that protect them are.
    _temporary: Vec<TempDir>,
    _locks: Vec<File>,
}

impl Home {
    /// A new directory that is removed with this value. Removes those of processes that no longer live.
    pub(crate) fn temporary(account: Account) -> Result<Self> {
        let base = temporary_base(&account);
        remove_abandoned(&base);
        let (directory, lock) = new_temporary(&base, &account)?;
        Self::new(directory.path().to_path_buf(), account, vec![directory], vec![lock])
    }

    /// A directory that outlives this value, made if it is missing.
    pub(crate) fn kept(path: &Path, account: Account) -> Result<Self> {
        let wanted = std::path::absolute(path).with_context(|| format!("not a path: {}", path.display()))?;
        if let Some(parent) = wanted.parent() {
            make_directory(parent)?;
        }
        let root = reachable(wanted, &account);
        make_directory(&root)?;
        fs::set_permissions(&root, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot change the mode of {}", root.display()))?;
        account.own(&root)?;
        let lock = lock(&root)?;
        Self::new(root, account, Vec::new(), vec![lock])
    }

    fn new(
        root: PathBuf,
        account: Account,
        mut temporary: Vec<TempDir>,
        mut locks: Vec<File>,
    ) -> Result<Self> {
        let mut socket_directory = root.clone();
        if root.as_os_str().len() > SOCKET_DIRECTORY_BYTES_MAX {
            let (short, lock) = new_temporary(Path::new("/tmp"), &account)?;
            socket_directory = short.path().to_path_buf();
            temporary.push(short);
            locks.push(lock);
        }
        Ok(Self { root, socket_directory, account, _temporary: temporary, _locks: locks })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.root.join("password")
    }

    /// The port of the last start, so that a kept cluster stays where its users know it.
    pub(crate) fn last_port(&self) -> Option<u16> {
        fs::read_to_string(self.root.join("port")).ok()?.trim().parse().ok()
    }

    pub(crate) fn remember_port(&self, port: u16) -> Result<()> {
        self.write(&self.root.join("port"), &format!("{port}\n"))
    }

    /// The version that made the data directory; `None` when there is none yet.
    pub(crate) fn major(&self) -> Result<Option<u32>> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let major = text.trim().parse().with_context(|| format!("{} is damaged", path.display()))?;
                Ok(Some(major))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a file that only the server's account (and root) can read.
    pub(crate) fn write(&self, path: &Path, contents: &str) -> Result<()> {
        let context = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(context)?;
        file.set_permissions(Permissions::from_mode(0o600)).with_context(context)?;
        file.write_all(contents.as_bytes()).with_context(context)?;
        self.account.own(path)
    }

    /// The last lines of the server's log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        const LINES: usize = 15;
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the directory {}", path.display()))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("owner.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another process runs the Postgres of {}: stop it, or use another data directory",
            root.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn new_temporary(base: &Path, account: &Account) -> Result<(TempDir, File)> {
    let directory = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .tempdir_in(base)
        .with_context(|| format!("cannot make a temporary directory in {}", base.display()))?;
    account.own(directory.path())?;
    let lock = lock(directory.path())?;
    Ok((directory, lock))
}

/// The system's temporary directory, or `/tmp` when the server's account may not enter that.
fn temporary_base(account: &Account) -> PathBuf {
    let base = std::env::temp_dir();
    if account.obstacle(&base.join("data")).is_some() { PathBuf::from("/tmp") } else { base }
}

/// `wanted`, unless we are root and the server's account can not get there (a clone below `/root`): then a
/// directory below `/var/lib` that belongs to `wanted` alone.
fn reachable(wanted: PathBuf, account: &Account) -> PathBuf {
    let Some(obstacle) = account.obstacle(&wanted) else {
        return wanted;
    };
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    let instead = PathBuf::from(format!("/var/lib/walcast-{:016x}", hasher.finish()));
    tracing::warn!(
        wanted = %wanted.display(),
        used = %instead.display(),
        "Postgres does not run as root and its account may not enter {}", obstacle.display(),
    );
    instead
}

/// Removes temporary directories whose owner is dead. Best effort: several processes may do it at once.
fn remove_abandoned(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(directory: &Path) -> bool {
    let modified = fs::metadata(directory).and_then(|metadata| metadata.modified());
    let old =
        modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > UNLOCKED_AGE));
    old && match File::open(directory.join("owner.lock")) {
        Ok(file) => file.try_lock().is_ok(),
        // The other errors are those of someone else's directory.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_directory_without_a_living_owner_is_removed_and_a_used_or_a_young_one_is_kept() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let make = |name: &str| {
            let directory = base.path().join(format!("{TEMPORARY_PREFIX}{name}"));
            fs::create_dir(&directory).expect("a directory");
            directory
        };
        let [never_locked, dead, used, made_just_now, locked_next] =
            ["never_locked", "dead", "used", "made_just_now", "locked_next"].map(make);
        for directory in [&dead, &locked_next] {
            drop(lock(directory).expect("a lock"));
        }
        let _held = lock(&used).expect("a lock");
        for directory in [&never_locked, &dead, &used] {
            let past = SystemTime::now() - 2 * UNLOCKED_AGE;
            File::open(directory).and_then(|file| file.set_modified(past)).expect("a time");
        }
        remove_abandoned(base.path());
        let left = [&never_locked, &dead, &used, &made_just_now, &locked_next].map(|path| path.exists());
        assert_eq!(left, [false, false, true, true, true]);
    }

    #[test]
    fn a_kept_directory_can_be_used_once_at_a_time() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let first = Home::kept(base.path(), Account::Ourselves).expect("a home");
        let error = Home::kept(base.path(), Account::Ourselves).expect_err("it is in use");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        Home::kept(base.path(), Account::Ourselves).expect("free again");
    }

    #[test]
    fn a_long_path_gets_a_short_socket_directory() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let home = Home::kept(&base.path().join("long".repeat(30)), Account::Ourselves).expect("a home");
        assert!(home.socket_directory().as_os_str().len() <= SOCKET_DIRECTORY_BYTES_MAX);
        let short = Home::kept(base.path(), Account::Ourselves).expect("a home");
        assert_eq!(short.socket_directory(), base.path());
    }
}
