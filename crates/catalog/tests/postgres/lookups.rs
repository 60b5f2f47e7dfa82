//! What policies reach: relations and functions, and what a role may do with them.

use std::collections::BTreeSet;
use std::sync::Arc;

use walcast_catalog::Catalog;
use walcast_policy::Oracle as _;
use walcast_policy::schema::{Function, LookupTable, Policy, Snapshot};

use crate::support::{Fixture, table};

fn lookup<'a>(snapshot: &'a Snapshot, name: &str) -> &'a LookupTable {
    let found = snapshot.lookups.values().find(|lookup| lookup.table.name == name);
    found.unwrap_or_else(|| panic!("no look-up in {name}: {:?}", names(snapshot)))
}

fn names(snapshot: &Snapshot) -> BTreeSet<&str> {
    snapshot.lookups.values().map(|lookup| lookup.table.name.as_str()).collect()
}

fn functions(snapshot: &Snapshot) -> BTreeSet<&str> {
    snapshot.functions.keys().map(String::as_str).collect()
}

fn function<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Function {
    &snapshot.functions[name][0]
}

/// What a policy reads, by name and column numbers.
fn readings(snapshot: &Snapshot, policy: &Policy) -> Vec<(String, Vec<i16>)> {
    let name = |oid| snapshot.lookups[&oid].table.name.clone();
    let mut readings: Vec<_> =
        policy.readings.iter().map(|reading| (name(reading.table), reading.columns.clone())).collect();
    readings.sort();
    readings
}

