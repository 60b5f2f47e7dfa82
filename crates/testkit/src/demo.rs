//! The demo schema of `sql/demo/`: rooms, messages, requests and notifications of three people, under row-level
//! security. `walcast dev` serves it; tests use it as an example of a real application.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The files of `sql/demo/`, name and text, in the order in which they are applied.
pub const FILES: &[(&str, &str)] = &[
    ("10-roles.sql", include_str!("../../../sql/demo/10-roles.sql")),
    ("20-auth.sql", include_str!("../../../sql/demo/20-auth.sql")),
    ("30-tables.sql", include_str!("../../../sql/demo/30-tables.sql")),
    ("40-policies.sql", include_str!("../../../sql/demo/40-policies.sql")),
    ("50-publication.sql", include_str!("../../../sql/demo/50-publication.sql")),
    ("60-data.sql", include_str!("../../../sql/demo/60-data.sql")),
];

/// Applies the demo schema, all of it or nothing. It may be applied again; rows that were changed stay changed.
pub async fn apply(client: &mut tokio_postgres::Client) -> Result<()> {
    let transaction = client.transaction().await?;
    for (name, sql) in FILES {
        transaction
            .batch_execute(sql)
            .await
            .with_context(|| format!("sql/demo/{name} can not be applied"))?;
    }
    transaction.commit().await?;
    Ok(())
}

/// One of the three people in the demo data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// The claim `sub` of the person's tokens.
    pub id: &'static str,
    /// What the others call the person.
    pub name: &'static str,
    /// The claim `app_metadata.rol`: `operador` or `cliente`.
    pub rol: &'static str,
}

/// A client.
pub const ANA: Person = Person { id: "00000000-0000-4000-8000-0000000000a1", name: "Ana", rol: "cliente" };
/// The operator.
pub const BRUNO: Person =
    Person { id: "00000000-0000-4000-8000-0000000000b2", name: "Bruno", rol: "operador" };
/// Another client.
pub const CARLA: Person =
    Person { id: "00000000-0000-4000-8000-0000000000c3", name: "Carla", rol: "cliente" };

impl Person {
    /// The claims of a token of this person, with `exp` in Unix seconds.
    pub fn claims(&self, expires_at: i64) -> Value {
        json!({
            "role": "authenticated",
            "sub": self.id,
            "name": self.name,
            "app_metadata": { "rol": self.rol },
            "exp": expires_at,
        })
    }
}
