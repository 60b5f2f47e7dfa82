//! From an HTTP request to a WebSocket: serializer, token, limits, upgrade (docs/protocol.md §1.2–1.4).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use walcast_auth::{Claims, TokenError};
use walcast_wire::Serializer;

use super::Gateway;
use super::channel::Credentials;
use super::client::Admitted;
use super::connection::Connection;
use super::limits::Seat;
use super::socket::SharedStream;
use crate::clock::unix_seconds;
use crate::edge::AddressSeat;

/// Query parameters of the handshake that mean something here.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) vsn: Option<String>,
    pub(super) apikey: Option<String>,
    /// Of a long-polling session.
    pub(super) token: Option<String>,
}

/// A handshake that is refused, as the client sees it.
pub(super) struct Refused {
    status: StatusCode,
    pub(super) message: String,
    code: &'static str,
}

impl Refused {
    /// Whether the same request is refused later, too.
    pub(super) fn is_final(&self) -> bool {
        !self.status.is_server_error() && self.status != StatusCode::TOO_MANY_REQUESTS
    }

    /// Counts it, and keeps the client waiting, so that one that retries at once costs little.
    pub(super) async fn wait(&self, gateway: &Gateway) {
        gateway.count_error();
        tracing::info!(code = self.code, reason = self.message, "handshake refused");
        tokio::time::sleep(gateway.limits.connect_error_backoff).await;
    }
}

/// `GET /socket/websocket`.
pub(crate) async fn upgrade(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let parameters = Parameters::of(request.uri().query().unwrap_or_default());
    let Ok(serializer) = Serializer::negotiate(parameters.vsn.as_deref()) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let admitted = admit(&gateway, request.headers(), parameters.apikey, serializer).await;
    let (admitted, seat) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            refused.wait(&gateway).await;
            let body = serde_json::json!({ "error": refused.message }).to_string();
            let content_type = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
            return (refused.status, content_type, body).into_response();
        }
    };
    let Some(accept) = accept_key(request.headers()) else {
        return (
            StatusCode::BAD_REQUEST,
            "this address speaks WebSocket: the request needs `Connection: Upgrade`, `Upgrade: websocket`, \
             `Sec-WebSocket-Version: 13` and `Sec-WebSocket-Key`",
        )
            .into_response();
    };
    let upgrade = hyper::upgrade::on(&mut request);
    // Boxed, so that the handshake's future is not as large as the connection's.
    let seats = (seat, request.extensions_mut().remove::<AddressSeat>());
    tokio::spawn(Box::pin(serve(gateway, upgrade, admitted, seats)));
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, accept.as_str()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn serve(
    gateway: Arc<Gateway>,
    upgrade: OnUpgrade,
    admitted: Admitted,
    _seats: (Seat, Option<AddressSeat>),
) {
    let Ok(upgraded) = upgrade.await else { return };
    let Some((shared, early)) = SharedStream::of(upgraded) else {
        tracing::error!(code = "ErrorConnectingToWebsocket", "the upgraded connection is not a TCP stream");
        return;
    };
    let connection = Box::pin(Connection::open(&gateway, shared, early, admitted)).await;
    connection.run().await;
}

/// Decides who is let in (docs/protocol.md §1.4).
pub(super) async fn admit(
    gateway: &Gateway,
    headers: &HeaderMap,
    apikey: Option<String>,
    serializer: Serializer,
) -> Result<(Admitted, Seat), Refused> {
    if gateway.limits.suspended {
        return Err(Refused {
            status: StatusCode::FORBIDDEN,
            message: "Realtime was disabled for this tenant".to_owned(),
            code: "RealtimeDisabledForTenant",
        });
    }
    let header = headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let token = header.or(apikey).ok_or_else(|| Refused::from(&TokenError::Missing))?;
    let claims: Claims =
        gateway.verifier.verify(&token, unix_seconds()).await.map_err(|error| Refused::from(&error))?;
    let too_many = |message: String, code| Refused { status: StatusCode::TOO_MANY_REQUESTS, message, code };
    let limits = &gateway.limits;
    let seat = gateway.admission.seat(limits).ok_or_else(|| {
        let message = format!(
            "Too many connected users (limits.max_concurrent_users = {})",
            limits.max_concurrent_users
        );
        too_many(message, "ConnectionRateLimitReached")
    })?;
    if !gateway.admission.takes_joins(limits, std::time::Instant::now()) {
        let message = format!(
            "Too many joins per second (limits.max_joins_per_second = {})",
            limits.max_joins_per_second
        );
        return Err(too_many(message, "JoinsRateLimitReached"));
    }
    let headers = headers_for_policies(headers);
    Ok((Admitted { serializer, credentials: Credentials::new(token.into(), claims), headers }, seat))
}

/// The headers `x-*` as a JSON object, for policies to read; not the one that carries the key, which is a secret.
fn headers_for_policies(headers: &HeaderMap) -> Arc<str> {
    let shown = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-") && *name != "x-api-key");
    let object: serde_json::Map<String, serde_json::Value> =
        shown.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into()))).collect();
    serde_json::Value::Object(object).to_string().into()
}

impl From<&TokenError> for Refused {
    fn from(error: &TokenError) -> Self {
        let (status, message) = error.handshake();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refused { status, message, code: error.handshake_code() }
    }
}

impl Parameters {
    pub(super) fn of(query: &str) -> Self {
        let mut parameters = Parameters::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = || {
                let spaced = value.replace('+', " ");
                percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
            };
            match name {
                "vsn" => parameters.vsn = Some(decoded()),
                "apikey" => parameters.apikey = Some(decoded()),
                "token" => parameters.token = Some(decoded()),
                _ => {}
            }
        }
        parameters
    }
}

/// RFC 6455 §4.2.1: what makes a request a WebSocket handshake.
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let contains = |name: header::HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(wanted)))
    };
    let upgrades = contains(header::CONNECTION, "upgrade")
        && contains(header::UPGRADE, "websocket")
        && contains(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    upgrades.then(|| derive_accept_key(key.as_bytes()))
}
