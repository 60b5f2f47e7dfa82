//! Rows of the catalog queries as the words of `walcast-policy`.

use rustc_hash::{FxHashMap, FxHashSet};
use tokio_postgres::Row;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{
    Collation, Column, Function, Identity, Policy, PolicyCommand, Privileges, Role, Table, Type, TypeKind,
    Types, Volatility,
};

use crate::error::CatalogError;

/// The tables, still without columns and policies.
pub(super) fn tables(rows: &[Row]) -> Result<FxHashMap<Oid, Table>, CatalogError> {
    let mut tables = FxHashMap::default();
    for row in rows {
        let oid = Oid(row.try_get(0)?);
        let table = Table {
            oid,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            columns: Vec::new(),
            owner: Oid(row.try_get(3)?),
            row_security: row.try_get(4)?,
            force_row_security: row.try_get(5)?,
            identity: match letter(row, 6)? {
                'd' => Identity::Default,
                'f' => Identity::Full,
                'i' => Identity::Index,
                'n' => Identity::Nothing,
                other => return Err(unknown("relreplident", other)),
            },
            policies: Vec::new(),
        };
        tables.insert(oid, table);
    }
    Ok(tables)
}

/// Adds the columns, which come in the order of their numbers.
pub(super) fn add_columns(tables: &mut FxHashMap<Oid, Table>, rows: &[Row]) -> Result<(), CatalogError> {
    for row in rows {
        let Some(table) = tables.get_mut(&Oid(row.try_get(0)?)) else {
            continue;
        };
        table.columns.push(Column {
            name: row.try_get(1)?,
            number: row.try_get(2)?,
            type_oid: Oid(row.try_get(3)?),
            type_modifier: row.try_get(4)?,
            sql_type: row.try_get(5)?,
            collation: match row.try_get(6)? {
                "bytes" => Collation::Bytes,
                "nondeterministic" => Collation::Nondeterministic,
                _ => Collation::Locale,
            },
            primary_key: row.try_get(7)?,
            identity: row.try_get(8)?,
        });
    }
    Ok(())
}

/// Adds the policies, which come in the order of their names.
pub(super) fn add_policies(tables: &mut FxHashMap<Oid, Table>, rows: &[Row]) -> Result<(), CatalogError> {
    for row in rows {
        let Some(table) = tables.get_mut(&Oid(row.try_get(0)?)) else {
            continue;
        };
        table.policies.push(Policy {
            name: row.try_get(1)?,
            command: match letter(row, 2)? {
                '*' => PolicyCommand::All,
                'r' => PolicyCommand::Select,
                'a' => PolicyCommand::Insert,
                'w' => PolicyCommand::Update,
                'd' => PolicyCommand::Delete,
                other => return Err(unknown("polcmd", other)),
            },
            permissive: row.try_get(3)?,
            roles: oids(row.try_get(4)?),
            using: row.try_get(5)?,
            columns: row.try_get(6)?,
            whole_row: row.try_get(7)?,
            readings: Vec::new(),
            calls: Vec::new(),
        });
    }
    Ok(())
}

/// The functions by `schema.name`, overloads in the order of their oids.
pub(super) fn functions(rows: &[Row]) -> Result<FxHashMap<String, Vec<Function>>, CatalogError> {
    let mut functions: FxHashMap<String, Vec<Function>> = FxHashMap::default();
    for row in rows {
        let name = format!("{}.{}", row.try_get::<_, &str>(0)?, row.try_get::<_, &str>(1)?);
        functions.entry(name).or_default().push(Function {
            oid: Oid(row.try_get(2)?),
            owner: Oid(row.try_get(3)?),
            arguments: oids(row.try_get(4)?),
            argument_names: row.try_get(5)?,
            returns: Oid(row.try_get(6)?),
            returns_set: row.try_get(7)?,
            variadic: row.try_get(8)?,
            search_path: None,
            has_settings: row.try_get(9)?,
            language: row.try_get(10)?,
            volatility: match letter(row, 11)? {
                'i' => Volatility::Immutable,
                's' => Volatility::Stable,
                _ => Volatility::Volatile,
            },
            strict: row.try_get(12)?,
            security_definer: row.try_get(13)?,
            resolved: row.try_get(14)?,
            body: row.try_get(15)?,
        });
    }
    Ok(functions)
}

/// The types by oid.
pub(super) fn types(rows: &[Row]) -> Result<Types, CatalogError> {
    let mut types = Types::default();
    for row in rows {
        let oid = Oid(row.try_get(0)?);
        let found = Type { oid, name: row.try_get(1)?, schema: row.try_get(2)?, kind: type_kind(row)? };
        types.0.insert(oid, found);
    }
    Ok(types)
}

fn type_kind(row: &Row) -> Result<TypeKind, CatalogError> {
    if let Some(element) = row.try_get::<_, Option<u32>>(5)? {
        return Ok(TypeKind::Array { element: Oid(element), delimiter: letter(row, 6)? });
    }
    Ok(match letter(row, 3)? {
        'd' => TypeKind::Domain { base: Oid(row.try_get(4)?) },
        'e' => TypeKind::Enum { labels: row.try_get(7)? },
        'c' => {
            let names: Vec<String> = row.try_get(8)?;
            TypeKind::Composite { fields: names.into_iter().zip(oids(row.try_get(9)?)).collect() }
        }
        'r' | 'm' => TypeKind::Range,
        _ => TypeKind::Base,
    })
}

/// The roles by name, still without privileges.
pub(super) fn roles(rows: &[Row]) -> Result<FxHashMap<String, Role>, CatalogError> {
    let mut roles = FxHashMap::default();
    for row in rows {
        let name: String = row.try_get(1)?;
        let role = Role {
            oid: Oid(row.try_get(0)?),
            name: name.clone(),
            bypasses_row_security: row.try_get(2)?,
            acts_as: oids(row.try_get(3)?).into_iter().collect(),
            privileges: FxHashMap::default(),
            executes: FxHashSet::default(),
            schemas: row.try_get::<_, Vec<String>>(4)?.into_iter().collect(),
        };
        roles.insert(name, role);
    }
    Ok(roles)
}

/// Adds what the roles may read; a table of which a role may read nothing is left out.
pub(super) fn add_privileges(roles: &mut FxHashMap<String, Role>, rows: &[Row]) -> Result<(), CatalogError> {
    for row in rows {
        let role = Oid(row.try_get(0)?);
        let selectable: Vec<bool> = row.try_get(2)?;
        let holder = roles.values_mut().find(|candidate| candidate.oid == role);
        if let Some(holder) = holder
            && selectable.contains(&true)
        {
            holder.privileges.insert(Oid(row.try_get(1)?), Privileges { selectable });
        }
    }
    Ok(())
}

fn oids(numbers: Vec<u32>) -> Vec<Oid> {
    numbers.into_iter().map(Oid).collect()
}

/// A value of PostgreSQL's one-byte type `"char"`.
fn letter(row: &Row, column: usize) -> Result<char, CatalogError> {
    let byte: i8 = row.try_get(column)?;
    Ok(char::from(byte.cast_unsigned()))
}

fn unknown(column: &str, value: char) -> CatalogError {
    CatalogError::Unexpected(format!("{column} is '{value}', which this version does not know"))
}
