//! What can be wrong with the settings, one sentence each. No secret is ever shown.

use std::path::PathBuf;

use walcast_auth::WeakSecret;

use super::setting::Origin;

/// Why the settings can not be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no database to follow.
    #[error(
        "no database is given: set DATABASE_URL, for example to postgres://user:password@host:5432/database \
         (or DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD)"
    )]
    MissingDatabase,
    /// There is no key that verifies tokens.
    #[error(
        "no key verifies tokens: set JWT_SECRET to the secret your tokens are signed with, \
         or JWT_JWKS to the issuer's JSON Web Key Set (text, file or URL)"
    )]
    MissingTokenKey,
    /// A setting without default is needed.
    #[error("`{key}` is not set: give it in {names}, or in the configuration file")]
    Missing {
        /// Its key in the file.
        key: &'static str,
        /// Its variables.
        names: String,
    },
    /// A value is not what its setting takes.
    #[error("{origin}: expected {expected}, found {found}")]
    Invalid {
        /// Where the value was given.
        origin: Origin,
        /// What would have been right.
        expected: String,
        /// What was found, or that it is not shown.
        found: String,
    },
    /// The database URL has a mistake.
    #[error("{origin}: {problem}")]
    Connection {
        /// Where it was given.
        origin: String,
        /// What is wrong, without the password.
        problem: walcast_replication::SettingsError,
    },
    /// Anyone could sign tokens.
    #[error("{origin}: {problem}")]
    WeakSecret {
        /// Where it was given.
        origin: Origin,
        /// What is wrong with it.
        problem: WeakSecret,
    },
    /// The configuration file can not be read.
    #[error("the configuration file {path}: {problem}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        problem: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("the configuration file {path}:{line}: {problem}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The configuration file has a key that means nothing.
    #[error("the configuration file {path}:{line}: `{key}` is not a setting{advice}", path = .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key with its section.
        key: String,
        /// `; did you mean …?`, or where the settings are listed.
        advice: String,
    },
    /// Something is wrong with the list of projects.
    #[error("the configuration file {path}:{line}: {problem}", path = .path.display())]
    ProjectTable {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A project has a setting that there is once.
    #[error(
        "the configuration file {path}:{line}: `{key}` holds for the whole process, not for the project \
         `{project}` alone: move it out of [projects.{project}]",
        path = .path.display()
    )]
    OfProcess {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The project.
        project: String,
        /// The setting.
        key: &'static str,
    },
    /// A project's settings can not be used.
    #[error("the project `{project}`: {problem}")]
    Project {
        /// The project.
        project: String,
        /// What is wrong.
        problem: Box<SettingsError>,
    },
    /// Two projects could not be told apart.
    #[error("the projects `{one}` and `{other}` both have the {what}: one of them needs another")]
    SameAddress {
        /// One project.
        one: String,
        /// The other.
        other: String,
        /// What both have.
        what: String,
    },
    /// Two projects would read one slot.
    #[error(
        "the projects `{one}` and `{other}` both use the replication slot `{slot}` of {server}: slots are of the \
         whole server, so give one of them another `replication.slot`"
    )]
    SameSlot {
        /// One project.
        one: String,
        /// The other.
        other: String,
        /// The slot.
        slot: String,
        /// Host and port.
        server: String,
    },
    /// A part of the connection would be ignored.
    #[error(
        "{origin} means nothing beside the database URL that all projects have: give this project its own \
         `database.url`"
    )]
    PartBesideUrl {
        /// Where the part was given.
        origin: Origin,
    },
    /// `--project` names none.
    #[error("there is no project `{name}` in the configuration file; there {known}")]
    UnknownProject {
        /// What was asked for.
        name: String,
        /// `are: …`, or that there is none.
        known: String,
    },
    /// A command that looks at one database does not know which.
    #[error("the configuration file lists several projects: choose one with --project ({known})")]
    ProjectNotChosen {
        /// Their names.
        known: String,
    },
    /// Certificate without key, or key without certificate.
    #[error("`{given}` is set and `{missing}` is not: TLS needs both")]
    HalfTls {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
}
