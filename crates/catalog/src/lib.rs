//! What PostgreSQL says of itself, and the questions that only PostgreSQL can answer. The one crate that
//! speaks SQL.
//!
//! In reading order:
//!
//! - [`CatalogSettings`]: how the database is reached.
//! - `error`: what can go wrong, and which of it is the asker's fault.
//! - `pool`: a few connections, opened on demand, thrown away at the first doubt about their state.
//! - `pipeline`: several requests on one connection without waiting in between.
//! - `quoting`: names as SQL text.
//! - `read`: tables, columns, types, policies, functions, roles and privileges, in one consistent look.
//! - `fingerprint`: one cheap query whose answer changes whenever that look would.
//! - `publication`: walcast's own, which make the log carry what policies look up and messages from the database.
//! - [`Catalog`]: the current [`walcast_policy::schema::Snapshot`], kept fresh and handed to whoever watches.
//! - `impersonation`: speaking as a role with the claims of a token.
//! - `inquiry`: one query put as a role with the claims of many, none of which learns of another.
//! - `image`: row images as SQL, so that an expression can be evaluated over them.
//! - `decision`: one expression over many rows for many claims, over several connections; `slices`: what one
//!   statement of it decides; `tempo`: how much at once, and when to give up.
//! - `oracle`: [`walcast_policy::Oracle`] over the pool.
//! - [`SlotState`]: how much log the replication slot holds back.
//! - `visibility`: when a transaction that the log has told of is visible to queries.
//! - `copies`: copies of the tables that policies look things up in.
//! - `copy_lines`: what COPY sends, line by line.
//! - `rows`: the rows that a subscriber may see now.
//! - [`channels`]: [`walcast_policy::channel::ChannelPolicies`]: what private channels allow, and stored messages.
//! - `run_as`: one statement as a role, for the demo's writes.
//! - [`preflight`]: what must hold before walcast serves, and the SQL that mends it.
//! - [`survey`]: what a database says of itself, for `walcast doctor`; `sample`: a written row as the log has it.
//! - [`install`]: what walcast puts into a database on request.
//! - [`janitor`]: partitions of `realtime.messages`, made ahead and dropped.
//! - [`script`]: SQL files applied in one transaction, for `walcast dev`.

mod catalog;
pub mod channels;
mod copies;
mod copy_lines;
mod decision;
mod error;
mod fingerprint;
mod image;
mod impersonation;
mod inquiry;
pub mod install;
pub mod janitor;
mod oracle;
mod pipeline;
mod pool;
pub mod preflight;
mod publication;
mod quoting;
mod read;
mod rows;
mod run_as;
mod sample;
pub mod script;
mod settings;
mod slices;
mod slot;
pub mod survey;
mod tempo;
mod visibility;

pub use catalog::Catalog;
pub use error::CatalogError;
pub use quoting::{identifier, qualified};
pub use read::MessagesInLog;
pub use settings::{CatalogSettings, LOOKUP_PUBLICATION, MESSAGES_PUBLICATION};
pub use slot::SlotState;
