//! What one setting is: its names, its default, its meaning, and how its text is read.

use std::fmt;
use std::path::PathBuf;

/// A setting of type `T`.
pub(crate) struct Setting<T> {
    /// Everything about it that does not depend on its type.
    pub about: About,
    /// Reads its text. The error is what was expected, as the end of "expected …".
    pub parse: fn(&str) -> Result<T, String>,
}

/// Names, default and meaning of a setting. The reference in `docs/configuration.md` is made of these.
pub(crate) struct About {
    /// Its place in the TOML file, `section.name`. Units are part of the name.
    pub key: &'static str,
    /// The environment variables it is read from; the first one that is set counts.
    pub environment: &'static [&'static str],
    /// The command-line flag, without dashes. Secrets have none: other users can read command lines.
    pub flag: Option<&'static str>,
    /// What holds when nobody sets it, as text. `None` means that there is no value then.
    pub default: Option<&'static str>,
    /// Its text must not be shown.
    pub secret: bool,
    /// It holds for the whole process, and a single project can not have its own.
    pub of_process: bool,
    /// What it is for, one or two sentences in Markdown.
    pub help: &'static str,
}

/// Sections whose settings all hold for the whole process.
const PROCESS_SECTIONS: &[&str] = &["log", "server", "tls"];

impl About {
    /// Whether a project may have its own value.
    pub(crate) fn is_of_process(&self) -> bool {
        let section = self.key.split('.').next();
        self.of_process || section.is_some_and(|section| PROCESS_SECTIONS.contains(&section))
    }
}

impl<T> Setting<T> {
    pub(crate) const fn new(
        key: &'static str,
        parse: fn(&str) -> Result<T, String>,
        help: &'static str,
    ) -> Self {
        let (environment, flag, default) = (&[], None, None);
        let about = About { key, environment, flag, default, secret: false, of_process: false, help };
        Self { about, parse }
    }

    pub(crate) const fn environment(mut self, names: &'static [&'static str]) -> Self {
        self.about.environment = names;
        self
    }

    pub(crate) const fn flag(mut self, name: &'static str) -> Self {
        self.about.flag = Some(name);
        self
    }

    pub(crate) const fn default(mut self, text: &'static str) -> Self {
        self.about.default = Some(text);
        self
    }

    pub(crate) const fn secret(mut self) -> Self {
        self.about.secret = true;
        self
    }

    pub(crate) const fn of_process(mut self) -> Self {
        self.about.of_process = true;
        self
    }
}

/// Where a value came from, as an error names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag, without dashes.
    Flag(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// A line of the configuration file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the value.
        line: usize,
        /// The setting's key.
        key: &'static str,
    },
    /// A line of the configuration file, in the table of one project.
    Project {
        /// The file.
        path: PathBuf,
        /// The line of the value.
        line: usize,
        /// The project.
        project: String,
        /// The setting's key.
        key: &'static str,
    },
    /// The built-in default of this key.
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(formatter, "--{name}"),
            Self::Environment(name) => write!(formatter, "the environment variable {name}"),
            Self::File { path, line, key } => write!(formatter, "`{key}` in {}:{line}", path.display()),
            Self::Project { path, line, project, key } => {
                write!(formatter, "`projects.{project}.{key}` in {}:{line}", path.display())
            }
            Self::Default(key) => write!(formatter, "the default of `{key}`"),
        }
    }
}
