//! Rows whose policies look their readers up in another table are told as Postgres would show them at their place in
//! the log, without asking it (docs/row-level-security.md, "Membership").

use anyhow::Result;
use walcast_tests::story::{Story, TABLES};
use walcast_tests::watching::watched;

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_among_rows_are_told_what_postgres_shows_them_and_it_is_not_asked()
-> Result<()> {
    for seed in [1, 2] {
        let world = watched("memberships_story", TABLES).await?;
        let mut story = Story::begin(&world, 10, seed).await?;
        let questions = world.questions().await?;
        story.go_on(300).await?;
        story.end(&world).await?;
        assert_eq!(world.questions().await?, questions, "seed {seed}: the copies decide");
    }
    Ok(())
}
