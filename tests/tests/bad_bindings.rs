//! Bindings that can not be: the join is ok, a `system` message says what is wrong (docs/protocol.md §3.5, §5.3).

use anyhow::Result;
use serde_json::{Value, json};
use walcast_tests::watching::{Watcher, refusal, watched};
use walcast_tests::{World, binding, person, role};

const ITEMS: &str = "
    create type mood as enum ('sad', 'happy');
    create domain score as int check (value >= 0);
    create table items (id int primary key, n int, t text, b bool, v varchar(5), u uuid, at timestamptz,
        feeling mood, doc json, points score, amount numeric, tags int[]);
    grant select on items to authenticated, service_role;
    create publication supabase_realtime for table items;
";

/// Checks the whole text of the `system` message for each binding, and that the server goes on.
async fn check(name: &str, cases: &[(Value, String)]) -> Result<()> {
    let world = watched(name, ITEMS).await?;
    let mut client = world.connect(&person("ana")).await?;
    for (index, (binding, expected)) in cases.iter().enumerate() {
        let topic = format!("realtime:{index}");
        let text = refusal(&mut client, &topic, std::slice::from_ref(binding)).await?;
        assert_eq!(text, *expected, "{binding}");
    }
    let mut watcher = Watcher::join_on(client, "realtime:good", &[binding("*", "items")]).await?;
    world.sql("insert into items (id) values (1)").await?;
    assert_eq!(watcher.ids(&world).await?, [1]);
    Ok(())
}

