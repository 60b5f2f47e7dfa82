//! Speaking as a role with the claims of a token.

use serde_json::Value;
use tokio_postgres::{Client, Statement};

use crate::error::CatalogError;
use crate::pool::{Lease, milliseconds};
use crate::quoting::RoleName;

/// The statement that sets the claims for the rest of the transaction; see [`ClaimSettings`].
const SET_CLAIMS: &str = "SELECT pg_catalog.set_config('request.jwt.claims', $1, true), \
     pg_catalog.set_config('request.jwt.claim.sub', $2, true), \
     pg_catalog.set_config('request.jwt.claim.role', $3, true), \
     pg_catalog.set_config('request.jwt.claim.email', $4, true)";

/// Whether a transaction may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// The SQL that opens a transaction as `role`. The role and the time-out end with the transaction.
pub(crate) fn begin(role: &RoleName, access: Access, lease: &Lease) -> String {
    format!(
        "BEGIN {}; SET LOCAL statement_timeout = {}; SET LOCAL ROLE {}",
        match access {
            Access::ReadOnly => "READ ONLY",
            Access::ReadWrite => "READ WRITE",
        },
        milliseconds(lease.statement_timeout()),
        role.quoted()
    )
}

/// Prepares the statement for [`ClaimSettings::apply`]; once for each connection.
pub(crate) async fn claims_statement(lease: &mut Lease) -> Result<Statement, CatalogError> {
    Ok(lease.prepare("", SET_CLAIMS, 4).await?.statement)
}

/// The settings in which policies find the claims: `request.jwt.claims` with all of them as JSON, and,
/// as policies of older projects want, `request.jwt.claim.sub`, `.role` and `.email`. Empty where a
/// claim is missing, since a setting that was set once never becomes NULL again in its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimSettings<'a> {
    all: &'a str,
    subject: String,
    role: String,
    email: String,
}

impl<'a> ClaimSettings<'a> {
    /// Of the payload of a token, as JSON text.
    pub(crate) fn new(claims: &'a str) -> Self {
        let parsed: Value = serde_json::from_str(claims).unwrap_or(Value::Null);
        let text = |name: &str| match parsed.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        ClaimSettings { all: claims, subject: text("sub"), role: text("role"), email: text("email") }
    }

    /// `request.jwt.claims`, then the claims `sub`, `role` and `email`.
    pub(crate) fn texts(&self) -> [&str; 4] {
        [self.all, &self.subject, &self.role, &self.email]
    }

    /// Sets them until the transaction, or the savepoint, ends.
    pub(crate) async fn apply(&self, client: &Client, statement: &Statement) -> Result<(), CatalogError> {
        client.execute(statement, &[&self.all, &self.subject, &self.role, &self.email]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_that_are_missing_or_no_text_have_a_text_all_the_same() {
        let settings = ClaimSettings::new(r#"{"sub":"u1","role":null,"email":7}"#);
        assert_eq!(settings.subject, "u1");
        assert_eq!(settings.role, "");
        assert_eq!(settings.email, "7");
        assert_eq!(ClaimSettings::new("no json").subject, "");
    }
}
