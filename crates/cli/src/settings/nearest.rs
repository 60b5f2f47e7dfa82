//! The known name that a mistyped one was probably meant to be.

/// The candidate with the fewest typing mistakes between it and `name`, when they are few enough to be mistakes.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (mistakes(name, candidate), candidate))
        .filter(|(mistakes, candidate)| *mistakes <= candidate.len() / 3)
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that turn one text into the other (Levenshtein distance).
pub(super) fn mistakes(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, character) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *wanted);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_counted() {
        for (one, other, expected) in
            [("", "abc", 3), ("port", "port", 0), ("prt", "port", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(mistakes(one, other), expected, "{one} {other}");
            assert_eq!(mistakes(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_typing_mistake_finds_its_name_and_nonsense_finds_none() {
        let names = ["server.port", "server.host", "log.level"];
        assert_eq!(nearest("server.prot", names.into_iter()), Some("server.port"));
        assert_eq!(nearest("port", ["server.port"].into_iter()), None);
        assert_eq!(nearest("completely.different", names.into_iter()), None);
    }
}
