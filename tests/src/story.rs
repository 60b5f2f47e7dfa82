//! A long story of memberships and rows, told by several connections at once, with what Postgres itself says of it.
//!
//! One task leads the connections statement by statement, so that their transactions overlap and the order of their
//! commits is known. Right before each commit every person's own role is asked, over the connection that commits and
//! over one beside it, which rooms it can see after and before the transaction. What walcast must tell follows from
//! that and from the rows that were written.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::watching::Watcher;
use crate::{World, binding, person};

/// The tables of the story: members of rooms, who see of them what concerns themselves, and rows of rooms. `rooms` and
/// `halls` are never written: their policies say of a room what those of `messages` and `notices` say of its rows.
pub const TABLES: &str = "
    create table members (room int, who text, hidden boolean not null default false, primary key (room, who));
    alter table members enable row level security;
    create policy own on members using (who = auth.jwt() ->> 'sub' and not hidden);
    create function is_member(room int) returns boolean language sql stable security definer set search_path = ''
        as $$ select exists (select from public.members as m where m.room = $1 and m.who = auth.jwt() ->> 'sub') $$;

    create table messages (id int primary key, room int, body text);
    create table notices (id int primary key, room int, body text);
    create table rooms (id int primary key);
    create table halls (id int primary key);
    insert into rooms select generate_series(0, 4);
    insert into halls select generate_series(0, 4);
    alter table messages replica identity full;
    alter table notices replica identity full;
    alter table messages enable row level security;
    alter table notices enable row level security;
    alter table rooms enable row level security;
    alter table halls enable row level security;
    create policy members on messages using (exists (
        select from members as m where m.room = messages.room and m.who = auth.jwt() ->> 'sub'));
    create policy members on rooms using (exists (
        select from members as m where m.room = rooms.id and m.who = auth.jwt() ->> 'sub'));
    create policy members on notices using (is_member(room));
    create policy members on halls using (is_member(id));
    grant select on members, messages, notices, rooms, halls to authenticated;
    create publication supabase_realtime for table messages, notices;
";

const ROOMS: u64 = 5;
const HANDS: u64 = 3;

/// Numbers that are the same for the same seed.
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// An index of something that has `length` parts.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("less than a usize")
    }
}

/// The tables with rows of rooms, each beside the one that has the same policy.
const WRITTEN: [(&str, &str); 2] = [("messages", "rooms"), ("notices", "halls")];

#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: u64,
    room: u64,
    body: String,
}

impl Row {
    fn json(&self) -> Value {
        json!({ "id": self.id, "room": self.room, "body": self.body })
    }
}

/// The rows that a connection writes to, by table and id. No other one does.
type Rows = BTreeMap<(usize, u64), Row>;

/// A row as it was and as it is.
struct Write {
    table: usize,
    old: Option<Row>,
    new: Option<Row>,
}

/// A transaction that is open.
struct Open {
    rows: Rows,
    writes: Vec<Write>,
}

struct Hand {
    client: Client,
    committed: Rows,
    open: Option<Open>,
}

/// Which rooms each person can see, by table.
type Sight = Vec<[Vec<u64>; 2]>;

/// The story so far.
pub struct Story {
    people: Vec<String>,
    watchers: Vec<Watcher>,
    hands: Vec<Hand>,
    bystander: Client,
    random: Random,
    last_id: u64,
    last_body: u64,
    committed: usize,
    /// What each person is to be told.
    expected: Vec<Vec<Value>>,
}

impl Story {
    /// Connects `people` subscribers to a world with the [`TABLES`].
    pub async fn begin(world: &World, people: usize, seed: u64) -> Result<Story> {
        let people: Vec<String> = (0..people).map(|number| format!("person {number}")).collect();
        let mut watchers = Vec::new();
        for who in &people {
            let bindings = WRITTEN.map(|(table, _)| binding("*", table));
            watchers.push(Watcher::join(world, &person(who), &bindings).await?);
        }
        let mut hands = Vec::new();
        for _ in 0..HANDS {
            let client = world.database.client().await;
            // Whoever gets in the way of another one gives up.
            client.batch_execute("set lock_timeout = '20ms'").await?;
            hands.push(Hand { client, committed: Rows::new(), open: None });
        }
        Ok(Story {
            expected: vec![Vec::new(); people.len()],
            people,
            watchers,
            hands,
            bystander: world.database.client().await,
            random: Random(seed),
            last_id: 0,
            last_body: 0,
            committed: 0,
        })
    }

    /// Goes on until so many more transactions are committed; others are still open then.
    pub async fn go_on(&mut self, transactions: usize) -> Result<()> {
        let end = self.committed + transactions;
        while self.committed < end {
            let hand = usize::try_from(self.random.below(HANDS))?;
            self.step(hand).await?;
        }
        Ok(())
    }

    /// Commits what is open.
    pub async fn commit_all(&mut self) -> Result<()> {
        for hand in 0..self.hands.len() {
            if self.hands[hand].open.is_some() {
                let before = self.sight(None).await?;
                self.commit(hand, before).await?;
            }
        }
        Ok(())
    }

