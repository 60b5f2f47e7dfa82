//! Simple queries on a replication session: the walsender takes its own commands and, as it is bound to a database,
//! plain SQL too (PostgreSQL docs, "Simple Query" and "Streaming Replication Protocol").

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use crate::error::ReplicationError;
use crate::server_error::ServerError;
use crate::startup::Session;

/// One row as text; a NULL is none.
pub(crate) type Row = Vec<Option<String>>;

/// Why a query gave no rows.
pub(crate) enum QueryError {
    /// The server refused it; the session is still good.
    Refused(ServerError),
    /// The session is of no more use.
    Broken(ReplicationError),
}

impl QueryError {
    /// For a query that has no refusal of its own.
    pub(crate) fn during(self, action: &'static str) -> ReplicationError {
        match self {
            QueryError::Refused(error) => ReplicationError::Server { action, error: Box::new(error) },
            QueryError::Broken(error) => error,
        }
    }
}

impl Session {
    /// Runs one command to its end and gives all its rows.
    pub(crate) async fn query(&mut self, command: &str) -> Result<Vec<Row>, QueryError> {
        self.send_query(command).await.map_err(QueryError::Broken)?;
        let mut rows = Vec::new();
        let mut refusal = None;
        loop {
            let frame = match (self.socket.frame().await, refusal.take()) {
                (Ok(frame), earlier) => {
                    refusal = earlier;
                    frame
                }
                // The error was one that ends the session.
                (Err(_), Some(refusal)) => return Err(QueryError::Refused(refusal)),
                (Err(error), None) => return Err(QueryError::Broken(error.into())),
            };
            if frame.tag() == b'E' {
                refusal = Some(ServerError::parse(&frame.into_body()));
                continue;
            }
            let message = frame.parse().map_err(|error| QueryError::Broken(protocol(&error)))?;
            match message {
                Message::DataRow(body) => rows.push(row(&body).map_err(QueryError::Broken)?),
                Message::ReadyForQuery(_) => {
                    return refusal.map_or(Ok(rows), |error| Err(QueryError::Refused(error)));
                }
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_) => {}
                _ => {
                    let error = ReplicationError::protocol("an unexpected message in answer to a query");
                    return Err(QueryError::Broken(error));
                }
            }
        }
    }

    /// Sends one command and leaves the answer to the caller.
    pub(crate) async fn send_query(&mut self, command: &str) -> Result<(), ReplicationError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| protocol(&error))?;
        self.socket.send(&message).await.map_err(ReplicationError::Connection)
    }

    /// Whether the server only follows another one.
    pub(crate) async fn is_standby(&mut self) -> Result<bool, ReplicationError> {
        let rows = self.query("SELECT pg_catalog.pg_is_in_recovery()").await;
        let rows = rows.map_err(|error| error.during("say whether it is a primary"))?;
        Ok(rows.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() == Some("t")))
    }
}

fn row(body: &DataRowBody) -> Result<Row, ReplicationError> {
    let ranges: Vec<Option<std::ops::Range<usize>>> =
        body.ranges().collect().map_err(|error| protocol(&error))?;
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&body.buffer()[range]).into_owned();
    Ok(ranges.into_iter().map(|range| range.map(text)).collect())
}

fn protocol(error: &std::io::Error) -> ReplicationError {
    ReplicationError::protocol(error.to_string())
}
