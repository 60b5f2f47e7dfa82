//! What only PostgreSQL can tell of a window of changes, put together into as few questions as there can be.
//!
//! A question is about one expression, asked as one role, over rows that are the same where the expression does not
//! look, for all claims that anybody needs it for. PostgreSQL evaluates it for each of the claims with each of the
//! rows; so rows stand together only where most of these pairs are needed.

use std::sync::Arc;

use ahash::AHashMap;
use rustc_hash::FxHashMap;
use walcast_policy::schema::Table;
use walcast_policy::{Answers, Datum, Question, RowImage, Verdict};

/// Rows of one question. How many PostgreSQL is given at once is the oracle's to choose.
const ROWS_MAX: usize = 5_000;
/// Bytes of the rows of one question, where it has more than one.
const BYTES_MAX: usize = 4 << 20;
/// Rows of one question times its claims, where it has more than one row.
const PAIRS_MAX: usize = 5_000_000;
/// Up to so many times the pairs that are needed may be asked about.
const WASTE_MAX: usize = 2;

/// Where the answer will be: an index into what [`super::judge::Judge::ask`] gives.
pub(super) type Ticket = usize;

/// One thing to ask.
pub(super) struct Matter<'a> {
    pub(super) role: &'a str,
    pub(super) claims: &'a Arc<str>,
    pub(super) expression: &'a str,
    /// The table, known by its address, too.
    pub(super) table: &'a Table,
    /// The row. It is known by its address: the same one is not to be given from two places.
    pub(super) row: &'a RowImage<'a>,
}

/// All that is to be asked.
#[derive(Default)]
pub(super) struct Docket<'a> {
    groups: Vec<Group<'a>>,
    /// By table, role, expression, and the columns that the rows lack.
    groups_by_subject: AHashMap<(usize, &'a str, &'a str, Vec<usize>), usize>,
    /// By row, role and expression: the group, and the row's place in it. Most audiences of a change ask the same.
    places: AHashMap<(usize, &'a str, &'a str), (usize, usize)>,
    tickets: usize,
}

/// Everything that is asked with one expression as one role.
struct Group<'a> {
    role: &'a str,
    table: &'a Table,
    expression: &'a str,
    rows: Vec<Needed<'a>>,
    rows_by_value: AHashMap<Vec<Option<&'a str>>, usize>,
    claims: Vec<&'a Arc<str>>,
    claims_by_text: AHashMap<&'a str, usize>,
    /// By row and claims.
    tickets: FxHashMap<(usize, usize), Ticket>,
}

/// A row, and the claims that it is asked about with.
struct Needed<'a> {
    row: RowImage<'a>,
    bytes: usize,
    claims: Vec<(usize, Ticket)>,
}

/// A question to be put.
pub(super) struct Inquiry<'a> {
    pub(super) table: &'a Table,
    pub(super) claims: Vec<Arc<str>>,
    role: &'a str,
    expression: &'a str,
    rows: Vec<RowImage<'a>>,
    bytes: usize,
    /// Claims and row, by their places in the question, of each answer that somebody needs.
    needed: Vec<(usize, usize, Ticket)>,
    /// By place in the group.
    claims_by_place: FxHashMap<usize, usize>,
}

impl<'a> Docket<'a> {
    /// How many answers there will be.
    pub(super) fn tickets(&self) -> usize {
        self.tickets
    }

    /// Adds something to ask. `columns` are those that the expression reads.
    pub(super) fn enter(&mut self, matter: &Matter<'a>, columns: impl IntoIterator<Item = usize>) -> Ticket {
        let (group, row) = self.place(matter, columns);
        let Group { rows, claims, claims_by_text, tickets, .. } = &mut self.groups[group];
        let claims = *claims_by_text.entry(matter.claims).or_insert_with(|| {
            claims.push(matter.claims);
            claims.len() - 1
        });
        *tickets.entry((row, claims)).or_insert_with(|| {
            let ticket = self.tickets;
            self.tickets += 1;
            rows[row].claims.push((claims, ticket));
            ticket
        })
    }

