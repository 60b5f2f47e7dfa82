//! Broadcasts without a socket: a batch, a single message, and the ping of clients that look for the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Path, Request, State};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_engine::{BroadcastPayload, Privacy};
use walcast_policy::channel::ChannelExtension;
use walcast_wire::{BroadcastOptions, Encoding, InvalidOption};

use super::ProjectApi;
use super::batch::{BLANK, BatchLimits, Message, OVERSIZED};
use super::body;
use super::caller::Caller;
use super::refusal::Refusal;
use crate::redact::redact_text;

/// Every topic of a channel begins with this (docs/protocol.md §3.1).
const TOPIC_PREFIX: &str = "realtime:";
const FRAMED_NAME_BYTES_MAX: usize = 255;

pub(super) fn routes() -> OpenApiRouter<Arc<ProjectApi>> {
    OpenApiRouter::default().routes(routes!(ping)).routes(routes!(broadcast_batch)).routes(routes!(broadcast))
}

/// Whether the server is there.
#[utoipa::path(get, path = "/api/ping", tag = "Broadcast", responses((status = 200, body = Value, example = json!({"message": "Success"}))))]
async fn ping() -> Json<Value> {
    Json(json!({ "message": "Success" }))
}

/// A batch of broadcasts, for the description of the route.
#[derive(ToSchema)]
#[allow(dead_code)] // described, and read by `Message`
struct Batch {
    messages: Vec<BatchMessage>,
}

/// One broadcast of a batch.
#[derive(ToSchema)]
#[allow(dead_code)]
struct BatchMessage {
    /// Without `realtime:`.
    topic: String,
    event: String,
    /// Goes out as it came in.
    #[schema(value_type = Object)]
    payload: Value,
    /// For the members of the private channel of this name; policies on realtime.messages decide.
    #[schema(default = false)]
    private: bool,
    /// Receivers find it as `meta.id`.
    id: Option<String>,
    /// Of those that wait for a slow receiver under this key, only the newest is sent.
    conflate: Option<String>,
    /// After so many milliseconds it is not sent to a slow receiver any more.
    ttl_ms: Option<u64>,
}

/// Sends many broadcasts at once.
///
/// Public messages go first. Of the private ones those are sent that a policy on `realtime.messages` allows; the
/// others are left out, named in the server's log and counted in `walcast_rest_messages_withheld_total`.
#[utoipa::path(
    post,
    path = "/api/broadcast",
    tag = "Broadcast",
    request_body = Batch,
    security(("token" = []), ("apikey" = [])),
    responses(
        (status = 202, description = "Sent, except for private messages that no policy allows"),
        (status = 400, description = "The body is not JSON"),
        (status = 401, description = "No token, or one that is not good; `www-authenticate` says why"),
        (status = 403, description = "A public message where the project only allows private channels"),
        (status = 413, description = "More than 8,000,000 bytes"),
        (status = 422, description = "What is wrong with which message, or more than `limits.max_batch_messages`, or more \
                                      than 100 private topics; nothing was sent"),
        (status = 429, description = "More messages than `limits.max_events_per_second` has left"),
    )
)]
async fn broadcast_batch(
    State(project): State<Arc<ProjectApi>>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let (parts, body) = request.into_parts();
    let caller = project.caller(&parts.headers).await?;
    let body = body::read(&parts.headers, body).await?;
    let limits = BatchLimits {
        messages_max: project.batch_messages_max,
        payload_bytes_max: project.engine.payload_bytes_max(),
    };
    let messages = Message::parse_all(&body, limits)?;
    if project.private_only && messages.iter().any(|message| !message.private) {
        return Err(Refusal::PrivateOnly);
    }
    project.admit(messages.len(), "Too many messages to broadcast, please reduce the batch size")?;
    let (private, public): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.private);
    for message in &public {
        project.send_from_batch(message, Privacy::Public).await;
    }
    // By topic, so that each is asked about once; in the order of the batch within each.
    let mut by_topic = BTreeMap::<&str, Vec<&Message<'_>>>::new();
    for message in &private {
        by_topic.entry(&message.topic).or_default().push(message);
    }
    for (topic, messages) in by_topic {
        match project.may_send(&caller, topic).await {
            Ok(()) => {
                for message in messages {
                    project.send_from_batch(message, Privacy::Private).await;
                }
            }
            Err(refusal) => project.withhold(&caller, topic, messages.len(), &refusal),
        }
    }
    Ok(StatusCode::ACCEPTED)
}

