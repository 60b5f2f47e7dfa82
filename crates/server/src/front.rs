//! Which project a request is for: by the beginning of its path, or by its host name (docs/protocol.md §1.3).
//!
//! Each project has a router of its own, with everything that it serves. The front only chooses among them, so nothing
//! of one project can reach another.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode, Uri, header};
use tower::ServiceExt;

use crate::origins::is_socket_path;
use crate::redact::redact_text;

/// A project's name: up to 40 lower-case letters, digits and inner hyphens, so that it can be the first label of a
/// host name, the beginning of a path and the end of a slot's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectId(Arc<str>);

/// The text is not a project's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} can not name a project: 1 to 40 lower-case letters, digits and hyphens, none at the ends")]
pub struct NotAProjectId(String);

/// Bytes of a project's name: what a slot's name has room for beside `walcast_` and a suffix.
const ID_BYTES_MAX: usize = 40;

impl ProjectId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a project that is the only one, which upstream's stock stack gives it.
impl Default for ProjectId {
    fn default() -> Self {
        ProjectId("realtime-dev".into())
    }
}

impl FromStr for ProjectId {
    type Err = NotAProjectId;

    fn from_str(text: &str) -> Result<Self, NotAProjectId> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if !fits || text.starts_with('-') || text.ends_with('-') {
            return Err(NotAProjectId(text.to_owned()));
        }
        Ok(ProjectId(text.into()))
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How a project is told apart from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// It is the only one: every host and path is its own.
    Everything,
    /// It is one of a list.
    Listed {
        /// Host names, beside those whose first label is the project's name.
        hosts: Vec<HostPattern>,
        /// Beginnings of paths.
        paths: Vec<PathPrefix>,
    },
}

/// A host name, or all that nobody else has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name, in lower case and without a port.
    Name(String),
    /// `*`: every host that is no other project's.
    Any,
}

/// The text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name such as live.example.com, without scheme and port, nor *")]
pub struct NotAHost(String);

impl FromStr for HostPattern {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let address = text.starts_with('[') && text.ends_with(']');
        if text.is_empty() || !(address || text.bytes().all(allowed)) {
            return Err(NotAHost(text.to_owned()));
        }
        Ok(Self::Name(text.trim_end_matches('.').to_ascii_lowercase()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Any => formatter.write_str("*"),
        }
    }
}

/// The beginning of a path, such as `/blue`: whole segments, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(String);

/// The text can not be the beginning of a project's paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPathPrefix {
    /// No path.
    #[error("{0:?} is not the beginning of a path such as /blue")]
    Malformed(String),
    /// The server's own.
    #[error("paths below /{0} are the server's own, and can not be a project's")]
    Reserved(String),
}

/// First segments of the addresses that a server has itself (docs/protocol.md §1.1, §11).
const RESERVED: &[&str] =
    &["admin", "api", "healthcheck", "healthz", "metrics", "readyz", "realtime", "socket", "status"];

impl FromStr for PathPrefix {
    type Err = NotAPathPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPathPrefix> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        let segments = text.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>());
        let segments = segments.filter(|segments| {
            segments
                .iter()
                .all(|segment| !segment.trim_matches('.').is_empty() && segment.bytes().all(allowed))
        });
        let Some(segments) = segments else { return Err(NotAPathPrefix::Malformed(text.to_owned())) };
        if RESERVED.contains(&segments[0]) {
            return Err(NotAPathPrefix::Reserved(segments[0].to_owned()));
        }
        Ok(PathPrefix(text.to_owned()))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl PathPrefix {
    /// What is left of a path below it, `/` and more; `None` for every other path.
    fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.0.as_str()).filter(|rest| rest.starts_with('/'))
    }
}

/// The way to one project's router, which is closed while the project is not up.
pub struct Door {
    id: ProjectId,
    address: Address,
    router: ArcSwapOption<Router>,
}

impl Door {
    /// A closed door.
    pub fn new(id: ProjectId, address: Address) -> Arc<Self> {
        Arc::new(Door { id, address, router: ArcSwapOption::empty() })
    }

    /// The project's name.
    pub fn id(&self) -> &ProjectId {
        &self.id
    }

    /// Requests go to this router from now on.
    pub fn open(&self, router: Router) {
        self.router.store(Some(Arc::new(router)));
    }

    /// Requests are told to come again.
    pub fn close(&self) {
        self.router.store(None);
    }

