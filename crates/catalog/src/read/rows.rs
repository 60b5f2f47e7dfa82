//! Rows of the catalog queries as the words of `walcast-policy`.

use rustc_hash::{FxHashMap, FxHashSet};
use tokio_postgres::Row;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{
    Collation, Column, Function, Identity, Policy, PolicyCommand, Privileges, Reading, Role, Table, Type,
    TypeKind, Types, Volatility,
};

use super::names::{Qualified, search_path};
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

/// What stands in the way of a copy of a table, and what walcast can do about it.
pub(super) struct Obstacle {
    found: Option<String>,
    /// The statement that walcast's own publication is due.
    pub(super) due: Option<String>,
    pub(super) publication: i64,
    pub(super) continuity: i64,
    pub(super) definition: i64,
}

impl Obstacle {
    /// The clause for the operator.
    pub(super) fn clause(self) -> Option<String> {
        self.found.or_else(|| Some(format!("the log does not carry it: {}", self.due?)))
    }
}

/// What stands in the way, by table.
pub(super) fn obstacles(rows: &[Row]) -> Result<FxHashMap<Oid, Obstacle>, CatalogError> {
    rows.iter()
        .map(|row| {
            let obstacle = Obstacle {
                found: row.try_get(7)?,
                due: row.try_get(8)?,
                publication: row.try_get(9)?,
                continuity: row.try_get(10)?,
                definition: row.try_get(11)?,
            };
            Ok((Oid(row.try_get(0)?), obstacle))
        })
        .collect()
}

/// The policies by table, in the order of their names.
pub(super) fn policies(rows: &[Row]) -> Result<FxHashMap<Oid, Vec<Policy>>, CatalogError> {
    let mut policies: FxHashMap<Oid, Vec<Policy>> = FxHashMap::default();
    for row in rows {
        policies.entry(Oid(row.try_get(0)?)).or_default().push(Policy {
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
            readings: readings(row.try_get(8)?, row.try_get(9)?),
            calls: oids(row.try_get(10)?),
        });
    }
    Ok(policies)
}

/// What is read, from pairs of table and column in their order; column 0 is none in particular.
fn readings(tables: Vec<u32>, columns: Vec<i16>) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    for (table, column) in oids(tables).into_iter().zip(columns) {
        if readings.last().is_none_or(|last| last.table != table) {
            readings.push(Reading { table, columns: Vec::new() });
        }
        if let Some(last) = readings.last_mut()
            && column != 0
        {
            last.columns.push(column);
        }
    }
    readings
}

/// A function, with what its body reads and calls where PostgreSQL knows.
pub(super) struct FoundFunction {
    pub(super) name: Qualified,
    pub(super) function: Function,
    pub(super) reads: Vec<u32>,
    pub(super) calls: Vec<u32>,
}

pub(super) fn function(row: &Row) -> Result<FoundFunction, CatalogError> {
    let settings: Vec<&str> = row.try_get(9)?;
    let path = settings.iter().find_map(|setting| setting.strip_prefix("search_path="));
    let function = Function {
        oid: Oid(row.try_get(2)?),
        owner: Oid(row.try_get(3)?),
        arguments: oids(row.try_get(4)?),
        argument_names: row.try_get(5)?,
        returns: Oid(row.try_get(6)?),
        returns_set: row.try_get(7)?,
        variadic: row.try_get(8)?,
        search_path: path.map(search_path),
        has_settings: settings.len() > usize::from(path.is_some()),
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
    };
    Ok(FoundFunction {
        name: (row.try_get(0)?, row.try_get(1)?),
        function,
        reads: row.try_get(16)?,
        calls: row.try_get(17)?,
    })
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

/// Adds what the roles may execute.
pub(super) fn add_executes(roles: &mut FxHashMap<String, Role>, rows: &[Row]) -> Result<(), CatalogError> {
    for row in rows {
        let role = Oid(row.try_get(0)?);
        if let Some(holder) = roles.values_mut().find(|candidate| candidate.oid == role) {
            holder.executes = oids(row.try_get(1)?).into_iter().collect();
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
