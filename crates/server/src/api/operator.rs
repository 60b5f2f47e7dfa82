//! Who may ask what operators ask: a bearer token of the secrets for operations (docs/protocol.md §11.2).

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use walcast_auth::{OperatorKeys, Standing};

use super::ProjectApi;
use super::tenants::Tenants;
use crate::clock::unix_seconds;

/// What has the keys of operators.
pub(super) trait HasOperatorKeys: Send + Sync {
    fn operator_keys(&self) -> &OperatorKeys;

    /// The project that everything here is about; `None` where the request names it.
    fn only_project(&self) -> Option<&str>;
}

impl HasOperatorKeys for ProjectApi {
    fn operator_keys(&self) -> &OperatorKeys {
        &self.operators
    }

    fn only_project(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl HasOperatorKeys for Tenants {
    fn operator_keys(&self) -> &OperatorKeys {
        &self.operators
    }

    fn only_project(&self) -> Option<&str> {
        None
    }
}

/// The caller may do everything to the only project; where there are several, [`Operator::of`] says to which.
pub(super) struct Operator(Standing);

impl Operator {
    /// Whether the caller may do everything to this project.
    pub(super) fn operates(&self, project: &str) -> bool {
        self.0.operates(project)
    }

    /// Refuses a caller who may not do everything to this project.
    pub(super) fn of(&self, project: &str) -> Result<(), Closed> {
        if self.operates(project) { Ok(()) } else { Err(Closed(ELSEWHERE)) }
    }
}

/// Why an operator of one project is refused at another one.
const ELSEWHERE: &str = "the token is signed with the key of another project's users and is an operator's of that \
                         project only: use one of a secret that no project has, set as auth.api_jwt_secret";

/// The caller may ask what is no secret. The stock stack's health check shows the token that every page has.
pub(super) struct Onlooker;

/// The answer has no body, as upstream's; the log says why.
pub(super) struct Closed(&'static str);

impl IntoResponse for Closed {
    fn into_response(self) -> Response {
        tracing::info!(code = "Unauthorized", reason = self.0, "operation refused");
        StatusCode::FORBIDDEN.into_response()
    }
}

impl<S: HasOperatorKeys> FromRequestParts<Arc<S>> for Operator {
    type Rejection = Closed;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<S>) -> Result<Self, Closed> {
        let standing = standing(state.operator_keys(), &parts.headers).await?;
        if standing == Standing::User {
            return Err(Closed(
                "the token may be a user's, since users' tokens are signed with the same key: use one with the role \
                 service_role, or set auth.api_jwt_secret to a secret of its own",
            ));
        }
        let operator = Operator(standing);
        if let Some(project) = state.only_project() {
            operator.of(project)?;
        }
        Ok(operator)
    }
}

impl<S: HasOperatorKeys> FromRequestParts<Arc<S>> for Onlooker {
    type Rejection = Closed;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<S>) -> Result<Self, Closed> {
        standing(state.operator_keys(), &parts.headers).await.map(|_| Onlooker)
    }
}

async fn standing(keys: &OperatorKeys, headers: &HeaderMap) -> Result<Standing, Closed> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        return Err(Closed("there is no header `Authorization: Bearer <token>`"));
    };
    keys.verify(token, unix_seconds()).await.map_err(|error| {
        tracing::debug!(%error, "the token of an operation is not good");
        Closed(
            "the token is not good: it must be signed with auth.api_jwt_secret or auth.api_jwt_secret_next",
        )
    })
}
