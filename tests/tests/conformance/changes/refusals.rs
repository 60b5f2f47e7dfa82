//! Cases 179 to 182, 191 to 193 and 219 to 222: bindings that can not be.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database};
use walcast_tests::watching::MARKS;
use walcast_tests::{World, binding, person};

use super::{refused, watch_as, with};
use crate::scene::{acknowledged, connect, join, on_both, room, world};

const UNABLE: &str = "Unable to subscribe to changes with given parameters.";
const NOTHING: &str =
    "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";

/// Fails unless the filter is refused with an exception of the database, in these words.
async fn exception(table: &str, filter: &str, error: &str) -> Result<()> {
    let text = refused(&[with(table, "filter", filter)], UNABLE).await?;
    let (_, got) = text.split_once(" Exception: ").with_context(|| text.clone())?;
    ensure!(got == error, "{filter}: {got}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_179_a_malformed_filter_is_a_system_error_and_the_join_is_ok() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for (filter, list) in [
            ("wrong", r#"["wrong"]"#),
            ("n=foo", r#"["foo"]"#),
            ("n=foo.hey", r#"["foo", "hey"]"#),
            ("n=in.1,2", "`in` filter value must be wrapped by parentheses"),
        ] {
            let topic = room();
            let mut client = connect(&world, version).await?;
            let bindings = [with("case_179", "filter", filter)];
            let config = json!({ "postgres_changes": bindings, "broadcast": { "ack": true } });
            ensure!(join(&mut client, &topic, &config).await?.len() == 1);
            let system = client.next().await?;
            let text = format!("Error parsing `filter` params: {list}");
            ensure!(
                system.system("postgres_changes") == Some(("error", &text)),
                "{filter}: {:?}",
                system.raw
            );
            acknowledged(&mut client, &topic).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_180_an_unknown_table_is_a_system_error() -> Result<()> {
    let check = format!("{UNABLE} Please check Realtime is enabled for the given connect parameters: ");
    let table = json!({ "event": "INSERT", "schema": "public", "table": "nope" });
    let text = refused(&[table], &check).await?;
    ensure!(
        text.ends_with("[event: INSERT, schema: public, table: nope, filters: [], select: nil]"),
        "{text}"
    );
    refused(&[json!({ "schema": "nope" })], &check).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_181_an_unknown_filter_column_is_a_system_error() -> Result<()> {
    exception("case_181", "nope=eq.1", "ERROR P0001 (raise_exception) invalid column for filter nope").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_182_bindings_asked_for_while_the_database_is_away_work_when_it_is_back() -> Result<()> {
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "conformance_182").await?;
    let tables = format!(
        "create table notes (id int primary key); grant select on notes to authenticated;
         create publication supabase_realtime for table notes;{MARKS}"
    );
    let mut world = World::in_database(database, &tables, |_| {}).await?;
    // The role is known from before.
    let mut before = watch_as(&world, &person("ana"), &[binding("*", "notes")]).await?;
    cluster.stop().await?;
    let mut during = watch_as(&world, &person("ana"), &[binding("*", "notes")]).await?;
    cluster.start_again().await?;
    world.client = world.database.client().await;
    world.sql("insert into notes values (1)").await?;
    for watcher in [&mut before, &mut during] {
        watcher.client.set_deadline(std::time::Duration::from_mins(1));
        ensure!(watcher.ids(&world).await? == [1]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_191_a_select_that_is_text_is_an_error() -> Result<()> {
    let text = "Error parsing `select` params: expected a list of column name strings, \
                e.g. select: [\"col1\", \"col2\"]";
    for select in [json!("id,n"), json!("*"), json!("")] {
        refused(&[with("case_191", "select", select)], text).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_192_a_select_needs_its_schema_and_table_by_name() -> Result<()> {
    let text = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";
    for binding in [
        json!({ "schema": "*", "table": "case_192", "select": ["id"] }),
        json!({ "schema": "public", "table": "*", "select": ["id"] }),
        json!({ "schema": "public", "select": ["id"] }),
    ] {
        refused(&[binding], text).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_193_a_select_of_a_column_that_is_unknown_or_not_readable_is_an_error() -> Result<()> {
    for (table, column) in [("case_193", "nope"), ("granted", "secret")] {
        let text = refused(&[with(table, "select", json!(["id", column]))], UNABLE).await?;
        let end = format!("Exception: ERROR P0001 (raise_exception) invalid column for select {column}");
        ensure!(text.ends_with(&end), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_219_a_filter_schema_or_table_that_is_no_text_is_an_error() -> Result<()> {
    for binding in [
        json!({ "schema": "public", "table": "case_219", "filter": 7 }),
        json!({ "schema": 5, "table": "case_219" }),
        json!({ "schema": "public", "table": null }),
        json!({ "schema": "public", "table": ["case_219"] }),
        json!({ "schema": "public", "filter": "n=eq.1" }),
        json!({}),
    ] {
        refused(&[binding], NOTHING).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_220_a_value_that_does_not_fit_its_column_is_told_in_the_words_of_postgres() -> Result<()> {
    let invalid = |value: &str| {
        format!(
            "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"{value}\""
        )
    };
    exception("case_220", "n=eq.abc", &invalid("abc")).await?;
    exception("case_220", "n=in.(1,x)", &invalid("x")).await?;
    let boolean =
        "ERROR 22P02 (invalid_text_representation) invalid input syntax for type boolean: \"perhaps\"";
    exception("case_220", "b=eq.perhaps", boolean).await?;
    let many: Vec<_> = (0..101).map(|number| number.to_string()).collect();
    let too_many = "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100";
    exception("case_220", &format!("n=in.({})", many.join(",")), too_many).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_221_a_pattern_on_an_integer_is_an_error() -> Result<()> {
    for operator in ["like", "ilike", "match", "imatch"] {
        let error = format!(
            "ERROR P0001 (raise_exception) operator {operator} requires a text-compatible column type, got integer"
        );
        exception("case_221", &format!("n={operator}.1"), &error).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_222_is_true_on_text_and_unknown_words_are_errors() -> Result<()> {
    let raised = |text: &str| format!("ERROR P0001 (raise_exception) {text}");
    exception("case_222", "t=is.true", &raised("is true filter requires a boolean column, got text")).await?;
    for word in ["nope", "TRUE", "not null", ""] {
        let error = raised("invalid value for is filter: must be null, true, false, or unknown");
        exception("case_222", &format!("t=is.{word}"), &error).await?;
    }
    Ok(())
}
