//! From nothing to a session that takes commands: hosts in turn, TCP or Unix socket, TLS, start-up message, log-in
//! (PostgreSQL docs, "Start-up" and "SSL Session Encryption").

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::authentication::{Authentication, Transport, authenticate};
use crate::channel_binding;
use crate::error::ReplicationError;
use crate::frame::{FramedSocket, Socket};
use crate::refusal;
use crate::server_error::ServerError;
use crate::settings::{ConnectionSettings, Endpoint, Host, SslMode};

/// Pinned for the whole session, after the user's own options so that these win: the text of values in the stream
/// follows them. `standard_conforming_strings` is what our own quoting relies on, and a role's `statement_timeout`
/// is meant for its queries, not for a stream.
const PINNED_OPTIONS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 \
     -c bytea_output=hex -c standard_conforming_strings=on -c statement_timeout=0";

/// A silent peer is noticed by the kernel even where the protocol has nothing to say, as while a slot is created.
const TCP_KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
/// How long between two unanswered probes.
const TCP_KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// A session that is logged in and idle.
pub(crate) struct Session {
    pub(crate) socket: FramedSocket,
    /// Host and port, for messages.
    pub(crate) address: String,
    pub(crate) encrypted: bool,
    pub(crate) authentication: Authentication,
    /// As the server says it, such as `15.4 (Debian 15.4-1)`.
    pub(crate) server_version: String,
}

/// Opens a session on the first host that gives one.
///
/// As in libpq, a host that can not be reached hands over to the next; one that refuses us ends the search.
pub(crate) async fn connect(
    settings: &ConnectionSettings,
    message_bytes_max: usize,
) -> Result<Session, ReplicationError> {
    let tls = settings.tls()?.map(Arc::new);
    let mut last_error = None;
    for host in &settings.hosts {
        match connect_to_host(settings, host, tls.as_ref(), message_bytes_max).await {
            Ok(session) => return Ok(session),
            Err(error) if error.is_permanent() => return Err(error),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.unwrap_or_else(|| ReplicationError::protocol("the settings name no host")))
}

async fn connect_to_host(
    settings: &ConnectionSettings,
    host: &Host,
    tls: Option<&Arc<ClientConfig>>,
    message_bytes_max: usize,
) -> Result<Session, ReplicationError> {
    let opening = async {
        let mut session = open(settings, host, tls, message_bytes_max).await?;
        if settings.primary_only && session.is_standby().await? {
            return Err(ReplicationError::NotPrimary { address: session.address });
        }
        Ok(session)
    };
    let Some(limit) = settings.connect_timeout else {
        return opening.await;
    };
    tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| {
        Err(ReplicationError::ConnectTimeout { address: host.to_string(), seconds: limit.as_secs() })
    })
}

/// With `prefer`, what fails because of TLS is tried again without it.
async fn open(
    settings: &ConnectionSettings,
    host: &Host,
    tls: Option<&Arc<ClientConfig>>,
    message_bytes_max: usize,
) -> Result<Session, ReplicationError> {
    let first = open_once(settings, host, tls, message_bytes_max).await;
    match first {
        Err(ReplicationError::TlsHandshake { .. } | ReplicationError::HostRefused { .. })
            if settings.ssl_mode == SslMode::Prefer && matches!(host.endpoint, Endpoint::Tcp { .. }) =>
        {
            open_once(settings, host, None, message_bytes_max).await
        }
        other => other,
    }
}

async fn open_once(
    settings: &ConnectionSettings,
    host: &Host,
    tls: Option<&Arc<ClientConfig>>,
    message_bytes_max: usize,
) -> Result<Session, ReplicationError> {
    let (stream, transport): (Box<dyn Socket>, Transport) = match &host.endpoint {
        Endpoint::UnixSocket(directory) => (connect_unix(directory, host).await?, Transport::Plain),
        Endpoint::Tcp { name, address } => {
            let stream = connect_tcp(name, address.map(|ip| SocketAddr::new(ip, host.port)), host).await?;
            match tls {
                Some(config) => {
                    negotiate_tls(stream, Arc::clone(config), name, host, settings.ssl_mode).await?
                }
                None => (Box::new(stream), Transport::Plain),
            }
        }
    };
    let mut socket = FramedSocket::new(stream, message_bytes_max);
    send_startup(&mut socket, settings).await?;
    let authentication = authenticate(&mut socket, settings, &transport).await?;
    let server_version = until_ready(&mut socket, settings).await?;
    let encrypted = matches!(transport, Transport::Tls { .. });
    tracing::debug!(%host, encrypted, ?authentication, server_version, "replication session open");
    Ok(Session { socket, address: host.to_string(), encrypted, authentication, server_version })
}

async fn connect_unix(directory: &Path, host: &Host) -> Result<Box<dyn Socket>, ReplicationError> {
    let path = directory.join(format!(".s.PGSQL.{}", host.port));
    let stream = UnixStream::connect(&path).await;
    let stream = stream
        .map_err(|source| ReplicationError::Unreachable { address: path.display().to_string(), source })?;
    Ok(Box::new(stream))
}