/// Sends one broadcast.
///
/// The body is the payload: any JSON value, or bytes with the content type `application/octet-stream`.
#[utoipa::path(
    post,
    path = "/api/broadcast/{topic}/events/{event}",
    tag = "Broadcast",
    params(
        ("topic" = String, Path, description = "The topic without `realtime:`, percent-encoded"),
        ("event" = String, Path, description = "The event, percent-encoded"),
        ("private" = Option<bool>, Query, description = "`true`: for the members of the private channel"),
        ("conflate" = Option<String>, Query, description = "Of those that wait for a slow receiver under this key, only the newest is sent"),
        ("ttl_ms" = Option<u64>, Query, description = "After so many milliseconds it is not sent to a slow receiver any more"),
    ),
    request_body(content((Value = "application/json"), (Vec<u8> = "application/octet-stream"))),
    security(("token" = []), ("apikey" = [])),
    responses(
        (status = 202, description = "Sent"),
        (status = 400, description = "The body is not JSON"),
        (status = 401, description = "No token, or one that is not good; `www-authenticate` says why"),
        (status = 403, description = "No policy on realtime.messages allows it, or the project only allows private channels"),
        (status = 413, description = "More than 8,000,000 bytes"),
        (status = 415, description = "Neither JSON nor bytes"),
        (status = 422, description = "The payload is too large, something that is not supported was asked, or the policies could not be asked"),
        (status = 429, description = "No message of `limits.max_events_per_second` is left, or no database connection"),
        (status = 500, description = "`realtime.messages` is not installed"),
    )
)]
async fn broadcast(
    State(project): State<Arc<ProjectApi>>,
    Path(Address { topic, event }): Path<Address>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let (parts, body) = request.into_parts();
    let caller = project.caller(&parts.headers).await?;
    let encoding = encoding_of(&parts.headers)?;
    let asked = Asked::of(parts.uri.query().unwrap_or_default())?;
    if asked.persist {
        let problem = match asked.privacy {
            Privacy::Public => "can only be used on private channels",
            Privacy::Private => {
                "is not supported by this server: insert into realtime.messages, or call realtime.send, instead"
            }
        };
        return Err(Refusal::invalid("persist", problem));
    }
    if project.private_only && asked.privacy == Privacy::Public {
        return Err(Refusal::PrivateOnly);
    }
    for (name, text) in [("topic", &topic), ("event", &event)] {
        if text.trim().is_empty() {
            return Err(Refusal::invalid(name, BLANK));
        }
    }
    if encoding == Encoding::Binary {
        refuse_long_names(&topic, &event)?;
    }
    let body = body::read(&parts.headers, body).await?;
    let payload = payload_of(&body, encoding)?;
    if payload.len() > project.engine.payload_bytes_max() {
        return Err(Refusal::invalid("payload", OVERSIZED));
    }
    project.admit(1, "You have exceeded your rate limit")?;
    if asked.privacy == Privacy::Private {
        project.may_send(&caller, &topic).await?;
    }
    let options = asked.options.map(Box::new);
    let payload = BroadcastPayload::User { event: event.into(), encoding, payload, options };
    project.engine.publish(whole(&topic), asked.privacy, payload, None).await;
    Ok(StatusCode::ACCEPTED)
}

