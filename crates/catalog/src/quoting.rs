//! Names and text as SQL.

use std::fmt::Write as _;

use crate::error::CatalogError;

/// The longest name PostgreSQL keeps, in bytes (`NAMEDATALEN` less one); it cuts longer ones silently.
const NAME_BYTES_MAX: usize = 63;

/// `name` as a quoted identifier (PostgreSQL docs, "Identifiers and Key Words").
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `schema.name`, both quoted.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// `text` as a string constant that means the same whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 3);
    if text.contains('\\') {
        quoted.push_str(" E");
    }
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    // Writing to a String does not fail.
    let _ = write!(quoted, "'{escaped}'");
    quoted
}

/// The name of a role that a token claims, safe to be put after SET ROLE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleName(String);

impl RoleName {
    /// Refuses what can not be a role's name, in PostgreSQL's own words.
    ///
    /// `none` would switch back to the role of the connection, which may be a superuser; a name too long
    /// would be cut and could become another role's.
    pub(crate) fn new(name: &str) -> Result<Self, CatalogError> {
        let impossible =
            name.is_empty() || name == "none" || name.len() > NAME_BYTES_MAX || name.contains('\0');
        if impossible {
            return Err(Self::missing(name));
        }
        Ok(RoleName(name.to_owned()))
    }

    /// PostgreSQL's error for a role that does not exist (`undefined_object`).
    pub(crate) fn missing(name: &str) -> CatalogError {
        CatalogError::Statement {
            code: "42704".to_owned(),
            message: format!("role \"{}\" does not exist", name.replace('\0', "\\0")),
        }
    }

    /// The name, unquoted.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a quoted identifier.
    pub(crate) fn quoted(&self) -> String {
        identifier(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_names_are_doubled() {
        assert_eq!(identifier(r#"a "b" 🐘"#), r#""a ""b"" 🐘""#);
        assert_eq!(qualified("s.x", "t"), r#""s.x"."t""#);
    }

    #[test]
    fn quotes_and_backslashes_inside_text_stay_text() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
    }

    #[test]
    fn a_role_that_would_reset_the_role_is_refused() {
        for name in ["none", "", "a\0b", &"x".repeat(64)] {
            let error = RoleName::new(name).unwrap_err();
            assert!(error.to_string().ends_with("does not exist"), "{error}");
        }
        assert_eq!(RoleName::new(r#"odd "role""#).unwrap().quoted(), r#""odd ""role""""#);
    }
}
