//! Proving who we are: cleartext, MD5, SCRAM-SHA-256, and SCRAM bound to the TLS connection
//! (PostgreSQL docs, "Start-up" and "SASL Authentication").

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::error::ReplicationError;
use crate::frame::FramedSocket;
use crate::refusal;
use crate::server_error::ServerError;
use crate::settings::{ChannelBindingMode, ConnectionSettings};

/// How the server let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// It asked for nothing (`trust`, `peer`, a client certificate).
    Trusted,
    /// The password itself was sent.
    Cleartext,
    /// A salted MD5 of the password.
    Md5,
    /// SCRAM-SHA-256 without channel binding.
    ScramSha256,
    /// SCRAM-SHA-256-PLUS: bound to the TLS connection.
    ScramSha256Plus,
}

/// What the transport can contribute.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Plain,
    /// With the `tls-server-end-point` digest, where the certificate has one.
    Tls {
        server_end_point: Option<Vec<u8>>,
    },
}

/// Answers the server's demands until it is content.
pub(crate) async fn authenticate(
    socket: &mut FramedSocket,
    settings: &ConnectionSettings,
    transport: &Transport,
) -> Result<Authentication, ReplicationError> {
    let mut used = Authentication::Trusted;
    loop {
        match next_message(socket, settings).await? {
            Message::AuthenticationOk => break,
            Message::AuthenticationCleartextPassword => {
                refuse_unbound(settings, "the server asks for the password in the clear")?;
                send_password(socket, password(settings)?).await?;
                used = Authentication::Cleartext;
            }
            Message::AuthenticationMd5Password(body) => {
                refuse_unbound(settings, "the server asks for an MD5 password")?;
                let hash = md5_hash(settings.user.as_bytes(), password(settings)?, body.salt());
                send_password(socket, hash.as_bytes()).await?;
                used = Authentication::Md5;
            }
            Message::AuthenticationSasl(body) => {
                used = scram(socket, settings, transport, &body).await?;
            }
            Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => {
                return Err(unsupported(settings, "GSSAPI"));
            }
            Message::AuthenticationSspi => return Err(unsupported(settings, "SSPI")),
            Message::AuthenticationKerberosV5 => return Err(unsupported(settings, "Kerberos V5")),
            Message::AuthenticationScmCredential => return Err(unsupported(settings, "SCM credential")),
            _ => return Err(ReplicationError::protocol("expected an authentication request")),
        }
    }
    if used != Authentication::ScramSha256Plus {
        refuse_unbound(settings, "the server let us in without SCRAM-SHA-256-PLUS")?;
    }
    Ok(used)
}

async fn scram(
    socket: &mut FramedSocket,
    settings: &ConnectionSettings,
    transport: &Transport,
    offer: &AuthenticationSaslBody,
) -> Result<Authentication, ReplicationError> {
    let offered = mechanisms(offer)?;
    let (used, binding) = choose(&offered, settings, transport)?;
    let mut exchange = ScramSha256::new(password(settings)?, binding);
    let mechanism = if used == Authentication::ScramSha256Plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };

    let mut message = BytesMut::new();
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut message)
        .map_err(ReplicationError::Scram)?;
    socket.send(&message).await.map_err(ReplicationError::Connection)?;

    let Message::AuthenticationSaslContinue(body) = next_message(socket, settings).await? else {
        return Err(ReplicationError::protocol("expected the continuation of the SASL exchange"));
    };
    exchange.update(body.data()).map_err(ReplicationError::Scram)?;
    message.clear();
    frontend::sasl_response(exchange.message(), &mut message).map_err(ReplicationError::Scram)?;
    socket.send(&message).await.map_err(ReplicationError::Connection)?;

    let Message::AuthenticationSaslFinal(body) = next_message(socket, settings).await? else {
        return Err(ReplicationError::protocol("expected the end of the SASL exchange"));
    };
    // The server's proof that it knows the password too.
    exchange.finish(body.data()).map_err(ReplicationError::Scram)?;
    Ok(used)
}

