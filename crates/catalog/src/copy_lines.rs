//! What `COPY … TO STDOUT` sends, line by line.

use std::pin::Pin;

use futures_util::StreamExt as _;
use tokio_postgres::CopyOutStream;

use crate::error::CatalogError;
use crate::pool::Lease;

/// The lines of a `COPY` in text format.
pub(crate) struct CopyLines {
    data: Pin<Box<CopyOutStream>>,
    /// Nothing says that the pieces which PostgreSQL sends are lines.
    begun: Vec<u8>,
}

impl CopyLines {
    pub(crate) async fn of(lease: &Lease, sql: &str) -> Result<CopyLines, CatalogError> {
        Ok(CopyLines { data: Box::pin(lease.copy_out(sql).await?), begun: Vec::new() })
    }

    /// The lines that have become complete, each with its `\n`; none, where a piece has ended none. `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, CatalogError> {
        let Some(piece) = self.data.next().await else { return Ok(None) };
        self.begun.extend_from_slice(&piece?);
        let complete = self.begun.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let begun = self.begun.split_off(complete);
        let lines = std::mem::replace(&mut self.begun, begun);
        String::from_utf8(lines).map(Some).map_err(|error| CatalogError::Unexpected(error.to_string()))
    }

    /// Bytes of the line that is not complete yet.
    pub(crate) fn begun_bytes(&self) -> usize {
        self.begun.len()
    }
}
