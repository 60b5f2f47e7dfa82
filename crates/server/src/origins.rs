//! Which pages may open a socket: the `Origin` of a browser against a list.
//!
//! A browser sends `Origin` with every WebSocket handshake and lets any page make one, so a page elsewhere could use a
//! token that it got hold of. Other programs send none, or what they like: for them the list is no protection, and
//! they are let through to the check of their token.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};

use crate::redact::redact_text;

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`: every page.
    Any,
    /// `https://app.example.com`, in the form in which browsers send it.
    Exactly(String),
    /// `https://*.example.com`: every host below this one.
    Below {
        /// `https`
        scheme: String,
        /// `.example.com`, and the port where it is not the scheme's own.
        suffix: String,
    },
}

/// The text is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin such as https://app.example.com, https://*.example.com or *")]
pub struct NotAnOrigin(String);

impl FromStr for AllowedOrigin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "null" {
            return Ok(Self::Exactly(text.to_owned()));
        }
        // `*` is no character of a host; another one stands in for it while the rest is checked.
        let plain = text.replacen("://*.", "://any.", 1);
        let origin = normal(&plain).ok_or_else(|| NotAnOrigin(text.to_owned()))?;
        if plain == text {
            return Ok(Self::Exactly(origin));
        }
        let (scheme, rest) = origin.split_once("://").ok_or_else(|| NotAnOrigin(text.to_owned()))?;
        let suffix = rest.strip_prefix("any").ok_or_else(|| NotAnOrigin(text.to_owned()))?;
        Ok(Self::Below { scheme: scheme.to_owned(), suffix: suffix.to_owned() })
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("*"),
            Self::Exactly(origin) => formatter.write_str(origin),
            Self::Below { scheme, suffix } => write!(formatter, "{scheme}://*{suffix}"),
        }
    }
}

impl AllowedOrigin {
    /// Whether an origin in the form of [`normal`] is meant.
    fn covers(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(allowed) => allowed == origin,
            Self::Below { scheme, suffix } => origin.split_once("://").is_some_and(|(of, host)| {
                of == scheme && host.len() > suffix.len() && host.ends_with(suffix.as_str())
            }),
        }
    }
}

/// `scheme://host[:port]` in lower case, without the port that the scheme has anyway; `None` for anything else.
fn normal(origin: &str) -> Option<String> {
    let uri: Uri = origin.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if authority.as_str().contains('@') || uri.path() != "/" || uri.query().is_some() || origin.ends_with('/')
    {
        return None;
    }
    let (scheme, host) = (scheme.to_ascii_lowercase(), authority.host().to_ascii_lowercase());
    if host.is_empty() || host.contains('*') {
        return None;
    }
    match (scheme.as_str(), authority.port_u16()) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => Some(format!("{scheme}://{host}")),
        (_, Some(port)) => Some(format!("{scheme}://{host}:{port}")),
    }
}

/// Refuses handshakes of pages that are not on the list; an empty list allows every page.
pub fn guarded(app: Router, allowed: Vec<AllowedOrigin>) -> Router {
    if allowed.is_empty() || allowed.contains(&AllowedOrigin::Any) {
        return app;
    }
    app.layer(from_fn_with_state(Arc::<[AllowedOrigin]>::from(allowed), check))
}

async fn check(State(allowed): State<Arc<[AllowedOrigin]>>, request: Request, next: Next) -> Response {
    let origins = request.headers().get_all(header::ORIGIN);
    let refused = origins.iter().find(|origin| {
        let origin = origin
            .to_str()
            .ok()
            .and_then(|text| if text == "null" { Some(text.to_owned()) } else { normal(text) });
        !origin.is_some_and(|origin| allowed.iter().any(|allowed| allowed.covers(&origin)))
    });
    let Some(origin) = refused.filter(|_| is_socket_path(request.uri().path())) else {
        return next.run(request).await;
    };
    let shown = String::from_utf8_lossy(origin.as_bytes());
    tracing::info!(
        code = "OriginNotAllowed",
        origin = ?redact_text(&shown),
        "a page's handshake was refused: its origin is not in auth.allowed_origins"
    );
    let body = serde_json::json!({ "error": format!(
        "the origin {shown:?} is not allowed (auth.allowed_origins)"
    )});
    let content_type = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    (StatusCode::FORBIDDEN, content_type, body.to_string()).into_response()
}

/// Whether a request with this path opens a socket, or is part of one (docs/protocol.md §1.1).
pub(crate) fn is_socket_path(path: &str) -> bool {
    path.ends_with("/websocket") || path.ends_with("/longpoll")
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn allowed(texts: &[&str]) -> Vec<AllowedOrigin> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    async fn ask(list: &[&str], path: &str, origins: &[&str]) -> (StatusCode, String) {
        let app = Router::new().route("/socket/websocket", get("in")).route("/page", get("in"));
        let mut request = Request::builder().uri(path);
        for origin in origins {
            request = request.header("origin", *origin);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = guarded(app, allowed(list)).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_page_from_elsewhere_is_told_the_setting() {
        let (status, body) =
            ask(&["https://app.example.com"], "/socket/websocket", &["https://evil.example"]).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["error"],
            "the origin \"https://evil.example\" is not allowed (auth.allowed_origins)"
        );
    }

    #[tokio::test]
    async fn listed_pages_and_programs_without_an_origin_pass() {
        let list = ["https://app.example.com", "http://*.dev.example:8080", "null"];
        for origins in [
            &[][..],
            &["https://app.example.com"],
            &["HTTPS://App.Example.com:443"],
            &["http://a.b.dev.example:8080"],
            &["null"],
        ] {
            assert_eq!(ask(&list, "/socket/websocket", origins).await.0, StatusCode::OK, "{origins:?}");
        }
        for origins in [
            &["http://app.example.com"][..],
            &["https://app.example.com:444"],
            &["https://app.example.com.evil.example"],
            &["https://app.example.com@evil.example"],
            &["http://dev.example:8080"],
            &["http://evildev.example:8080"],
            &["https://app.example.com", "https://evil.example"],
            &[""],
            &["app.example.com"],
        ] {
            assert_eq!(
                ask(&list, "/socket/websocket", origins).await.0,
                StatusCode::FORBIDDEN,
                "{origins:?}"
            );
            assert_eq!(ask(&list, "/page", origins).await.0, StatusCode::OK, "{origins:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_list_and_a_star_allow_every_page() {
        for list in [&[][..], &["*"]] {
            let answer = ask(list, "/socket/websocket", &["https://evil.example"]).await;
            assert_eq!(answer.0, StatusCode::OK);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_origin_passes_a_list_but_the_one_on_it(text in "[ -~]{0,40}") {
            let allowed = allowed(&["https://app.example.com"]);
            let passes = normal(&text).is_some_and(|origin| allowed[0].covers(&origin));
            let plain = text.to_ascii_lowercase();
            assert_eq!(passes, plain == "https://app.example.com" || plain == "https://app.example.com:443");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://*",
            "https://a.*.b",
            "https://u@a",
        ] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text}");
        }
        assert_eq!(allowed(&["https://*.Example.com:443"])[0].to_string(), "https://*.example.com");
    }
}
