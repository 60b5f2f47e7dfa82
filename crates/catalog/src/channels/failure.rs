//! What went wrong, in the words of [`ChannelPolicyError`].

use walcast_policy::channel::ChannelPolicyError;

use crate::error::CatalogError;

/// `insufficient_privilege`.
const DENIED: &str = "42501";

/// Whether PostgreSQL refused because of a grant or a policy.
pub(super) fn is_denial(error: &CatalogError) -> bool {
    error.code() == Some(DENIED)
}

/// The class of an error (docs/protocol.md §8.4).
pub(super) fn failure(error: CatalogError) -> ChannelPolicyError {
    let text = error.to_string();
    match error {
        CatalogError::Statement { code, .. } | CatalogError::Connect { code: Some(code), .. }
            if code == "53300" =>
        {
            ChannelPolicyError::TooManyConnections(text)
        }
        CatalogError::Statement { code, message } if code == "57014" => ChannelPolicyError::Canceled(message),
        // check_violation is also what constraints raise; the message has no code of its own.
        CatalogError::Statement { code, message }
            if code == "23514" && message.starts_with("no partition of relation") =>
        {
            ChannelPolicyError::MissingPartition(format!(
                "{message}: there is none for today; run `walcast install --apply` or turn the janitor on"
            ))
        }
        raised if raised.is_raised() => ChannelPolicyError::Policy(text),
        CatalogError::PoolExhausted(_) => ChannelPolicyError::PoolExhausted(text),
        CatalogError::Statement { .. }
        | CatalogError::Connect { .. }
        | CatalogError::Broken(_)
        | CatalogError::Late(_)
        | CatalogError::Unexpected(_) => ChannelPolicyError::Unreachable(text),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(code: &str, message: &str) -> ChannelPolicyError {
        failure(CatalogError::Statement { code: code.to_owned(), message: message.to_owned() })
    }

    #[test]
    fn every_class_of_error_has_its_place() {
        assert!(matches!(of("22012", "division by zero"), ChannelPolicyError::Policy(_)));
        assert!(matches!(of("42704", "role \"x\" does not exist"), ChannelPolicyError::Policy(_)));
        assert_eq!(of("57014", "canceled"), ChannelPolicyError::Canceled("canceled".to_owned()));
        let missing = of("23514", "no partition of relation \"messages\" found for row");
        assert!(matches!(missing, ChannelPolicyError::MissingPartition(_)));
        assert!(matches!(of("23514", "violates check constraint"), ChannelPolicyError::Policy(_)));
        assert!(matches!(of("53300", "too many clients"), ChannelPolicyError::TooManyConnections(_)));
        assert!(matches!(of("40001", "could not serialize"), ChannelPolicyError::Unreachable(_)));
        let full = failure(CatalogError::PoolExhausted(Duration::from_secs(1)));
        assert!(matches!(full, ChannelPolicyError::PoolExhausted(_)));
        let refused = CatalogError::Connect { code: Some("53300".to_owned()), message: String::new() };
        assert!(matches!(failure(refused), ChannelPolicyError::TooManyConnections(_)));
        let away = CatalogError::Connect { code: None, message: String::new() };
        assert!(matches!(failure(away), ChannelPolicyError::Unreachable(_)));
    }
}
