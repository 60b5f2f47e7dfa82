//! What a name in the body of a function may mean.

/// A schema's name and that of something in it.
pub(super) type Qualified = (String, String);

/// Where PostgreSQL looks first, unless the path names it.
const SYSTEM: &str = "pg_catalog";

/// The schemas of a `search_path` as it is shown (`"$user", public`): unquoted ones in lower case.
///
/// Empty names, as in `SET search_path = ''`, are no schemas. `"$user"` stays as it is.
pub(super) fn search_path(shown: &str) -> Vec<String> {
    let mut schemas = Vec::new();
    let mut name = String::new();
    let mut letters = shown.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => schemas.push(std::mem::take(&mut name)),
            _ if quoted => name.push(letter),
            _ if letter.is_whitespace() => {}
            _ => name.push(letter.to_ascii_lowercase()),
        }
    }
    schemas.push(name);
    schemas.retain(|schema| !schema.is_empty());
    schemas
}

/// What a name in parts may mean, in the order in which PostgreSQL looks, where names without a schema are looked
/// up in `path`.
///
/// `$user` is passed over: whose it is depends on who asks. So is `pg_temp`, which sessions of ours do not have.
pub(super) fn candidates(parts: &[String], path: &[String]) -> Vec<Qualified> {
    match parts {
        [name] => {
            let system = (!path.iter().any(|schema| schema == SYSTEM)).then_some(SYSTEM);
            let named =
                path.iter().map(String::as_str).filter(|schema| !matches!(*schema, "$user" | "pg_temp"));
            system.into_iter().chain(named).map(|schema| (schema.to_owned(), name.clone())).collect()
        }
        // The database's own name may stand in front.
        [schema, name] | [_, schema, name] => vec![(schema.clone(), name.clone())],
        _ => Vec::new(),
    }
}

/// The same for functions. Those of `pg_catalog` are known without looking.
pub(super) fn function_candidates(parts: &[String], path: &[String]) -> Vec<Qualified> {
    let mut found = candidates(parts, path);
    found.retain(|(schema, _)| schema != SYSTEM);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_is_read_as_postgres_reads_it() {
        for (shown, expected) in [
            ("\"$user\", public", &["$user", "public"][..]),
            ("\"\"", &[]),
            ("", &[]),
            ("Public,\"Odd \"\"one\"\", here\" , auth", &["public", "Odd \"one\", here", "auth"]),
        ] {
            assert_eq!(search_path(shown), expected, "{shown}");
        }
    }

    #[test]
    fn a_name_alone_is_looked_for_in_the_system_first_and_then_along_the_path() {
        let found = |parts: &[&str], path: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            let found = candidates(&owned(parts), &owned(path));
            found.iter().map(|(schema, name)| format!("{schema}.{name}")).collect::<Vec<_>>()
        };
        assert_eq!(found(&["t"], &["$user", "a", "b"]), ["pg_catalog.t", "a.t", "b.t"]);
        assert_eq!(found(&["t"], &["a", "pg_catalog"]), ["a.t", "pg_catalog.t"]);
        assert_eq!(found(&["b", "t"], &["a"]), ["b.t"]);
        assert_eq!(found(&["db", "b", "t"], &["a"]), ["b.t"]);
    }
}
