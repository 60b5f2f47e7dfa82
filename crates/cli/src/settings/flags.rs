//! The command-line flags, made from the definitions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};

use super::definitions;
use super::setting::About;

/// Keeps clear of the names other arguments have.
const FILE_ID: &str = "settings.file";
const PROJECT_ID: &str = "settings.project";

/// What the command line says about settings; `#[command(flatten)]` takes it into a command.
#[derive(Default, Clone)]
pub struct Flags {
    pub(super) file: Option<PathBuf>,
    pub(super) project: Option<String>,
    pub(super) values: BTreeMap<&'static str, String>,
}

impl Flags {
    /// `--config`.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// `--database-url`, when it was given.
    pub fn database_url(&self) -> Option<&str> {
        self.values.get(definitions::DATABASE_URL.about.key).map(String::as_str)
    }

    /// As if `--database-url` had been given: `walcast dev` starts the database itself.
    pub fn set_database_url(&mut self, url: String) {
        self.values.insert(definitions::DATABASE_URL.about.key, url);
    }

    /// As if there were flags for the secrets: `walcast dev` makes one itself, for users and operators.
    pub fn set_jwt_secret(&mut self, secret: String) {
        self.values.insert(definitions::API_JWT_SECRET.about.key, secret.clone());
        self.values.insert(definitions::JWT_SECRET.about.key, secret);
    }

    /// As if `--host` had been given, where it was not.
    pub fn set_host_unless_given(&mut self, host: &str) {
        self.values.entry(definitions::LISTEN_HOST.about.key).or_insert_with(|| host.to_owned());
    }
}

/// Never prints values: the database URL is among them.
impl std::fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let given: Vec<&str> = self.values.keys().copied().collect();
        formatter
            .debug_struct("Flags")
            .field("file", &self.file)
            .field("project", &self.project)
            .field("given", &given)
            .finish()
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE_ID)
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("TOML file with settings [env: WALCAST_CONFIG]");
        let project = Arg::new(PROJECT_ID).long("project").value_name("ID").help(
            "The project of the file that is meant, where it lists several; `serve` without it serves all",
        );
        flagged().fold(command.arg(file).arg(project), |command, (about, flag)| {
            command.arg(Arg::new(about.key).long(flag).value_name("VALUE").help(help(about)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<PathBuf>(FILE_ID) {
            self.file = Some(path.clone());
        }
        if let Some(project) = matches.get_one::<String>(PROJECT_ID) {
            self.project = Some(project.clone());
        }
        for (about, _) in flagged() {
            if let Some(text) = matches.get_one::<String>(about.key) {
                self.values.insert(about.key, text.clone());
            }
        }
        Ok(())
    }
}

fn flagged() -> impl Iterator<Item = (&'static About, &'static str)> {
    definitions::ALL.iter().filter_map(|about| Some((*about, about.flag?)))
}

fn help(about: &About) -> String {
    let default = about.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    format!("{} [env: {}]{default}", about.help.replace('`', ""), about.environment.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        let command = Flags::augment_args(Command::new("walcast").no_binary_name(true));
        command.clone().debug_assert();
        Flags::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
    }

    #[test]
    fn flags_are_read_by_their_settings_key() {
        let flags =
            flags(&["--port", "5000", "--database-url=postgres://a:hidden@b/c", "--config", "a.toml"]);
        assert_eq!(flags.values["server.port"], "5000");
        assert_eq!(flags.database_url(), Some("postgres://a:hidden@b/c"));
        assert_eq!(flags.file(), Some(Path::new("a.toml")));
        assert!(!format!("{flags:?}").contains("hidden"));
    }

    #[test]
    fn help_names_variable_and_default() {
        let mut command = Flags::augment_args(Command::new("walcast"));
        let help = command.render_long_help().to_string();
        assert!(help.contains("--port <VALUE>") && help.contains("[env: PORT] [default: 4000]"), "{help}");
    }
}
