//! A schema made by hand, for tests that need no database.

use std::sync::Arc;

use walcast_pgoutput::Oid;
use walcast_policy::schema::{
    Collation, Column, Function, Identity, Policy, PolicyCommand, Privileges, Role, Snapshot, Table, Type,
    TypeKind, Types, Volatility,
};
use walcast_policy::{Datum, RowImage};

pub(crate) const OWNER: Oid = Oid(10);
pub(crate) const TABLE: Oid = Oid(16_500);

/// The columns of the table: name, type's oid, its name, how SQL names it.
const COLUMNS: &[(&str, u32, &str, &str)] = &[
    ("id", 23, "int4", "integer"),
    ("owner", 2950, "uuid", "uuid"),
    ("body", 25, "text", "text"),
    ("public", 16, "bool", "boolean"),
    ("price", 1700, "numeric", "numeric(10,2)"),
    ("place", 600, "point", "point"),
    ("code", 1043, "varchar", "character varying(8)"),
    ("details", 3802, "jsonb", "jsonb"),
    ("raw", 114, "json", "json"),
];

/// The body of `auth.uid()` as Supabase has it.
const UID: &str = "
  select
  coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
";

pub(crate) fn types() -> Types {
    let each = COLUMNS.iter().map(|(_, oid, name, _)| {
        let found = Type {
            oid: Oid(*oid),
            name: (*name).to_owned(),
            schema: "pg_catalog".to_owned(),
            kind: TypeKind::Base,
        };
        (found.oid, found)
    });
    Types(each.collect())
}

/// A table with row security on and these policies.
pub(crate) fn table(policies: Vec<Policy>) -> Table {
    let columns = COLUMNS.iter().enumerate().map(|(index, (name, oid, _, sql_type))| Column {
        name: (*name).to_owned(),
        number: i16::try_from(index + 1).unwrap(),
        type_oid: Oid(*oid),
        type_modifier: -1,
        collation: if matches!(*name, "body" | "code") { Collation::Locale } else { Collation::Bytes },
        primary_key: index == 0,
        identity: index == 0,
        sql_type: (*sql_type).to_owned(),
    });
    Table {
        oid: TABLE,
        schema: "public".to_owned(),
        name: "messages".to_owned(),
        columns: columns.collect(),
        owner: OWNER,
        row_security: true,
        force_row_security: false,
        identity: Identity::Default,
        policies,
    }
}

/// A permissive policy for PUBLIC on SELECT that reads the columns with these numbers.
#[allow(dead_code, reason = "not every test file has policies")]
pub(crate) fn policy(name: &str, using: &str, columns: &[i16]) -> Policy {
    Policy {
        name: name.to_owned(),
        command: PolicyCommand::Select,
        permissive: true,
        roles: Vec::new(),
        using: Some(using.to_owned()),
        columns: columns.to_vec(),
        whole_row: false,
        readings: Vec::new(),
        calls: Vec::new(),
    }
}

/// A role that may read every column.
#[allow(dead_code, reason = "not every test file has roles")]
pub(crate) fn role() -> Role {
    Role {
        oid: Oid(20),
        name: "authenticated".to_owned(),
        bypasses_row_security: false,
        acts_as: [Oid(20), Oid(21)].into_iter().collect(),
        privileges: [(TABLE, Privileges { selectable: vec![true; COLUMNS.len()] })].into_iter().collect(),
        executes: [Oid(30)].into_iter().collect(),
        schemas: ["public".to_owned(), "auth".to_owned()].into_iter().collect(),
    }
}

#[allow(dead_code, reason = "not every test file has policies")]
pub(crate) fn snapshot() -> Snapshot {
    let uid = Function {
        oid: Oid(30),
        owner: OWNER,
        returns_set: false,
        variadic: false,
        search_path: None,
        has_settings: false,
        resolved: false,
        arguments: Vec::new(),
        argument_names: Vec::new(),
        returns: Oid(2950),
        language: "sql".to_owned(),
        volatility: Volatility::Stable,
        strict: false,
        security_definer: false,
        body: UID.to_owned(),
    };
    Snapshot {
        types: Arc::new(types()),
        functions: Arc::new([("auth.uid".to_owned(), vec![uid])].into_iter().collect()),
        ..Snapshot::default()
    }
}

pub(crate) const ALICE: &str = "0d8b1f4e-0000-4000-8000-00000000000a";

/// A row of Alice's: everything else false or empty.
#[allow(dead_code, reason = "not every test file has a row")]
pub(crate) fn row() -> RowImage<'static> {
    let values = ["7", ALICE, "hello", "f", "9.50", "(1,2)", "abc", "{\"a\": 1}", "{\"a\": 1}"];
    RowImage { values: values.into_iter().map(Datum::Text).collect() }
}
