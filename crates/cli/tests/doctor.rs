//! `walcast doctor` and `walcast explain` against a real PostgreSQL.

use anyhow::Result;
use serde_json::{Value, json};
use walcast::doctor::{self, Colours, Decided, Finding, LookedUp, Report, Severity};
use walcast::explain::{self, Answer, Decider, Explanation, Junction, Request, Says};
use walcast::serve::{ServeSettings, Server};
use walcast::settings::{DatabaseSettings, Flags, ReplicationSettings};
use walcast_auth::{Secret, VerifierSettings};
use walcast_testkit::demo::{ANA, BRUNO, CARLA, Person};
use walcast_testkit::{Database, demo};

fn database_settings(url: &str) -> Result<DatabaseSettings> {
    // The first caller wins, the others find the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let environment = [("DATABASE_URL".to_owned(), url.to_owned())].into();
    Ok(DatabaseSettings::load(&Flags::default(), &environment)?)
}

fn replication(database: &Database) -> ReplicationSettings {
    ReplicationSettings { slot: database.slot_name(), ..ReplicationSettings::default() }
}

/// What copies may take.
const COPY_BYTES: usize = 1 << 28;

async fn report(database: &Database) -> Result<Report> {
    doctor::examine(&database_settings(database.url())?, &replication(database), COPY_BYTES).await
}

async fn with_sql(name: &str, sql: &str) -> Result<Database> {
    let database = walcast_testkit::database(name).await;
    let client = database.client().await;
    for (_, sql) in &demo::FILES[..2] {
        client.batch_execute(sql).await?;
    }
    client.batch_execute(sql).await?;
    Ok(database)
}

async fn with_demo(name: &str) -> Result<Database> {
    let database = walcast_testkit::database(name).await;
    demo::apply(&mut database.client().await).await?;
    Ok(database)
}

fn of_table<'a>(report: &'a Report, name: &str) -> &'a [Finding] {
    let table = report.tables.iter().find(|table| table.name == name);
    &table.unwrap_or_else(|| panic!("no table {name}: {:?}", report.tables)).findings
}

/// The one finding about a table, or about the whole, whose sentence has `part`.
fn finding<'a>(findings: &'a [Finding], part: &str) -> &'a Finding {
    let mut found = findings.iter().filter(|finding| finding.sentence.contains(part));
    let first = found.next().unwrap_or_else(|| panic!("nothing about {part:?} in {findings:#?}"));
    assert!(found.next().is_none(), "more than once: {part:?} in {findings:#?}");
    first
}

#[tokio::test]
async fn the_report_of_the_demo_says_how_each_policy_is_decided() -> Result<()> {
    let database = with_demo("doctor_demo").await?;
    let report = report(&database).await?;
    assert!(report.can_serve, "{report:#?}");
    let text = report.text(Colours::NONE);
    let essential = [
        "wal_level logical",
        "superuser, may act as anon, authenticated, service_role",
        ": not there yet, walcast makes it when it starts",
        "publication         supabase_realtime: 5 tables, publishes insert, update, delete, truncate",
        "catalog             changes of policies and grants are found by polling",
        "\npublic.mensajes\n  row security      on\n  replica identity  full: a DELETE is judged on the old row",
        "  anon              every column, no row",
        "  authenticated     every column, rows by policy",
        "  service_role      every column, every row, since policies do not bind it",
        "  policy            \"members read messages\" for authenticated\n                    decided in process, looks up public.sala_miembros (sala_id, usuario_id)\n",
        "\npublic.sala_miembros, looked up by policies\n  copied            sala_id, usuario_id, kept current from the log\n  size              ",
        "\ncopies              at most 256.0 MiB (changes.copy_bytes_max)\n",
        "  policy            \"clients see their requests\" for authenticated\n                    decided in process\n",
        "no policy for SELECT is for anon, so the grant shows no row\n                    CREATE",
        "\nwalcast can serve this database: ",
    ];
    for line in essential {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("danger") && !text.contains("warning"), "the demo is as it should be:\n{text}");
    Ok(())
}

