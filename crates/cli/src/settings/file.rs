//! The TOML file: every key in it must be a setting, be it of all or, below `[projects.<id>]`, of one project.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use walcast_server::front::{HostPattern, PathPrefix, ProjectId};

use super::definitions;
use super::error::SettingsError;
use super::nearest::nearest;

/// The settings that a file gives, as text.
#[derive(Default)]
pub struct ConfigurationFile {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<&'static str, FileValue>,
    /// In the order of their names.
    pub(super) projects: Vec<ProjectTable>,
}

/// `[projects.<id>]`: how it is told apart, and what it has of its own.
pub(super) struct ProjectTable {
    pub(super) id: ProjectId,
    /// Where it begins, counted from 1.
    pub(super) line: usize,
    pub(super) hosts: Vec<HostPattern>,
    /// `None` stands for the project's name.
    pub(super) paths: Option<Vec<PathPrefix>>,
    pub(super) values: BTreeMap<&'static str, FileValue>,
}

/// The table of the file that lists projects.
const PROJECTS: &str = "projects";

/// One value of a file.
pub(super) struct FileValue {
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
}

impl ConfigurationFile {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|problem| SettingsError::File { path: path.to_owned(), problem })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let document = DeTable::parse(text).map_err(|error| SettingsError::Syntax {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line(text, &span)),
            // Not the error's own text: that shows the line, and there may be a secret in it.
            problem: error.message().to_owned(),
        })?;
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        let mut values = BTreeMap::new();
        for (name, value) in document.get_ref() {
            let line = line(text, &name.span());
            match value.get_ref() {
                DeValue::Table(table) if name.get_ref() == PROJECTS => file.list_projects(table, text)?,
                _ => file.collect_one("", name.get_ref(), value, line, text, None, &mut values)?,
            }
        }
        file.values = values;
        Ok(file)
    }

    fn list_projects(&mut self, table: &DeTable<'_>, text: &str) -> Result<(), SettingsError> {
        for (name, value) in table {
            let line = line(text, &name.span());
            let id: ProjectId = name.get_ref().parse().map_err(|problem| SettingsError::ProjectTable {
                path: self.path.clone(),
                line,
                problem: Box::new(problem),
            })?;
            let DeValue::Table(table) = value.get_ref() else {
                return Err(self.unknown(format!("{PROJECTS}.{id}"), line));
            };
            let project = self.project(id, line, table, text)?;
            self.projects.push(project);
        }
        Ok(())
    }

    fn project(
        &self,
        id: ProjectId,
        line_of_project: usize,
        table: &DeTable<'_>,
        text: &str,
    ) -> Result<ProjectTable, SettingsError> {
        let mut values = BTreeMap::new();
        let (mut hosts, mut paths) = (Vec::new(), None);
        for (name, value) in table {
            let line = line(text, &name.span());
            match &**name.get_ref() {
                "hosts" => hosts = self.list(value, line)?,
                "paths" => paths = Some(self.list(value, line)?),
                key => self.collect_one("", key, value, line, text, Some(&id), &mut values)?,
            }
        }
        Ok(ProjectTable { id, line: line_of_project, hosts, paths, values })
    }

    /// A list of texts, or one text.
    fn list<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        &self,
        value: &Spanned<DeValue<'_>>,
        line: usize,
    ) -> Result<Vec<T>, SettingsError> {
        let refused = |problem: Box<dyn std::error::Error + Send + Sync>| SettingsError::ProjectTable {
            path: self.path.clone(),
            line,
            problem,
        };
        let texts: Option<Vec<&str>> = match value.get_ref() {
            DeValue::String(text) => Some(vec![text]),
            DeValue::Array(items) => items.iter().map(|item| item.get_ref().as_str()).collect(),
            _ => None,
        };
        let texts = texts.ok_or_else(|| refused("expected a text or a list of texts".into()))?;
        texts.into_iter().map(|text| text.parse().map_err(|problem| refused(Box::new(problem)))).collect()
    }

    /// Takes in one key, with all that is below it.
    #[expect(clippy::too_many_arguments, reason = "the place of one value in the file")]
    fn collect_one(
        &self,
        section: &str,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        line_of_key: usize,
        text: &str,
        project: Option<&ProjectId>,
        values: &mut BTreeMap<&'static str, FileValue>,
    ) -> Result<(), SettingsError> {
        let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        if let Some(about) = definitions::named(&key) {
            if let Some(project) = project.filter(|_| about.is_of_process()) {
                return Err(SettingsError::OfProcess {
                    path: self.path.clone(),
                    line: line_of_key,
                    project: project.to_string(),
                    key: about.key,
                });
            }
            let value = self.text_of(about.key, about.secret, value, line_of_key)?;
            values.insert(about.key, FileValue { text: value, line: line_of_key });
            return Ok(());
        }
        let (DeValue::Table(inner), true) = (value.get_ref(), is_section(&key)) else {
            let whole = project.map_or_else(|| key.clone(), |project| format!("{PROJECTS}.{project}.{key}"));
            return Err(self.unknown(whole, line_of_key));
        };
        for (name, value) in inner {
            let line = line(text, &name.span());
            self.collect_one(&key, name.get_ref(), value, line, text, project, values)?;
        }
        Ok(())
    }

    /// A value as the environment would give it, so that there is one way to read each setting.
    fn text_of(
        &self,
        key: &'static str,
        secret: bool,
        value: &Spanned<DeValue<'_>>,
        line: usize,
    ) -> Result<String, SettingsError> {
        let text = match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Array(items) => {
                let names: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
                names.map(|names| names.join(","))
            }
            other => json(other).map(|value| value.to_string()),
        };
        text.ok_or_else(|| SettingsError::Invalid {
            origin: super::setting::Origin::File { path: self.path.clone(), line, key },
            expected: "a text, a number, true or false, a list of texts, or a table".to_owned(),
            found: if secret { "something else".to_owned() } else { value.get_ref().type_str().to_owned() },
        })
    }

    fn unknown(&self, key: String, line: usize) -> SettingsError {
        let known = || definitions::ALL.iter().map(|about| about.key);
        let plain = match key.strip_prefix("projects.").and_then(|rest| rest.split_once('.')) {
            Some((_, plain)) => plain,
            None => &key,
        };
        // A right name in the wrong section is the likelier mistake than a typing mistake.
        let name = key.rsplit('.').next().unwrap_or(&key);
        let mut meant: Vec<&str> = known().filter(|known| known.rsplit('.').next() == Some(name)).collect();
        if meant.is_empty() {
            meant.extend(nearest(plain, known()));
        }
        let advice = if meant.is_empty() {
            "; docs/configuration.md lists them all".to_owned()
        } else {
            format!("; did you mean `{}`?", meant.join("` or `"))
        };
        SettingsError::UnknownKey { path: self.path.clone(), line, key, advice }
    }
}

