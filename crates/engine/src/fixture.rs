//! What tests start an engine with where there is no database: a catalog, and an oracle that knows it. Those in `tests/`
//! take it from here, too, which is why it names nothing of this crate.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustc_hash::{FxHashMap, FxHashSet};
use walcast_pgoutput::{Oid, Xid};
use walcast_policy::schema::{
    Collation, Column, Identity as TableIdentity, Policy, PolicyCommand, Privileges, Role, Snapshot, Table,
    Type, TypeKind, Types,
};
use walcast_policy::{
    Answers, CopyRequest, LoadedCopy, Oracle, OracleError, Question, RowsError, RowsRead, RowsRequest,
};

/// The only table.
pub(crate) const TABLE: Oid = Oid(16_384);
/// The role `reader`.
const READER: Oid = Oid(100);

/// A database that knows its catalog and is asked nothing else.
#[derive(Default)]
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

    fn role<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, OracleError>> {
        panic!("nobody asks for the role {name}")
    }

    fn check_expression<'a>(&'a self, expression: &'a str) -> BoxFuture<'a, Result<(), OracleError>> {
        panic!("nobody asks for {expression}")
    }

    fn constants<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        expressions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, OracleError>> {
        panic!("nobody asks for {expressions:?}")
    }

    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        _: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>> {
        panic!("nobody asks for {}", question.expression)
    }

    fn load(self: Arc<Self>, _: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>> {
        panic!("nothing is looked up")
    }

    fn rows(self: Arc<Self>, _: RowsRequest) -> BoxFuture<'static, Result<RowsRead, RowsError>> {
        panic!("nobody wants a snapshot")
    }
}

/// A catalog with one table `notes`, whose columns are text. Its rows are visible to the role `reader` where `using` holds,
/// and without that, as row security is off then, all of them.
pub(crate) fn snapshot(version: u64, columns: &[&str], using: Option<&str>) -> Arc<Snapshot> {
    let column = |(index, name): (usize, &&str)| Column {
        name: (*name).to_owned(),
        number: i16::try_from(index + 1).unwrap(),
        type_oid: Oid(25),
        type_modifier: -1,
        collation: Collation::Bytes,
        primary_key: index == 0,
        identity: index == 0,
        sql_type: "text".to_owned(),
    };
    let policy = |using: &str| Policy {
        name: "p".to_owned(),
        command: PolicyCommand::All,
        permissive: true,
        roles: Vec::new(),
        using: Some(using.to_owned()),
        columns: vec![2],
        whole_row: false,
        readings: Vec::new(),
        calls: Vec::new(),
    };
    let table = Table {
        oid: TABLE,
        schema: "public".to_owned(),
        name: "notes".to_owned(),
        columns: columns.iter().enumerate().map(column).collect(),
        owner: Oid(10),
        row_security: using.is_some(),
        force_row_security: false,
        identity: TableIdentity::Default,
        policies: using.map(policy).into_iter().collect(),
    };
    let role = Role {
        oid: READER,
        name: "reader".to_owned(),
        bypasses_row_security: false,
        acts_as: [READER].into_iter().collect(),
        privileges: [(TABLE, Privileges { selectable: vec![true; columns.len()] })].into_iter().collect(),
        executes: FxHashSet::default(),
        schemas: ["public".to_owned()].into_iter().collect(),
    };
    let base = |oid: u32, name: &str| {
        let found = Type {
            oid: Oid(oid),
            name: name.to_owned(),
            schema: "pg_catalog".to_owned(),
            kind: TypeKind::Base,
        };
        (Oid(oid), found)
    };
    Arc::new(Snapshot {
        version,
        tables: [(TABLE, Arc::new(table))].into_iter().collect(),
        types: Arc::new(Types([base(25, "text"), base(16, "bool")].into_iter().collect())),
        roles: [("reader".to_owned(), Arc::new(role))].into_iter().collect(),
        functions: Arc::default(),
        lookups: FxHashMap::default(),
        search_path: Arc::default(),
    })
}
