//! The demo schema: applied again and again, and each person sees and does what they may.

use anyhow::Result;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use walcast_testkit::demo::{self, ANA, BRUNO, CARLA, Person};
use walcast_testkit::{Database, database};

const TODOS: &str = "00000000-0000-4000-8000-00000000a001";
const ANA_Y_BRUNO: &str = "00000000-0000-4000-8000-00000000a002";
const OPEN_OF_ANA: &str = "00000000-0000-4000-8000-00000000f001";

async fn demo_database(name: &str) -> Result<Database> {
    let database = database(name).await;
    demo::apply(&mut database.client().await).await?;
    Ok(database)
}

/// A connection that acts as the person would.
async fn acting_as(database: &Database, person: Person) -> Result<Client> {
    let client = database.client().await;
    let claims = person.claims(4_000_000_000).to_string();
    client.execute("SELECT set_config('request.jwt.claims', $1, false)", &[&claims]).await?;
    client.batch_execute("SET ROLE authenticated").await?;
    Ok(client)
}

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn the_demo_schema_can_be_applied_again_and_keeps_what_was_changed() -> Result<()> {
    let database = demo_database("demo twice").await?;
    let mut client = database.client().await;
    client.execute("UPDATE mensajes SET cuerpo = 'otro'", &[]).await?;
    demo::apply(&mut client).await?;
    assert_eq!(texts(&client, "SELECT DISTINCT cuerpo FROM mensajes").await?, ["otro"]);
    assert_eq!(
        texts(&client, "SELECT tablename::text FROM pg_publication_tables ORDER BY 1").await?,
        ["mensajes", "notificaciones", "sala_miembros", "salas", "solicitudes"]
    );
    Ok(())
}

#[tokio::test]
async fn the_demo_schema_goes_into_a_publication_of_all_tables_and_beside_other_tables() -> Result<()> {
    let database = database("demo beside").await;
    let mut client = database.client().await;
    client
        .batch_execute("CREATE TABLE other (); CREATE PUBLICATION supabase_realtime FOR ALL TABLES")
        .await?;
    demo::apply(&mut client).await?;
    Ok(())
}

#[tokio::test]
async fn several_databases_of_a_cluster_get_the_demo_schema_at_once() -> Result<()> {
    let (first, second, third) =
        tokio::join!(demo_database("demo one"), demo_database("demo two"), demo_database("demo three"));
    first.and(second).and(third)?;
    Ok(())
}

#[tokio::test]
async fn members_see_their_rooms_and_the_messages_in_them() -> Result<()> {
    let database = demo_database("demo rooms").await?;
    let rooms = "SELECT nombre FROM salas ORDER BY 1";
    let messages = "SELECT DISTINCT nombre FROM mensajes JOIN salas ON salas.id = sala_id ORDER BY 1";
    for (person, expected) in [
        (ANA, &["Ana y Bruno", "Todos"][..]),
        (BRUNO, &["Ana y Bruno", "Carla y Bruno", "Todos"]),
        (CARLA, &["Carla y Bruno", "Todos"]),
    ] {
        let client = acting_as(&database, person).await?;
        assert_eq!(texts(&client, rooms).await?, expected, "{}", person.name);
        assert_eq!(texts(&client, messages).await?, expected, "{}", person.name);
    }
    Ok(())
}

#[tokio::test]
async fn clients_see_their_requests_and_operators_the_open_ones_and_their_own() -> Result<()> {
    let database = demo_database("demo requests").await?;
    let requests = "SELECT zona FROM solicitudes ORDER BY 1";
    for (person, expected) in [
        (ANA, &["Cordón", "Pocitos"][..]),
        (BRUNO, &["Centro", "Cordón", "Parque Rodó", "Pocitos"]),
        (CARLA, &["Centro", "Parque Rodó"]),
    ] {
        let client = acting_as(&database, person).await?;
        assert_eq!(texts(&client, requests).await?, expected, "{}", person.name);
    }
    let other_operator =
        Person { id: "00000000-0000-4000-8000-0000000000d4", name: "Diego", rol: "operador" };
    let client = acting_as(&database, other_operator).await?;
    assert_eq!(texts(&client, requests).await?, ["Centro", "Pocitos"]);
    Ok(())
}

#[tokio::test]
async fn a_token_without_a_name_sees_nothing_and_the_service_sees_everything() -> Result<()> {
    let database = demo_database("demo roles").await?;
    let all = "SELECT id::text FROM mensajes UNION ALL SELECT id::text FROM solicitudes \
               UNION ALL SELECT id::text FROM notificaciones UNION ALL SELECT id::text FROM salas";
    let client = database.client().await;
    client.batch_execute("SET ROLE anon").await?;
    assert!(texts(&client, all).await?.is_empty());
    client.batch_execute("SET ROLE service_role").await?;
    assert_eq!(texts(&client, all).await?.len(), 15);
    Ok(())
}