fn mechanisms(offer: &AuthenticationSaslBody) -> Result<Vec<String>, ReplicationError> {
    let names = offer.mechanisms().map(|name| Ok(name.to_owned())).collect();
    names.map_err(|error| ReplicationError::protocol(error.to_string()))
}

/// The strongest mechanism both sides can use. Where we could bind and the server does not offer it, the exchange
/// says so, and a server whose offer was stripped on the way notices (RFC 5802 §6).
fn choose(
    offered: &[String],
    settings: &ConnectionSettings,
    transport: &Transport,
) -> Result<(Authentication, ChannelBinding), ReplicationError> {
    let offers = |mechanism: &str| offered.iter().any(|name| name == mechanism);
    let digest = match transport {
        Transport::Tls { server_end_point: Some(digest) }
            if settings.channel_binding != ChannelBindingMode::Disable =>
        {
            Some(digest)
        }
        _ => None,
    };
    match digest {
        Some(digest) if offers(SCRAM_SHA_256_PLUS) => {
            let binding = ChannelBinding::tls_server_end_point(digest.clone());
            return Ok((Authentication::ScramSha256Plus, binding));
        }
        Some(_) => refuse_unbound(settings, "the server does not offer SCRAM-SHA-256-PLUS")?,
        None => refuse_unbound(settings, "the connection has no TLS certificate to bind to")?,
    }
    if !offers(SCRAM_SHA_256) {
        return Err(unsupported(settings, &offered.join(" or ")));
    }
    let binding = match digest {
        Some(_) => ChannelBinding::unrequested(),
        None => ChannelBinding::unsupported(),
    };
    Ok((Authentication::ScramSha256, binding))
}

async fn next_message(
    socket: &mut FramedSocket,
    settings: &ConnectionSettings,
) -> Result<Message, ReplicationError> {
    loop {
        let frame = socket.frame().await?;
        match frame.tag() {
            b'E' => {
                return Err(refusal::of_login(settings, ServerError::parse(&frame.into_body())));
            }
            b'N' => {}
            _ => {
                return frame.parse().map_err(|error| ReplicationError::protocol(error.to_string()));
            }
        }
    }
}

async fn send_password(socket: &mut FramedSocket, password: &[u8]) -> Result<(), ReplicationError> {
    let mut message = BytesMut::new();
    frontend::password_message(password, &mut message).map_err(ReplicationError::Scram)?;
    socket.send(&message).await.map_err(ReplicationError::Connection)
}

fn password(settings: &ConnectionSettings) -> Result<&[u8], ReplicationError> {
    let missing = || ReplicationError::MissingPassword { user: settings.user.clone() };
    settings.password.as_ref().map(|password| password.reveal().as_bytes()).ok_or_else(missing)
}

fn refuse_unbound(settings: &ConnectionSettings, reason: &'static str) -> Result<(), ReplicationError> {
    match settings.channel_binding {
        ChannelBindingMode::Require => Err(ReplicationError::ChannelBinding { reason }),
        ChannelBindingMode::Disable | ChannelBindingMode::Prefer => Ok(()),
    }
}