fn is_section(key: &str) -> bool {
    definitions::ALL.iter().any(|about| about.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

fn json(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(Value::String(text.to_string())),
        DeValue::Boolean(value) => Some(Value::Bool(*value)),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().ok().map(Value::from),
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(name, value)| Some((name.get_ref().to_string(), json(value.get_ref())?)))
            .collect::<Option<serde_json::Map<String, Value>>>()
            .map(Value::Object),
    }
}

fn line(text: &str, span: &Range<usize>) -> usize {
    text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigurationFile, SettingsError> {
        ConfigurationFile::parse(Path::new("walcast.toml"), text)
    }

    fn refusal(text: &str) -> String {
        parse(text).err().expect("refused").to_string()
    }

    #[test]
    fn every_kind_of_value_becomes_the_text_the_environment_would_have() {
        let file = parse(
            "[server]\nport = 0x1388\n[replication]\npublications = [\"a\", \"b\"]\n\
             [log]\ndisable_healthcheck = true\n[auth.claim_validators]\niss = \"me\"\nlevel = 2\n",
        )
        .unwrap();
        let text = |key: &str| file.values[key].text.clone();
        assert_eq!(text("server.port"), "5000");
        assert_eq!(text("replication.publications"), "a,b");
        assert_eq!(text("log.disable_healthcheck"), "true");
        assert_eq!(text("auth.claim_validators"), r#"{"iss":"me","level":2}"#);
        assert_eq!(file.values["server.port"].line, 2);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        assert_eq!(
            refusal("[server]\nprot = 1\n"),
            "the configuration file walcast.toml:2: `server.prot` is not a setting; did you mean `server.port`?"
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
        assert!(
            refusal("port = 1\n")
                .ends_with("`port` is not a setting; did you mean `database.port` or `server.port`?")
        );
        assert!(refusal("[server]\ndeletes = \"private\"\n").ends_with("did you mean `changes.deletes`?"));
        assert!(refusal("[nonsense]\nx = 1\n").ends_with("docs/configuration.md lists them all"));
    }

    #[test]
    fn a_section_that_is_no_table_is_an_unknown_key() {
        assert!(refusal("server = 1\n").contains("`server` is not a setting"));
    }

    #[test]
    fn projects_have_addresses_and_values_of_their_own() {
        let file = parse(
            "[projects.green]\nhosts = \"live.example.com\"\n[projects.green.database]\nname = \"green\"\n\
             [projects.blue]\nhosts = [\"*\"]\npaths = []\n",
        )
        .unwrap();
        let [blue, green] = &file.projects[..] else { panic!("two projects") };
        assert_eq!((blue.id.as_str(), green.id.as_str()), ("blue", "green"));
        assert_eq!(blue.hosts, [HostPattern::Any]);
        assert_eq!((blue.paths.as_deref(), green.paths.as_deref()), (Some(&[][..]), None));
        assert_eq!(green.values["database.name"].text, "green");
        assert_eq!(green.values["database.name"].line, 4);
        assert!(file.values.is_empty());
    }

    #[test]
    fn a_project_can_not_have_what_is_unknown_or_holds_for_the_whole_process() {
        assert!(refusal("[projects.blue]\nhost = 1\n").contains("`projects.blue.host` is not a setting"));
        assert!(
            refusal("[projects.blue.database]\nurll = 1\n")
                .ends_with("`projects.blue.database.urll` is not a setting; did you mean `database.url`?")
        );
        let refused = refusal("[projects.blue.server]\nport = 1\n");
        assert!(
            refused.contains("walcast.toml:2") && refused.contains("`server.port` holds for"),
            "{refused}"
        );
        assert!(refusal("projects = 1\n").contains("`projects` is not a setting"));
        assert!(refusal("[projects]\nblue = 1\n").contains("`projects.blue` is not a setting"));
    }

    #[test]
    fn a_bad_name_host_or_path_of_a_project_is_shown_with_its_line() {
        for (text, shown) in [
            ("[projects.Blue]\n", "walcast.toml:1: \"Blue\" can not name a project"),
            ("[projects.a]\nhosts = [\"http://b\"]\n", "walcast.toml:2: \"http://b\" is not a host name"),
            ("[projects.a]\npaths = [\"/api/a\"]\n", "walcast.toml:2: paths below /api"),
            ("[projects.a]\nhosts = 1\n", "walcast.toml:2: expected a text or a list"),
        ] {
            assert!(refusal(text).contains(shown), "{}", refusal(text));
        }
    }

    #[test]
    fn a_syntax_error_tells_the_line_and_not_what_stands_there() {
        let text = refusal("[auth]\njwt_secret = \"hidden\n");
        assert!(text.starts_with("the configuration file walcast.toml:2: "), "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }

    #[test]
    fn a_value_of_an_impossible_kind_is_refused() {
        assert!(refusal("[server]\nport = 1979-05-27\n").contains("`server.port` in walcast.toml:2"));
        assert!(refusal("[replication]\npublications = [1]\n").contains("found array"));
    }
}
