//! Cases 49 to 84: the token of a channel.

mod claims;
mod joining;
mod refreshing;
mod signatures;

/// Signing with keys of all kinds, shared with the tests of the crate that verifies.
#[allow(dead_code, clippy::unwrap_used, reason = "what the other tests need of it as well")]
#[path = "../../../crates/auth/tests/tokens/issuer.rs"]
pub(crate) mod issuer;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::World;

use crate::scene::{acknowledged, connect, refused, room};

pub(crate) const CLAIMS: &str = "Fields `role` and `exp` are required in JWT";
pub(crate) const NOT_A_JWT: &str = "The token provided is not a valid JWT";
pub(crate) const SIGNATURE: &str = "Failed to validate JWT signature";
pub(crate) const SIGNER: &str = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";

pub(crate) fn signer(kid: &str) -> String {
    format!(
        "Failed to generate JWT signer for key ID (kid) \"{kid}\", check your JWT secret or JWKS configuration"
    )
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// A payload of a join, whose broadcasts are acknowledged, with this token.
pub(crate) fn payload(token: &str) -> Value {
    json!({ "config": { "broadcast": { "ack": true } }, "access_token": token })
}

/// Joins with this token, which must be accepted, and shows that the channel works.
pub(crate) async fn accepted(world: &World, version: ProtocolVersion, token: &str) -> Result<ProtocolClient> {
    let topic = room();
    let mut client = connect(world, version).await?;
    let reply = client.join(&topic, &payload(token)).await?;
    ensure!(reply.is_ok(), "{}", reply.response);
    acknowledged(&mut client, &topic).await?;
    Ok(client)
}

/// Fails unless a join with this token is refused for this reason.
pub(crate) async fn refused_for(
    world: &World,
    version: ProtocolVersion,
    token: &str,
    reason: &str,
) -> Result<()> {
    let mut client = connect(world, version).await?;
    let got = refused(&mut client, &room(), &payload(token)).await?;
    ensure!(got == reason, "{token}: {got}, not {reason}");
    Ok(())
}

/// The seconds of `Token has expired N seconds ago`.
pub(crate) fn seconds_ago(message: &str) -> Result<u64> {
    let number =
        message.strip_prefix("Token has expired ").and_then(|rest| rest.strip_suffix(" seconds ago"));
    number.with_context(|| message.to_owned())?.parse().with_context(|| message.to_owned())
}
