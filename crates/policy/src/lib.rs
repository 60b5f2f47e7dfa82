//! Row-level-security policies compiled into plans that decide without asking PostgreSQL.
//!
//! No I/O: what only PostgreSQL knows is asked through [`Oracle`]. The rule above all others: what has not
//! exactly PostgreSQL's meaning is not compiled, and what fails or is not known is not visible.
//!
//! In reading order, what others use:
//! - [`schema`]: tables, types, policies and roles as the catalog found them; [`RowImage`]: what is judged;
//!   [`Verdict`]: the answer; [`Oracle`]: whom to ask where a plan can not tell.
//! - [`Plan`] and [`BoundPlan`] (`plan`): grants and policies of one role on one table, and the same with
//!   the values of one set of claims.
//! - [`Filter`] (`filter`, `filter::compile`): the conditions of a binding.
//! - [`RowsRequest`] (`rows`): rows that PostgreSQL reads for a subscriber.
//! - [`channel`]: what policies allow on a private channel, asked through a trait of its own.
//! - [`Equality`] (`equalities`): values that a row must have to be visible or to match, by which audiences
//!   are found.
//!
//! How text becomes a decision:
//! - `parse`: SQL to a typed expression (`expression`); the one module that names sqlparser. In its folder `scope`
//!   (what a name stands for), `look_up` (sub-selects), `rules` (what a role may read of a table in them), `body`
//!   (functions in place of their calls), `foreign` (constants that PostgreSQL computes), `literals` (what its
//!   planner leaves out) and [`references`]: what the body of a function names, for the catalog to find.
//! - `refusal`: the privileges that the policies take, beyond those on the table itself.
//! - `resolve`: which operation an operator, function or cast on operands of these types is.
//! - `constants`: what depends on role and claims only is computed once.
//! - `planning`: what PostgreSQL computes ahead of time, and raises for every row.
//! - `evaluate`: three truth values, and what has no value; `operation` and `cast`: what is done to values.
//!
//! The values: `value` (all types), `numeric`, `datetime`, `json`, `array`, `pattern` (LIKE and `~`).

mod array;
mod cast;
pub mod channel;
mod constants;
mod copies;
mod datetime;
mod evaluate;
mod expression;
mod filter;
mod finder;
mod json;
mod keys;
mod look_up;
mod members;
mod numeric;
mod operation;
mod oracle;
mod parse;
mod pattern;
mod plan;
mod planning;
mod refusal;
mod resolve;
mod row;
mod rows;
pub mod schema;
mod transactions;
mod value;
mod verdict;

pub use constants::ChannelSettings;
pub use copies::CopyNeed;
pub use filter::{Filter, FilterCondition, FilterError, FilterOperator, FilterValue};
pub use finder::{Finder, Found};
pub use keys::Key;
pub use members::{CopyChange, CopyDamaged, Members, MembersAt, Moment, TableCopy};
pub use oracle::{Answers, CopyRequest, LoadedCopy, Oracle, OracleError, Question};
pub use parse::{Clauses, References, clauses, references};
pub use plan::{Access, BoundPlan, DecidedBy, Explanation, Plan, Unsupported};
pub use row::{Datum, RowImage};
pub use rows::{RowsError, RowsRead, RowsRequest, TableRead, TableRows};
pub use transactions::TransactionSnapshot;
pub use verdict::Verdict;
