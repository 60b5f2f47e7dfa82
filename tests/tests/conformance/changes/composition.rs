//! Cases 209 to 218: negation, several conditions, quotes.

use anyhow::Result;
use walcast_tests::filtering::check;

use super::{ROWS, refused, with};
use crate::scene::world;

async fn fits(table: &str, cases: &[(&str, &[i64])]) -> Result<()> {
    check(&*world().await?, table, ROWS, cases).await
}

/// The same with rows whose text is of odd characters.
async fn fits_odd(table: &str, cases: &[(&str, &[i64])]) -> Result<()> {
    let rows = r#"(1, 1, 'a,b'), (2, 2, 'a.b:c(d)'), (3, 3, 'say "hi" \ there'), (4, 4, ''), (5, 5, '  inner  '),
        (6, 6, '"open'), (7, 7, '"a"b'), (8, 8, 'x)'), (9, 9, 'a  b')"#;
    let columns = format!("{table} (id, n, t)");
    let sql_rows = rows.replace('\n', " ");
    let world = world().await?;
    let filters: Vec<_> = cases.iter().map(|case| case.0).collect();
    let sql = format!("insert into {columns} values {sql_rows}");
    let seen = walcast_tests::filtering::matches(&world, table, &filters, &sql).await?;
    for ((filter, ids), seen) in cases.iter().zip(seen) {
        let expected: Vec<_> = ids.iter().map(|id| format!("I{id}")).collect();
        anyhow::ensure!(seen == expected.join(" "), "{filter}: {seen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_209_not_turns_an_operator_around_and_null_stays_no_match() -> Result<()> {
    let cases: &[(&str, &[i64])] = &[
        ("n=not.eq.10", &[1, 3]),
        ("n=not.neq.10", &[2]),
        ("n=not.lt.10", &[2, 3]),
        ("n=not.lte.10", &[3]),
        ("n=not.gt.10", &[1, 2]),
        ("n=not.gte.10", &[1]),
        ("n=not.in.(5,15)", &[2]),
        ("t=not.like.%an%", &[1, 3]),
        ("t=not.ilike.%AN%", &[1, 3]),
        ("n=not.is.null", &[1, 2, 3]),
        ("b=not.is.true", &[2, 3]),
        ("t=not.match.^[a-c]p", &[2, 3]),
        ("t=not.imatch.^b", &[1, 3]),
        ("n=not.isdistinct.10", &[2]),
    ];
    fits("case_209", cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_210_all_of_several_conditions_must_hold() -> Result<()> {
    let cases: &[(&str, &[i64])] = &[
        ("n=eq.5,t=eq.apple pie", &[1]),
        ("n=eq.5,t=eq.Banana", &[]),
        (" n=eq.10 , b=is.false ", &[2]),
        ("n=gt.1,t=like.%a%,b=is.true", &[1]),
    ];
    fits("case_210", cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_211_two_conditions_on_one_column_are_a_range() -> Result<()> {
    fits("case_211", &[("n=gte.5,n=lt.15", &[1, 2]), ("n=gt.5,n=lt.10", &[]), ("id=gt.1,id=lte.3", &[2, 3])])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_212_lists_go_together_with_conditions_and_lists_and_may_be_quoted() -> Result<()> {
    let cases: &[(&str, &[i64])] = &[
        ("n=in.(5,10),t=like.%pie", &[1]),
        ("n=in.(5,10,15),t=in.(Banana,\"cherry, red\")", &[2, 3]),
        ("t=in.(\"apple pie\",\"cherry, red\")", &[1, 3]),
        ("t=in.(\"(\",\")\")", &[]),
    ];
    fits("case_212", cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_213_a_quoted_value_may_have_commas_dots_colons_and_parentheses() -> Result<()> {
    fits_odd("case_213", &[(r#"t=eq."a,b""#, &[1]), (r#"t=eq."a.b:c(d)""#, &[2]), ("t=eq.a.b:c(d)", &[2])])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_214_quotes_and_backslashes_are_escaped_and_blanks_and_nothing_are_kept() -> Result<()> {
    let cases: &[(&str, &[i64])] = &[
        (r#"t=eq."say \"hi\" \\ there""#, &[3]),
        (r#"t=eq."""#, &[4]),
        (r#"t=eq."  inner  ""#, &[5]),
        ("t=eq.a  b", &[9]),
    ];
    fits_odd("case_214", cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_215_an_unterminated_quote_and_text_behind_one_are_literal() -> Result<()> {
    fits_odd("case_215", &[(r#"t=eq."open"#, &[6]), (r#"t=eq."a"b"#, &[7])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_216_stray_leading_and_double_commas_are_errors() -> Result<()> {
    let empty =
        "Error parsing `filter` params: filter must not contain empty segments (check for extra commas)";
    for filter in ["n=eq.1,", ",n=eq.1", "n=eq.1,,t=eq.a", ",", "n=eq.1, ,t=eq.a"] {
        refused(&[with("case_216", "filter", filter)], empty).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_217_a_blank_filter_is_none() -> Result<()> {
    fits("case_217", &[("", &[1, 2, 3, 4]), ("   ", &[1, 2, 3, 4])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_218_a_value_may_end_with_a_parenthesis() -> Result<()> {
    fits_odd("case_218", &[("t=eq.x)", &[8]), (r#"t=eq."x)""#, &[8]), (r#"t=in.("x)")"#, &[8])]).await
}