    fn place(&mut self, matter: &Matter<'a>, columns: impl IntoIterator<Item = usize>) -> (usize, usize) {
        let &Matter { role, expression, table, row, .. } = matter;
        let same_row = (std::ptr::from_ref(row).addr(), role, expression);
        if let Some(&place) = self.places.get(&same_row) {
            return place;
        }
        // What the expression does not read is left out, so that rows differ in what counts only.
        let mut image = RowImage { values: vec![Datum::Missing; table.columns.len()] };
        for column in columns {
            if let Some(value) = image.values.get_mut(column) {
                *value = row.get(column);
            }
        }
        let missing = |&column: &usize| image.get(column) == Datum::Missing;
        let missing: Vec<usize> = (0..image.values.len()).filter(missing).collect();
        let subject = (std::ptr::from_ref(table).addr(), role, expression, missing);
        let group = *self.groups_by_subject.entry(subject).or_insert_with(|| {
            self.groups.push(Group::new(role, table, expression));
            self.groups.len() - 1
        });
        let place = (group, self.groups[group].row(image));
        self.places.insert(same_row, place);
        place
    }

    /// The questions.
    pub(super) fn into_inquiries(self) -> Vec<Inquiry<'a>> {
        self.groups.into_iter().flat_map(Group::into_inquiries).collect()
    }
}

impl<'a> Group<'a> {
    fn new(role: &'a str, table: &'a Table, expression: &'a str) -> Self {
        Group {
            role,
            table,
            expression,
            rows: Vec::new(),
            rows_by_value: AHashMap::default(),
            claims: Vec::new(),
            claims_by_text: AHashMap::default(),
            tickets: FxHashMap::default(),
        }
    }

    fn row(&mut self, row: RowImage<'a>) -> usize {
        // Which columns are missing is the same for all rows of the group.
        let values = row.values.iter().filter_map(|value| match value {
            Datum::Missing => None,
            Datum::Null => Some(None),
            Datum::Text(text) => Some(Some(*text)),
        });
        let values: Vec<Option<&str>> = values.collect();
        let bytes = values.iter().flatten().map(|text| text.len()).sum();
        *self.rows_by_value.entry(values).or_insert_with(|| {
            self.rows.push(Needed { row, bytes, claims: Vec::new() });
            self.rows.len() - 1
        })
    }

    /// Rows with the same claims are neighbours; neighbours stand together while that asks little in vain.
    fn into_inquiries(self) -> Vec<Inquiry<'a>> {
        let (role, table, expression, claims) = (self.role, self.table, self.expression, self.claims);
        let mut rows = self.rows;
        for row in &mut rows {
            row.claims.sort_unstable();
        }
        let places = |row: &Needed<'_>| row.claims.iter().map(|(claims, _)| *claims).collect::<Vec<_>>();
        rows.sort_by_cached_key(places);
        let mut inquiries: Vec<Inquiry<'a>> = Vec::new();
        for row in rows {
            match inquiries.last_mut() {
                Some(inquiry) if inquiry.has_room_for(&row) => inquiry.add(row, &claims),
                _ => {
                    let mut inquiry = Inquiry {
                        table,
                        claims: Vec::new(),
                        role,
                        expression,
                        rows: Vec::new(),
                        bytes: 0,
                        needed: Vec::new(),
                        claims_by_place: FxHashMap::default(),
                    };
                    inquiry.add(row, &claims);
                    inquiries.push(inquiry);
                }
            }
        }
        inquiries
    }
}

