//! What the log says of a table before the first row of it: name, columns, replica identity.

use crate::lsn::Oid;

/// A table as the stream describes it (PostgreSQL docs, "Logical Replication Message Formats",
/// `Relation`). Sent before the first change of a table and again whenever its description changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// What changes refer to it by.
    pub oid: Oid,
    /// Its schema's name, unquoted. The stream writes `pg_catalog` as an empty string; here it is spelled out.
    pub namespace: String,
    /// Its name, unquoted.
    pub name: String,
    /// What UPDATE and DELETE carry of the old row.
    pub identity: ReplicaIdentity,
    /// The published columns in table order, which is the order of the cells of its rows.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Its name, unquoted.
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: Oid,
    /// `pg_attribute.atttypmod`, -1 where the type has none.
    pub type_modifier: i32,
    /// Whether it is part of the replica identity.
    pub key: bool,
}

/// `pg_class.relreplident` (PostgreSQL docs, ALTER TABLE … REPLICA IDENTITY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, where there is one.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: the columns of an index.
    Index,
}

impl ReplicaIdentity {
    /// From its letter in `pg_class.relreplident`; `None` for any other letter.
    pub fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'd' => Some(Self::Default),
            b'n' => Some(Self::Nothing),
            b'f' => Some(Self::Full),
            b'i' => Some(Self::Index),
            _ => None,
        }
    }

    /// Its letter in `pg_class.relreplident`.
    pub fn letter(self) -> u8 {
        match self {
            Self::Default => b'd',
            Self::Nothing => b'n',
            Self::Full => b'f',
            Self::Index => b'i',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_replica_identities_go_both_ways() {
        let known = (0..=u8::MAX).filter_map(ReplicaIdentity::from_letter);
        let letters: Vec<u8> = known.map(ReplicaIdentity::letter).collect();
        assert_eq!(letters, b"dfin");
    }
}
