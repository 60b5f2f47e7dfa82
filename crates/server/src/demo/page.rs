//! The page's files, compiled into the binary, and the headers they are served with.

use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = include_str!("../../page/index.html");

macro_rules! files {
    ($($name:literal as $kind:expr),+ $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("../../page/", $name)))),+]
    };
}

/// Path under `/page/`, content type, content.
const FILES: &[(&str, &str, &str)] = files![
    "api.js" as SCRIPT,
    "app.js" as SCRIPT,
    "chat.js" as SCRIPT,
    "dom.js" as SCRIPT,
    "frames.js" as SCRIPT,
    "icon.svg" as PICTURE,
    "identity.js" as SCRIPT,
    "live.js" as SCRIPT,
    "map.js" as SCRIPT,
    "notices.js" as SCRIPT,
    "orders.js" as SCRIPT,
    "people.js" as SCRIPT,
    "style.css" as STYLE,
    "time.js" as SCRIPT,
    "vendor/supabase.LICENSE.txt" as TEXT,
    "vendor/supabase.js" as SCRIPT,
];

/// `GET /`.
pub(super) async fn index(headers: HeaderMap) -> Response {
    let mut response = file(HTML, INDEX);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, content_security_policy(&headers));
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// `GET /page/{path}`.
pub(super) async fn asset(Path(path): Path<String>) -> Response {
    match FILES.iter().find(|(name, _, _)| *name == path) {
        Some((_, kind, content)) => file(kind, content),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 3] = [
        (CONTENT_TYPE, kind),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The files change with the binary and carry no version in their names.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

/// Scripts, styles and requests of this origin only; nothing inline, nothing framed. Not every browser reads `'self'`
/// in `connect-src` as covering `ws:`, so the WebSocket addresses of the same host are named.
fn content_security_policy(headers: &HeaderMap) -> HeaderValue {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| is_plain_host(host));
    let sockets = host.map_or_else(String::new, |host| format!(" ws://{host} wss://{host}"));
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // A plain host has visible ASCII only; the fallback is the strictest policy there is.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// A name or an address with an optional port: nothing that could end or extend a directive of the policy.
fn is_plain_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_for(host: &'static str) -> String {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        content_security_policy(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn sockets_of_the_same_host_are_allowed_by_name() {
        let policy = policy_for("[::1]:4000");
        assert!(policy.contains("connect-src 'self' ws://[::1]:4000 wss://[::1]:4000;"), "{policy}");
    }

    #[test]
    fn a_host_header_can_not_add_to_the_policy() {
        let policy = policy_for("x; script-src *");
        assert!(policy.contains("connect-src 'self';"), "{policy}");
    }

    #[test]
    fn the_page_names_only_files_that_are_served() {
        let named = INDEX.split(['"', '\'']).filter_map(|text| text.strip_prefix("/page/"));
        for path in named {
            assert!(FILES.iter().any(|(name, _, _)| *name == path), "{path} is not in FILES");
        }
    }

    #[test]
    fn scripts_import_only_files_that_are_served() {
        let own_scripts =
            FILES.iter().filter(|(name, kind, _)| *kind == SCRIPT && !name.starts_with("vendor/"));
        for (importer, _, content) in own_scripts {
            for import in content.lines().filter(|line| line.starts_with("import ")) {
                let path = import.split("'./").nth(1).and_then(|rest| rest.strip_suffix("';"));
                let path = path.unwrap_or_else(|| panic!("{importer}: {import}"));
                assert!(FILES.iter().any(|(name, _, _)| *name == path), "{importer} imports {path}");
            }
        }
    }

    #[test]
    fn nothing_is_taken_from_elsewhere() {
        let own = FILES.iter().filter(|(name, _, _)| !name.starts_with("vendor/"));
        for (name, _, content) in own.chain([&("index.html", HTML, INDEX)]) {
            let hosts = content.split("://").skip(1).filter(|rest| !rest.starts_with("www.w3.org/2000/svg"));
            assert_eq!(hosts.count(), 0, "{name} names another host");
        }
    }

    #[test]
    fn nothing_is_inline_that_the_policy_forbids() {
        let scripts = INDEX.matches("<script").count();
        assert_eq!(scripts, INDEX.matches("<script type=\"module\" src=").count());
        for forbidden in ["<style", " style=", " onclick=", "javascript:"] {
            assert!(!INDEX.contains(forbidden), "index.html has {forbidden}");
        }
    }

    #[test]
    fn markup_is_never_parsed_from_text() {
        let own = FILES.iter().filter(|(name, _, _)| !name.starts_with("vendor/"));
        for (name, _, content) in own {
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!content.contains(forbidden), "{name} has {forbidden}");
            }
        }
    }
}
