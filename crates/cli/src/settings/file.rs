//! The TOML file: every key in it must be a setting.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::definitions;
use super::error::SettingsError;
use super::nearest::nearest;

/// The settings that a file gives, as text.
#[derive(Default)]
pub struct ConfigurationFile {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<&'static str, FileValue>,
}

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
        let mut file = Self { path: path.to_owned(), values: BTreeMap::new() };
        file.collect("", document.get_ref(), text)?;
        Ok(file)
    }

    fn collect(&mut self, section: &str, table: &DeTable<'_>, text: &str) -> Result<(), SettingsError> {
        for (name, value) in table {
            let key = if section.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{section}.{}", name.get_ref())
            };
            let line = line(text, &name.span());
            if let Some(about) = definitions::named(&key) {
                let value = self.text_of(about.key, about.secret, value, line)?;
                self.values.insert(about.key, FileValue { text: value, line });
            } else if let (DeValue::Table(inner), true) = (value.get_ref(), is_section(&key)) {
                self.collect(&key, inner, text)?;
            } else {
                return Err(self.unknown(key, line));
            }
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
        // A right name in the wrong section is the likelier mistake than a typing mistake.
        let name = key.rsplit('.').next().unwrap_or(&key);
        let mut meant: Vec<&str> = known().filter(|known| known.rsplit('.').next() == Some(name)).collect();
        if meant.is_empty() {
            meant.extend(nearest(&key, known()));
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