    async fn pass(&self, request: Request) -> Response {
        let Some(router) = self.router.load_full() else {
            let error = "the project is being started: try again";
            let retry = [(header::RETRY_AFTER, "1")];
            return (retry, refusal(&request, StatusCode::SERVICE_UNAVAILABLE, error)).into_response();
        };
        match Router::clone(&router).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Finds the door that a request means.
struct Front {
    /// The only project, when it has every address.
    only: Option<Arc<Door>>,
    hosts: HashMap<HostPattern, Arc<Door>>,
    ids: HashMap<String, Arc<Door>>,
    /// The longest first.
    paths: Vec<(PathPrefix, Arc<Door>)>,
    refusal_delay: Duration,
}

/// Everything behind these doors. A refused handshake waits for `refusal_delay` before its answer
/// (docs/protocol.md §1.4).
pub fn router(doors: &[Arc<Door>], refusal_delay: Duration) -> Router {
    let mut front =
        Front { only: None, hosts: HashMap::new(), ids: HashMap::new(), paths: Vec::new(), refusal_delay };
    for door in doors {
        match &door.address {
            Address::Everything => front.only = Some(Arc::clone(door)),
            Address::Listed { hosts, paths } => {
                front.ids.insert(door.id.as_str().to_owned(), Arc::clone(door));
                front.hosts.extend(hosts.iter().map(|host| (host.clone(), Arc::clone(door))));
                front.paths.extend(paths.iter().map(|path| (path.clone(), Arc::clone(door))));
            }
        }
    }
    front.paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.0.len()));
    Router::new().fallback(choose).with_state(Arc::new(front))
}

async fn choose(State(front): State<Arc<Front>>, mut request: Request) -> Response {
    if let Some(only) = &front.only {
        return only.pass(request).await;
    }
    let path = request.uri().path();
    let by_path = front.paths.iter().find_map(|(prefix, door)| Some((prefix.strip(path)?.len(), door)));
    if let Some((rest, door)) = by_path {
        return match below(request.uri(), rest) {
            Some(uri) => {
                *request.uri_mut() = uri;
                door.pass(request).await
            }
            None => StatusCode::BAD_REQUEST.into_response(),
        };
    }
    let host = host_of(request.uri(), request.headers());
    if let Some(door) = front.by_host(host.as_deref()) {
        return door.pass(request).await;
    }
    tracing::info!(
        code = "TenantNotFound",
        host = ?redact_text(host.as_deref().unwrap_or_default()),
        path = ?redact_text(request.uri().path()),
        "no project has this address: name the host in `hosts` of a project, or begin the path with /<project>/"
    );
    if is_socket_path(request.uri().path()) {
        tokio::time::sleep(front.refusal_delay).await;
    }
    if is_api_path(request.uri().path()) {
        return refusal(&request, StatusCode::UNAUTHORIZED, "Tenant not found in database");
    }
    refusal(&request, StatusCode::NOT_FOUND, "Tenant not found")
}

impl Front {
    /// The exact name first, then the first label as a project's name, as upstream finds its tenants.
    fn by_host(&self, host: Option<&str>) -> Option<&Arc<Door>> {
        let named = host.and_then(|host| {
            let name = HostPattern::Name(host.to_owned());
            self.hosts.get(&name).or_else(|| self.ids.get(host.split('.').next()?))
        });
        named.or_else(|| self.hosts.get(&HostPattern::Any))
    }
}

/// The host that a request names (RFC 9112 §3.2), in lower case, without a port.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let named = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    let host = match named.find(']') {
        Some(end) if named.starts_with('[') => &named[..=end],
        _ => named.split(':').next().unwrap_or_default(),
    };
    Some(host.trim_end_matches('.').to_ascii_lowercase())
}

