//! The tables that are written under faults, who may see their rows, and who reads them.

use serde_json::{Value, json};

use super::truth::Row;
use crate::{binding, person, role};

/// The tables. `asked` has a policy that only PostgreSQL can decide.
pub(super) const TABLES: &str = "
    create table own_rows (id bigint primary key, owner text, room int, writer int, seq bigint, body text);
    create table room_rows (like own_rows including all);
    create table public_rows (like own_rows including all);
    create table asked_rows (like own_rows including all);
    create table members (room int, person text, primary key (room, person));
    create table marks (id int primary key);

    alter table own_rows replica identity full;
    alter table room_rows replica identity full;
    alter table public_rows replica identity full;
    alter table asked_rows replica identity full;
    alter table own_rows enable row level security;
    alter table room_rows enable row level security;
    alter table asked_rows enable row level security;
    create policy own on own_rows for select to authenticated using (owner = (select auth.jwt() ->> 'sub'));
    create policy of_members on room_rows for select to authenticated using (exists (
        select from members m where m.room = room_rows.room and m.person = (select auth.jwt() ->> 'sub')));
    create function may_see(who text) returns boolean language plpgsql stable as
        $$ begin return who = auth.jwt() ->> 'sub'; end $$;
    create policy asked on asked_rows for select to authenticated using (may_see(owner));
    grant select on own_rows, room_rows, asked_rows, members to authenticated, service_role;
    grant select on public_rows, marks to anon, authenticated, service_role;
    insert into members values (0, 'ana'), (1, 'ana'), (1, 'bruno'), (2, 'bruno'), (3, 'carla');

    create publication truth for table own_rows, room_rows, public_rows, asked_rows, members, marks;
    alter publication supabase_realtime
        add table own_rows, room_rows, public_rows, asked_rows, marks;
";

/// The statement that makes the publication anew as it is in [`TABLES`].
pub(super) const PUBLICATION: &str = "create publication supabase_realtime
    for table own_rows, room_rows, public_rows, asked_rows, marks";

/// The tables whose rows are accounted for.
pub(super) const ACCOUNTED: [&str; 4] = ["own_rows", "room_rows", "public_rows", "asked_rows"];

/// The people whose rows are written.
pub(super) const PEOPLE: [&str; 3] = ["ana", "bruno", "carla"];

/// Rooms that they are members of.
pub(super) const ROOMS: usize = 4;

/// Somebody who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The role `authenticated` with this claim `sub`.
    Person(&'static str),
    /// The same, who asks for the rows of one writer only.
    Filtering(&'static str, u32),
    /// The role `anon`, which may read what is public.
    Anonymous,
    /// The role `service_role`, which passes by all policies.
    Service,
}

impl Reader {
    /// The claims of its token.
    pub(super) fn claims(self) -> Value {
        match self {
            Reader::Person(name) | Reader::Filtering(name, _) => person(name),
            Reader::Anonymous => role("anon"),
            Reader::Service => role("service_role"),
        }
    }

    /// What it subscribes to, without `since`.
    pub(super) fn bindings(self) -> Vec<Value> {
        let tables: &[&str] = match self {
            Reader::Anonymous => &["public_rows"],
            Reader::Person(_) | Reader::Filtering(..) | Reader::Service => &ACCOUNTED,
        };
        let mut bindings: Vec<Value> = tables.iter().map(|table| binding("*", table)).collect();
        if let Reader::Filtering(_, writer) = self {
            for binding in &mut bindings {
                binding["filter"] = json!(format!("writer=eq.{writer}"));
            }
        }
        bindings.push(binding("INSERT", "marks"));
        for binding in &mut bindings {
            binding["resume"] = true.into();
        }
        bindings
    }

    /// Whether it is told of a row, written here in the words of the policies and once more than in the database.
    /// `is_member` says whether a person is in a room.
    pub(super) fn sees(self, table: &str, row: &Row, is_member: impl Fn(&str, &str) -> bool) -> bool {
        let value = |column: &str| row.get(column).and_then(Option::as_deref).unwrap_or_default();
        let name = match self {
            Reader::Service => return true,
            Reader::Anonymous => return table == "public_rows",
            Reader::Filtering(_, writer) if value("writer") != writer.to_string() => return false,
            Reader::Person(name) | Reader::Filtering(name, _) => name,
        };
        match table {
            "public_rows" => true,
            "own_rows" | "asked_rows" => value("owner") == name,
            "room_rows" => is_member(value("room"), name),
            _ => false,
        }
    }
}
