//! Programs beside the tests: started, paused, killed, started again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use walcast_testkit::Program;

#[tokio::test]
async fn a_program_is_started_killed_and_started_again_and_its_log_is_kept() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let mut program = Program::new(Path::new("/bin/sh"), &["-c", "echo began; exec sleep 1000"], &log);
    program.start()?;
    while program.log() != "began\n" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ensure!(program.start().is_err(), "it runs already");
    ensure!(program.usage()?.descriptors >= 3);
    program.pause()?;
    ensure!(program.is_running()?);
    program.kill().await?;
    ensure!(!program.is_running()?);
    program.start()?;
    while program.log() != "began\nbegan\n" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = program.terminate(Duration::from_secs(10)).await?;
    ensure!(status.code().is_none(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_program_sees_only_the_environment_that_it_was_given() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut program = Program::new(Path::new("/usr/bin/env"), &[], &directory.path().join("log"));
    program.set("GIVEN", "no");
    program.set("GIVEN", "yes");
    program.start()?;
    ensure!(program.ended_within(Duration::from_secs(10)).await?.success());
    let mut names: Vec<_> = program.log().lines().map(str::to_owned).collect();
    names.retain(|line| !line.starts_with("PATH="));
    ensure!(names == ["GIVEN=yes"], "{names:?}");
    Ok(())
}
