//! Row-level-security policies compiled into plans that decide without asking PostgreSQL.
//!
//! No I/O: what only PostgreSQL knows is asked through [`Oracle`]. In reading order: [`schema`]
//! (tables, types, roles), [`RowImage`] (what is judged), [`Oracle`] (whom to ask when a plan can not).

mod oracle;
mod row;
pub mod schema;

pub use oracle::{Oracle, OracleError, Question};
pub use row::{Datum, RowImage};
