//! What a policy is judged against: tables, types and roles, as the catalog found them.
//!
//! Plain data. `walcast-catalog` fills it; nothing here asks PostgreSQL.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use walcast_pgoutput::Oid;

/// Everything known of the database at one moment. Swapped as a whole when the catalog changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change of content; equal versions have equal content.
    pub version: u64,
    /// The tables of the publications, by oid (the root's, where a partitioned table is published so).
    pub tables: FxHashMap<Oid, Arc<Table>>,
    /// The types of their columns and what these are made of.
    pub types: Arc<Types>,
    /// The roles that sockets have named so far.
    pub roles: FxHashMap<String, Arc<Role>>,
    /// The functions outside `pg_catalog` that policies call, directly or through others, by `schema.name`;
    /// overloads are a list.
    pub functions: Arc<FxHashMap<String, Vec<Function>>>,
    /// What policies and functions look things up in, by oid, whether published or not.
    pub lookups: FxHashMap<Oid, Arc<LookupTable>>,
    /// `search_path` of our sessions, as written (`"$user"`, `public`): what names in the bodies of functions
    /// mean that bring no search path of their own.
    pub search_path: Arc<[String]>,
}

impl Snapshot {
    /// The published table `schema.name`.
    pub fn table(&self, schema: &str, name: &str) -> Option<&Arc<Table>> {
        self.tables.values().find(|table| table.schema == schema && table.name == name)
    }

    /// Whether plans that were compiled with this snapshot are those of `other`, as far as tables and roles are not
    /// the plans' own.
    pub fn compiles_as(&self, other: &Snapshot) -> bool {
        let owners = |snapshot: &Snapshot| {
            let functions = snapshot.functions.values().flatten();
            let owners: FxHashSet<Oid> =
                functions.filter(|one| one.security_definer).map(|one| one.owner).collect();
            let mut roles: Vec<_> =
                snapshot.roles.values().filter(|role| owners.contains(&role.oid)).cloned().collect();
            roles.sort_by_key(|role| role.oid.0);
            roles
        };
        self.types == other.types
            && self.functions == other.functions
            && self.lookups == other.lookups
            && self.search_path == other.search_path
            && owners(self) == owners(other)
    }
}

/// A published table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Its schema's name.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// The live columns in table order; dropped ones are absent.
    pub columns: Vec<Column>,
    /// The owner's role oid: policies do not bind it unless [`Table::force_row_security`].
    pub owner: Oid,
    /// `relrowsecurity`: ENABLE ROW LEVEL SECURITY was given.
    pub row_security: bool,
    /// `relforcerowsecurity`: FORCE ROW LEVEL SECURITY was given.
    pub force_row_security: bool,
    /// `relreplident`.
    pub identity: Identity,
    /// The policies of every command, in the order of their names.
    pub policies: Vec<Policy>,
}

impl Table {
    /// The index into [`Table::columns`] of the column called `name`.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether the table has a primary key.
    pub fn has_primary_key(&self) -> bool {
        self.columns.iter().any(|column| column.primary_key)
    }
}

/// A table that policies or functions look something up in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupTable {
    /// Its columns, policies and the rest.
    pub table: Table,
    /// Why no copy of it can be kept current from the log, as a clause for the operator to read (`it is a
    /// view`); `None` where one can be.
    pub obstacle: Option<String>,
    /// Another number where what publishes the table has changed, so that the log may lack some of its changes.
    pub publication: i64,
    /// Another number where the table was emptied, which the log tells, or written anew.
    pub continuity: i64,
    /// Another number where columns were defined anew. Together with another `continuity` their values may be others
    /// than they were.
    pub definition: i64,
}

/// What a policy reads of a table other than its own, as `pg_depend` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The table or view.
    pub table: Oid,
    /// The columns by number, sorted; empty where none is named (`SELECT 1 FROM t`), for which SELECT on any
    /// one column suffices.
    pub columns: Vec<i16>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// `pg_attribute.attnum`, as policies name it in `pg_depend`.
    pub number: i16,
    /// Its type; see [`Types`].
    pub type_oid: Oid,
    /// `atttypmod`, -1 where the type has none.
    pub type_modifier: i32,
    /// Whether comparisons by order depend on more than the bytes.
    pub collation: Collation,
    /// Part of the primary key.
    pub primary_key: bool,
    /// Part of the replica identity: the log carries its old value.
    pub identity: bool,
    /// `format_type(atttypid, atttypmod)`: how SQL names the type, for casts.
    pub sql_type: String,
}

/// What a column's collation means for comparing it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collation {
    /// The type has none, or it is `C`/`POSIX`/`ucs_basic`: bytes decide.
    Bytes,
    /// Deterministic, but order is the locale's: equality is by bytes, order is PostgreSQL's to say.
    Locale,
    /// Not deterministic: even equality is PostgreSQL's to say.
    Nondeterministic,
}

/// `REPLICA IDENTITY` of a table (PostgreSQL docs, ALTER TABLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The primary key, where there is one.
    Default,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
    /// Nothing.
    Nothing,
}

