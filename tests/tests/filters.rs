//! Filters choose rows as PostgreSQL's operators do (docs/protocol.md §5).

use anyhow::Result;
use serde_json::json;
use walcast_tests::filtering::{check, filtered, matches};
use walcast_tests::watching::{Watcher, watched};
use walcast_tests::{binding, person};

#[tokio::test(flavor = "multi_thread")]
async fn every_operator_fits_on_insert_update_and_delete_what_it_says() -> Result<()> {
    // §15 cases 196 to 212 and 217.
    let world = watched(
        "filters_operators",
        "create table items (id int primary key, n int, t text, b bool);
         alter table items replica identity full;
         grant select on items to authenticated;
         create publication supabase_realtime for table items;",
    )
    .await?;
    let rows = "(1, 5, 'apple pie', true), (2, 10, 'Banana', false), (3, 15, 'cherry, red', null),
                (4, null, null, true)";
    check(
        &world,
        "items",
        rows,
        &[
            ("n=eq.10", &[2]),
            ("n=neq.10", &[1, 3]),
            ("n=lt.10", &[1]),
            ("n=lte.10", &[1, 2]),
            ("n=gt.10", &[3]),
            ("n=gte.10", &[2, 3]),
            ("n=in.(5,15,77)", &[1, 3]),
            ("n=in.()", &[]),
            ("t=like.%an%", &[2]),
            ("t=like._pple pie", &[1]),
            ("t=ilike.%AN%", &[2]),
            ("t=match.^[a-c]p", &[1]),
            ("t=imatch.^b", &[2]),
            ("n=is.null", &[4]),
            ("b=is.true", &[1, 4]),
            ("b=is.false", &[2]),
            ("b=is.unknown", &[3]),
            ("n=isdistinct.10", &[1, 3, 4]),
            ("n=not.eq.10", &[1, 3]),
            ("n=not.neq.10", &[2]),
            ("n=not.lt.10", &[2, 3]),
            ("n=not.lte.10", &[3]),
            ("n=not.gt.10", &[1, 2]),
            ("n=not.gte.10", &[1]),
            ("n=not.in.(5,15)", &[2]),
            ("t=not.like.%an%", &[1, 3]),
            ("t=not.ilike.%AN%", &[1, 3]),
            ("t=not.match.^[a-c]p", &[2, 3]),
            ("t=not.imatch.^b", &[1, 3]),
            ("n=not.is.null", &[1, 2, 3]),
            ("b=not.is.true", &[2, 3]),
            ("n=not.isdistinct.10", &[2]),
            ("n=gte.5,n=lt.15", &[1, 2]),
            ("n=eq.5,t=eq.Banana", &[]),
            ("n=in.(5,10),t=like.%pie", &[1]),
            ("n=in.(5,10,15),t=in.(Banana,\"cherry, red\")", &[2, 3]),
            (" n=eq.10 , b=is.false ", &[2]),
            ("", &[1, 2, 3, 4]),
            ("  ", &[1, 2, 3, 4]),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_let_a_value_hold_any_character() -> Result<()> {
    // §15 cases 212 to 215 and 218.
    let world = watched(
        "filters_quotes",
        "create table texts (id int primary key, t text);
         alter table texts replica identity full;
         grant select on texts to authenticated;
         create publication supabase_realtime for table texts;",
    )
    .await?;
    let rows = r#"(1, 'a,b'), (2, 'a.b:c(d)'), (3, 'say "hi" \ there'), (4, ''), (5, '  inner  '), (6, '"open'),
                  (7, '"a"b'), (8, 'x)'), (9, '(a'), (10, 'it''s'), (11, 'ñ 🦜'), (12, 'a=b'), (13, 'null')"#;
    check(
        &world,
        "texts",
        rows,
        &[
            (r#"t=eq."a,b""#, &[1]),
            (r#"t=eq."a.b:c(d)""#, &[2]),
            ("t=eq.a.b:c(d)", &[2]),
            (r#"t=eq."say \"hi\" \\ there""#, &[3]),
            (r#"t=eq."""#, &[4]),
            ("t=eq.", &[4]),
            (r#"t=eq."  inner  ""#, &[5]),
            (r#"t=eq."open"#, &[6]),
            (r#"t=eq."a"b"#, &[7]),
            ("t=eq.x)", &[8]),
            (r#"t=eq."(a""#, &[9]),
            ("t=eq.it's", &[10]),
            ("t=eq.ñ 🦜", &[11]),
            ("t=eq.a=b", &[12]),
            ("t=eq.null", &[13]),
            (r#"t=in.("a,b","say \"hi\" \\ there")"#, &[1, 3]),
            (r#"t=in.("a,b","x)")"#, &[1, 8]),
            (r#"t=in.("",null)"#, &[4, 13]),
            (r#"t=eq."a,b",id=eq.1"#, &[1]),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn literals_are_of_the_columns_type() -> Result<()> {
    let world = watched(
        "filters_types",
        "create type mood as enum ('sad', 'ok', 'happy');
         create domain score as int check (value >= 0);
         create table facts (id int primary key, u uuid, at timestamptz, amount numeric, feeling mood,
            raw bytea, day date, tags text[], doc jsonb, code char(5), points score, net inet, big int8, f float8,
            v varchar(10), plain timestamp, span int4range);
         alter table facts replica identity full;
         grant select on facts to authenticated;
         create publication supabase_realtime for table facts;",
    )
    .await?;
    let rows = r#"
        (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2024-01-02 03:04:05+00', 1.0, 'sad', '\xdead', '2024-01-02',
            '{a,b}', '{"a": 1}', 'ab', 5, '10.0.0.1', 9223372036854775807, 0.5, 'abc', '2024-01-02 00:00', '[1,5)'),
        (2, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'infinity', 'NaN', 'happy', '\xbeef', '2025-01-02',
            '{b}', '"x"', 'abcde', 9, '10.0.0.2', -1, 'NaN', 'xyz', '2025-01-02 00:00', 'empty')"#;
    check(
        &world,
        "facts",
        rows,
        &[
            ("u=eq.A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", &[1]),
            ("at=eq.2024-01-02T05:04:05+02:00", &[1]),
            ("at=gt.2024-01-02 03:04:05Z", &[2]),
            ("amount=eq.1", &[1]),
            ("amount=gt.1e3", &[2]),
            ("feeling=gt.ok", &[2]),
            ("feeling=in.(sad,ok)", &[1]),
            ("raw=eq.dead", &[1]),
            (r"raw=eq.\xBEEF", &[2]),
            ("day=lt.2024-06-01", &[1]),
            (r#"tags=eq."{a,b}""#, &[1]),
            (r#"doc=eq."{\"a\":1.0}""#, &[1]),
            (r#"doc=eq."\"x\"""#, &[2]),
            ("code=eq.ab", &[1]),
            ("code=eq.abcde", &[2]),
            ("points=gte.9", &[2]),
            ("net=eq.10.0.0.1", &[1]),
            ("big=eq.9223372036854775807", &[1]),
            ("f=lt.0.75", &[1]),
            ("v=like.a%", &[1]),
            ("v=match.^x", &[2]),
            ("plain=gte.2025-01-01", &[2]),
            (r#"span=eq."[1,4]""#, &[1]),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_compared_by_its_new_row_and_a_delete_by_what_the_log_has_of_the_old_one() -> Result<()>
{
    let world = watched(
        "filters_images",
        "create table notes (id int primary key, state text, body text);
         alter table notes alter column body set storage external;
         grant select on notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let seen = matches(
        &world,
        "notes",
        &["state=eq.open", "state=eq.done", "id=eq.1", "body=like.x%", "id=not.eq.1", "body=is.null"],
        "insert into notes values (1, 'open', repeat('x', 10000)), (2, 'open', null);
         update notes set state = 'done';
         delete from notes",
    )
    .await?;
    assert_eq!(
        seen,
        [
            "I1 I2", "U1 U2", "I1 U1 D1",
            // The value stored out of line is not in the log of the update, and no body is in that of a delete.
            "I1", "I2 U2 D2", "I2 U2",
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fails_for_a_row_concerns_its_own_subscription_and_this_row_only() -> Result<()> {
    let world = watched(
        "filters_poison",
        "create extension citext;
         create table notes (id int primary key, t text, c citext);
         grant select on notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    // A pattern must not end with its escape character, which PostgreSQL finds out when it gets there; for citext it
    // is PostgreSQL itself that is asked.
    let seen = matches(
        &world,
        "notes",
        &[r"t=like.a\", "t=like.%", r"c=like.a\", "id=gt.0"],
        "insert into notes values (1, 'ab', 'ab'), (2, 'b', 'b'); insert into notes values (3, 'ac', 'ac')",
    )
    .await?;
    assert_eq!(seen, ["", "I1 I2 I3", "", "I1 I2 I3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_on_a_column_without_grant_is_refused_and_so_is_a_select() -> Result<()> {
    // §15 case 193.
    let world = watched(
        "filters_grants",
        "create table notes (id int primary key, open text, secret text);
         grant select (id, open) on notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    for (binding, end) in [
        (filtered("notes", "secret=eq.a"), "invalid column for filter secret"),
        (
            json!({"event": "*", "schema": "public", "table": "notes", "select": ["secret"]}),
            "invalid column for select secret",
        ),
    ] {
        let text = walcast_tests::watching::refusal(&mut watcher.client, "realtime:x", &[binding]).await?;
        assert!(text.ends_with(&format!("Exception: ERROR P0001 (raise_exception) {end}")), "{text}");
    }
    Ok(())
}