#[tokio::test]
async fn the_same_report_is_there_as_json() -> Result<()> {
    let database = with_demo("doctor_json").await?;
    let report = serde_json::to_value(report(&database).await?)?;
    let tables = report["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let requests = tables.iter().find(|table| table["name"] == "solicitudes").unwrap_or(&Value::Null);
    assert_eq!((&report["can_serve"], &requests["row_security"]), (&json!(true), &json!("on")));
    assert_eq!(requests["roles"][0], json!({ "role": "anon", "columns": "every", "rows": "none" }));
    assert_eq!(requests["policies"][0]["decided"], "process");
    assert_eq!(requests["policies"][0]["roles"], json!(["authenticated"]));
    Ok(())
}

#[tokio::test]
async fn what_is_likely_not_meant_is_told_with_the_sql_that_mends_it() -> Result<()> {
    let database = with_sql(
        "doctor_faults",
        "create schema app;
         create table members (room int, who text);
         alter table members enable row level security;
         create table hidden (id int primary key);
         create function app.roll() returns int language sql volatile as 'select 1';
         create table open (id int primary key, body text);
         create table keyless (a int);
         create table shut (id int primary key);
         create table notes (
             id int primary key, room int, body text, size int generated always as (length(body)) stored
         );
         alter table keyless enable row level security; alter table shut enable row level security;
         alter table notes enable row level security;
         create policy by_room on notes for select to authenticated
             using (room in (select m.room from members as m) and id in (select h.id from hidden as h));
         create policy rolled on notes for select using (id = app.roll());
         create policy sized on notes as restrictive for select using (size > 0);
         create policy writing on notes for insert with check (true);
         grant select on open, shut, keyless, members to anon, authenticated;
         grant select (room, body) on notes to authenticated;
         create publication supabase_realtime for table open, keyless, shut, notes;",
    )
    .await?;
    let report = report(&database).await?;
    assert!(report.can_serve);
    let mended = |finding: &Finding, severity: Severity, sql: &str| {
        assert_eq!(
            (finding.severity, finding.mend.as_deref()),
            (severity, Some(sql)),
            "{}",
            finding.sentence
        );
    };
    let open =
        finding(of_table(&report, "open"), "published without row-level security: anon, authenticated gets");
    mended(open, Severity::Danger, "ALTER TABLE \"public\".\"open\" ENABLE ROW LEVEL SECURITY;");
    assert!(report.text(Colours::wanted(true, &[].into())).contains("\x1b[1;31mdanger"), "in red");
    let keyless = of_table(&report, "keyless");
    let no_key = "ALTER TABLE \"public\".\"keyless\" ADD PRIMARY KEY (…);";
    mended(finding(keyless, "no primary key"), Severity::Warning, no_key);
    let no_identity = "ALTER TABLE \"public\".\"keyless\" REPLICA IDENTITY FULL;";
    mended(finding(keyless, "no replica identity"), Severity::Warning, no_identity);
    let shut = finding(of_table(&report, "shut"), "no policy for SELECT is for anon, authenticated");
    let policy =
        "CREATE POLICY \"…\" ON \"public\".\"shut\" FOR SELECT TO \"anon\", \"authenticated\" USING (…);";
    mended(shut, Severity::Warning, policy);
    let notes = of_table(&report, "notes");
    for (part, severity, sql) in [
        ("which is VOLATILE", Severity::Warning, "ALTER FUNCTION \"app\".\"roll\"() STABLE;"),
        (
            "generated column \"size\"",
            Severity::Warning,
            "ALTER POLICY \"sized\" ON \"public\".\"notes\" USING (…);",
        ),
        (
            "public.hidden, which authenticated may not SELECT",
            Severity::Warning,
            "GRANT SELECT ON \"public\".\"hidden\" TO \"authenticated\";",
        ),
        (
            "public.members, of which row-level security shows nothing to authenticated",
            Severity::Warning,
            "CREATE POLICY \"…\" ON \"public\".\"members\" FOR SELECT TO \"authenticated\" USING (…);",
        ),
        (
            "authenticated may not SELECT \"id\" of the primary key",
            Severity::Warning,
            "GRANT SELECT (\"id\") ON \"public\".\"notes\" TO \"authenticated\";",
        ),
        (
            "deletes are not delivered",
            Severity::Note,
            "ALTER TABLE \"public\".\"notes\" REPLICA IDENTITY FULL;",
        ),
    ] {
        mended(finding(notes, part), severity, sql);
    }
    let table = report.tables.iter().find(|table| table.name == "notes");
    let policies: Vec<_> =
        table.into_iter().flat_map(|table| &table.policies).map(|one| &*one.name).collect();
    assert_eq!(policies, ["by_room", "rolled", "sized"], "what is for writing does not matter here");
    Ok(())
}

#[tokio::test]
async fn what_policies_look_up_is_told_with_what_stands_in_the_way_of_a_copy() -> Result<()> {
    let database = with_sql(
        "doctor_lookups",
        "create schema app;
         create table app.members (room int, who text, note text, primary key (room, who));
         insert into app.members select number, 'ana', 'long ' || number from generate_series(1, 1000) as number;
         analyze app.members;
         create table public.served (id int primary key, who text);
         create view app.mine as select room from app.members;
         create table logged (id int primary key, room int);
         create table seen (id int primary key);
         create table own (id int primary key);
         create function app.secret(int) returns boolean stable language sql as 'select $1 > 0';
         revoke execute on function app.secret from public;
         create table called (id int primary key);
         create table circle (id int primary key, owner text);
         alter table circle enable row level security;
         create policy around on circle for select to authenticated
             using (exists (select from circle c where c.owner = auth.jwt() ->> 'sub'));
         grant select on circle to authenticated;
         create table aside (id int primary key);
         create table off (id int primary key);
         create policy aside on aside using (true);
         create policy idle on off using (false);
         alter table logged enable row level security; alter table seen enable row level security;
         alter table called enable row level security; alter table own enable row level security;
         create policy members on logged for select to authenticated using (exists (
             select from app.members m where m.room = logged.room and m.who = auth.jwt() ->> 'sub'));
         create policy view on seen for select to authenticated using (id in (select room from app.mine));
         create policy here on own for select to authenticated using (exists (
             select from served s where s.id = own.id and s.who = auth.jwt() ->> 'sub'));
         create policy secret on called for select to authenticated using (app.secret(id));
         grant usage on schema app to authenticated;
         grant select on app.members, app.mine, logged, seen, called, off, served, own to authenticated;
         create publication supabase_realtime for table logged, seen, called, off, own, served, circle;",
    )
    .await?;
    let found = report(&database).await?;
    let text = found.text(Colours::NONE);
    let decided = |table: &str| {
        let found = found.tables.iter().find(|one| one.name == table);
        found.map(|found| (found.policies[0].decided, found.policies[0].looks_up.clone())).unwrap()
    };
    let columns = ["id", "who"].map(str::to_owned).to_vec();
    let looked_up = LookedUp { table: "public.served".to_owned(), columns };
    assert_eq!(decided("own"), (Decided::Members, vec![looked_up]));
    assert_eq!((decided("logged").0, decided("seen").0), (Decided::Oracle, Decided::Oracle));
    for line in [
        "decided in process, looks up public.served (id, who)\n",
        "\napp.members, looked up by policies\n  not copied        PostgreSQL is asked\n  size              about 1000 rows\n",
        "CREATE PUBLICATION walcast_lookups;\n",
        "  note              it is a view: policies that look it up are left to PostgreSQL",
        "  authenticated     every column, an error from every read\n",
        "ALTER PUBLICATION \"supabase_realtime\" ADD TABLE \"public\".\"aside\";",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    let denied = finding(of_table(&found, "called"), "permission denied for function secret");
    let grant = "GRANT EXECUTE ON FUNCTION \"app\".\"secret\"(\"pg_catalog\".\"int4\") TO \"authenticated\";";
    assert_eq!((denied.severity, denied.mend.as_deref()), (Severity::Warning, Some(grant)));
    let circle = finding(
        of_table(&found, "circle"),
        "authenticated gets an error from every read, infinite recursion",
    );
    assert_eq!((circle.severity, &circle.mend), (Severity::Warning, &None));
    let off = finding(of_table(&found, "off"), "gets every row, and policy \"idle\" decides nothing");
    assert_eq!(off.severity, Severity::Danger);

    // What the sentences say mends it.
    let client = database.client().await;
    client.batch_execute(grant).await?;
    client.batch_execute("create publication walcast_lookups for table app.members").await?;
    let settings = database_settings(database.url())?;
    let mended = doctor::examine(&settings, &replication(&database), 4096).await?;
    let members = mended.lookups.iter().find(|one| one.name == "members").unwrap();
    assert!(members.copied && members.findings.is_empty(), "{members:#?}");
    assert_eq!(members.columns, ["room", "who"]);
    assert!(members.bytes.is_some_and(|bytes| (40_000..90_000).contains(&bytes)), "{members:#?}");
    let budget = finding(&mended.findings, "more than the 4.0 KiB of changes.copy_bytes_max");
    assert_eq!(budget.severity, Severity::Warning);
    let logged = mended.tables.iter().find(|one| one.name == "logged").unwrap();
    assert_eq!(logged.policies[0].decided, Decided::Members);
    assert!(of_table(&mended, "called").iter().all(|one| !one.sentence.contains("secret")));
    let json = serde_json::to_value(&mended)?;
    assert_eq!(json["lookups"][0]["copied"], true);
    let tables = json["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let logged = tables.iter().find(|table| table["name"] == "logged").unwrap_or(&Value::Null);
    assert_eq!(logged["policies"][0]["looks_up"][0]["table"], "app.members");
    assert_eq!(logged["policies"][0]["decided"], "members");
    Ok(())
}

#[tokio::test]
async fn private_channels_are_told_by_policy_and_by_who_decides_it() -> Result<()> {
    let database = with_sql("doctor_channels", "create publication supabase_realtime").await?;
    let without = report(&database).await?;
    assert!(without.channels.is_none());
    let text = without.text(Colours::NONE);
    assert!(
        text.contains("channels            private ones are refused: there is no table realtime.messages"),
        "{text}"
    );

    let settings = walcast::database::catalog_settings(&database_settings(database.url())?, &[])?;
    walcast_catalog::install::apply(&settings).await?;
    let bare = report(&database).await?;
    let none = finding(&bare.channels.as_ref().unwrap().findings, "has no policy");
    assert_eq!(none.severity, Severity::Note);

    let client = database.client().await;
    client
        .batch_execute(
            "create table members (room text, who text);
             alter table members enable row level security;
             create policy own on members using (true);
             grant select on members to authenticated;
             create policy lobby on realtime.messages for select to authenticated
                 using (realtime.topic() = 'lobby' and extension = 'broadcast');
             create policy odd on realtime.messages for select to pg_monitor using (pg_backend_pid() > 0);
             create policy members on realtime.messages for insert to authenticated
                 with check (exists (select from members where room = realtime.topic()))",
        )
        .await?;
    let found = report(&database).await?;
    let text = found.text(Colours::NONE);
    for line in [
        "channels            private ones are allowed by the policies of realtime.messages, see below\n",
        "\nrealtime.messages, private channels\n  anon              joins none, sends on none\n  authenticated     joins those that the policies say, sends on those that the policies say\n  service_role      joins all, since policies do not bind it, sends on all,",
        "  policy            \"lobby\" to read\n                    decided in process\n",
        "  policy            \"odd\" to read\n                    decided by PostgreSQL\n",
        "  policy            \"members\" to send\n                    decided by PostgreSQL\n                    because of ",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("are not published"), "neither table has to be:\n{text}");
    let json = serde_json::to_value(&found)?;
    assert_eq!(
        json["channels"]["roles"][1],
        json!({ "role": "authenticated", "reads": "by_policy", "sends": "by_policy" })
    );

    client.batch_execute("alter table realtime.messages disable row level security").await?;
    let open = report(&database).await?;
    let open = finding(&open.channels.as_ref().unwrap().findings, "no row-level security");
    assert_eq!(open.severity, Severity::Danger);
    for silenced in [
        "alter publication walcast_messages drop table realtime.messages",
        "drop publication walcast_messages",
    ] {
        client.batch_execute(silenced).await?;
        let silent = report(&database).await?;
        let silent = finding(&silent.channels.as_ref().unwrap().findings, "reaches nobody");
        client.batch_execute(silent.mend.as_deref().unwrap()).await?;
    }
    assert!(
        report(&database)
            .await?
            .channels
            .unwrap()
            .findings
            .iter()
            .all(|one| one.severity == Severity::Danger)
    );
    Ok(())
}

#[tokio::test]
async fn a_database_that_can_not_be_served_says_what_stands_in_the_way() -> Result<()> {
    let database = walcast_testkit::database("doctor_obstacles").await;
    let client = database.client().await;
    let role = format!("{}_poor", database.name());
    client.batch_execute(&format!("create role {role} login password 'poor'")).await?;
    let settings = database_settings(&database.url_as(&role, "poor"))?;
    let report = doctor::examine(&settings, &replication(&database), COPY_BYTES).await?;
    assert!(!report.can_serve);
    for part in ["may not replicate: run ALTER ROLE", "publication \"supabase_realtime\" does not exist"] {
        assert_eq!(finding(&report.findings, part).severity, Severity::Obstacle);
    }
    let settings = database_settings(&database.url_as(&role, "wrong"))?;
    let report = doctor::examine(&settings, &replication(&database), COPY_BYTES).await?;
    assert!(!report.can_serve && report.facts.is_empty());
    assert_eq!(finding(&report.findings, "refuses role").severity, Severity::Obstacle);
    let text = report.text(Colours::NONE);
    assert!(text.ends_with("\nwalcast can not serve this database: 1 obstacle.\n"), "{text}");
    client.batch_execute(&format!("drop role {role}")).await?;
    Ok(())
}

#[tokio::test]
async fn looking_at_a_database_changes_nothing_in_it() -> Result<()> {
    let database = walcast_testkit::database("doctor_changes_nothing").await;
    let before = report(&database).await?;
    let missing = finding(&before.findings, "does not exist: walcast creates it");
    assert_eq!(missing.severity, Severity::Warning);
    let client = database.client().await;
    let made = "select (select count(*) from pg_publication) + \
                (select count(*) from pg_replication_slots where database = current_database())";
    assert_eq!(client.query_one(made, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_nobody_reads_keeps_log_and_one_that_is_read_is_no_obstacle() -> Result<()> {
    let database = with_sql("doctor_slot", "create publication supabase_realtime").await?;
    let slot = database.slot_name();
    let state = |report: &Report| {
        let fact = report.facts.iter().find(|fact| fact.about == "slot");
        fact.map(|fact| fact.is.clone()).unwrap_or_default()
    };
    let secret = Secret::new("a secret of the tests of the doctor, long enough");
    let verifier = VerifierSettings { secret: Some(secret), ..VerifierSettings::default() };
    let mut settings = ServeSettings::new(database_settings(database.url())?, verifier);
    settings.project.replication = replication(&database);
    let server = Server::start(settings).await?;
    let running = report(&database).await?;
    assert!(running.can_serve && state(&running).starts_with(&format!("{slot}: read by process ")));
    let note = finding(&running.findings, "most likely walcast is running");
    assert_eq!(note.severity, Severity::Note);
    server.stop().await?;
    let stopped = report(&database).await?;
    assert!(stopped.can_serve && state(&stopped).starts_with(&format!("{slot}: nobody reads it, ")));
    assert!(state(&stopped).contains("PostgreSQL keeps ") && state(&stopped).ends_with(" (reserved)"));
    Ok(())
}

async fn explained(database: &Database, table: &str, row: &Value, everyone: &[Value]) -> Result<Explanation> {
    let request = Request {
        table: table.to_owned(),
        row: row.to_string(),
        claims: everyone.iter().map(Value::to_string).collect(),
    };
    explain::explain(&database_settings(database.url())?, &replication(database), COPY_BYTES, &request).await
}

fn people() -> [Value; 3] {
    [ANA, BRUNO, CARLA].map(|person: Person| person.claims(4_102_444_800))
}

/// Policy, what it says, and who found out.
fn verdicts(answer: &Answer) -> Vec<(&str, Says, Decider)> {
    let of = |one: &walcast::explain::PolicyAnswer| (one.ruling.says.clone(), one.ruling.decided_by);
    answer.policies.iter().map(|one| (&*one.policy, of(one).0, of(one).1)).collect()
}

#[tokio::test]
async fn the_policy_that_decides_a_request_is_named_for_each_person() -> Result<()> {
    let database = with_demo("explain_requests").await?;
    let row = json!({ "id": "F0F0F0F0-0000-4000-8000-000000000001", "cliente_id": ANA.id, "zona": "Centro",
        "precio": 10, "estado": "abierta" });
    let explanation = explained(&database, "public.solicitudes", &row, &people()).await?;
    let [ana, bruno, carla] = explanation.answers.as_slice() else { panic!("{explanation:#?}") };
    let (own, open) = ("clients see their requests", "operators see open requests and their own");
    assert!(ana.delivered && bruno.delivered && !carla.delivered, "{explanation:#?}");
    assert_eq!(ana.because, format!("policy \"{own}\" admits it"));
    assert_eq!(bruno.because, format!("policy \"{open}\" admits it"));
    assert_eq!(carla.because, "no policy admits it");
    assert_eq!(verdicts(bruno), [(own, Says::No, Decider::Process), (open, Says::Yes, Decider::Process)]);
    let text = explanation.text(Colours::NONE);
    let lines = format!("\n  gets it\n  policy \"{own}\" admits it\n    {own:<41}  yes, in process\n");
    assert!(text.contains(&lines), "{text}");
    let clauses: Vec<(&str, &Says)> =
        ana.policies[1].clauses.iter().map(|one| (&*one.sql, &one.ruling.says)).collect();
    let [(role, Says::No), (state, Says::Yes)] = clauses.as_slice() else { panic!("{clauses:?}") };
    assert!(role.contains("= 'operador'") && state.contains(" OR "), "{clauses:?}");
    assert_eq!(ana.policies[1].joined_by, Some(Junction::And));
    assert!(text.contains(&format!("\n      and {state}: yes, in process\n")), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_message_is_decided_as_the_members_stand_now() -> Result<()> {
    let database = with_demo("explain_messages").await?;
    let row = json!({ "id": "F0F0F0F0-0000-4000-8000-000000000002", "autor_id": ANA.id, "cuerpo": "Hola",
        "sala_id": "00000000-0000-4000-8000-00000000a002", "reacciones": { "👍": [] }, "borrado": false });
    let mut everyone = people().to_vec();
    everyone.extend([
        json!({ "role": "anon" }),
        json!({ "role": "service_role" }),
        json!({ "role": "nobody_at_all" }),
    ]);
    let explanation = explained(&database, "mensajes", &row, &everyone).await?;
    let delivered: Vec<bool> = explanation.answers.iter().map(|answer| answer.delivered).collect();
    assert_eq!(delivered, [true, true, false, false, true, false], "{explanation:#?}");
    let read = "members read messages";
    for (answer, expected) in [(0, Says::Yes), (2, Says::No)] {
        let [policy] = explanation.answers[answer].policies.as_slice() else { panic!("{explanation:#?}") };
        assert_eq!((&*policy.policy, &policy.ruling.says), (read, &expected));
        // Where the table can not be copied the database is asked.
        match policy.ruling.decided_by {
            Decider::Process => assert_eq!(policy.ruling.looked_up, ["public.sala_miembros"]),
            Decider::Oracle => assert!(policy.ruling.looked_up.is_empty()),
        }
    }
    let because: Vec<&str> = explanation.answers[3..].iter().map(|answer| &*answer.because).collect();
    assert_eq!(
        because,
        [
            "row-level security is on and no permissive policy for SELECT is for role anon",
            "role service_role bypasses row-level security",
            "ERROR 42704 role \"nobody_at_all\" does not exist",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn restrictive_policies_grants_and_columns_outside_the_log_are_told() -> Result<()> {
    let database = with_sql(
        "explain_kinds",
        "create table notes (id int primary key, body text, secret text, done boolean,
             size int generated always as (length(body)) stored);
         alter table notes enable row level security;
         create policy everybody on notes for select using (true);
         create policy open on notes as restrictive for select to authenticated using (not done);
         create policy sized on notes as restrictive for select to anon using (size > 1);
         grant select (id, body, done, size) on notes to anon, authenticated;
         create table bare (id int primary key);
         create publication supabase_realtime for table notes, bare;",
    )
    .await?;
    let row = |done: Value| json!({ "id": 1, "body": "Hi", "secret": "x", "done": done });
    let everyone = [json!({ "role": "authenticated" }), json!({ "role": "anon" })];
    let seen = explained(&database, "notes", &row(json!(false)), &everyone).await?;
    assert_eq!(seen.remarks, ["the log does not carry size: neither sent nor seen by policies"]);
    assert!(seen.answers[0].delivered);
    assert_eq!(seen.answers[0].hidden_columns, ["secret"]);
    assert!(!seen.answers[1].delivered);
    assert!(
        seen.answers[1].because.contains("needs column \"size\", which the log does not carry"),
        "{seen:#?}"
    );
    for done in [json!(true), json!("yes"), Value::Null] {
        let refused =
            explained(&database, "\"public\".\"notes\"", &row(done.clone()), &everyone[..1]).await?;
        assert_eq!(refused.answers[0].because, "restrictive policy \"open\" refuses it", "{done}");
    }
    let ungranted = explained(&database, "bare", &json!({ "id": "7" }), &everyone[..1]).await?;
    assert_eq!(ungranted.answers[0].because, "role authenticated may not SELECT from the table");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_raises_is_told_from_one_that_says_no() -> Result<()> {
    let database = with_sql(
        "explain_raises",
        "create table rooms (id int primary key);
         create table notes (id int primary key, room int, part int);
         alter table notes enable row level security;
         create policy reads on notes for select to authenticated using (room in (select id from rooms));
         create policy divides on notes for select to anon using (part / room > 1 or part = 7);
         grant select on notes to anon, authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let everyone = [json!({ "role": "authenticated" }), json!({ "role": "anon" })];
    let row = json!({ "id": 1, "room": 0, "part": 5 });
    let told = explained(&database, "notes", &row, &everyone).await?;
    assert_eq!(
        told.answers[0].because,
        "role authenticated gets an error from every read of the table: permission denied for table rooms; \
         GRANT SELECT ON \"public\".\"rooms\" TO \"authenticated\";"
    );
    let anon = &told.answers[1];
    assert!(anon.because.starts_with("it is an error for PostgreSQL: "), "{anon:#?}");
    let clauses = &anon.policies[0].clauses;
    assert!(
        matches!(clauses[0].ruling.says, Says::Raises(_)) && clauses[1].ruling.says == Says::No,
        "{anon:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_read_is_refused_in_one_sentence() -> Result<()> {
    let database = with_demo("explain_refusals").await?;
    let cases = [
        ("public.nothing", json!({}), "table public.nothing is not published"),
        ("salas", json!({ "nombre": "x", "color": "red" }), "--row names the column color"),
        ("salas", json!({ "id": "x" }), "invalid input syntax for type uuid"),
        ("salas", json!([]), "--row must be a JSON object"),
    ];
    for (table, row, expected) in cases {
        let refused = explained(&database, table, &row, &people()).await;
        let error = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(expected), "{error}");
    }
    Ok(())
}