#[tokio::test]
async fn a_request_is_taken_and_completed_by_its_operator_and_the_client_is_told() -> Result<()> {
    let database = demo_database("demo order").await?;
    let take = format!(
        "UPDATE solicitudes SET operador_id = auth.uid(), estado = 'tomada' WHERE id = '{OPEN_OF_ANA}' RETURNING zona"
    );
    let carla = acting_as(&database, CARLA).await?;
    assert!(texts(&carla, &take).await?.is_empty(), "a client takes no requests");
    let bruno = acting_as(&database, BRUNO).await?;
    assert_eq!(texts(&bruno, &take).await?, ["Pocitos"]);
    let cancel =
        format!("UPDATE solicitudes SET estado = 'cancelada' WHERE id = '{OPEN_OF_ANA}' RETURNING zona");
    let ana = acting_as(&database, ANA).await?;
    assert!(texts(&ana, &cancel).await?.is_empty(), "it is on its way");
    let complete =
        format!("UPDATE solicitudes SET estado = 'completada' WHERE id = '{OPEN_OF_ANA}' RETURNING zona");
    assert_eq!(texts(&bruno, &complete).await?, ["Pocitos"]);
    let told = "SELECT titulo FROM notificaciones WHERE cuerpo LIKE 'Pocitos%' ORDER BY 1";
    assert_eq!(texts(&ana, told).await?, ["Solicitud completada", "Solicitud tomada"]);
    assert!(texts(&carla, told).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_request_is_made_and_cancelled_by_its_client_alone() -> Result<()> {
    let database = demo_database("demo cancel").await?;
    let carla = acting_as(&database, CARLA).await?;
    let make = "INSERT INTO solicitudes (cliente_id, zona, precio) VALUES (auth.uid(), 'Malvín', 99.90) RETURNING estado";
    assert_eq!(texts(&carla, make).await?, ["abierta"]);
    let cancel = "UPDATE solicitudes SET estado = 'cancelada' WHERE zona = 'Malvín' RETURNING zona";
    let ana = acting_as(&database, ANA).await?;
    assert!(texts(&ana, cancel).await?.is_empty());
    assert_eq!(texts(&carla, cancel).await?, ["Malvín"]);
    let for_another =
        format!("INSERT INTO solicitudes (cliente_id, zona, precio) VALUES ('{}', 'x', 1)", ANA.id);
    let error = carla.execute(&for_another, &[]).await.expect_err("it would be Ana's");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    Ok(())
}

#[tokio::test]
async fn messages_are_written_by_members_under_their_own_name_and_changed_by_their_author() -> Result<()> {
    let database = demo_database("demo messages").await?;
    let write = |room: &str, author: &str| {
        format!(
            "INSERT INTO mensajes (sala_id, autor_id, cuerpo) VALUES ('{room}', '{author}', 'hola') RETURNING cuerpo"
        )
    };
    let ana = acting_as(&database, ANA).await?;
    assert_eq!(texts(&ana, &write(TODOS, ANA.id)).await?, ["hola"]);
    let carla = acting_as(&database, CARLA).await?;
    for forbidden in [write(ANA_Y_BRUNO, CARLA.id), write(TODOS, ANA.id)] {
        let error = carla.query(&forbidden, &[]).await.expect_err(&forbidden);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{forbidden}");
    }
    let edit = "UPDATE mensajes SET cuerpo = 'chau', editado = true WHERE cuerpo = 'hola' RETURNING cuerpo";
    assert!(texts(&carla, edit).await?.is_empty());
    assert_eq!(texts(&ana, edit).await?, ["chau"]);
    let steal = "UPDATE mensajes SET autor_id = auth.uid()";
    let error = ana.execute(steal, &[]).await.expect_err("the author is not a column to write to");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    Ok(())
}

#[tokio::test]
async fn who_asks_is_read_from_the_claims_of_the_request() -> Result<()> {
    let database = demo_database("demo auth").await?;
    let client = database.client().await;
    let who = "SELECT coalesce(auth.uid()::text, '-') || ' ' || coalesce(auth.role(), '-') || ' ' ||
               coalesce(auth.jwt()::text, '-')";
    assert_eq!(texts(&client, who).await?, ["- - -"]);
    for (setting, value) in [("request.jwt.claims", ""), ("request.jwt.claim.sub", "")] {
        client.execute("SELECT set_config($1, $2, false)", &[&setting, &value]).await?;
    }
    assert_eq!(texts(&client, who).await?, ["- - -"]);
    let claims = format!(r#"{{"sub": "{}", "role": "authenticated"}}"#, ANA.id);
    client.execute("SELECT set_config('request.jwt.claims', $1, false)", &[&claims]).await?;
    let expected = format!(r#"{} authenticated {{"sub": "{}", "role": "authenticated"}}"#, ANA.id, ANA.id);
    assert_eq!(texts(&client, who).await?, [expected]);
    // The older settings, one for each claim, win.
    client.execute("SELECT set_config('request.jwt.claim.sub', $1, false)", &[&BRUNO.id]).await?;
    assert!(texts(&client, who).await?[0].starts_with(BRUNO.id));
    Ok(())
}