#[tokio::test]
async fn policies_tell_what_they_read_and_call() {
    let fixture = Fixture::new(
        "readings",
        "CREATE TABLE members (gone int, room int, person text, PRIMARY KEY (room, person));
         ALTER TABLE members DROP COLUMN gone;
         CREATE TABLE flags (id int PRIMARY KEY);
         CREATE VIEW seniors AS SELECT person FROM members;
         CREATE TABLE written (id int PRIMARY KEY);
         CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_user::text $$;
         CREATE FUNCTION writes() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'x' FROM written $$;
         CREATE TABLE messages (id int PRIMARY KEY, room int);
         CREATE POLICY a_member ON messages USING (
             EXISTS (SELECT FROM members AS m WHERE m.person = me() AND m.room = messages.room)
             AND EXISTS (SELECT FROM flags)
             AND EXISTS (SELECT FROM messages AS other WHERE other.room = 7))
             WITH CHECK (EXISTS (SELECT FROM written WHERE id = room AND writes() = 'x'));
         CREATE POLICY b_view ON messages FOR SELECT USING (me() IN (SELECT person FROM seniors));
         CREATE POLICY c_plain ON messages FOR SELECT USING (lower('A') = 'a');
         CREATE POLICY d_write ON messages FOR INSERT WITH CHECK (EXISTS (SELECT FROM written WHERE id = room));
         CREATE POLICY e_update ON messages FOR UPDATE USING (EXISTS (SELECT FROM written WHERE id = room));
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let snapshot = fixture.catalog().await.snapshot();
    let policies = &table(&snapshot, "messages").policies;
    let me = function(&snapshot, "public.me").oid;

    let reading = |name: &str, columns: &[i16]| (name.to_owned(), columns.to_vec());
    // Its own table too, which is a recursion.
    let expected = [reading("flags", &[]), reading("members", &[2, 3]), reading("messages", &[2])];
    assert_eq!(readings(&snapshot, &policies[0]), expected);
    assert_eq!(policies[0].calls, [me]);
    assert_eq!(readings(&snapshot, &policies[1]), [("seniors".to_owned(), vec![1])]);
    assert_eq!(policies[1].calls, [me]);
    for policy in &policies[2..4] {
        assert!(policy.readings.is_empty() && policy.calls.is_empty(), "{policy:?}");
    }
    // What only writers run into is no look-up.
    assert_eq!(policies[4].readings.len(), 1);
    assert_eq!(names(&snapshot), ["flags", "members", "messages", "seniors"].into());
    assert_eq!(functions(&snapshot), ["public.me"].into());

    let numbers: Vec<i16> = lookup(&snapshot, "members").table.columns.iter().map(|one| one.number).collect();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(lookup(&snapshot, "seniors").obstacle.as_deref(), Some("it is a view"));
    assert_eq!(*snapshot.search_path, ["$user", "public"]);
}

const NESTED: &str = "
    CREATE SCHEMA app; CREATE SCHEMA auth; CREATE SCHEMA later;
    CREATE TYPE app.rank AS ENUM ('low', 'high');
    CREATE TABLE app.members (room int, person text, rank app.rank, PRIMARY KEY (room, person));
    CREATE TABLE public.teams (id int PRIMARY KEY);
    CREATE TABLE auth.teams (id int PRIMARY KEY);
    CREATE TABLE auth.admins (person text PRIMARY KEY);
    CREATE TABLE auth.blocked (person text PRIMARY KEY);
    CREATE TABLE unrelated (id int PRIMARY KEY);
    CREATE FUNCTION auth.me() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text';
    CREATE FUNCTION auth.is_blocked() RETURNS boolean LANGUAGE sql STABLE
        BEGIN ATOMIC SELECT EXISTS (SELECT FROM auth.blocked WHERE person = auth.me()); END;
    CREATE FUNCTION auth.is_admin() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, later
        AS $$ SELECT EXISTS (SELECT FROM admins JOIN teams ON true WHERE person = me()) AND NOT is_blocked() $$;
    CREATE FUNCTION app.unused() RETURNS boolean LANGUAGE plpgsql SET search_path = '' SET work_mem = '1MB'
        AS $$ BEGIN RETURN EXISTS (SELECT FROM public.unrelated); END $$;
    CREATE FUNCTION public.by_path() RETURNS boolean LANGUAGE sql STABLE
        AS $$ SELECT EXISTS (SELECT FROM teams, pg_class) $$;
    ALTER TABLE app.members ENABLE ROW LEVEL SECURITY;
    CREATE POLICY for_admins ON app.members USING (auth.is_admin());
    CREATE TABLE messages (id int PRIMARY KEY, room int);
    CREATE POLICY member ON messages USING (
        (EXISTS (SELECT FROM app.members AS m WHERE m.room = messages.room)) OR app.unused() OR public.by_path());
    ALTER PUBLICATION supabase_realtime ADD TABLE messages;
    CREATE ROLE :role_owner; ALTER FUNCTION auth.is_admin() OWNER TO :role_owner;
    GRANT USAGE ON SCHEMA auth TO :role_owner; GRANT SELECT ON auth.admins TO :role_owner;
    REVOKE EXECUTE ON FUNCTION auth.me(), auth.is_blocked() FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION auth.is_blocked() TO :role_owner;
";

#[tokio::test]
async fn functions_and_policies_are_followed_until_there_is_nothing_new() {
    let fixture = Fixture::new("nested", NESTED).await;
    let snapshot = fixture.catalog().await.snapshot();
    let found: BTreeSet<String> = snapshot
        .lookups
        .values()
        .map(|lookup| format!("{}.{}", lookup.table.schema, lookup.table.name))
        .collect();
    let expected =
        ["app.members", "auth.admins", "auth.blocked", "auth.teams", "pg_catalog.pg_class", "public.teams"];
    assert_eq!(found, expected.map(str::to_owned).into());
    let expected = ["app.unused", "auth.is_admin", "auth.is_blocked", "auth.me", "public.by_path"];
    assert_eq!(functions(&snapshot), expected.into());

    let is_admin = function(&snapshot, "auth.is_admin");
    assert_eq!(is_admin.search_path.as_deref(), Some(&["auth".to_owned(), "later".to_owned()][..]));
    assert!(is_admin.security_definer && !is_admin.has_settings && !is_admin.resolved);
    let unused = function(&snapshot, "app.unused");
    assert_eq!(unused.search_path.as_deref(), Some(&[][..]));
    assert!(unused.has_settings);
    let is_blocked = function(&snapshot, "auth.is_blocked");
    assert!(is_blocked.resolved && is_blocked.search_path.is_none() && is_blocked.body.contains("auth.me()"));

    let members = &lookup(&snapshot, "members").table;
    assert_eq!(members.policies[0].calls, [is_admin.oid]);
    assert!(members.row_security);
    let rank = members.columns[members.column_index("rank").unwrap()].type_oid;
    assert_eq!(snapshot.types.get(rank).unwrap().name, "rank");
}

#[tokio::test]
async fn roles_come_with_what_they_may_read_and_execute_owners_of_functions_included() {
    let fixture = Fixture::new("definers", NESTED).await;
    let catalog = fixture.catalog().await;
    let owner = format!("{}_owner", fixture.role);
    let snapshot = catalog.role(&fixture.role).await.unwrap();
    let oid = |name: &str| lookup(&snapshot, name).table.oid;
    let executes = |role: &str| {
        let role = &snapshot.roles[role];
        let may = |function: &&Function| role.executes.contains(&function.oid);
        snapshot
            .functions
            .iter()
            .filter(|(_, all)| all.iter().any(|one| may(&one)))
            .map(|(name, _)| name.as_str())
            .collect::<BTreeSet<_>>()
    };
    let role = &snapshot.roles[&owner];
    assert_eq!(function(&snapshot, "auth.is_admin").owner, role.oid);
    assert!(role.schemas.contains("auth") && !role.schemas.contains("app"));
    assert_eq!(role.privileges[&oid("admins")].selectable, [true]);
    assert!(!role.privileges.contains_key(&oid("members")));
    assert_eq!(executes(&owner), ["app.unused", "auth.is_admin", "auth.is_blocked", "public.by_path"].into());
    assert_eq!(executes(&fixture.role), ["app.unused", "auth.is_admin", "public.by_path"].into());

    // A socket that names the owner relies on it, whatever becomes of the function.
    let known = catalog.role(&owner).await.unwrap();
    assert!(Arc::ptr_eq(&known, &snapshot));
    fixture.run("DROP POLICY for_admins ON app.members").await;
    let after = catalog.refresh().await.unwrap();
    assert!(!after.functions.contains_key("auth.is_admin") && after.roles.contains_key(&owner));
}

#[tokio::test]
async fn a_table_may_be_published_and_looked_up() {
    let fixture = Fixture::new(
        "both",
        "CREATE TABLE members (room int PRIMARY KEY); CREATE TABLE messages (room int PRIMARY KEY);
         CREATE POLICY member ON messages USING (room IN (SELECT room FROM members));
         CREATE POLICY back ON members USING (room IN (SELECT room FROM messages));
         ALTER PUBLICATION supabase_realtime ADD TABLE messages, members;",
    )
    .await;
    let snapshot = fixture.catalog().await.snapshot();
    assert_eq!(names(&snapshot), ["members", "messages"].into());
    for name in ["members", "messages"] {
        let found = lookup(&snapshot, name);
        assert_eq!((&found.table, &found.obstacle), (&*table(&snapshot, name), &None));
    }
}

#[tokio::test]
async fn the_search_path_is_that_of_our_sessions() {
    let fixture = Fixture::new("search_path", NESTED).await;
    let mut settings = fixture.settings();
    settings.after_connect = Some("SET search_path = later, auth".to_owned());
    let catalog = Catalog::connect(settings).await.unwrap();
    let before = catalog.snapshot();
    assert_eq!(*before.search_path, ["later", "auth"]);
    assert!(!before.lookups.values().any(|lookup| lookup.table.schema == "public"));
    // A name that means something else now.
    fixture.run("CREATE VIEW later.teams AS SELECT 1 AS id").await;
    let after = catalog.refresh().await.unwrap();
    assert_eq!(after.version, before.version + 1);
    assert!(after.lookups.values().any(|lookup| lookup.table.schema == "later"));
}

/// Every kind of change in what policies reach.
const CHANGES: [&str; 22] = [
    "GRANT SELECT ON app.members TO :role",
    "REVOKE SELECT ON app.members FROM :role",
    "GRANT EXECUTE ON FUNCTION auth.me() TO :role",
    "REVOKE EXECUTE ON FUNCTION auth.me() FROM :role",
    "ALTER POLICY for_admins ON app.members USING (auth.is_admin() AND true)",
    "ALTER TABLE app.members DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY more ON auth.admins USING (true)",
    "CREATE OR REPLACE FUNCTION auth.me() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'me'::text $$",
    "CREATE FUNCTION auth.me(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1'",
    "CREATE FUNCTION later.me() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'me'::text $$",
    "ALTER FUNCTION auth.is_admin() SET search_path = later, auth",
    "CREATE TABLE later.admins (person text PRIMARY KEY)",
    "DROP TABLE later.admins",
    "ALTER TABLE auth.admins ADD COLUMN since date",
    "ALTER TABLE auth.admins RENAME COLUMN since TO until",
    "ALTER TABLE auth.admins DROP CONSTRAINT admins_pkey",
    "ALTER TABLE auth.admins REPLICA IDENTITY FULL",
    "ALTER TYPE app.rank ADD VALUE 'middle'",
    "CREATE TABLE child () INHERITS (app.members)",
    "DROP TABLE child",
    "ALTER PUBLICATION walcast_lookups SET (publish = 'insert')",
    "ALTER PUBLICATION supabase_realtime ADD TABLE app.members",
];

#[tokio::test]
async fn a_refresh_sees_every_change_in_what_policies_reach() {
    let fixture = Fixture::new("reach_changes", NESTED).await;
    let catalog = fixture.catalog().await;
    catalog.role(&fixture.role).await.unwrap();
    for change in CHANGES {
        let before = catalog.snapshot();
        fixture.run(change).await;
        let after = catalog.refresh().await.unwrap();
        assert_eq!(after.version, before.version + 1, "{change}");
        let again = catalog.refresh().await.unwrap();
        assert!(Arc::ptr_eq(&after, &again), "{change}");
    }
    let quiet = catalog.snapshot();
    for sql in ["ALTER TABLE unrelated ADD COLUMN x int", "INSERT INTO auth.admins VALUES ('me')"] {
        fixture.run(sql).await;
        assert!(Arc::ptr_eq(&quiet, &catalog.refresh().await.unwrap()), "{sql}");
    }
}