fn with_filter(filter: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": "items", "filter": filter})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_can_not_be_read_is_told_why() -> Result<()> {
    // §15 cases 179, 191, 192, 216 and 219.
    let filter =
        |filter: &str, list: &str| (with_filter(filter), format!("Error parsing `filter` params: {list}"));
    let empty = "filter must not contain empty segments (check for extra commas)";
    let wildcard = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table \
                    name.";
    let select = "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \
                  \"col2\"]";
    let nothing = |binding: Value| {
        let text = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
        let shown = format!("{text}{binding}");
        (binding, shown)
    };
    check(
        "bad_syntax",
        &[
            filter("wrong", r#"["wrong"]"#),
            filter("n=foo", r#"["foo"]"#),
            filter("n=foo.hey", r#"["foo", "hey"]"#),
            filter("n=in.1,2", "`in` filter value must be wrapped by parentheses"),
            filter("n=eq.1,", empty),
            filter(",n=eq.1", empty),
            filter("n=eq.1,,n=eq.2", empty),
            (
                json!({"event": "*", "schema": "public", "table": "items", "select": "id,n"}),
                select.to_owned(),
            ),
            (json!({"schema": "*", "table": "items", "select": ["id"]}), wildcard.to_owned()),
            (json!({"schema": "public", "table": "*", "select": ["id"]}), wildcard.to_owned()),
            nothing(json!({})),
            nothing(json!({"event": "INSERT"})),
            nothing(json!({"schema": 5, "table": "items"})),
            nothing(json!({"schema": "public", "table": null})),
            nothing(json!({"schema": "public", "table": "items", "filter": 7})),
            nothing(json!({"filter": "n=eq.1", "schema": "public"})),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_the_catalog_does_not_know_is_told_why() -> Result<()> {
    // §15 cases 180, 181 and 193.
    let unknown = |binding: Value, shown: &str| {
        let text = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the \
                    given connect parameters: ";
        (binding, format!("{text}{shown}"))
    };
    let select = json!({"event": "UPDATE", "schema": "public", "table": "items", "select": ["nope", "id"]});
    check(
        "bad_names",
        &[
            unknown(
                json!({"event": "INSERT", "schema": "public", "table": "nope"}),
                "[event: INSERT, schema: public, table: nope, filters: [], select: nil]",
            ),
            unknown(json!({"schema": "nope"}), "[event: *, schema: nope, table: *, filters: [], select: nil]"),
            exception("n=nope.1", ""),
            exception(
                "nope=eq.1",
                r#"[{"nope", "eq", "1", false}]|ERROR P0001 (raise_exception) invalid column for filter nope"#,
            ),
            exception(
                "n=gt.1,\"n\"=not.in.(1,2)",
                r#"[{"n", "gt", "1", false}, {"\"n\"", "in", "{1,2}", true}]|ERROR P0001 (raise_exception) invalid column for filter "n""#,
            ),
            (
                select,
                "Unable to subscribe to changes with given parameters. An exception happened so please check your \
                 connect parameters: [event: UPDATE, schema: public, table: items, filters: [], select: [\"id\", \
                 \"nope\"]]. Exception: ERROR P0001 (raise_exception) invalid column for select nope"
                    .to_owned(),
            ),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_its_column_is_refused_with_the_words_of_postgres() -> Result<()> {
    // §15 cases 220 to 222.
    let many = (0..101).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let one =
        |filter: &str, dump: &str, error: &str| exception(filter, &format!("[{{{dump}, false}}]|{error}"));
    let raised = |filter: &str, dump: &str, error: &str| {
        one(filter, dump, &format!("ERROR P0001 (raise_exception) {error}"))
    };
    let invalid = "invalid value for is filter: must be null, true, false, or unknown";
    check(
        "bad_values",
        &[
            one(
                "n=eq.abc",
                r#""n", "eq", "abc""#,
                r#"ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "abc""#,
            ),
            one(
                "n=in.(1,x)",
                r#""n", "in", "{1,x}""#,
                r#"ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "x""#,
            ),
            one(
                "n=lt.99999999999",
                r#""n", "lt", "99999999999""#,
                r#"ERROR 22003 (numeric_value_out_of_range) value "99999999999" is out of range for type integer"#,
            ),
            one(
                "u=eq.1",
                r#""u", "eq", "1""#,
                r#"ERROR 22P02 (invalid_text_representation) invalid input syntax for type uuid: "1""#,
            ),
            one(
                "at=gt.tomorrowish",
                r#""at", "gt", "tomorrowish""#,
                r#"ERROR 22007 (invalid_datetime_format) invalid input syntax for type timestamp with time zone: "tomorrowish""#,
            ),
            one(
                "feeling=eq.angry",
                r#""feeling", "eq", "angry""#,
                r#"ERROR 22P02 (invalid_text_representation) invalid input value for enum mood: "angry""#,
            ),
            one(
                "points=eq.-1",
                r#""points", "eq", "-1""#,
                r#"ERROR 23514 (check_violation) value for domain score violates check constraint "score_check""#,
            ),
            one(
                "doc=eq.1",
                r#""doc", "eq", "1""#,
                "ERROR 42883 (undefined_function) operator does not exist: json = json",
            ),
            raised("n=is.nothing", r#""n", "is", "nothing""#, invalid),
            raised("b=is.TRUE", r#""b", "is", "TRUE""#, invalid),
            raised("t=is.true", r#""t", "is", "true""#, "is true filter requires a boolean column, got text"),
            raised(
                "n=like.1%",
                r#""n", "like", "1%""#,
                "operator like requires a text-compatible column type, got integer",
            ),
            raised(
                "u=imatch.a",
                r#""u", "imatch", "a""#,
                "operator imatch requires a text-compatible column type, got uuid",
            ),
            raised(
                "t=match.(",
                r#""t", "match", "(""#,
                "invalid regular expression for match filter: invalid regular expression: parentheses () not balanced",
            ),
            raised(
                &format!("n=in.({many})"),
                &format!(r#""n", "in", "{{{many}}}""#),
                "too many values for `in` filter. Maximum 100",
            ),
        ],
    )
    .await
}

/// The filter as a binding, and the text for `dump|error`; without these, of an unknown operator.
fn exception(filter: &str, dump_and_error: &str) -> (Value, String) {
    let text = match dump_and_error.split_once('|') {
        None => r#"Error parsing `filter` params: ["nope", "1"]"#.to_owned(),
        Some((dump, error)) => format!(
            "Unable to subscribe to changes with given parameters. An exception happened so please check your \
             connect parameters: [event: *, schema: public, table: items, filters: {dump}, select: nil]. Exception: \
             {error}"
        ),
    };
    (with_filter(filter), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_binding_refuses_them_all_and_the_channel_stays_joined() -> Result<()> {
    let world = watched("bad_one_of_two", ITEMS).await?;
    let mut client = world.connect(&person("ana")).await?;
    let bindings = [binding("*", "items"), with_filter("wrong")];
    let text = refusal(&mut client, "realtime:room", &bindings).await?;
    assert_eq!(text, "Error parsing `filter` params: [\"wrong\"]");
    let mut good = Watcher::join_on(client, "realtime:good", &[binding("*", "items")]).await?;
    world.sql("insert into items (id) values (1)").await?;
    let mark = world.mark().await?;
    good.payloads_until(mark).await?;
    let stray = |message: &&walcast_testkit::Received| message.is("realtime:room", "postgres_changes");
    assert!(good.client.unclaimed().find(stray).is_none());
    let left = good.client.leave("realtime:room").await?;
    assert!(left.is_ok(), "the channel was joined: {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_does_not_exist_is_told_so() -> Result<()> {
    let world = watched("bad_role", ITEMS).await?;
    let mut client = world.connect(&role("no such role")).await?;
    let text = refusal(&mut client, "realtime:room", &[binding("*", "items")]).await?;
    assert!(
        text.ends_with(r#"Exception: ERROR 42704 (undefined_object) role "no such role" does not exist"#),
        "{text}"
    );
    still_works(&world).await
}

async fn still_works(world: &World) -> Result<()> {
    let mut watcher = Watcher::join(world, &role("service_role"), &[binding("*", "items")]).await?;
    world.sql("insert into items (id) values (99)").await?;
    assert_eq!(watcher.ids(world).await?, [99]);
    Ok(())
}