fn unsupported(settings: &ConnectionSettings, method: &str) -> ReplicationError {
    ReplicationError::UnsupportedAuthentication { user: settings.user.clone(), method: method.to_owned() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn settings(parameters: &str) -> ConnectionSettings {
        ConnectionSettings::parse(&format!("user=ana password=geheim {parameters}")).unwrap()
    }

    fn tls() -> Transport {
        Transport::Tls { server_end_point: Some(vec![1, 2, 3]) }
    }

    fn chosen(offered: &[&str], parameters: &str, transport: &Transport) -> Result<Authentication, String> {
        let offered: Vec<String> = offered.iter().map(ToString::to_string).collect();
        let choice = choose(&offered, &settings(parameters), transport);
        choice.map(|(used, _)| used).map_err(|error| error.to_string())
    }

    /// Runs the log-in against a server that sends `answers`, one after each message of ours.
    async fn log_in(
        answers: &'static [&'static [u8]],
        parameters: &str,
    ) -> (Result<Authentication, String>, Vec<u8>) {
        let (mut server, client) = tokio::io::duplex(4096);
        let mut socket = FramedSocket::new(Box::new(client), 4096);
        let script = tokio::spawn(async move {
            let mut heard = Vec::new();
            for (index, answer) in answers.iter().enumerate() {
                if index > 0 {
                    heard = read_message(&mut server).await;
                }
                server.write_all(answer).await.unwrap();
            }
            heard
        });
        let result = authenticate(&mut socket, &settings(parameters), &Transport::Plain).await;
        (result.map_err(|error| error.to_string()), script.await.unwrap())
    }

    async fn read_message(server: &mut DuplexStream) -> Vec<u8> {
        let mut header = [0; 5];
        server.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let mut body = vec![0; length as usize - 4];
        server.read_exact(&mut body).await.unwrap();
        body
    }

    const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

    #[tokio::test]
    async fn cleartext_sends_the_password_itself() {
        let (result, heard) = log_in(&[b"R\0\0\0\x08\0\0\0\x03", OK], "").await;
        assert_eq!(result, Ok(Authentication::Cleartext));
        assert_eq!(heard, b"geheim\0");
    }

    #[tokio::test]
    async fn md5_sends_a_salted_hash() {
        let (result, heard) = log_in(&[b"R\0\0\0\x0c\0\0\0\x05salt", OK], "").await;
        assert_eq!(result, Ok(Authentication::Md5));
        assert!(heard.starts_with(b"md5") && heard.len() == 36, "{heard:?}");
    }

    #[tokio::test]
    async fn required_binding_refuses_every_weaker_way_before_a_password_is_sent() {
        const WEAKER: [&[&[u8]]; 4] = [
            &[b"R\0\0\0\x08\0\0\0\x03"],
            &[b"R\0\0\0\x0c\0\0\0\x05salt"],
            &[b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"],
            &[OK],
        ];
        for answers in WEAKER {
            let (result, heard) = log_in(answers, "channel_binding=require").await;
            assert!(result.unwrap_err().starts_with("channel_binding=require, but"));
            assert!(heard.is_empty());
        }
    }

    #[tokio::test]
    async fn a_server_that_extends_a_foreign_nonce_is_refused() {
        let answers: &[&[u8]] =
            &[b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", b"R\0\0\0\x1f\0\0\0\x0br=foreign,s=QUJD,i=4096"];
        let (result, _) = log_in(answers, "").await;
        assert!(result.unwrap_err().contains("nonce"));
    }

    #[tokio::test]
    async fn gssapi_is_refused_with_what_to_use_instead() {
        let (result, _) = log_in(&[b"R\0\0\0\x08\0\0\0\x07"], "").await;
        assert!(result.unwrap_err().contains("GSSAPI"));
    }

    #[test]
    fn binding_is_used_exactly_when_both_sides_can() {
        let both = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
        assert_eq!(chosen(&both, "", &tls()), Ok(Authentication::ScramSha256Plus));
        assert_eq!(chosen(&both, "", &Transport::Plain), Ok(Authentication::ScramSha256));
        assert_eq!(chosen(&both, "channel_binding=disable", &tls()), Ok(Authentication::ScramSha256));
        assert_eq!(chosen(&[SCRAM_SHA_256], "", &tls()), Ok(Authentication::ScramSha256));
        let no_digest = Transport::Tls { server_end_point: None };
        assert_eq!(chosen(&both, "", &no_digest), Ok(Authentication::ScramSha256));
        assert!(chosen(&both, "channel_binding=require", &no_digest).is_err());
        assert!(chosen(&["OAUTHBEARER"], "", &tls()).unwrap_err().contains("OAUTHBEARER"));
    }
}
