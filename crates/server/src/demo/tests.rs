//! The endpoints against a database that only remembers what it was asked.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use walcast_auth::{Secret, Verifier, VerifierSettings};

use super::people::PEOPLE;
use super::{Demo, DemoDatabase, DemoError, router, statements};

const SECRET: &str = "a secret of the tests, long enough to sign with";

type Answer = fn() -> Result<Value, DemoError>;

#[derive(Debug, Clone)]
struct Asked {
    role: String,
    claims: Value,
    sql: String,
    parameters: Vec<Option<String>>,
}

/// Answers every statement in the same way and remembers it.
struct Remembering {
    asked: Mutex<Vec<Asked>>,
    answer: Answer,
}

impl DemoDatabase for Remembering {
    fn run_as<'a>(
        &'a self,
        role: &'a str,
        claims_json: &'a str,
        sql: &'a str,
        parameters: &'a [Option<String>],
    ) -> BoxFuture<'a, Result<Value, DemoError>> {
        self.asked.lock().unwrap().push(Asked {
            role: role.to_owned(),
            claims: serde_json::from_str(claims_json).unwrap(),
            sql: sql.to_owned(),
            parameters: parameters.to_vec(),
        });
        async { (self.answer)() }.boxed()
    }
}

struct Server {
    router: Router,
    database: Arc<Remembering>,
}

