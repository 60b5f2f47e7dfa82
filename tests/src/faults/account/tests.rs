//! The account finds what it is there to find.

use serde_json::json;
use walcast_wire::Position;

use super::*;
use crate::faults::schema::Reader;
use crate::faults::subscriber::Got;
use crate::faults::truth::Key;
use crate::faults::truth::tests::log;

fn position(lsn: u64, index: u64) -> Position {
    Position { commit_lsn: walcast_pgoutput::Lsn(lsn), index }
}

/// A row of room 1 that is written at `lsn`, whose number is its `id`.
fn row(id: i64, lsn: u64) -> Change {
    let key = Key { table: "room_rows".to_owned(), kind: Kind::Insert, id, seq: Some(id) };
    let columns = [("id", id.to_string()), ("room", "1".to_owned()), ("seq", id.to_string())];
    let row = columns.into_iter().map(|(column, value)| (column.to_owned(), Some(value))).collect();
    Change { key, commit_lsn: lsn, row }
}

fn got(change: &Change) -> Got {
    let id = change.key.id;
    let record = json!({ "id": id, "room": 1, "seq": id });
    Got { position: position(change.commit_lsn, 0), at: 0, key: change.key.clone(), record: Some(record) }
}

/// Ten rows, the first at 10 and the last at 100, of which ana may see those from 30 to 80.
struct Case {
    truth: Truth,
    notes: Notes,
}

impl Case {
    /// Ana subscribes before the first of them, and is told those with these numbers in each of her sessions.
    fn new(told: &[&[i64]]) -> Case {
        let changes: Vec<Change> = (1..=10).map(|id| row(id, id.unsigned_abs() * 10)).collect();
        let mut since = None;
        let mut sessions = Vec::new();
        for ids in told {
            let got: Vec<Got> = ids.iter().map(|id| got(&row(*id, id.unsigned_abs() * 10))).collect();
            let last = got.iter().map(|got| got.position).max();
            // Nothing is replayed: each session is live where the last one ended.
            let live_from = since.unwrap_or(position(1, 0));
            sessions.push(Session { since, live_from: Some(live_from), got, ..Session::default() });
            since = last.max(since).max(Some(live_from));
        }
        let notes = Notes { reader: Reader::Person("ana"), sessions };
        Case { truth: log(changes, "ana", &[(30, true), (81, false)]), notes }
    }

    fn figures(&self) -> Figures {
        account(std::slice::from_ref(&self.notes), &self.truth, 1_000)
    }

    /// Missing, forbidden, out of order, twice.
    fn wrong(&self) -> [usize; 4] {
        let Figures { missing, forbidden, out_of_order, twice, .. } = self.figures();
        [missing, forbidden, out_of_order, twice]
    }
}

#[test]
fn who_is_told_all_that_it_may_see_once_and_in_order_lacks_nothing() {
    assert_eq!(Case::new(&[&[3, 4, 5, 6, 7, 8]]).wrong(), [0, 0, 0, 0]);
    assert_eq!(Case::new(&[&[3, 4], &[], &[5], &[6, 7, 8]]).wrong(), [0, 0, 0, 0]);
}

#[test]
fn what_is_missing_is_counted_wherever_it_should_have_been() {
    assert_eq!(Case::new(&[&[3, 5, 6, 7, 8]]).wrong(), [1, 0, 0, 0], "in the middle");
    assert_eq!(Case::new(&[&[3, 4], &[6, 7, 8]]).wrong(), [1, 0, 0, 0], "between two sessions");
    assert_eq!(Case::new(&[&[3, 4, 5, 6]]).wrong(), [2, 0, 0, 0], "at the end");
    assert_eq!(Case::new(&[&[]]).wrong(), [6, 0, 0, 0], "all of it");
}

#[test]
fn what_may_not_be_seen_was_never_written_or_says_something_else_is_forbidden() {
    assert_eq!(Case::new(&[&[2, 3, 4, 5, 6, 7, 8]]).wrong(), [0, 1, 0, 0], "before she was a member");
    assert_eq!(Case::new(&[&[3, 4, 5, 6, 7, 8, 9]]).wrong(), [0, 1, 0, 0], "afterwards");
    assert_eq!(Case::new(&[&[3, 4, 5, 6, 7, 8, 11]]).wrong(), [0, 1, 0, 0], "never written");
    let mut case = Case::new(&[&[3, 4, 5, 6, 7, 8]]);
    case.notes.sessions[0].got[1].record = Some(json!({ "id": 4, "room": 2, "seq": 4 }));
    assert_eq!(case.wrong(), [0, 1, 0, 0], "other contents");
}

#[test]
fn another_order_and_a_repetition_are_counted() {
    assert_eq!(Case::new(&[&[3, 5, 4, 6, 7, 8]]).wrong(), [0, 0, 1, 0]);
    assert_eq!(Case::new(&[&[3, 4, 4, 5, 6, 7, 8]]).wrong(), [0, 0, 0, 1]);
    assert_eq!(Case::new(&[&[3, 4], &[4, 5, 6, 7, 8]]).wrong(), [0, 0, 0, 1]);
    let mut case = Case::new(&[&[3, 4, 5, 6, 7, 8]]);
    case.notes.sessions[0].got[2].position = position(51, 0);
    assert_eq!(case.wrong(), [0, 0, 1, 0], "a position that is not that of the commit");
}

#[test]
fn behind_a_told_gap_something_may_be_missing_and_elsewhere_not() {
    let mut case = Case::new(&[&[3, 4, 7, 8]]);
    assert_eq!(case.wrong(), [2, 0, 0, 0]);
    case.notes.sessions[0].gaps.push(Gap { before: 2, live: true, text: "gap".to_owned() });
    assert_eq!((case.wrong(), case.figures().excused, case.figures().gaps), ([0, 0, 0, 0], 2, 1));
    case.notes.sessions[0].gaps[0].before = 3;
    assert_eq!(case.wrong(), [2, 0, 0, 0]);
    let mut case = Case::new(&[&[3, 4], &[7, 8]]);
    case.notes.sessions[1].live_from = Some(position(65, 0));
    case.notes.sessions[1].gaps.push(Gap { before: 0, live: false, text: "gap".to_owned() });
    assert_eq!((case.wrong(), case.figures().excused), ([0, 0, 0, 0], 2));
    case.notes.sessions[1].live_from = Some(position(55, 0));
    assert_eq!(case.wrong(), [1, 0, 0, 0], "what is live is owed");
}

#[test]
fn what_is_replayed_may_be_judged_by_any_membership_up_to_the_end_of_the_replay() {
    let mut case = Case::new(&[&[], &[]]);
    // She comes back when she is no member any more: neither that she gets them nor that she does not is wrong.
    case.notes.sessions[0].live_from = Some(position(1, 0));
    case.notes.sessions[1].since = Some(position(2, 0));
    case.notes.sessions[1].live_from = Some(position(95, 0));
    assert_eq!(case.wrong(), [0, 0, 0, 0]);
    case.notes.sessions[1].got = [2, 3, 8].map(|id| got(&row(id, id.unsigned_abs() * 10))).into();
    assert_eq!(
        case.wrong(),
        [0, 0, 0, 0],
        "the second was written before she was a member, who was one later"
    );
    case.notes.sessions[1].got = vec![got(&row(9, 90))];
    assert_eq!(case.wrong(), [0, 1, 0, 0], "since 81 she never was");
}