/// The same address with only the last `rest` bytes of its path.
fn below(uri: &Uri, rest: usize) -> Option<Uri> {
    let path = uri.path();
    let rest = &path[path.len() - rest..];
    let target = uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a path is of the HTTP interface (docs/protocol.md §11.1).
fn is_api_path(path: &str) -> bool {
    path.strip_prefix("/realtime/v1").unwrap_or(path).starts_with("/api/")
}

/// In the words of the reference server: `message` from its HTTP interface, else `error`.
fn refusal(request: &Request, status: StatusCode, text: &str) -> Response {
    let key = if is_api_path(request.uri().path()) { "message" } else { "error" };
    let content_type = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    (status, content_type, serde_json::json!({ key: text }).to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};

    use super::*;

    fn door(id: &str, hosts: &[&str], paths: &[&str]) -> Arc<Door> {
        let door = Door::new(
            id.parse().unwrap(),
            Address::Listed {
                hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
                paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
            },
        );
        open(&door);
        door
    }

    fn open(door: &Door) {
        let id = door.id().clone();
        door.open(Router::new().fallback(move |uri: Uri| async move {
            format!("{id} {}", uri.path_and_query().map_or("", PathAndQuery::as_str))
        }));
    }

    async fn ask(doors: &[Arc<Door>], host: &str, path: &str) -> (u16, String) {
        let request = Request::builder().uri(path).header("host", host).body(Body::empty()).unwrap();
        let response = router(doors, Duration::ZERO).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_project_is_found_by_path_then_by_host_then_by_the_first_label() {
        let doors = [
            door("blue", &["live.example.com", "green.example.com"], &["/blue", "/teams/blue"]),
            door("green", &["[::1]"], &["/green", "/blue/green"]),
        ];
        for (host, path, found) in [
            ("live.example.com", "/socket/websocket?vsn=2.0.0", "blue /socket/websocket?vsn=2.0.0"),
            ("LIVE.Example.com.:4000", "/", "blue /"),
            ("green.example.com", "/", "blue /"),
            ("green.example.org", "/", "green /"),
            ("green", "/", "green /"),
            ("[::1]:4000", "/", "green /"),
            ("elsewhere", "/blue/socket/websocket?apikey=a", "blue /socket/websocket?apikey=a"),
            ("green", "/blue/", "blue /"),
            ("elsewhere", "/teams/blue/api/broadcast", "blue /api/broadcast"),
            ("elsewhere", "/blue/green/x", "green /x"),
        ] {
            assert_eq!(ask(&doors, host, path).await, (200, found.to_owned()), "{host} {path}");
        }
    }

    #[tokio::test]
    async fn an_address_of_nobody_is_refused_in_the_words_of_the_reference_server() {
        let doors = [door("blue", &[], &["/blue"])];
        let not_found = (404, r#"{"error":"Tenant not found"}"#.to_owned());
        for path in ["/socket/websocket", "/realtime/v1/websocket", "/blues/socket/websocket", "/blue"] {
            assert_eq!(ask(&doors, "red.example.com", path).await, not_found, "{path}");
        }
        let unauthorized = (401, r#"{"message":"Tenant not found in database"}"#.to_owned());
        for path in ["/api/broadcast", "/realtime/v1/api/ping"] {
            assert_eq!(ask(&doors, "red.example.com", path).await, unauthorized, "{path}");
        }
        assert_eq!(ask(&doors, "example.blue.com", "/socket/websocket").await, not_found);
    }

    proptest::proptest! {
        #[test]
        fn any_host_is_read_or_not_there(host in proptest::collection::vec(0x20..=0xff_u8, 0..40)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(&host) {
                headers.insert(header::HOST, value);
            }
            if let Some(read) = host_of(&Uri::from_static("/"), &headers) {
                assert!(!read.ends_with('.') && !read.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }

        #[test]
        fn below_a_prefix_the_rest_of_the_address_stays(rest in "/[a-z%0-9/]{0,20}", query in "[a-z=&]{0,10}") {
            let uri: Uri = format!("/blue{rest}?{query}").parse().unwrap();
            let left = PathPrefix("/blue".to_owned()).strip(uri.path()).unwrap().len();
            let below = below(&uri, left).unwrap();
            assert_eq!((below.path(), below.query()), (&*rest, Some(&*query)));
        }
    }

    #[tokio::test]
    async fn the_star_takes_what_nobody_else_has() {
        let doors = [door("blue", &["*"], &[]), door("green", &[], &[])];
        assert_eq!(ask(&doors, "10.0.0.1", "/a").await.1, "blue /a");
        assert_eq!(ask(&doors, "green.example.com", "/a").await.1, "green /a");
    }

    #[tokio::test]
    async fn a_single_project_answers_everywhere_and_a_closed_door_says_so() {
        let only = Door::new("one".parse().unwrap(), Address::Everything);
        let doors = [Arc::clone(&only)];
        assert_eq!(ask(&doors, "any", "/a").await.0, 503);
        open(&only);
        assert_eq!(ask(&doors, "any", "/one/a").await, (200, "one /one/a".to_owned()));
        only.close();
        let told = ask(&doors, "any", "/api/broadcast").await;
        assert_eq!(told, (503, r#"{"message":"the project is being started: try again"}"#.to_owned()));
    }

    #[test]
    fn what_can_name_no_project_host_or_path_is_refused() {
        for text in ["", "-a", "a-", "Blue", "a_b", "a.b", &"a".repeat(41)] {
            assert!(text.parse::<ProjectId>().is_err(), "{text}");
        }
        for text in ["", "http://a", "a:4000", "a/b", "*.example.com"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
        for text in ["", "/", "blue", "/blue/", "/a//b", "/..", "/a b", "/a?b"] {
            assert!(text.parse::<PathPrefix>().is_err(), "{text}");
        }
        let reserved = "/api/blue".parse::<PathPrefix>().unwrap_err().to_string();
        assert_eq!(reserved, "paths below /api are the server's own, and can not be a project's");
    }
}
