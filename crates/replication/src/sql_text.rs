//! Names and texts inside the commands of the replication grammar and the SQL beside it.

/// A name in double quotes. Both grammars double an inner quote.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes. The replication grammar knows no `E''`, so a backslash stays as it is; in SQL the same
/// holds under `standard_conforming_strings`, which the session pins.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_backslashes_stay() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal(r"it's \ here"), r"'it''s \ here'");
    }
}
