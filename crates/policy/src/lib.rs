//! Row-level-security policies compiled into plans that decide without asking PostgreSQL.
//!
//! No I/O: what only PostgreSQL knows is asked through [`Oracle`]. In reading order: [`schema`]
//! (tables, types, roles), [`RowImage`] (what is judged), [`Verdict`] (the answer), [`Oracle`] (whom to ask
//! when a plan can not), [`Plan`] (grants and policies), [`Filter`] (the conditions of a binding).

mod array;
mod cast;
mod constants;
mod datetime;
mod equalities;
mod evaluate;
mod expression;
mod filter;
mod functions;
mod json;
mod numeric;
mod operation;
mod oracle;
mod parse;
mod pattern;
mod plan;
mod resolve;
mod row;
pub mod schema;
mod value;
mod verdict;

pub use equalities::Equality;
pub use filter::{Filter, FilterCondition, FilterError, FilterOperator, FilterValue};
pub use oracle::{Oracle, OracleError, Question};
pub use plan::{Access, BoundPlan, DecidedBy, Explanation, Plan, Unsupported};
pub use row::{Datum, RowImage};
pub use verdict::Verdict;