/// The path of a single broadcast.
#[derive(Deserialize)]
struct Address {
    topic: String,
    event: String,
}

/// The query of a single broadcast.
struct Asked {
    privacy: Privacy,
    persist: bool,
    options: Option<BroadcastOptions>,
}

impl Asked {
    /// Only `private=true` is private, and any `persist` but `false` asks for it.
    fn of(query: &str) -> Result<Self, Refusal> {
        let mut asked = Asked { privacy: Privacy::Public, persist: false, options: None };
        let invalid = |error: InvalidOption| Refusal::invalid(error.member(), &error.to_string());
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode_str(name).decode_utf8_lossy();
            match &*name {
                "private" => asked.privacy = Privacy::of(value == "true"),
                "persist" => asked.persist = value != "false",
                name if name.starts_with("persist[") => asked.persist = true,
                "conflate" => {
                    let key = percent_decode_str(value).decode_utf8_lossy();
                    let key = BroadcastOptions::key(&key).map_err(invalid)?;
                    asked.options.get_or_insert_default().conflate = Some(key);
                }
                "ttl_ms" => {
                    let ttl = BroadcastOptions::milliseconds(value).map_err(invalid)?;
                    asked.options.get_or_insert_default().ttl = Some(ttl);
                }
                _ => {}
            }
        }
        Ok(asked)
    }
}

impl ProjectApi {
    /// Who sends, where anybody may.
    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.suspended {
            return Err(Refusal::Suspended);
        }
        Caller::of(&self.verifier, headers).await
    }

    /// Takes messages from the project's rate.
    fn admit(&self, count: usize, too_many: &'static str) -> Result<(), Refusal> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.engine.admit_events(count).map_err(|exceeded| {
            let used_up = self.engine.event_budget().is_some_and(|budget| budget.left == 0);
            let told = if used_up { "You have exceeded your rate limit" } else { too_many };
            Refusal::Rate { told, exceeded }
        })
    }

    /// Asks the policies whether the caller may send on a private topic.
    async fn may_send(&self, caller: &Caller, topic: &str) -> Result<(), Refusal> {
        let request = caller.request(topic);
        let rights = self.policies.write(&request, &[ChannelExtension::Broadcast]).await?;
        if rights.broadcast { Ok(()) } else { Err(Refusal::NotPermitted) }
    }

    async fn send_from_batch(&self, message: &Message<'_>, privacy: Privacy) {
        let payload = BroadcastPayload::Text(message.envelope());
        let id = message.id.as_deref().map(Arc::from);
        self.engine.publish(whole(&message.topic), privacy, payload, id).await;
    }

    /// The answer of a batch has no place for this (docs/protocol.md §6.2), so the log and a counter have.
    fn withhold(&self, caller: &Caller, topic: &str, count: usize, refusal: &Refusal) {
        let code = refusal.code();
        let withheld = &self.engine.counters().withheld_broadcasts;
        withheld.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        tracing::warn!(
            code,
            topic = ?redact_text(topic),
            role = caller.role(),
            messages = count,
            reason = %refusal,
            "private messages of a batch were not sent"
        );
    }
}

fn whole(topic: &str) -> Arc<str> {
    format!("{TOPIC_PREFIX}{topic}").into()
}

/// Bytes go out in frames whose names have one byte for their length (docs/protocol.md §2.3).
fn refuse_long_names(topic: &str, event: &str) -> Result<(), Refusal> {
    let topic_bytes_max = FRAMED_NAME_BYTES_MAX - TOPIC_PREFIX.len();
    for (name, text, bytes_max) in
        [("topic", topic, topic_bytes_max), ("event", event, FRAMED_NAME_BYTES_MAX)]
    {
        if text.len() > bytes_max {
            let problem = format!("may have {bytes_max} bytes with a binary payload");
            return Err(Refusal::invalid(name, &problem));
        }
    }
    Ok(())
}

