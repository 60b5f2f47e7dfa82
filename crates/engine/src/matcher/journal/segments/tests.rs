use std::time::Duration;

use walcast_pgoutput::{Cell, Lsn, OldTuple, PgTimestamp, RelationColumn, ReplicaIdentity, Tuple, Xid};

use super::*;
use crate::ingest::LogStart;
use crate::matcher::journal::{Journal, Tables};
use crate::spill::Spill;
use crate::transaction::{Change, Changes, RowChange};

const NOTES: Oid = Oid(1);
const OTHER: Oid = Oid(2);

/// Numbers without an order, the same each time.
struct Numbers(u64);

impl Numbers {
    fn place(&mut self, end: u64) -> usize {
        usize::try_from(self.below(end)).unwrap()
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A table as the log describes it: its columns can be renamed.
fn relation(table: Oid, columns: [&str; 2]) -> Arc<Relation> {
    let column = |name: &str| RelationColumn {
        name: name.to_owned(),
        type_oid: Oid(25),
        type_modifier: -1,
        key: false,
    };
    Arc::new(Relation {
        oid: table,
        namespace: "public".to_owned(),
        name: "notes".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: columns.map(column).into(),
    })
}

/// A journal, and what the next transaction is given.
struct Written {
    journal: Journal,
    next: u64,
}

impl Written {
    fn new(bytes_max: usize) -> Written {
        let mut journal = Journal::new(Arc::default(), bytes_max, Duration::from_mins(2));
        journal.restarted(&LogStart { since: Lsn(50), gap: None }, Position::default());
        Written { journal, next: 100 }
    }

    fn write(&mut self, chunks: Vec<Vec<Change>>) {
        self.write_with(chunks, None);
    }

    fn write_with(&mut self, chunks: Vec<Vec<Change>>, spilled: Option<Spill>) {
        let mut tables = Tables::new();
        let first = Position { commit_lsn: Lsn(self.next), index: 0 };
        let mut last = first;
        let mut changes = Changes::default();
        for chunk in chunks {
            for change in &chunk {
                if !tables.contains(&change.relation.oid) {
                    tables.push(change.relation.oid);
                }
                last.index += 1;
            }
            changes.hold(Chunk { bytes: 200 * chunk.len(), changes: chunk });
        }
        last.index -= 1;
        if let Some(spilled) = spilled {
            changes.follow(spilled);
            last.index += 1;
        }
        let transaction = Transaction {
            first,
            xid: Xid(1),
            commit_time: PgTimestamp(0),
            ddl: false,
            changes,
            end_lsn: Lsn(self.next + 8),
        };
        self.journal.keep(transaction, tables, last);
        self.next += 100;
    }

    /// What is found behind a position, at most so many changes at once; what is in no index is looked at.
    fn found(&mut self, sought: &[Sought<'_>], since: Position, count_max: usize) -> Vec<Position> {
        let mut found = Vec::new();
        let mut at = since;
        while let Some(kept) = self.journal.next_between(at, Position::MAX) {
            let (last, transaction) = (kept.last, Arc::clone(&kept.transaction));
            let is_described = self.journal.described_behind(at).is_some_and(|described| {
                described.relations.iter().all(|relation| relation.columns[1].name == "body")
            });
            let places = self.journal.places(sought, at..Position::MAX, count_max).filter(|_| is_described);
            if let Some(Places { places, up_to }) = places {
                assert!(places.len() <= count_max && up_to > at);
                for place in &places {
                    let (transaction, chunk) = self.journal.find(place).unwrap();
                    assert_eq!(transaction.first.commit_lsn, place.position.commit_lsn);
                    assert!(may_be_sought(&chunk.changes[place.index], sought));
                    found.push(place.position);
                }
                at = up_to;
            } else {
                let all = positions(&transaction);
                let sought = all.filter(|(position, change)| *position > at && may_be_sought(change, sought));
                found.extend(sought.map(|(position, _)| position));
                at = last;
            }
        }
        found
    }

    /// The same by a look at everything.
    fn expected(&self, sought: &[Sought<'_>], since: Position) -> Vec<Position> {
        let kept = self.journal.kept.kept.iter();
        let all = kept.flat_map(|kept| positions(&kept.transaction));
        let sought = all.filter(|(position, change)| *position > since && may_be_sought(change, sought));
        sought.map(|(position, _)| position).collect()
    }
}

fn positions(transaction: &Transaction) -> impl Iterator<Item = (Position, &Change)> {
    let changes = transaction.changes.held().iter().flat_map(|chunk| &chunk.changes);
    (0..).map(|index| Position { index, ..transaction.first }).zip(changes)
}

fn may_be_sought(change: &Change, sought: &[Sought<'_>]) -> bool {
    sought.iter().filter(|sought| sought.table == change.relation.oid).any(|sought| {
        let left = change.row.new_value(sought.column);
        change.relation.columns[1].name != "body"
            || left.is_none_or(|left| left == NewValue::Text(sought.value.as_bytes()))
    })
}

/// A change of a table, of any kind, with values of which there are a few dozen.
fn change(numbers: &mut Numbers, relation: &Arc<Relation>) -> Change {
    let texts = [(); 2].map(|()| numbers.below(30).to_string());
    let cell = |text: &'static str| Cell::Text(text.as_bytes());
    let unusual = [Cell::Null, Cell::Unchanged, cell("7"), cell("7 ")][numbers.place(4)];
    let cells = match numbers.below(10) {
        0 => [unusual, Cell::Text(texts[1].as_bytes())],
        _ => [Cell::Text(texts[0].as_bytes()), Cell::Text(texts[1].as_bytes())],
    };
    let row = Tuple::from_cells(cells);
    let row = match numbers.below(40) {
        0 => RowChange::Delete { old: OldTuple::Key(row) },
        1 => RowChange::Truncate,
        2..20 => RowChange::Update { old: None, new: row },
        _ => RowChange::Insert { new: row },
    };
    Change { relation: Arc::clone(relation), row }
}

fn note(id: &str) -> Change {
    let new = Tuple::from_cells([Cell::Text(id.as_bytes()), Cell::Null]);
    Change { relation: relation(NOTES, ["id", "body"]), row: RowChange::Insert { new } }
}

fn notes(value: &str) -> Sought<'_> {
    Sought { table: NOTES, column: 0, value }
}

#[tokio::test]
async fn whatever_is_sought_is_found_in_order_and_nothing_else() {
    let sizes = [1, 3, 40, 700];
    for seed in 0..20 {
        let mut numbers = Numbers(seed);
        // So much that all is kept, or that much has been forgotten at the end.
        let mut written = Written::new(if seed % 2 == 0 { 64 << 20 } else { 300 << 10 });
        let tables = [relation(NOTES, ["id", "body"]), relation(OTHER, ["id", "body"])];
        // Described once more, and described otherwise.
        let others = [relation(NOTES, ["id", "body"]), relation(NOTES, ["id", "text"])];
        let size = sizes[numbers.place(4)];
        for _ in 0..3_000 / size {
            let mut chunk = |_| -> Vec<Change> {
                let relation = match numbers.below(100) {
                    0 => &others[1],
                    1..5 => &others[0],
                    _ => &tables[numbers.place(2)],
                };
                (0..=numbers.below(size)).map(|_| change(&mut numbers, relation)).collect()
            };
            let chunks = (0..2).map(&mut chunk).collect();
            let spilled = if numbers.below(50) == 0 { Some(Spill::damaged().await) } else { None };
            written.write_with(chunks, spilled);
            if numbers.below(3_000 / size) < 3 {
                let sought =
                    [notes("7"), notes("29"), Sought { table: OTHER, column: 1, value: "11" }, notes("none")];
                for count in 0..=sought.len() {
                    let since = Lsn(50 + numbers.below(written.next));
                    let since = Position { commit_lsn: since, index: numbers.below(size) };
                    let expected = written.expected(&sought[..count], since);
                    let count_max = 1 + numbers.place(5);
                    assert_eq!(written.found(&sought[..count], since, count_max), expected, "seed {seed}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_written_for_others_is_not_even_looked_at() {
    let mut written = Written::new(64 << 20);
    for number in 0..2_000 {
        written.write(vec![vec![note("mine"), note(&number.to_string())]]);
    }
    let since = Position::before(Lsn(100));
    let places = written.journal.places(&[notes("1000")], since..Position::MAX, 512).unwrap();
    assert!(places.places.is_empty(), "it is not in the first segment");
    let places = written.journal.places(&[notes("17")], since..Position::MAX, 512).unwrap();
    let positions: Vec<_> = places.places.iter().map(|place| place.position).collect();
    assert_eq!(positions, [Position { commit_lsn: Lsn(1_800), index: 1 }]);
    let until = Position::before(Lsn(1_800));
    let places = written.journal.places(&[notes("17")], since..until, 512).unwrap();
    assert!(places.places.is_empty());
    assert_eq!(places.up_to, Position { commit_lsn: Lsn(1_700), index: 1 }, "the last one before");
}

#[tokio::test]
async fn indexes_are_made_when_they_are_asked_for_count_as_the_journals_and_go_with_their_rows() {
    let mut written = Written::new(1 << 20);
    let first = |written: &Written| written.journal.kept.oldest().unwrap().transaction.first;
    for _ in 0..600 {
        written.write(vec![vec![note("mine"), note("yours")]]);
    }
    let rows = written.journal.all_bytes();
    assert_eq!(rows, written.journal.bytes);
    assert_eq!(written.found(&[notes("mine")], Position::default(), 512).len(), 600);
    let with_index = written.journal.all_bytes();
    assert!((rows + 1_024 * 8..rows + rows / 10).contains(&with_index), "{with_index} bytes, {rows} of rows");
    assert_eq!(written.found(&[notes("yours")], Position::default(), 512).len(), 600);
    assert_eq!(written.journal.all_bytes(), with_index, "one index for both");
    let begins = first(&written);
    for _ in 0..10_000 {
        written.write(vec![vec![note("mine"), note("yours")]]);
    }
    assert!(first(&written) > begins);
    assert_eq!(written.journal.all_bytes(), written.journal.bytes, "nobody has asked for these");
    written.journal.restarted(&LogStart { since: Lsn(1 << 40), gap: None }, Position::default());
    assert_eq!((written.journal.all_bytes(), written.journal.segments.complete.len()), (0, 0));
}

#[tokio::test]
async fn of_a_segment_there_are_a_few_indexes_and_whoever_asks_for_more_looks_at_everything() {
    let mut written = Written::new(64 << 20);
    written.write(vec![(0..CHANGES_MIN).map(|_| note("mine")).collect()]);
    let since = Position::default()..Position::MAX;
    let mut asks = |column| {
        let sought = [Sought { table: NOTES, column, value: "mine" }];
        written.journal.places(&sought, since.clone(), 512).map(|found| found.places.len())
    };
    assert_eq!(asks(0), Some(CHANGES_MIN));
    assert_eq!(asks(1), Some(0));
    // Columns that the log does not have.
    assert_eq!((asks(2), asks(3)), (Some(CHANGES_MIN), Some(CHANGES_MIN)));
    assert_eq!(asks(4), None);
    assert_eq!(asks(0), Some(CHANGES_MIN));
}
