//! The row filter of a binding: `column=op.value`, several joined by commas (docs/protocol.md §5.2).

use std::fmt;

/// One condition of a filter; a filter is the AND of its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// The column's name as Postgres has it, case-sensitive. Not checked against any table here.
    pub column: String,
    /// How the column is compared.
    pub operator: Operator,
    /// Whether `not.` stood before the operator.
    pub negated: bool,
    /// What the column is compared with: text, to be cast to the column's type.
    pub value: ConditionValue,
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConditionValue {
    /// One literal.
    One(String),
    /// The elements of an `in` list, which may be empty and then matches nothing.
    List(Vec<String>),
}

/// The operators of a filter (docs/protocol.md §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Eq,
    /// `<>`
    Neq,
    /// `<`
    Lt,
    /// `<=`
    Lte,
    /// `>`
    Gt,
    /// `>=`
    Gte,
    /// `= ANY (…)`
    In,
    /// `LIKE`
    Like,
    /// `ILIKE`
    Ilike,
    /// `IS NULL`, `IS TRUE`, `IS FALSE`, `IS UNKNOWN`
    Is,
    /// `~`
    Match,
    /// `~*`
    Imatch,
    /// `IS DISTINCT FROM`
    IsDistinct,
}

impl Operator {
    const ALL: [Operator; 13] = [
        Operator::Eq,
        Operator::Neq,
        Operator::Lt,
        Operator::Lte,
        Operator::Gt,
        Operator::Gte,
        Operator::In,
        Operator::Like,
        Operator::Ilike,
        Operator::Is,
        Operator::Match,
        Operator::Imatch,
        Operator::IsDistinct,
    ];

    /// The operator as a filter spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operator::Eq => "eq",
            Operator::Neq => "neq",
            Operator::Lt => "lt",
            Operator::Lte => "lte",
            Operator::Gt => "gt",
            Operator::Gte => "gte",
            Operator::In => "in",
            Operator::Like => "like",
            Operator::Ilike => "ilike",
            Operator::Is => "is",
            Operator::Match => "match",
            Operator::Imatch => "imatch",
            Operator::IsDistinct => "isdistinct",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.as_str() == name)
    }
}

/// A filter that does not follow the grammar. The text is what the `system` message says (docs/protocol.md §3.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterSyntaxError {
    /// No `=`, no operator, or an unknown one: the parts of the condition that were found.
    #[error("Error parsing `filter` params: {}", dump_list(.0))]
    Condition(Vec<String>),
    /// The value of `in` does not stand in parentheses.
    #[error("Error parsing `filter` params: `in` filter value must be wrapped by parentheses")]
    NotAList,
    /// A comma with nothing before or behind it.
    #[error("Error parsing `filter` params: filter must not contain empty segments (check for extra commas)")]
    EmptySegment,
}

/// Reads a filter; a blank one has no conditions.
pub fn parse_filter(text: &str) -> Result<Vec<Condition>, FilterSyntaxError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split(text, Separated::Conditions)
        .into_iter()
        .map(|condition| parse_condition(condition.trim()))
        .collect()
}

fn parse_condition(text: &str) -> Result<Condition, FilterSyntaxError> {
    if text.is_empty() {
        return Err(FilterSyntaxError::EmptySegment);
    }
    let (column, rest) = text.split_once('=').ok_or_else(|| unreadable(&[text]))?;
    let (negated, rest) = rest.strip_prefix("not.").map_or((false, rest), |rest| (true, rest));
    let (name, value) = rest.split_once('.').ok_or_else(|| unreadable(&[rest]))?;
    let operator = Operator::parse(name).ok_or_else(|| unreadable(&[name, value]))?;
    let value = match operator {
        Operator::In => ConditionValue::List(parse_list(value)?),
        _ => ConditionValue::One(unquoted(value)),
    };
    Ok(Condition { column: column.to_owned(), operator, negated, value })
}

fn parse_list(value: &str) -> Result<Vec<String>, FilterSyntaxError> {
    let inside = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
    let inside = inside.ok_or(FilterSyntaxError::NotAList)?;
    if inside.trim().is_empty() {
        return Ok(Vec::new());
    }
    let element = |element: &str| match element.trim() {
        "" => Err(FilterSyntaxError::EmptySegment),
        element => Ok(unquoted(element)),
    };
    split(inside, Separated::Elements).into_iter().map(element).collect()
}

/// What a comma separates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Separated {
    /// Conditions, where parentheses protect a comma. A parenthesis that closes nothing is an ordinary character.
    Conditions,
    /// The elements of an `in` list, where further parentheses mean nothing.
    Elements,
}

/// Splits at commas outside quotes. A quote opens only directly after `.`, `(` or `,`, and at the start of an element;
/// inside a list blanks may stand before it.
fn split(text: &str, separated: Separated) -> Vec<&str> {
    let elements = separated == Separated::Elements;
    let mut parts = Vec::new();
    let (mut start, mut depth, mut quote_may_open) = (0, 0_usize, elements);
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        if character == '"' && quote_may_open {
            quote_may_open = false;
            skip_quoted(&mut characters);
            continue;
        }
        match character {
            '(' if !elements => depth += 1,
            ')' if !elements => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
        quote_may_open = match character {
            ',' => true,
            '.' | '(' => !elements,
            blank => quote_may_open && (elements || depth > 0) && blank.is_whitespace(),
        };
    }
    parts.push(&text[start..]);
    parts
}

/// Goes behind the closing quote, or to the end when there is none.
fn skip_quoted(characters: &mut std::str::CharIndices<'_>) {
    while let Some((_, character)) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '"' => return,
            _ => {}
        }
    }
}

/// The text inside quotes that enclose the whole value, without its escapes; any other value as it is.
fn unquoted(value: &str) -> String {
    let Some(inside) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let mut text = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped) => text.push(escaped),
                None => return value.to_owned(),
            },
            '"' => {
                return if characters.as_str().is_empty() { text } else { value.to_owned() };
            }
            _ => text.push(character),
        }
    }
    value.to_owned()
}

fn unreadable(parts: &[&str]) -> FilterSyntaxError {
    FilterSyntaxError::Condition(parts.iter().map(|part| (*part).to_owned()).collect())
}

/// `["a", "b"]`
pub(crate) fn dump_list(parts: &[String]) -> String {
    format!("[{}]", parts.iter().map(|part| dump_text(part)).collect::<Vec<_>>().join(", "))
}

/// A text in quotes with the quotes and backslashes in it escaped.
pub(crate) fn dump_text(text: &str) -> String {
    crate::json_text::quoted(text)
}

/// `{"column", "op", "value", negated}`, as the messages of docs/protocol.md §3.5 show a condition; a list is written as
/// a Postgres array.
impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match &self.value {
            ConditionValue::One(value) => dump_text(value),
            ConditionValue::List(elements) => dump_text(&array_literal(elements)),
        };
        write!(
            out,
            "{{{}, \"{}\", {value}, {}}}",
            dump_text(&self.column),
            self.operator.as_str(),
            self.negated
        )
    }
}

fn array_literal(elements: &[String]) -> String {
    let plain = |element: &String| {
        !element.is_empty()
            && !element.eq_ignore_ascii_case("null")
            && !element.contains(|c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_whitespace())
    };
    let element = |element: &String| {
        if plain(element) { element.clone() } else { format!("\"{}\"", escaped(element)) }
    };
    format!("{{{}}}", elements.iter().map(element).collect::<Vec<_>>().join(","))
}

fn escaped(element: &str) -> String {
    element.replace('\\', "\\\\").replace('"', "\\\"")
}
