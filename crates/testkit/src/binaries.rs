//! Where the server programs of Postgres are, and which of several versions is taken.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The oldest major version walcast works with: logical streaming of messages and the publication catalog
/// it reads are as they are since 14.
pub const OLDEST_MAJOR: u32 = 14;

/// A directory with the programs `postgres` and `initdb` of one Postgres version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
    major: u32,
}

impl Binaries {
    /// The programs in exactly this directory.
    ///
    /// Fails when one of them is missing, does not run, or is older than [`OLDEST_MAJOR`].
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let directory = directory.canonicalize().with_context(|| {
            format!("there is no directory {} with Postgres programs", directory.display())
        })?;
        for program in ["postgres", "initdb"] {
            let path = directory.join(program);
            ensure!(path.is_file(), "{} is missing: install the server package of Postgres", path.display());
        }
        let major = major_of(&directory.join("postgres"))?;
        ensure!(
            major >= OLDEST_MAJOR,
            "{} holds Postgres {major}: walcast needs {OLDEST_MAJOR} or newer",
            directory.display(),
        );
        Ok(Self { directory, major })
    }

    /// The programs to use: `explicit` if given and nothing else; otherwise the first usable of PATH, Debian's
    /// versioned directories (newest first), `/usr/local/pgsql`, and `extra` (directories of programs that were
    /// unpacked for this project).
    ///
    /// With `major` only programs of that version are taken: a data directory can only be opened by the version
    /// that made it.
    pub fn find(explicit: Option<&Path>, extra: &[PathBuf], major: Option<u32>) -> Result<Self> {
        if let Some(directory) = explicit {
            let found = Self::in_directory(directory)?;
            ensure!(
                major.is_none_or(|wanted| wanted == found.major),
                "{} holds Postgres {}, but the data directory was made by Postgres {}",
                directory.display(),
                found.major,
                major.unwrap_or_default(),
            );
            return Ok(found);
        }
        let found = candidates(extra)
            .into_iter()
            .filter_map(|directory| Self::in_directory(&directory).ok())
            .find(|found| major.is_none_or(|wanted| wanted == found.major));
        match (found, major) {
            (Some(found), _) => Ok(found),
            (None, Some(major)) => bail!(
                "Postgres {major} is not installed, but the data directory was made by it: \
                 install postgresql-{major} or use another data directory"
            ),
            (None, None) => bail!(
                "no Postgres server programs found (postgres, initdb; version {OLDEST_MAJOR} or newer) in PATH, \
                 /usr/lib/postgresql or /usr/local/pgsql: install them (Debian: apt-get install postgresql) \
                 or name their directory"
            ),
        }
    }

    /// The directory that holds the programs, without symbolic links.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The major version, for example 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl fmt::Display for Binaries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Postgres {} in {}", self.major, self.directory.display())
    }
}

fn candidates(extra: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories = path_directories(env::var_os("PATH").as_deref());
    directories.extend(versioned_directories(Path::new("/usr/lib/postgresql")));
    directories.push(PathBuf::from("/usr/local/pgsql/bin"));
    directories.extend(extra.iter().cloned());
    directories
}

/// Directories of PATH that have a `postgres`, with links resolved: a link in `/usr/local/bin` leads to the
/// directory where its neighbours are.
fn path_directories(path: Option<&OsStr>) -> Vec<PathBuf> {
    path.map(|path| {
        env::split_paths(path)
            .filter_map(|directory| directory.join("postgres").canonicalize().ok())
            .filter_map(|program| program.parent().map(Path::to_path_buf))
            .collect()
    })
    .unwrap_or_default()
}

/// `<root>/<version>/bin`, highest version first.
fn versioned_directories(root: &Path) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, directory)| directory).collect()
}

/// Reads `postgres (PostgreSQL) 15.14 (Debian …)`; also `17beta1`, `16.1`.
fn major_of(postgres: &Path) -> Result<u32> {
    let output = Command::new(postgres)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", postgres.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_major(&text).with_context(|| {
        format!(
            "{} --version printed {:?} {:?}",
            postgres.display(),
            text.trim(),
            String::from_utf8_lossy(&output.stderr).trim(),
        )
    })
}

fn parse_major(version_line: &str) -> Option<u32> {
    let number = version_line.split_once(") ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_and_betas() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta2\n"), Some(19));
        assert_eq!(parse_major("nonsense"), None);
    }

    #[test]
    fn versioned_directories_are_tried_newest_first() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for version in ["9.6", "15", "9", "17", "old"] {
            fs::create_dir(root.path().join(version)).expect("a directory");
        }
        let names: Vec<_> = versioned_directories(root.path())
            .iter()
            .map(|path| path.strip_prefix(root.path()).expect("below the root").display().to_string())
            .collect();
        assert_eq!(names, ["17/bin", "15/bin", "9/bin"]);
    }

    #[test]
    fn a_directory_without_the_programs_is_refused_by_name() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let error = Binaries::in_directory(root.path()).expect_err("nothing is there");
        assert!(error.to_string().contains("postgres is missing"), "{error}");
    }

    #[test]
    fn an_installed_server_is_found_and_another_version_of_it_is_not() {
        let explicit = crate::database::test_settings().bin_dir;
        let found = Binaries::find(explicit.as_deref(), &[], None).expect("tests need an installed Postgres");
        assert!(found.major() >= OLDEST_MAJOR);
        let error = Binaries::find(Some(found.directory()), &[], Some(found.major() + 1));
        assert!(error.expect_err("the version differs").to_string().contains("data directory"));
    }
}
