//! What can go wrong between us and PostgreSQL.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::{DbError, Severity};
use walcast_policy::OracleError;

/// PostgreSQL refused, or could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// No connection could be opened.
    #[error("cannot connect to PostgreSQL: {message}")]
    Connect {
        /// The SQLSTATE, where PostgreSQL itself refused.
        code: Option<String>,
        /// What was said.
        message: String,
    },
    /// PostgreSQL raised an error for a statement.
    #[error("ERROR {code} {message}")]
    Statement {
        /// The five characters of the SQLSTATE (PostgreSQL docs, appendix "PostgreSQL Error Codes").
        code: String,
        /// The primary message.
        message: String,
    },
    /// The connection ended in the middle of a conversation.
    #[error("the connection to PostgreSQL broke: {0}")]
    Broken(String),
    /// Every connection was busy for too long.
    #[error(
        "no connection to PostgreSQL became free within {0:?}; raise the pool size or find the slow policy"
    )]
    PoolExhausted(Duration),
    /// PostgreSQL took too long as a whole.
    #[error("PostgreSQL did not answer within {0:?}")]
    Late(Duration),
    /// An answer was not what the question asks for.
    #[error("PostgreSQL's answer could not be read: {0}")]
    Unexpected(String),
}

impl CatalogError {
    /// The error of an attempt to connect.
    pub(crate) fn connecting(error: &tokio_postgres::Error) -> Self {
        CatalogError::Connect {
            code: error.code().map(|code| code.code().to_owned()),
            message: describe(error),
        }
    }

    /// Whether the connection is gone, so that another one may do better.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, CatalogError::Broken(_))
    }

    /// Whether there is no connection to be had.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, CatalogError::Connect { .. } | CatalogError::Broken(_))
    }

    /// Whether PostgreSQL raised it for what it was asked, so that it may well answer something else.
    pub(crate) fn is_raised(&self) -> bool {
        matches!(self, CatalogError::Statement { code, .. } if is_the_askers_fault(code))
    }

    /// Whether a statement took too long for PostgreSQL (57014, `query_canceled`).
    pub(crate) fn is_time_out(&self) -> bool {
        self.code() == Some("57014")
    }

    /// The SQLSTATE, where PostgreSQL gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            CatalogError::Connect { code, .. } => code.as_deref(),
            CatalogError::Statement { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for CatalogError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(raised) if ends_the_session(raised) => CatalogError::Broken(raised.message().to_owned()),
            Some(raised) => CatalogError::Statement {
                code: raised.code().code().to_owned(),
                message: raised.message().to_owned(),
            },
            None => CatalogError::Broken(describe(&error)),
        }
    }
}

impl From<CatalogError> for OracleError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Statement { code, message } if is_the_askers_fault(&code) => {
                OracleError::Raised { code, message }
            }
            away if away.is_away() => OracleError::Disconnected(away.to_string()),
            other => OracleError::Unavailable(other.to_string()),
        }
    }
}

/// FATAL and PANIC end the session (an administrator's shutdown, for one).
fn ends_the_session(raised: &DbError) -> bool {
    matches!(raised.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
}

/// Whether the fault lies in the expression or the claims, rather than in the state of the server: these
/// classes are connections (08), aborted transactions (25P02), roll-backs for conflicts (40), resources
/// (53), locks (55P03), cancelled statements and shutdowns (57), the system (58).
fn is_the_askers_fault(code: &str) -> bool {
    const CIRCUMSTANCES: [&str; 7] = ["08", "25P02", "40", "53", "55P03", "57", "58"];
    !CIRCUMSTANCES.iter().any(|class| code.starts_with(class))
}

/// The error with its causes: tokio-postgres itself says little more than "error connecting to server".
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(raised) = error.as_db_error() {
        return raised.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(code: &str) -> OracleError {
        CatalogError::Statement { code: code.to_owned(), message: "so".to_owned() }.into()
    }

    #[test]
    fn a_division_by_zero_is_the_expressions_fault() {
        assert!(matches!(raised("22012"), OracleError::Raised { .. }));
        assert!(matches!(raised("42501"), OracleError::Raised { .. }));
    }

    #[test]
    fn a_time_out_is_not() {
        assert!(matches!(raised("57014"), OracleError::Unavailable(_)));
        assert!(matches!(raised("53300"), OracleError::Unavailable(_)));
    }
}
