//! The description of every route (<https://spec.openapis.org/oas/v3.1.0>), made of the handlers that answer them.
//!
//! The routes of `walcast dev`'s page are left out: they are for that page alone.

use std::sync::LazyLock;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{broadcast, tenants, users};
use crate::{health, metrics};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "walcast",
        description = "Row changes of PostgreSQL, Broadcast and Presence. What goes over the WebSocket is described \
                       in docs/protocol.md. `/api/ping` and `/api/broadcast…` answer under `/realtime/v1` too."
    ),
    paths(websocket, websocket_behind_base, long_poll, long_poll_behind_base, long_poll_send, long_poll_send_behind_base),
    modifiers(&Keys)
)]
struct Described;

/// The keys that routes ask for.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = |description| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
            SecurityScheme::Http(scheme.description(Some(description)).build())
        };
        let apikey = ApiKey::Header(ApiKeyValue::with_description("apikey", "The same, without `Bearer`"));
        components.add_security_scheme("token", bearer("The token of a user: `role` and `exp`"));
        components.add_security_scheme("apikey", SecurityScheme::ApiKey(apikey));
        components.add_security_scheme("operator", bearer("A token signed with `auth.api_jwt_secret`"));
        components.add_security_scheme("metrics", bearer("A token signed with `auth.metrics_jwt_secret`"));
    }
}

/// The WebSocket, as standalone clients address it.
#[utoipa::path(get, path = "/socket/websocket", tag = "WebSocket",
    params(("apikey" = Option<String>, Query, description = "The token, unless `x-api-key` has it"),
           ("vsn" = Option<String>, Query, description = "The serializer: 1.0.0 or 2.0.0")),
    responses((status = 101, description = "The socket"), (status = 401, description = "No token, or one that is not good"),
              (status = 403, description = "There is no such serializer"), (status = 429, description = "Too many sockets")))]
#[allow(dead_code)] // the gateway answers; this describes
fn websocket() {}

/// The WebSocket, as `supabase-js` and its siblings address it.
#[utoipa::path(get, path = "/realtime/v1/websocket", tag = "WebSocket",
    params(("apikey" = Option<String>, Query, description = "The token, unless `x-api-key` has it"),
           ("vsn" = Option<String>, Query, description = "The serializer: 1.0.0 or 2.0.0")),
    responses((status = 101, description = "The socket"), (status = 401, description = "No token, or one that is not good"),
              (status = 403, description = "There is no such serializer"), (status = 429, description = "Too many sockets")))]
#[allow(dead_code)]
fn websocket_behind_base() {}

/// Messages without a socket, as standalone clients address it: opens a session, or waits for its messages.
#[utoipa::path(get, path = "/socket/longpoll", tag = "WebSocket",
    params(("apikey" = Option<String>, Query, description = "The user's token, to open a session"),
           ("vsn" = Option<String>, Query, description = "The serializer"),
           ("token" = Option<String>, Query, description = "The session")),
    responses((status = 200, description = "`status` says how it went")))]
#[allow(dead_code)]
fn long_poll() {}

/// Messages without a socket, as standalone clients address it: sends some.
#[utoipa::path(post, path = "/socket/longpoll", tag = "WebSocket",
    params(("token" = Option<String>, Query, description = "The session")),
    responses((status = 200, description = "`status` says how it went")))]
#[allow(dead_code)]
fn long_poll_send() {}

/// Messages without a socket, as `supabase-js` and its siblings address it: opens a session, or waits for its messages.
#[utoipa::path(get, path = "/realtime/v1/longpoll", tag = "WebSocket",
    params(("apikey" = Option<String>, Query, description = "The user's token, to open a session"),
           ("vsn" = Option<String>, Query, description = "The serializer"),
           ("token" = Option<String>, Query, description = "The session")),
    responses((status = 200, description = "`status` says how it went")))]
#[allow(dead_code)]
fn long_poll_behind_base() {}

/// Messages without a socket, as `supabase-js` and its siblings address it: sends some.
#[utoipa::path(post, path = "/realtime/v1/longpoll", tag = "WebSocket",
    params(("token" = Option<String>, Query, description = "The session")),
    responses((status = 200, description = "`status` says how it went")))]
#[allow(dead_code)]
fn long_poll_send_behind_base() {}

/// `GET /api/openapi`.
pub fn router() -> Router {
    routes().split_for_parts().0
}

fn routes() -> OpenApiRouter {
    OpenApiRouter::default().routes(routes!(openapi))
}

/// The description of every route.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Described::openapi();
    for part in [
        broadcast::routes().into_openapi(),
        users::routes().into_openapi(),
        tenants::routes().into_openapi(),
        health::routes().into_openapi(),
        metrics::routes().into_openapi(),
        routes().into_openapi(),
    ] {
        document.merge(part);
    }
    document
}

/// This description.
#[utoipa::path(get, path = "/api/openapi", tag = "Server", responses((status = 200, body = Value)))]
async fn openapi() -> Response {
    static TEXT: LazyLock<Option<String>> = LazyLock::new(|| document().to_json().ok());
    match TEXT.as_deref() {
        Some(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// axum prints the paths of a router as `RouteId(1): "/path"`, with two for what no route answers.
    fn paths(router: &impl std::fmt::Debug) -> BTreeSet<String> {
        let printed = format!("{router:?}");
        let routes =
            printed.split("RouteId(").filter_map(|piece| piece.split_once("): \"")?.1.split_once('"'));
        let is_route = |path: &&str| *path != "/" && !path.contains("axum_fallback");
        routes.map(|(path, _)| path).filter(is_route).map(str::to_owned).collect()
    }

    #[test]
    fn every_route_of_the_server_is_described_and_nothing_else() {
        let mut answered = paths(&crate::gateway::routes());
        for found in [
            paths(&broadcast::routes().split_for_parts().0),
            paths(&users::routes().split_for_parts().0),
            paths(&tenants::routes().split_for_parts().0),
            paths(&health::routes().split_for_parts().0),
            paths(&metrics::routes().split_for_parts().0),
            paths(&router()),
        ] {
            assert!(!found.is_empty());
            answered.extend(found);
        }
        let described = document().paths.paths.into_keys().collect();
        assert_eq!(answered, described);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_summary_and_a_tag() {
        let document = serde_json::to_value(document()).unwrap();
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} twice");
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(operation["tags"][0].is_string(), "{method} {path}");
                for security in operation["security"].as_array().into_iter().flatten() {
                    for scheme in security.as_object().unwrap().keys() {
                        let known = &document["components"]["securitySchemes"][scheme];
                        assert!(known.is_object(), "{scheme} of {method} {path}");
                    }
                }
            }
        }
    }
}