/// A row-level-security policy, as `pg_policy` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Which command it is for.
    pub command: PolicyCommand,
    /// PERMISSIVE policies are joined by OR, RESTRICTIVE ones by AND.
    pub permissive: bool,
    /// The roles it is for; empty means PUBLIC.
    pub roles: Vec<Oid>,
    /// `pg_get_expr(polqual, polrelid)`; `None` for policies that have only WITH CHECK.
    pub using: Option<String>,
    /// The columns of the table that the expression reads, as `pg_depend` has them (attnum).
    pub columns: Vec<i16>,
    /// Whether it reads the row as a whole (`f(t.*)`, `t IS NULL`).
    pub whole_row: bool,
    /// What it reads of other tables, sub-selects included. Whoever runs into the policy needs SELECT on it.
    pub readings: Vec<Reading>,
    /// The functions outside `pg_catalog` that it calls. Whoever runs into the policy needs EXECUTE on them.
    pub calls: Vec<Oid>,
}

/// The command a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyCommand {
    /// `FOR ALL`.
    All,
    /// `FOR SELECT`: the one that decides who may see a row.
    Select,
    /// `FOR INSERT`.
    Insert,
    /// `FOR UPDATE`.
    Update,
    /// `FOR DELETE`.
    Delete,
}

/// A function that a policy calls, as `pg_proc` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: Oid,
    /// The owner's role oid: whose privileges hold in its body where it is SECURITY DEFINER.
    pub owner: Oid,
    /// Types of the input arguments.
    pub arguments: Vec<Oid>,
    /// Names of the input arguments; empty strings where they have none.
    pub argument_names: Vec<String>,
    /// What it returns.
    pub returns: Oid,
    /// `proretset`: it returns a set of rows.
    pub returns_set: bool,
    /// Whether its last argument is VARIADIC.
    pub variadic: bool,
    /// The schemas of its own `SET search_path`, unquoted; `None` where it has none.
    pub search_path: Option<Vec<String>>,
    /// Whether it has other settings of its own (`SET role = …`).
    pub has_settings: bool,
    /// `lanname`: `sql`, `plpgsql`, …
    pub language: String,
    /// `provolatile`.
    pub volatility: Volatility,
    /// `proisstrict`: NULL in, NULL out.
    pub strict: bool,
    /// `prosecdef`: runs with its owner's privileges.
    pub security_definer: bool,
    /// The body: `prosrc`, or `pg_get_function_sqlbody` where that is how it was written.
    pub body: String,
    /// Whether the body is the latter: its names were looked up when the function was made, and all are
    /// qualified.
    pub resolved: bool,
}

/// How long a function's result holds (PostgreSQL docs, "Function Volatility Categories").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Volatility {
    /// Forever.
    Immutable,
    /// For the length of one statement.
    Stable,
    /// Not at all.
    Volatile,
}

/// A role, with what it may do with the published tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `pg_roles.oid`.
    pub oid: Oid,
    /// Its name, unquoted.
    pub name: String,
    /// `rolsuper` or `rolbypassrls`: row security does not bind it.
    pub bypasses_row_security: bool,
    /// The roles whose privileges it has (`pg_has_role(…, 'USAGE')`), itself included.
    pub acts_as: FxHashSet<Oid>,
    /// What it may read, by table, published ones and [`Snapshot::lookups`]; a table that is absent may not be
    /// read at all.
    pub privileges: FxHashMap<Oid, Privileges>,
    /// The functions of [`Snapshot::functions`] that it may EXECUTE.
    pub executes: FxHashSet<Oid>,
    /// The schemas that it has USAGE on. Whoever names a table needs it; who runs into a policy that does, not.
    pub schemas: FxHashSet<String>,
}

/// What one role may read of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// By index into [`Table::columns`]: may the role SELECT it? USAGE on the schema is another matter; see
    /// [`Role::schemas`].
    pub selectable: Vec<bool>,
}

/// Every type that the columns of the published tables need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(pub FxHashMap<Oid, Type>);

impl Types {
    /// The type with this oid.
    pub fn get(&self, oid: Oid) -> Option<&Type> {
        self.0.get(&oid)
    }

    /// The type below any number of domains.
    pub fn base(&self, oid: Oid) -> Option<&Type> {
        let mut found = self.get(oid)?;
        while let TypeKind::Domain { base } = found.kind {
            found = self.get(base)?;
        }
        Some(found)
    }
}

/// A type, as `pg_type` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// `pg_type.oid`. Built-in types have fixed ones.
    pub oid: Oid,
    /// `typname`: `int4`, `_int4` for arrays.
    pub name: String,
    /// The schema it lives in.
    pub schema: String,
    /// What it is made of.
    pub kind: TypeKind,
}

/// What a type is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A scalar, by its name.
    Base,
    /// An array; `delimiter` separates its elements in text (`,` but for `box`).
    Array {
        /// The elements' type.
        element: Oid,
        /// `typdelim` of the element.
        delimiter: char,
    },
    /// An enumeration; labels in catalog order, which is their sort order.
    Enum {
        /// The labels.
        labels: Vec<String>,
    },
    /// A domain over another type.
    Domain {
        /// What it is a domain of.
        base: Oid,
    },
    /// A composite type.
    Composite {
        /// Names and types of the fields, dropped ones absent.
        fields: Vec<(String, Oid)>,
    },
    /// A range or multirange.
    Range,
}