    /// Commits what is open and compares all that the subscribers were told, in order, with what they had to be.
    pub async fn end(mut self, world: &World) -> Result<()> {
        self.commit_all().await?;
        let mark = world.mark().await?;
        for ((who, watcher), expected) in self.people.iter().zip(&mut self.watchers).zip(&self.expected) {
            let mut told = Vec::new();
            for mut payload in watcher.payloads_until(mark).await? {
                let data = payload["data"].take();
                told.push(json!({
                    "table": data["table"], "type": data["type"],
                    "record": data["record"], "old_record": data["old_record"],
                }));
            }
            let differs = told.iter().zip(expected).position(|(told, expected)| told != expected);
            let differs = differs.unwrap_or(told.len().min(expected.len()));
            ensure!(
                told == *expected,
                "{who} was told {} changes, {} were to be told; the first that differs is number {differs}: {:?}, \
                 not {:?}",
                told.len(),
                expected.len(),
                told.get(differs),
                expected.get(differs)
            );
        }
        let (fewest, all) = self
            .expected
            .iter()
            .map(Vec::len)
            .fold((usize::MAX, 0), |(fewest, all), told| (fewest.min(told), all + told));
        ensure!(fewest > 0 && all > self.committed, "too little was told to prove anything");
        Ok(())
    }

    async fn step(&mut self, hand: usize) -> Result<()> {
        if self.hands[hand].open.is_none() {
            self.hands[hand].client.batch_execute("begin").await?;
            let rows = self.hands[hand].committed.clone();
            self.hands[hand].open = Some(Open { rows, writes: Vec::new() });
        }
        let alone = self.hands.iter().filter(|hand| hand.open.is_some()).count() == 1;
        match self.random.below(100) {
            0..=36 => self.write_row(hand).await,
            37..=66 => self.write_members(hand).await,
            67..=74 => self.savepoint(hand).await,
            75..=78 => self.give_up(hand).await,
            79..=82 if alone => self.truncate(hand).await,
            _ => {
                let before = self.sight(None).await?;
                self.commit(hand, before).await
            }
        }
    }

    /// Runs a statement; where it fails, the transaction has been.
    async fn run(&mut self, hand: usize, sql: &str) -> Result<bool> {
        if self.hands[hand].client.batch_execute(sql).await.is_ok() {
            return Ok(true);
        }
        self.give_up(hand).await?;
        Ok(false)
    }

    async fn give_up(&mut self, hand: usize) -> Result<()> {
        self.hands[hand].open = None;
        Ok(self.hands[hand].client.batch_execute("rollback").await?)
    }

    async fn write_row(&mut self, hand: usize) -> Result<()> {
        let table = usize::try_from(self.random.below(2))?;
        let room = self.random.below(ROOMS);
        let what = self.random.below(100);
        self.last_body += 1;
        let body = format!("body {}", self.last_body);
        let Some(open) = &self.hands[hand].open else { return Ok(()) };
        let there: Vec<&Row> =
            open.rows.iter().filter(|((of, _), _)| *of == table).map(|(_, row)| row).collect();
        let chosen = match u64::try_from(there.len())? {
            0 => None,
            // The newest ones more often than others: they may be of this very transaction.
            many => there.get(usize::try_from(many - 1 - self.random.below(many.min(4)))?),
        };
        let old = chosen.filter(|_| what >= 45).map(|row| (*row).clone());
        let name = WRITTEN[table].0;
        let (sql, new) = match &old {
            None => {
                self.last_id += 1;
                let id = self.last_id;
                (format!("insert into {name} values ({id}, {room}, '{body}')"), Some(Row { id, room, body }))
            }
            Some(Row { id, .. }) if what >= 80 => (format!("delete from {name} where id = {id}"), None),
            Some(Row { id, room: stays, .. }) => {
                let (id, room) = (*id, if what < 60 { *stays } else { room });
                (
                    format!("update {name} set room = {room}, body = '{body}' where id = {id}"),
                    Some(Row { id, room, body }),
                )
            }
        };
        if self.run(hand, &sql).await?
            && let Some(open) = &mut self.hands[hand].open
        {
            match (&old, &new) {
                (_, Some(row)) => open.rows.insert((table, row.id), row.clone()),
                (Some(row), None) => open.rows.remove(&(table, row.id)),
                (None, None) => None,
            };
            open.writes.push(Write { table, old, new });
        }
        Ok(())
    }

