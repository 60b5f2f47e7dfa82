//! Cases 196 to 208: each operator, on INSERT, UPDATE and DELETE, with the whole old row in the log.

use anyhow::Result;
use walcast_tests::filtering::check;

use super::ROWS;
use crate::scene::world;

/// Fails unless the operator's filters fit exactly these rows, in all three kinds of change.
async fn fits(table: &str, cases: &[(&str, &[i64])]) -> Result<()> {
    check(&*world().await?, table, ROWS, cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_196_eq_fits_equal_values_only() -> Result<()> {
    fits("case_196", &[("n=eq.10", &[2]), ("t=eq.Banana", &[2]), ("b=eq.true", &[1, 4]), ("n=eq.7", &[])])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_197_neq_fits_other_values_and_no_null() -> Result<()> {
    fits("case_197", &[("n=neq.10", &[1, 3]), ("t=neq.Banana", &[1, 3]), ("b=neq.true", &[2])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_198_lt_fits_smaller_values() -> Result<()> {
    fits("case_198", &[("n=lt.10", &[1]), ("n=lt.5", &[]), ("id=lt.3", &[1, 2])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_199_lte_fits_smaller_and_equal_values() -> Result<()> {
    fits("case_199", &[("n=lte.10", &[1, 2]), ("n=lte.4", &[])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_200_gt_fits_larger_values() -> Result<()> {
    fits("case_200", &[("n=gt.10", &[3]), ("n=gt.15", &[])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_201_gte_fits_larger_and_equal_values() -> Result<()> {
    fits("case_201", &[("n=gte.10", &[2, 3]), ("n=gte.16", &[])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_202_in_fits_the_values_of_its_list() -> Result<()> {
    fits("case_202", &[("n=in.(5,15,77)", &[1, 3]), ("n=in.(7)", &[]), ("n=in.()", &[])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_203_like_fits_a_pattern_in_its_letter_case() -> Result<()> {
    fits("case_203", &[("t=like.%an%", &[2]), ("t=like.%AN%", &[]), ("t=like._pple pie", &[1])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_204_ilike_fits_a_pattern_in_any_letter_case() -> Result<()> {
    fits("case_204", &[("t=ilike.%AN%", &[2]), ("t=ilike.APPLE%", &[1]), ("t=ilike.x%", &[])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_205_is_fits_null_true_false_and_unknown() -> Result<()> {
    let cases: &[(&str, &[i64])] =
        &[("n=is.null", &[4]), ("b=is.true", &[1, 4]), ("b=is.false", &[2]), ("b=is.unknown", &[3])];
    fits("case_205", cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_206_match_fits_a_regular_expression_in_its_letter_case() -> Result<()> {
    fits("case_206", &[("t=match.^[a-c]p", &[1]), ("t=match.^b", &[]), ("t=match.an.n", &[2])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_207_imatch_fits_a_regular_expression_in_any_letter_case() -> Result<()> {
    fits("case_207", &[("t=imatch.^b", &[2]), ("t=imatch.^CHERRY", &[3]), ("t=imatch.^x", &[])]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_208_isdistinct_fits_other_values_and_null() -> Result<()> {
    fits("case_208", &[("n=isdistinct.10", &[1, 3, 4]), ("t=isdistinct.Banana", &[1, 3, 4])]).await
}