async fn connect_tcp(
    name: &str,
    address: Option<SocketAddr>,
    host: &Host,
) -> Result<TcpStream, ReplicationError> {
    let unreachable = |source| ReplicationError::Unreachable { address: host.to_string(), source };
    let addresses: Vec<SocketAddr> = match address {
        Some(address) => vec![address],
        None => tokio::net::lookup_host((name, host.port)).await.map_err(unreachable)?.collect(),
    };
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Feedback is small and wants to leave at once. Failing to set an option is no reason to fail.
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(TCP_KEEPALIVE_AFTER)
                    .with_interval(TCP_KEEPALIVE_EVERY);
                let tuned = stream
                    .set_nodelay(true)
                    .and_then(|()| socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
                if let Err(error) = tuned {
                    tracing::debug!(%error, "socket options of the replication connection");
                }
                return Ok(stream);
            }
            Err(error) => last_error = error,
        }
    }
    Err(unreachable(last_error))
}

async fn negotiate_tls(
    mut stream: TcpStream,
    config: Arc<ClientConfig>,
    name: &str,
    host: &Host,
    mode: SslMode,
) -> Result<(Box<dyn Socket>, Transport), ReplicationError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(ReplicationError::Connection)?;
    // Exactly one byte: whatever an attacker appended in the clear goes into the handshake and fails there.
    let answer = stream.read_u8().await.map_err(ReplicationError::Connection)?;
    match answer {
        b'S' => {}
        b'N' if mode == SslMode::Prefer => return Ok((Box::new(stream), Transport::Plain)),
        b'N' => {
            return Err(ReplicationError::TlsNotOffered { address: host.to_string(), mode });
        }
        // An error message before encryption can be anybody's and is not shown (as in libpq).
        b'E' => {
            return Err(ReplicationError::Ended("it answered the request for TLS with an error".to_owned()));
        }
        other => {
            return Err(ReplicationError::protocol(format!(
                "0x{other:02x} as the answer to the request for TLS"
            )));
        }
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            ReplicationError::TlsHandshake { address: host.to_string(), source }
        }
        _ => ReplicationError::Connection(source),
    };
    let server_name = ServerName::try_from(name.to_owned())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = TlsConnector::from(config).connect(server_name, stream).await.map_err(failed)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let server_end_point = certificates.and_then(<[_]>::first).and_then(channel_binding::server_end_point);
    Ok((Box::new(stream), Transport::Tls { server_end_point }))
}

async fn send_startup(
    socket: &mut FramedSocket,
    settings: &ConnectionSettings,
) -> Result<(), ReplicationError> {
    let options = match &settings.options {
        Some(own) => format!("{own} {PINNED_OPTIONS}"),
        None => PINNED_OPTIONS.to_owned(),
    };
    let parameters = [
        ("user", settings.user.as_str()),
        ("database", settings.database.as_str()),
        ("replication", "database"),
        ("application_name", settings.application_name.as_str()),
        ("client_encoding", "UTF8"),
        ("options", options.as_str()),
    ];
    let mut message = BytesMut::new();
    frontend::startup_message(parameters, &mut message)
        .map_err(|error| ReplicationError::protocol(format!("a setting can not be sent: {error}")))?;
    socket.send(&message).await.map_err(ReplicationError::Connection)
}

/// Reads what follows a log-in; gives the server's version.
async fn until_ready(
    socket: &mut FramedSocket,
    settings: &ConnectionSettings,
) -> Result<String, ReplicationError> {
    let mut server_version = String::new();
    loop {
        let frame = socket.frame().await?;
        if frame.tag() == b'E' {
            return Err(refusal::of_login(settings, ServerError::parse(&frame.into_body())));
        }
        match frame.parse().map_err(|error| ReplicationError::protocol(error.to_string()))? {
            Message::ParameterStatus(body) => {
                if let (Ok("server_version"), Ok(value)) = (body.name(), body.value()) {
                    value.clone_into(&mut server_version);
                }
            }
            Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
            Message::ReadyForQuery(_) => return Ok(server_version),
            _ => return Err(ReplicationError::protocol("expected the end of the start-up")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers the request for TLS with one byte, and what the client makes of it.
    async fn answered(answer: u8, mode: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&[answer]).await.unwrap();
            request
        });
        let settings = format!("postgres://ana@127.0.0.1:{port}/app?sslmode={mode}");
        let error = connect(&ConnectionSettings::parse(&settings).unwrap(), 1024).await.err().unwrap();
        assert_eq!(server.await.unwrap(), *b"\0\0\0\x08\x04\xd2\x16\x2f");
        error.to_string()
    }

    #[tokio::test]
    async fn a_server_without_tls_is_refused_when_tls_is_required() {
        let message = answered(b'N', "require").await;
        assert!(message.contains("sslmode=require demands") && message.contains("ssl = on"), "{message}");
    }

    #[tokio::test]
    async fn an_answer_that_is_neither_yes_nor_no_is_named() {
        assert!(answered(b'?', "require").await.contains("0x3f"));
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_worth_another_try() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let settings = ConnectionSettings::parse(&format!("postgres://ana@127.0.0.1:{port}/app")).unwrap();
        let error = connect(&settings, 1024).await.err().unwrap();
        assert!(!error.is_permanent() && error.to_string().contains(&port.to_string()), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_runs_into_the_time_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!("postgres://ana@127.0.0.1:{port}/app?connect_timeout=1");
        let error = connect(&ConnectionSettings::parse(&text).unwrap(), 1024).await.err().unwrap();
        assert!(matches!(error, ReplicationError::ConnectTimeout { seconds: 1, .. }), "{error}");
    }
}
