//! Who may see which row: the table's policies, what each subscriber asks for, and what each must get.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Members of a room in [`Scenario::Membership`], where there are as many people.
const MEMBERS_PER_ROOM: u64 = 10;

/// The raw bytes of one row of `members` in its two columns: a bigint and a uuid.
pub const MEMBER_BYTES: u64 = 24;

/// Roles and functions as Supabase-style applications have them.
const FOUNDATION: &str =
    concat!(include_str!("../../sql/demo/10-roles.sql"), include_str!("../../sql/demo/20-auth.sql"));

/// The table that is written, the same for every scenario so that every log weighs the same; and a table for one
/// last transaction that tells both sides that the rows are over.
const TABLES: &str = "
    create table notes (
      id bigint primary key,
      user_id uuid not null,
      room_id bigint not null,
      body text not null,
      created_at timestamptz not null default now()
    );
    create table members (room_id bigint, user_id uuid, primary key (room_id, user_id));
    create table finish (id bigint primary key);
    grant usage on schema public to authenticated;
    grant select on notes, members to authenticated;
    create publication bench for table notes, members, finish;

    -- The id of a person by number: random in its bits, known without a look-up.
    create function person(number bigint) returns uuid language sql immutable parallel safe
      return md5('person ' || number)::uuid;

    -- Row n is of person n and in room n, both modulo the number of people.
    create procedure write_rows(rows bigint, batch bigint, people bigint) language plpgsql as $$
    declare
      n bigint := 0;
    begin
      while n < rows loop
        insert into notes (id, user_id, room_id, body)
        values (
          n, md5('person ' || n % people)::uuid, n % people,
          'Message ' || n || ', about as long as what people write to each other.'
        );
        n := n + 1;
        if n % batch = 0 then
          commit;
        end if;
      end loop;
      commit;
    end
    $$;
";

/// One kind of policy or filter, with a subscriber for each person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Scenario {
    /// `user_id = auth.uid()`: each row is for one person.
    Own,
    /// `EXISTS` over a table of members: each row is for the ten members of its room.
    Membership,
    /// No row security; each subscriber filters on one room, and each row is for one of them.
    Room,
    /// A PL/pgSQL policy, which only PostgreSQL can evaluate: each row is for one person.
    Oracle,
}

impl Scenario {
    /// As it is written in the report.
    pub fn title(self) -> &'static str {
        match self {
            Scenario::Own => "user_id = auth.uid()",
            Scenario::Membership => "membership (EXISTS)",
            Scenario::Room => "filter room_id=eq.X",
            Scenario::Oracle => "PL/pgSQL policy",
        }
    }

    /// How many subscribers are tried when the command line does not say.
    pub fn usual_subscribers(self) -> &'static [u64] {
        match self {
            Scenario::Own => &[1, 100, 1_000, 10_000, 100_000],
            Scenario::Membership | Scenario::Room => &[100, 1_000, 10_000, 100_000],
            Scenario::Oracle => &[1_000],
        }
    }

    /// SQL that makes the schema.
    pub fn schema(self) -> String {
        let policy = match self {
            Scenario::Own => {
                "alter table notes enable row level security;
                 create policy own on notes for select to authenticated using (user_id = auth.uid());"
            }
            Scenario::Membership => {
                "alter table notes enable row level security;
                 create policy members_read on notes for select to authenticated using (exists (
                   select 1 from members
                   where members.room_id = notes.room_id and members.user_id = auth.uid()
                 ));"
            }
            Scenario::Room => "",
            Scenario::Oracle => {
                "create function may_read(owner uuid) returns boolean language plpgsql stable as $$
                 begin
                   return owner = auth.uid();
                 end
                 $$;
                 alter table notes enable row level security;
                 create policy own on notes for select to authenticated using (may_read(user_id));"
            }
        };
        format!("{FOUNDATION}{TABLES}{policy}")
    }

    /// SQL that fills what the policy looks at.
    pub fn prefill(self, people: u64) -> Option<String> {
        let last_member = MEMBERS_PER_ROOM.min(people) - 1;
        let last = people - 1;
        (self == Scenario::Membership).then(|| {
            format!(
                "insert into members
                 select room, person((room + member) % {people})
                 from generate_series(0, {last}) room, generate_series(0, {last_member}) member;
                 analyze members"
            )
        })
    }

    /// The raw bytes of the columns that a policy of this kind looks up in another table.
    pub fn looked_up_bytes(self, people: u64) -> Option<u64> {
        (self == Scenario::Membership).then(|| people * MEMBERS_PER_ROOM.min(people) * MEMBER_BYTES)
    }

    /// The topic of a subscriber: one for all where an application would have one, otherwise the room's.
    pub fn topic(self, person: u64) -> String {
        match self {
            Scenario::Room => format!("realtime:room-{person}"),
            Scenario::Own | Scenario::Membership | Scenario::Oracle => "realtime:notes".to_owned(),
        }
    }

    /// The payload of a subscriber's `phx_join`, as `supabase-js` writes it.
    pub fn join_payload(self, person: u64) -> String {
        let filter = match self {
            Scenario::Room => format!(r#","filter":"room_id=eq.{person}""#),
            Scenario::Own | Scenario::Membership | Scenario::Oracle => String::new(),
        };
        format!(
            r#"{{"config":{{"broadcast":{{"ack":false,"self":false}},"presence":{{"key":"","enabled":false}},"postgres_changes":[{{"event":"*","schema":"public","table":"notes"{filter}}}],"private":false}}}}"#
        )
    }

    /// How many people get each row.
    pub fn receivers_per_row(self, people: u64) -> u64 {
        match self {
            Scenario::Own | Scenario::Room | Scenario::Oracle => 1,
            Scenario::Membership => MEMBERS_PER_ROOM.min(people),
        }
    }

    /// How many of `rows` rows a person gets.
    pub fn expected(self, person: u64, people: u64, rows: u64) -> u64 {
        let of_number = |number: u64| rows / people + u64::from(number < rows % people);
        (0..self.receivers_per_row(people)).map(|offset| of_number((person + people - offset) % people)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_people_get_together_is_every_row_as_often_as_it_has_receivers() {
        for scenario in [Scenario::Own, Scenario::Membership, Scenario::Room, Scenario::Oracle] {
            for (people, rows) in [(1, 7), (3, 10), (10, 25), (100, 1_234)] {
                let sum: u64 = (0..people).map(|person| scenario.expected(person, people, rows)).sum();
                assert_eq!(sum, rows * scenario.receivers_per_row(people), "{scenario:?} {people} {rows}");
            }
        }
    }

    #[test]
    fn a_member_gets_the_rows_of_the_ten_rooms_that_end_with_their_own() {
        // One row in each of the rooms 0 to 4: person 12 is in the rooms 3 to 12.
        assert_eq!(Scenario::Membership.expected(12, 100, 5), 2);
        assert_eq!(Scenario::Membership.expected(0, 100, 92), 2, "room 0, and around the end room 91");
    }
}
