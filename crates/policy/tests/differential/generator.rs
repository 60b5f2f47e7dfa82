//! Random boolean expressions over the columns of the table, each valid SQL.

mod values;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

pub(crate) struct Generator {
    random: StdRng,
}

/// The types that expressions are drawn in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Int,
    Numeric,
    Float,
    Text,
    Bytewise,
    Uuid,
    Date,
    Timestamp,
    Mood,
    Json,
    Interval,
    Zoned,
    Clock,
}

const TYPES: &[Type] = &[
    Type::Int,
    Type::Numeric,
    Type::Float,
    Type::Text,
    Type::Bytewise,
    Type::Uuid,
    Type::Date,
    Type::Timestamp,
    Type::Mood,
    Type::Json,
    Type::Interval,
    Type::Zoned,
    Type::Clock,
];

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Generator { random: StdRng::seed_from_u64(seed) }
    }

    fn pick(&mut self, choices: &[&str]) -> String {
        (*choices.choose(&mut self.random).unwrap()).to_owned()
    }

    /// A boolean expression at most so many levels deep.
    pub(crate) fn condition(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.pick(&["b", "true", "false", "null::boolean", "b is null", "i4 > 1", "t = 'alice'"]);
        }
        let (a, b) = (depth - 1, depth - 1);
        match self.random.random_range(0..22) {
            0 | 1 => format!("({} and {})", self.condition(a), self.condition(b)),
            2 | 3 => format!("({} or {})", self.condition(a), self.condition(b)),
            4 => format!("(not {})", self.condition(a)),
            5 => format!(
                "({} is {})",
                self.condition(a),
                self.pick(&["true", "not true", "false", "not false", "unknown", "not unknown", "null"])
            ),
            6 => format!(
                "case when {} then {} when {} then {} else {} end",
                self.condition(a),
                self.condition(b),
                self.condition(a),
                self.condition(b),
                self.condition(0)
            ),
            7 => format!("coalesce({}, {})", self.condition(a), self.condition(b)),
            8 => self.membership(),
            9 => self.matching(),
            10 => self.json_test(),
            11 => self.array_test(),
            12 => self.claims_test(),
            13 => self.moment_test(),
            _ => self.comparison(a),
        }
    }

    fn comparison(&mut self, depth: u32) -> String {
        let of = *TYPES.choose(&mut self.random).unwrap();
        let equality = ["=", "<>", "is distinct from", "is not distinct from"];
        let order = ["=", "<>", "<", "<=", ">", ">=", "is distinct from"];
        let operator =
            if matches!(of, Type::Text | Type::Json) { self.pick(&equality) } else { self.pick(&order) };
        let (left, right) = (self.value(of, depth), self.value(of, depth));
        match self.random.random_range(0..8) {
            0 => format!("({left} is null)"),
            1 if !matches!(of, Type::Text | Type::Json) => {
                format!("({left} between {right} and {})", self.value(of, 0))
            }
            _ => format!("({left} {operator} {right})"),
        }
    }

    fn value(&mut self, of: Type, depth: u32) -> String {
        if depth == 0 || self.random.random_range(0..3) == 0 {
            return self.leaf(of);
        }
        let depth = depth - 1;
        match self.random.random_range(0..5) {
            0 => format!("coalesce({}, {})", self.value(of, depth), self.value(of, depth)),
            1 => format!("nullif({}, {})", self.value(of, depth), self.value(of, depth)),
            2 => format!(
                "case when {} then {} else {} end",
                self.condition(depth),
                self.value(of, depth),
                self.value(of, depth)
            ),
            _ => self.operation(of, depth),
        }
    }

    fn membership(&mut self) -> String {
        let quantifier = self.pick(&["any", "all"]);
        match self.random.random_range(0..5) {
            0 => format!("({} = {quantifier} (ai))", self.value(Type::Int, 1)),
            1 => format!("({} <> {quantifier} (at))", self.value(Type::Text, 1)),
            2 => format!("({} = {quantifier} (au))", self.leaf(Type::Uuid)),
            3 => format!("({} < {quantifier} (am))", self.leaf(Type::Mood)),
            _ => format!(
                "({} in ({}, {}, {}))",
                self.value(Type::Text, 1),
                self.leaf(Type::Text),
                self.leaf(Type::Text),
                self.leaf(Type::Text)
            ),
        }
    }

    fn matching(&mut self) -> String {
        let text = self.value(Type::Text, 1);
        match self.random.random_range(0..5) {
            0 => {
                let operator = self.pick(&["like", "not like", "ilike", "not ilike"]);
                let pattern = self
                    .pick(&["'a%'", "'%i%'", "'_l\\_%'", "'%\\'", "''", "'%'", "t", "v", "'4_'", "'%A%e'"]);
                format!("({text} {operator} {pattern})")
            }
            1 => {
                let pattern = self.pick(&[
                    "'^a'",
                    "'e$'",
                    "'^[a-z0-9]*$'",
                    "'(a|b)+'",
                    "'^.?$'",
                    "'\\d'",
                    "'[^a]b?'",
                    "'i{1,2}'",
                ]);
                format!("({text} {} {pattern})", self.pick(&["~", "!~"]))
            }
            2 => {
                let pattern =
                    self.pick(&["'ALICE'", "'^[a-z]+$'", "'(z|4)'", "'\\ya'", "'[[:digit:]]'", "'i'"]);
                format!("({text} {} {pattern})", self.pick(&["~*", "!~*"]))
            }
            3 => {
                let pattern =
                    self.pick(&["'a%'", "'(a|4)_*'", "'%[a-e]'", "'a!%%' escape '!'", "'_+'", "'%.%'"]);
                let operator = if pattern.contains("escape") {
                    self.pick(&["like", "similar to", "not like"])
                } else {
                    self.pick(&["similar to", "not similar to"])
                };
                format!("({text} {operator} {pattern})")
            }
            _ => format!("starts_with({text}, {})", self.leaf(Type::Text)),
        }
    }

    fn json_test(&mut self) -> String {
        let json = self.value(Type::Json, 1);
        match self.random.random_range(0..6) {
            0 => format!("({json} @> {})", self.leaf(Type::Json)),
            1 => format!("({json} <@ {})", self.leaf(Type::Json)),
            2 => format!("({json} ? {})", self.leaf(Type::Text)),
            3 => format!("({json} {} at)", self.pick(&["?|", "?&"])),
            4 => format!("(({json} #>> '{{b,c,{}}}') is null)", self.pick(&["0", "-1", "x", "2"])),
            _ => format!("(jsonb_typeof({json}) = {})", self.pick(&["'object'", "'number'", "t"])),
        }
    }

    fn array_test(&mut self) -> String {
        let (arrays, literals): (&[&str], &[&str]) = match self.random.random_range(0..3) {
            0 => (
                &["ai", "array[i4, i2::int]", "(ai || i4)", "(i4 || ai)", "(ai || ai)"],
                &["'{1,2}'::int[]", "'{}'::int[]", "array[42]", "ai"],
            ),
            1 => (
                &["at", "array[t, v::text]", "string_to_array(t, 'i')", "(at || tc)"],
                &["array['a']", "array[t]", "'{NULL,x}'::text[]", "at"],
            ),
            _ => (&["au"], &["array[auth.uid()]", "array[u]", "au"]),
        };
        let operator = self.pick(&["@>", "<@", "&&", "=", "<>"]);
        format!("({} {operator} {})", self.pick(arrays), self.pick(literals))
    }

    /// A comparison of moments of unlike types, or of a field of one.
    fn moment_test(&mut self) -> String {
        let mut moment = || {
            let of = *[Type::Date, Type::Timestamp, Type::Zoned].choose(&mut self.random).unwrap();
            self.value(of, 1)
        };
        let (left, right) = (moment(), moment());
        let operator = self.pick(&["=", "<>", "<", "<=", ">", ">=", "is distinct from"]);
        match self.random.random_range(0..4) {
            0 => {
                let field = self
                    .pick(&["year", "isoyear", "quarter", "month", "week", "day", "dow", "isodow", "doy"]);
                format!(
                    "(extract({field} from {left}) {operator} {})",
                    self.pick(&["1", "4", "9", "2024", "i4"])
                )
            }
            1 => {
                let field = self.pick(&["hour", "minute", "second", "milliseconds", "microseconds", "epoch"]);
                let of = [Type::Timestamp, Type::Zoned, Type::Clock, Type::Interval];
                let of = *of.choose(&mut self.random).unwrap();
                let moment = self.value(of, 1);
                if self.random.random_range(0..2) == 0 {
                    format!("(date_part('{field}', {moment}) * 1000 {operator} f8)")
                } else {
                    let text = self.pick(&["t", "'0.000000'", "'0'", "'12'"]);
                    format!("(extract({field} from {moment})::text = {text})")
                }
            }
            _ => format!("({left} {operator} {right})"),
        }
    }

    fn claims_test(&mut self) -> String {
        self.pick(&[
            "(u = auth.uid())",
            "(u = (select auth.uid()))",
            "(auth.role() = 'anon')",
            "(((auth.jwt() -> 'app_metadata') ->> 'team') = t)",
            "((auth.jwt() ->> 'email') is null)",
            "(t in (select jsonb_array_elements_text((auth.jwt() -> 'app_metadata') -> 'teams')))",
            "(((auth.jwt() -> 'app_metadata') ->> 'level')::int >= i2)",
            "((auth.jwt() ->> 'sub')::uuid = any (au))",
            "(current_setting('request.jwt.claims', true)::json ->> 'sub' = u::text)",
            "((current_setting('request.jwt.claims', true)::json -> 'app_metadata') ->> 'team' = t)",
            "(j @> jsonb_build_object('owner', auth.uid()))",
            "(concat(auth.role(), ':', t) = 'anon:')",
        ])
    }
}