impl Server {
    fn answering(answer: Answer) -> Self {
        let database = Arc::new(Remembering { asked: Mutex::default(), answer });
        let settings = VerifierSettings { secret: Some(Secret::new(SECRET)), ..VerifierSettings::default() };
        let verifier = Arc::new(Verifier::new(settings).unwrap());
        let demo = Demo::new(Arc::clone(&database) as Arc<dyn DemoDatabase>, verifier, Secret::new(SECRET));
        Self { router: router(demo), database }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let response = self.respond(request.body(body).unwrap()).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn respond(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn token_of(&self, person: &str) -> String {
        let (status, answer) =
            self.call("POST", "/demo/token", None, Some(json!({ "person": person }))).await;
        assert_eq!(status, StatusCode::OK);
        answer["token"].as_str().unwrap().to_owned()
    }

    fn asked(&self) -> Vec<Asked> {
        self.database.asked.lock().unwrap().clone()
    }
}

const ONE_ROW: Answer = || Ok(json!([{ "id": "row" }]));
const NO_ROW: Answer = || Ok(json!([]));
const REFUSED: Answer = || {
    Err(DemoError::Refused {
        sqlstate: "42501".to_owned(),
        message: "new row violates row-level security policy".to_owned(),
    })
};
const UNREACHABLE: Answer = || Err(DemoError::Unavailable("connection refused".to_owned()));

#[tokio::test]
async fn a_write_runs_under_the_role_and_claims_of_the_caller() {
    let server = Server::answering(ONE_ROW);
    let token = server.token_of("bruno").await;
    let body = json!({ "sala_id": "s", "cuerpo": "  hola  " });
    let (status, row) = server.call("POST", "/demo/mensajes", Some(&token), Some(body)).await;
    assert_eq!((status, row), (StatusCode::CREATED, json!({ "id": "row" })));
    let [asked] = server.asked().try_into().unwrap();
    assert_eq!(asked.role, "authenticated");
    assert_eq!(asked.claims["app_metadata"]["rol"], "operador");
    assert_eq!(asked.claims["sub"], PEOPLE[1].id);
    assert_eq!(asked.sql, statements::SEND_MESSAGE);
    assert_eq!(asked.parameters, [None, Some("s".to_owned()), Some("hola".to_owned())]);
}

#[tokio::test]
async fn the_api_key_opens_a_socket_and_is_nobody() {
    let server = Server::answering(ONE_ROW);
    let body = Some(json!({ "person": "ana" }));
    let (_, answer) = server.call("POST", "/demo/token", None, body).await;
    let key = answer["api_key"].as_str().unwrap();
    server.call("GET", "/demo/state", Some(key), None).await;
    let [asked] = server.asked().try_into().unwrap();
    assert_eq!((asked.role.as_str(), &asked.claims["sub"]), ("anon", &Value::Null));
}

#[tokio::test]
async fn without_a_sound_token_the_database_is_not_asked() {
    let server = Server::answering(ONE_ROW);
    for (token, code) in [(None, "no_token"), (Some("not.a.token"), "token_refused")] {
        let (status, answer) = server.call("GET", "/demo/state", token, None).await;
        assert_eq!((status, &answer["error"]), (StatusCode::UNAUTHORIZED, &json!(code)));
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn each_step_of_a_request_is_its_own_statement_and_no_other_step_exists() {
    let server = Server::answering(ONE_ROW);
    let token = server.token_of("ana").await;
    for step in ["take", "complete", "cancel"] {
        let (status, _) =
            server.call("POST", &format!("/demo/solicitudes/x/{step}"), Some(&token), None).await;
        assert_eq!(status, StatusCode::OK);
    }
    let statements: Vec<_> = server.asked().into_iter().map(|asked| asked.sql).collect();
    let expected = [statements::TAKE_REQUEST, statements::COMPLETE_REQUEST, statements::CANCEL_REQUEST];
    assert_eq!(statements, expected);
    let (status, _) = server.call("POST", "/demo/solicitudes/x/steal", Some(&token), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_row_that_may_not_be_changed_is_told_like_one_that_is_not_there() {
    let server = Server::answering(NO_ROW);
    let token = server.token_of("ana").await;
    let body = Some(json!({ "cuerpo": "x" }));
    let (status, answer) = server.call("PATCH", "/demo/mensajes/x", Some(&token), body).await;
    assert_eq!((status, &answer["error"]), (StatusCode::NOT_FOUND, &json!("no_such_row")));
}

#[tokio::test]
async fn a_message_sent_twice_is_taken_as_sent() {
    let server = Server::answering(NO_ROW);
    let token = server.token_of("ana").await;
    let body = json!({ "id": "same", "sala_id": "s", "cuerpo": "x" });
    let (status, _) = server.call("POST", "/demo/mensajes", Some(&token), Some(body)).await;
    assert_eq!(status, StatusCode::CREATED);
}

#[tokio::test]
async fn refusals_of_the_database_keep_their_kind() {
    for (answer, expected) in [
        (REFUSED, (StatusCode::FORBIDDEN, "not_permitted")),
        (UNREACHABLE, (StatusCode::SERVICE_UNAVAILABLE, "unavailable")),
    ] {
        let server = Server::answering(answer);
        let token = server.token_of("carla").await;
        let body = json!({ "zona": "Centro", "precio": 12.5 });
        let (status, answer) = server.call("POST", "/demo/solicitudes", Some(&token), Some(body)).await;
        assert_eq!((status, answer["error"].as_str().unwrap()), expected);
    }
}

#[tokio::test]
async fn bodies_that_do_not_fit_are_refused_before_the_database() {
    let server = Server::answering(ONE_ROW);
    let token = server.token_of("ana").await;
    let bodies = [
        json!({ "sala_id": "s", "cuerpo": "   " }),
        json!({ "sala_id": "s", "cuerpo": "x".repeat(2001) }),
        json!({ "sala_id": "s" }),
        json!({ "sala_id": "s", "cuerpo": "x", "autor_id": "somebody else" }),
        json!([]),
    ];
    for body in bodies {
        let (status, answer) = server.call("POST", "/demo/mensajes", Some(&token), Some(body)).await;
        assert_eq!((status, &answer["error"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid")));
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn nobody_gets_a_token_for_a_person_who_is_not_there() {
    let server = Server::answering(ONE_ROW);
    let body = Some(json!({ "person": "mallory" }));
    let (status, answer) = server.call("POST", "/demo/token", None, body).await;
    assert_eq!((status, &answer["error"]), (StatusCode::NOT_FOUND, &json!("unknown_person")));
}

#[tokio::test]
async fn the_page_and_its_files_are_served_with_their_types() {
    let server = Server::answering(ONE_ROW);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/vendor/supabase.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
    ] {
        let response = server.respond(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[CONTENT_TYPE], kind, "{path}");
        assert_eq!(response.headers().contains_key(CONTENT_SECURITY_POLICY), path == "/");
    }
    let missing = Request::get("/page/../Cargo.toml").body(Body::empty()).unwrap();
    assert_eq!(server.respond(missing).await.status(), StatusCode::NOT_FOUND);
}

#[test]
fn the_people_are_those_of_the_demo_data() {
    let data = include_str!("../../../../sql/demo/60-data.sql");
    for person in PEOPLE {
        assert!(data.contains(person.id), "{} is not in the demo data", person.name);
    }
}
