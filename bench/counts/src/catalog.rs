//! A database that knows its catalog and is asked nothing else: a table whose rows are each for one person.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustc_hash::{FxHashMap, FxHashSet};
use walcast_pgoutput::{Oid, Xid};
use walcast_policy::schema::{
    Collation, Column, Identity, Policy, PolicyCommand, Privileges, Role, Snapshot, Table, Type, TypeKind,
    Types,
};
use walcast_policy::{Answers, CopyRequest, LoadedCopy, Oracle, OracleError, Question};

pub(crate) const TABLE: Oid = Oid(16_384);
pub(crate) const TEXT: Oid = Oid(25);
pub(crate) const COLUMNS: [&str; 3] = ["id", "owner", "body"];
pub(crate) const ROLE: &str = "reader";
const READER: Oid = Oid(100);

/// The `sub` of a person.
pub(crate) fn person(number: usize) -> String {
    format!("person {number:05}")
}

/// What it knows.
pub(crate) struct Catalog(pub(crate) Arc<Snapshot>);

impl Oracle for Catalog {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0)
    }

    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>> {
        async { Ok(self.snapshot()) }.boxed()
    }

    fn visible<'a>(&'a self, _: &'a [Xid]) -> BoxFuture<'a, Result<(), OracleError>> {
        async { Ok(()) }.boxed()
    }

    fn role<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, OracleError>> {
        async { Err(not_asked()) }.boxed()
    }

    fn check_expression<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), OracleError>> {
        async { Err(not_asked()) }.boxed()
    }

    fn constants<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, OracleError>> {
        async { Err(not_asked()) }.boxed()
    }

    fn decide<'a>(
        &'a self,
        _: Question<'a>,
        _: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>> {
        async { Err(not_asked()) }.boxed()
    }

    fn load(self: Arc<Self>, _: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>> {
        async { Err(not_asked()) }.boxed()
    }
}

/// All that happens here is decided in process.
fn not_asked() -> OracleError {
    OracleError::Unavailable("there is no database".to_owned())
}

/// The table, its policy and its reader.
pub(crate) fn snapshot() -> Arc<Snapshot> {
    let column = |(name, number): (&&str, i16)| Column {
        name: (*name).to_owned(),
        number,
        type_oid: TEXT,
        type_modifier: -1,
        collation: Collation::Bytes,
        primary_key: number == 1,
        identity: number == 1,
        sql_type: "text".to_owned(),
    };
    let policy = Policy {
        name: "own".to_owned(),
        command: PolicyCommand::All,
        permissive: true,
        roles: Vec::new(),
        using: Some("(owner = current_setting('request.jwt.claim.sub'::text, true))".to_owned()),
        columns: vec![2],
        whole_row: false,
        readings: Vec::new(),
        calls: Vec::new(),
    };
    let table = Table {
        oid: TABLE,
        schema: "public".to_owned(),
        name: "notes".to_owned(),
        columns: COLUMNS.iter().zip(1..).map(column).collect(),
        owner: Oid(10),
        row_security: true,
        force_row_security: false,
        identity: Identity::Default,
        policies: vec![policy],
    };
    let role = Role {
        oid: READER,
        name: ROLE.to_owned(),
        bypasses_row_security: false,
        acts_as: [READER].into_iter().collect(),
        privileges: [(TABLE, Privileges { selectable: vec![true; COLUMNS.len()] })].into_iter().collect(),
        executes: FxHashSet::default(),
        schemas: ["public".to_owned()].into_iter().collect(),
    };
    let text =
        Type { oid: TEXT, name: "text".to_owned(), schema: "pg_catalog".to_owned(), kind: TypeKind::Base };
    Arc::new(Snapshot {
        version: 1,
        tables: [(TABLE, Arc::new(table))].into_iter().collect(),
        types: Arc::new(Types([(TEXT, text)].into_iter().collect())),
        roles: [(ROLE.to_owned(), Arc::new(role))].into_iter().collect(),
        functions: Arc::default(),
        lookups: FxHashMap::default(),
        search_path: Arc::default(),
    })
}
