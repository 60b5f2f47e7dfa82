//! A row that somebody wrote down, in the text that the log would have for it.

use tokio_postgres::SimpleQueryMessage;
use walcast_policy::RowImage;
use walcast_policy::schema::Table;

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::image::json_object;
use crate::pool::within;
use crate::quoting::{identifier, literal, qualified};

impl Catalog {
    /// The values of `row` after PostgreSQL has read them as the columns' types and written them again; by
    /// column index, `None` for NULL. The table is not touched.
    ///
    /// # Errors
    /// [`CatalogError::Statement`] where a value is none of its column's type (`22P02` and the like).
    pub async fn as_logged(
        &self,
        table: &Table,
        row: &RowImage<'_>,
    ) -> Result<Vec<Option<String>>, CatalogError> {
        if table.columns.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.now();
        let columns: Vec<String> =
            table.columns.iter().map(|column| format!("given.{}", identifier(&column.name))).collect();
        // In the simple query protocol values come as the types' output functions write them, as in the log.
        let sql = format!(
            "SELECT {} FROM pg_catalog.json_populate_record(NULL::{}, {}::json) AS given",
            columns.join(", "),
            qualified(&table.schema, &table.name),
            literal(&json_object(table, &snapshot.types, row)?)
        );
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let lease = self.pool.lease().await?;
                let answer = lease.simple_query(&sql).await.map_err(CatalogError::from);
                if let Some(answer) = retries.settle(lease, answer) {
                    return answer;
                }
            }
        };
        let answer = within(self.pool.patience(), talk).await?;
        let written = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        written.ok_or_else(|| CatalogError::Unexpected("no row".to_owned()))
    }
}
