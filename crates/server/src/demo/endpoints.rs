//! The endpoints under `/demo`.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Number, Value, json};

use super::caller::Caller;
use super::failure::Failure;
use super::people::{PEOPLE, Person, api_key};
use super::{Demo, statements};
use crate::clock::unix_seconds;

const MESSAGE_CHARACTERS_MAX: usize = 2000;
const ZONE_CHARACTERS_MAX: usize = 60;

type Answer = Result<Json<Value>, Failure>;
type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) fn routes() -> Router<Arc<Demo>> {
    Router::new()
        .route("/people", get(people))
        .route("/token", post(token))
        .route("/state", get(state))
        .route("/mensajes", post(send_message))
        .route("/mensajes/{id}", patch(edit_message).delete(delete_message))
        .route("/solicitudes", post(create_request))
        .route("/solicitudes/{id}/{step}", post(move_request))
        .route("/notificaciones/{id}/read", post(read_notice))
}

/// Who there is to choose from.
async fn people() -> Json<Value> {
    Json(json!(PEOPLE))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// Handle of a person, such as `ana`.
    person: String,
}

/// Signs a token for one person, and the key that a stock client opens its socket with.
async fn token(State(demo): State<Arc<Demo>>, body: Body<TokenBody>) -> Answer {
    let Json(body) = body?;
    let person = Person::by_handle(&body.person).ok_or(Failure::UnknownPerson)?;
    let now = unix_seconds();
    let token = person.token(&demo.secret, now)?;
    Ok(Json(json!({
        "token": token.text,
        "expires_at": token.expires_at,
        "person": person,
        "api_key": api_key(&demo.secret, now)?,
    })))
}

/// Everything the caller may see.
async fn state(caller: Caller) -> Answer {
    let rows = caller.run(statements::STATE, &[]).await?;
    one(rows)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    /// Chosen by the sender, so that sending twice is sending once.
    id: Option<String>,
    sala_id: String,
    cuerpo: String,
}

async fn send_message(caller: Caller, body: Body<NewMessage>) -> Result<(StatusCode, Json<Value>), Failure> {
    let Json(message) = body?;
    let cuerpo = message_text(&message.cuerpo)?;
    let parameters = [message.id, Some(message.sala_id), Some(cuerpo)];
    let rows = caller.run(statements::SEND_MESSAGE, &parameters).await?;
    // No row: it was there already.
    Ok((StatusCode::CREATED, Json(rows.into_iter().next().unwrap_or(Value::Null))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditedMessage {
    cuerpo: String,
}

async fn edit_message(caller: Caller, Path(id): Path<String>, body: Body<EditedMessage>) -> Answer {
    let Json(message) = body?;
    let cuerpo = message_text(&message.cuerpo)?;
    one(caller.run(statements::EDIT_MESSAGE, &[Some(id), Some(cuerpo)]).await?)
}

async fn delete_message(caller: Caller, Path(id): Path<String>) -> Answer {
    one(caller.run(statements::DELETE_MESSAGE, &[Some(id)]).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRequest {
    zona: String,
    precio: Number,
}

async fn create_request(
    caller: Caller,
    body: Body<NewRequest>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let Json(request) = body?;
    let zona = request.zona.trim();
    if zona.is_empty() || zona.chars().count() > ZONE_CHARACTERS_MAX {
        return Err(Failure::Invalid("`zona` takes 1 to 60 characters"));
    }
    let parameters = [Some(zona.to_owned()), Some(request.precio.to_string())];
    let Json(row) = one(caller.run(statements::CREATE_REQUEST, &parameters).await?)?;
    Ok((StatusCode::CREATED, Json(row)))
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Take,
    Complete,
    Cancel,
}

async fn move_request(caller: Caller, Path((id, step)): Path<(String, Step)>) -> Answer {
    let sql = match step {
        Step::Take => statements::TAKE_REQUEST,
        Step::Complete => statements::COMPLETE_REQUEST,
        Step::Cancel => statements::CANCEL_REQUEST,
    };
    one(caller.run(sql, &[Some(id)]).await?)
}

async fn read_notice(caller: Caller, Path(id): Path<String>) -> Answer {
    one(caller.run(statements::READ_NOTICE, &[Some(id)]).await?)
}

/// The one row that a statement was to read or change.
fn one(rows: Vec<Value>) -> Answer {
    rows.into_iter().next().map(Json).ok_or(Failure::NoSuchRow)
}

fn message_text(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MESSAGE_CHARACTERS_MAX {
        return Err(Failure::Invalid("`cuerpo` takes 1 to 2000 characters"));
    }
    Ok(text.to_owned())
}