impl<'a> Inquiry<'a> {
    pub(super) fn question(&self) -> Question<'_> {
        let Inquiry { role, table, expression, rows, .. } = self;
        Question { role, table, rows, expression }
    }

    /// Puts the answers where their tickets say; what was not answered is a failure.
    pub(super) fn read(&self, answers: &[Answers], verdicts: &mut [Verdict]) {
        for &(claims, row, ticket) in &self.needed {
            verdicts[ticket] = match answers.get(claims).and_then(|answers| answers.get(row)) {
                Some(Ok(true)) => Verdict::Visible,
                Some(Ok(false)) => Verdict::Hidden,
                Some(Err(error)) => Verdict::Failed(error.to_string()),
                None => Verdict::Failed("the database gave no answer".to_owned()),
            };
        }
    }

    fn has_room_for(&self, row: &Needed<'_>) -> bool {
        let new = row.claims.iter().filter(|(place, _)| !self.claims_by_place.contains_key(place)).count();
        let pairs = (self.rows.len() + 1) * (self.claims.len() + new);
        let needed = self.needed.len() + row.claims.len();
        let fits = self.rows.len() < ROWS_MAX && self.bytes + row.bytes <= BYTES_MAX && pairs <= PAIRS_MAX;
        fits && pairs <= WASTE_MAX * needed
    }

    fn add(&mut self, row: Needed<'a>, group_claims: &[&Arc<str>]) {
        for (place, ticket) in row.claims {
            let claims = *self.claims_by_place.entry(place).or_insert_with(|| {
                self.claims.push(Arc::clone(group_claims[place]));
                self.claims.len() - 1
            });
            self.needed.push((claims, self.rows.len(), ticket));
        }
        self.bytes += row.bytes;
        self.rows.push(row.row);
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::Oid;
    use walcast_policy::schema::{Collation, Column, Identity};

    use super::*;

    /// A table with the columns `a` and `b`.
    fn table() -> Table {
        let column = |(name, number): (&str, i16)| Column {
            name: name.to_owned(),
            number,
            type_oid: Oid(25),
            type_modifier: -1,
            collation: Collation::Bytes,
            primary_key: number == 1,
            identity: number == 1,
            sql_type: "text".to_owned(),
        };
        Table {
            oid: Oid(1),
            schema: "public".to_owned(),
            name: "notes".to_owned(),
            columns: [("a", 1), ("b", 2)].map(column).into(),
            owner: Oid(10),
            row_security: true,
            force_row_security: false,
            identity: Identity::Default,
            policies: Vec::new(),
        }
    }

    /// The questions for these rows with these claims, in words: rows, claims, and how many answers are needed. Only
    /// column `b` is read, and the answer is whether it equals the claims.
    fn asked(needs: &[(&str, &str, &str)]) -> Vec<(usize, usize, usize)> {
        let table = table();
        let rows: Vec<_> =
            needs.iter().map(|(a, b, _)| RowImage { values: vec![Datum::Text(a), Datum::Text(b)] }).collect();
        let claims: Vec<Arc<str>> = needs.iter().map(|(_, _, claims)| Arc::from(*claims)).collect();
        let mut docket = Docket::default();
        let tickets: Vec<Ticket> = rows
            .iter()
            .zip(&claims)
            .map(|(row, claims)| {
                let matter = Matter { role: "reader", claims, expression: "b = sub()", table: &table, row };
                docket.enter(&matter, [1])
            })
            .collect();
        let mut verdicts = vec![Verdict::Ask; docket.tickets()];
        let inquiries = docket.into_inquiries();
        for inquiry in &inquiries {
            assert!(inquiry.question().rows.iter().all(|row| row.get(0) == Datum::Missing));
            let answer = |claims: &Arc<str>, row: &RowImage<'_>| Ok(row.get(1) == Datum::Text(claims));
            let answers = |claims| inquiry.rows.iter().map(|row| answer(claims, row)).collect();
            let answers: Vec<Answers> = inquiry.claims.iter().map(answers).collect();
            inquiry.read(&answers, &mut verdicts);
        }
        for ((_, b, claims), ticket) in needs.iter().zip(tickets) {
            let expected = if b == claims { Verdict::Visible } else { Verdict::Hidden };
            assert_eq!(verdicts[ticket], expected, "{b} for {claims}");
        }
        inquiries
            .iter()
            .map(|inquiry| (inquiry.rows.len(), inquiry.claims.len(), inquiry.needed.len()))
            .collect()
    }

    #[test]
    fn rows_that_differ_only_where_nobody_looks_are_one() {
        assert_eq!(asked(&[("1", "x", "x"), ("2", "x", "x"), ("3", "x", "y")]), [(1, 2, 2)]);
    }

    #[test]
    fn everybody_about_every_row_is_one_question() {
        let names: Vec<String> = (0..20).map(|name| name.to_string()).collect();
        let pairs = names.iter().flat_map(|row| names.iter().map(move |claims| ("1", &**row, &**claims)));
        assert_eq!(asked(&pairs.collect::<Vec<_>>()), [(20, 20, 400)]);
    }

    #[test]
    fn hardly_a_pair_is_asked_about_that_nobody_needs() {
        let names: Vec<String> = (0..100).map(|name| name.to_string()).collect();
        let own: Vec<_> = names.iter().map(|name| ("1", &**name, &**name)).collect();
        let inquiries = asked(&own);
        let pairs: usize = inquiries.iter().map(|(rows, claims, _)| rows * claims).sum();
        let needed: usize = inquiries.iter().map(|(_, _, needed)| needed).sum();
        assert_eq!((inquiries.len(), pairs, needed), (50, 200, 100));
    }

    #[test]
    fn a_question_has_so_many_rows_at_most() {
        let names: Vec<String> = (0..=ROWS_MAX).map(|name| name.to_string()).collect();
        let pairs: Vec<_> = names.iter().map(|name| ("1", &**name, "x")).collect();
        assert_eq!(asked(&pairs), [(ROWS_MAX, 1, ROWS_MAX), (1, 1, 1)]);
    }
}
