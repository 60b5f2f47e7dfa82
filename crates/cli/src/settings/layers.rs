//! The four places a setting may come from, and their one order: flags, environment, file, defaults.

use std::collections::BTreeMap;

use super::definitions;
use super::error::SettingsError;
use super::file::{ConfigurationFile, ProjectTable};
use super::flags::Flags;
use super::nearest::mistakes;
use super::setting::{About, Origin, Setting};

/// The environment, as the binary found it.
pub type Environment = BTreeMap<String, String>;

/// What was given, before it is understood.
pub(super) struct Layers<'a> {
    pub(super) flags: &'a Flags,
    pub(super) environment: &'a Environment,
    pub(super) file: &'a ConfigurationFile,
    /// Whose settings these are, where several projects are listed. What it says itself counts before all that is
    /// said for everybody.
    pub(super) project: Option<&'a ProjectTable>,
}

impl Layers<'_> {
    /// The value of a setting that has a default, or the error that it is missing.
    pub(super) fn get<T>(&self, setting: &Setting<T>) -> Result<T, SettingsError> {
        self.find(setting)?.ok_or_else(|| SettingsError::Missing {
            key: setting.about.key,
            names: setting.about.environment.join(" or "),
        })
    }

    /// The value of a setting that need not be there.
    pub(super) fn find<T>(&self, setting: &Setting<T>) -> Result<Option<T>, SettingsError> {
        let Some((origin, text)) = self.text(&setting.about) else { return Ok(None) };
        (setting.parse)(text).map(Some).map_err(|expected| SettingsError::Invalid {
            origin,
            expected,
            found: if setting.about.secret { "something else".to_owned() } else { format!("{text:?}") },
        })
    }

    /// Where the value comes from, when somebody gave one.
    pub(super) fn origin(&self, about: &About) -> Option<Origin> {
        self.text(about).map(|(origin, _)| origin).filter(|origin| !matches!(origin, Origin::Default(_)))
    }

    /// Where the project's own value is, when it has one.
    pub(super) fn own(&self, about: &About) -> Option<Origin> {
        let project = self.project?;
        let value = project.values.get(about.key)?;
        let (path, project) = (self.file.path.clone(), project.id.to_string());
        Some(Origin::Project { path, line: value.line, project, key: about.key })
    }

    fn text(&self, about: &About) -> Option<(Origin, &str)> {
        if let Some(origin) = self.own(about) {
            return Some((origin, &self.project?.values.get(about.key)?.text));
        }
        if let Some(text) = self.flags.values.get(about.key) {
            return Some((Origin::Flag(about.flag.unwrap_or(about.key)), text));
        }
        for name in about.environment {
            // Compose files pass variables on that nobody has set: empty is unset.
            if let Some(text) = self.environment.get(*name).filter(|text| !text.is_empty()) {
                return Some((Origin::Environment(name), text));
            }
        }
        if let Some(value) = self.file.values.get(about.key) {
            let origin = Origin::File { path: self.file.path.clone(), line: value.line, key: about.key };
            return Some((origin, &value.text));
        }
        about.default.map(|default| (Origin::Default(about.key), default))
    }
}

/// Variables that look like a mistyped setting of ours, each as a sentence for the log. The environment is not ours
/// alone, so unknown variables are no errors.
pub(super) fn mistyped_variables(environment: &Environment) -> Vec<String> {
    let known = || definitions::ALL.iter().flat_map(|about| about.environment.iter().copied());
    let ours = |name: &&String| name.starts_with("WALCAST_") && !known().any(|known| known == name.as_str());
    environment
        .keys()
        .filter(ours)
        .filter_map(|name| {
            let meant = known().find(|known| known.starts_with("WALCAST_") && mistakes(name, known) <= 2)?;
            Some(format!("the environment variable {name} is not a setting; did you mean {meant}?"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn flags_stand_before_the_environment_before_the_file_before_defaults() {
        let mut flags = Flags::default();
        let mut variables = Environment::new();
        let mut file = ConfigurationFile::default();
        let port = |flags: &Flags, environment: &Environment, file: &ConfigurationFile| {
            Layers { flags, environment, file, project: None }.get(&definitions::LISTEN_PORT).unwrap()
        };
        assert_eq!(port(&flags, &variables, &file), 4000);
        file = ConfigurationFile::parse(Path::new("a.toml"), "[server]\nport = 4001").unwrap();
        assert_eq!(port(&flags, &variables, &file), 4001);
        variables.extend(environment(&[("PORT", "4002")]));
        assert_eq!(port(&flags, &variables, &file), 4002);
        flags.values.insert("server.port", "4003".to_owned());
        assert_eq!(port(&flags, &variables, &file), 4003);
    }

    #[test]
    fn of_two_variables_the_first_counts_and_an_empty_one_is_unset() {
        let (flags, file) = (Flags::default(), ConfigurationFile::default());
        let secret = |variables: &[(&str, &str)]| {
            let environment = environment(variables);
            let layers = Layers { flags: &flags, environment: &environment, file: &file, project: None };
            layers.find(&definitions::JWT_SECRET).unwrap().map(|secret| secret.expose().to_owned())
        };
        assert_eq!(secret(&[("JWT_SECRET", "a"), ("API_JWT_SECRET", "b")]).as_deref(), Some("a"));
        assert_eq!(secret(&[("JWT_SECRET", ""), ("API_JWT_SECRET", "b")]).as_deref(), Some("b"));
        assert_eq!(secret(&[("JWT_SECRET", "")]), None);
    }

    #[test]
    fn a_wrong_value_names_its_origin_and_what_was_expected() {
        let (flags, file) = (Flags::default(), ConfigurationFile::default());
        let environment = environment(&[("PORT", "http")]);
        let layers = Layers { flags: &flags, environment: &environment, file: &file, project: None };
        assert_eq!(
            layers.get(&definitions::LISTEN_PORT).err().unwrap().to_string(),
            "the environment variable PORT: expected a port number from 0 to 65535, found \"http\""
        );
    }

    #[test]
    fn a_variable_that_is_nearly_ours_is_pointed_out() {
        let found = mistyped_variables(&environment(&[
            ("WALCAST_DELETE", "private"),
            ("WALCAST_DELETES", "private"),
            ("WALCAST_SOMETHING_ELSE", ""),
            ("POTR", "1"),
        ]));
        let expected =
            "the environment variable WALCAST_DELETE is not a setting; did you mean WALCAST_DELETES?";
        assert_eq!(found, [expected]);
    }
}