/// Without a content type the body is JSON.
fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Encoding::Json) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(Encoding::Json)
    } else if essence.eq_ignore_ascii_case("application/octet-stream") {
        Ok(Encoding::Binary)
    } else {
        Err(Refusal::MediaType)
    }
}

/// The payload as receivers get it: bytes as they are, JSON as its text. No body is an empty object.
fn payload_of(body: &Bytes, encoding: Encoding) -> Result<Bytes, Refusal> {
    if encoding == Encoding::Binary {
        return Ok(body.clone());
    }
    if body.trim_ascii().is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let value: &RawValue =
        serde_json::from_slice(body).map_err(|error| Refusal::NotJson(error.to_string()))?;
    Ok(body.slice_ref(value.get().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_private_true_in_the_query_is_private() {
        for (query, privacy) in [
            ("", Privacy::Public),
            ("private=true", Privacy::Private),
            ("a=1&private=true&b", Privacy::Private),
            ("private", Privacy::Public),
            ("private=1", Privacy::Public),
            ("private=false", Privacy::Public),
            ("Private=true", Privacy::Public),
        ] {
            assert_eq!(Asked::of(query).unwrap().privacy, privacy, "{query}");
        }
    }

    #[test]
    fn persistence_is_noticed_however_it_is_asked_for() {
        for query in ["persist=true", "persist", "persist[ttl]=60", "persist%5Bttl%5D=60"] {
            assert!(Asked::of(query).unwrap().persist, "{query}");
        }
        let persist = |query| Asked::of(query).unwrap().persist;
        assert!(!persist("persist=false") && !persist("persistent=1"));
    }

    #[test]
    fn options_for_sockets_that_are_behind_are_in_the_query_and_wrong_ones_are_named() {
        let options = Asked::of("conflate=car%207&ttl_ms=60000").unwrap().options.unwrap();
        assert_eq!((options.conflate.as_deref(), options.ttl), (Some("car 7"), Some(Duration::from_mins(1))));
        assert!(Asked::of("private=true").unwrap().options.is_none());
        for (query, name) in [("ttl_ms=soon", "ttl_ms"), ("ttl_ms=0", "ttl_ms"), ("conflate=", "conflate")] {
            let Err(Refusal::Invalid(told)) = Asked::of(query) else { panic!("{query}") };
            assert!(told[name][0].as_str().unwrap().contains("must be"), "{told}");
        }
    }

    #[test]
    fn json_keeps_its_text_and_no_body_is_an_empty_object() {
        let json = |body: &'static str| payload_of(&Bytes::from_static(body.as_bytes()), Encoding::Json);
        for (body, payload) in [
            (" {\"a\" : 1.0, \"a\":2}\n", "{\"a\" : 1.0, \"a\":2}"),
            ("", "{}"),
            (" \r\n", "{}"),
            ("[1, 2]", "[1, 2]"),
            ("null", "null"),
            ("\"text\"", "\"text\""),
        ] {
            assert_eq!(json(body).unwrap(), payload, "{body}");
        }
        for body in ["{", "{} {}", "text"] {
            assert!(matches!(json(body), Err(Refusal::NotJson(_))), "{body}");
        }
        let bytes = Bytes::from_static(b"\xff\x00");
        assert_eq!(payload_of(&bytes, Encoding::Binary).unwrap(), bytes);
    }

    #[test]
    fn a_content_type_may_have_a_charset_or_be_missing_and_others_are_refused() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            encoding_of(&headers)
        };
        assert!(matches!(encoding_of(&HeaderMap::new()), Ok(Encoding::Json)));
        assert!(matches!(of("application/json; charset=latin1"), Ok(Encoding::Json)));
        assert!(matches!(of("Application/Octet-Stream"), Ok(Encoding::Binary)));
        for value in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "", "json"] {
            assert!(matches!(of(value), Err(Refusal::MediaType)), "{value}");
        }
    }
}