    async fn write_members(&mut self, hand: usize) -> Result<()> {
        let who = self.random.below(u64::try_from(self.people.len())?);
        let who = &self.people[usize::try_from(who)?];
        let (room, other) = (self.random.below(ROOMS), self.random.below(ROOMS));
        let hidden = self.random.below(4) == 0;
        let sql = match self.random.below(20) {
            0..=6 => format!(
                "insert into members values ({room}, '{who}', {hidden})
                     on conflict (room, who) do update set hidden = excluded.hidden"
            ),
            7 => format!("insert into members values ({room}, '{who}')"),
            8 => format!(
                "insert into members select {room}, 'person ' || n from generate_series(0, 20) as n
                     on conflict do nothing"
            ),
            9..=12 => format!("delete from members where room = {room} and who = '{who}'"),
            13 => format!("delete from members where room = {room}"),
            14..=17 => format!(
                "update members set room = {other} where room = {room} and who = '{who}'
                     and not exists (select from members where room = {other} and who = '{who}')"
            ),
            _ => format!("update members set hidden = not hidden where room = {room}"),
        };
        self.run(hand, &sql).await?;
        Ok(())
    }

    /// A few statements, which count or do not.
    async fn savepoint(&mut self, hand: usize) -> Result<()> {
        let Some(Open { rows, writes }) = &self.hands[hand].open else { return Ok(()) };
        let (rows, count) = (rows.clone(), writes.len());
        if !self.run(hand, "savepoint here").await? {
            return Ok(());
        }
        for _ in 0..=self.random.below(3) {
            if self.hands[hand].open.is_none() {
                return Ok(());
            }
            if self.random.below(2) == 0 {
                self.write_row(hand).await?;
            } else {
                self.write_members(hand).await?;
            }
        }
        let Some(open) = &mut self.hands[hand].open else { return Ok(()) };
        if self.random.below(3) == 0 {
            self.run(hand, "release here").await?;
        } else {
            open.rows = rows;
            open.writes.truncate(count);
            self.run(hand, "rollback to here").await?;
        }
        Ok(())
    }

    /// Nobody else can look at the members meanwhile.
    async fn truncate(&mut self, hand: usize) -> Result<()> {
        let before = self.sight(None).await?;
        if !self.run(hand, "truncate members").await? {
            return Ok(());
        }
        for _ in 0..self.random.below(4) {
            if self.hands[hand].open.is_none() {
                return Ok(());
            }
            self.write_members(hand).await?;
        }
        if self.hands[hand].open.is_some() { self.commit(hand, before).await } else { Ok(()) }
    }

    async fn commit(&mut self, hand: usize, before: Sight) -> Result<()> {
        let after = self.sight(Some(hand)).await?;
        let hand = &mut self.hands[hand];
        hand.client.batch_execute("commit").await?;
        let Some(Open { rows, writes }) = hand.open.take() else { return Ok(()) };
        hand.committed = rows;
        self.committed += 1;
        for ((told, before), after) in self.expected.iter_mut().zip(&before).zip(&after) {
            told.extend(writes.iter().filter_map(|write| write.told(before, after)));
        }
        Ok(())
    }

    /// What everybody can see now, over the connection of a hand or over another one.
    async fn sight(&self, hand: Option<usize>) -> Result<Sight> {
        let client = hand.map_or(&self.bystander, |hand| &self.hands[hand].client);
        let mut sql = if hand.is_some() { String::new() } else { "begin;".to_owned() };
        for who in &self.people {
            let claims = json!({ "role": "authenticated", "sub": who });
            let sight = WRITTEN.map(|(_, rooms)| format!("select string_agg(id::text, ',') from {rooms};"));
            sql.push_str("set local role authenticated; set local \"request.jwt.claims\" = '");
            sql.push_str(&claims.to_string());
            sql.push_str("';");
            sql.push_str(&sight.concat());
            sql.push_str("set local role none;");
        }
        if hand.is_none() {
            sql.push_str("rollback");
        }
        let answers = client.simple_query(&sql).await?;
        let mut answers = answers.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default()),
            _ => None,
        });
        let mut sight = Vec::new();
        for _ in &self.people {
            let mut rooms = [Vec::new(), Vec::new()];
            for rooms in &mut rooms {
                for room in answers.next().unwrap_or_default().split(',').filter(|room| !room.is_empty()) {
                    rooms.push(room.parse()?);
                }
            }
            sight.push(rooms);
        }
        Ok(sight)
    }
}

impl Write {
    /// What is told of it to whom sees these rooms before and after the transaction.
    fn told(&self, before: &[Vec<u64>; 2], after: &[Vec<u64>; 2]) -> Option<Value> {
        let Write { table, old, new } = self;
        let sees_old = old.as_ref().is_some_and(|row| before[*table].contains(&row.room));
        let sees_new = new.as_ref().is_some_and(|row| after[*table].contains(&row.room));
        let key = |row: &Row| json!({ "id": row.id });
        let (kind, old) = match (old, new) {
            (None, Some(_)) => ("INSERT", Value::Null),
            (Some(old), Some(_)) => ("UPDATE", if sees_old { old.json() } else { key(old) }),
            (Some(old), None) => ("DELETE", key(old)),
            (None, None) => return None,
        };
        let told = if new.is_some() { sees_new } else { sees_old };
        let record = new.as_ref().map(Row::json);
        told.then(|| json!({ "table": WRITTEN[*table].0, "type": kind, "record": record, "old_record": old }))
    }
}
