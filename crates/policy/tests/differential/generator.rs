//! Random boolean expressions over the columns of the table, each valid SQL.

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
        match self.random.random_range(0..20) {
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

    fn leaf(&mut self, of: Type) -> String {
        self.pick(match of {
            Type::Int => {
                &["i4", "i2", "i8", "0", "1", "2", "42", "-7", "2147483647", "null::int", "length(t)", "i4"]
            }
            Type::Numeric => {
                &["n", "0.00", "3.1", "-1.5", "100", "'NaN'::numeric", "1e20", "null::numeric", "i4::numeric"]
            }
            Type::Float => &[
                "f8",
                "f4::float8",
                "0.1::float8",
                "'NaN'::float8",
                "'-Infinity'::float8",
                "i4::float8",
                "1e300::float8",
            ],
            Type::Text => &[
                "t",
                "v::text",
                "tc",
                "c::text",
                "''::text",
                "'alice'::text",
                "'42'::text",
                "'a%'::text",
                "null::text",
                "m::text",
                "i4::text",
                "b::text",
                "dom::text",
                "nm::text",
            ],
            Type::Bytewise => &[
                "tc",
                "tc",
                "('A' collate \"C\")",
                "('b' collate \"C\")",
                "(t collate \"C\")",
                "(v collate \"C\")",
            ],
            Type::Uuid => &["u", "auth.uid()", "'0d8b1f4e-0000-4000-8000-00000000000b'::uuid", "null::uuid"],
            Type::Date => &["d", "'2024-02-29'::date", "'infinity'::date", "ts::date", "'0001-01-01'::date"],
            Type::Timestamp => {
                &["ts", "'2024-02-29 12:30:00.5'::timestamp", "d::timestamp", "(tz at time zone 'utc')"]
            }
            Type::Mood => &["m", "'ok'::public.mood", "'happy'::public.mood", "null::public.mood"],
            Type::Json => &[
                "j",
                "'1'::jsonb",
                "'{\"a\": 1}'::jsonb",
                "(j -> 'a')",
                "(j -> 'b')",
                "(j -> 0)",
                "'null'::jsonb",
            ],
            Type::Interval => &[
                "iv",
                "'1 day'::interval",
                "'30 days'::interval",
                "'00:00:00'::interval",
                "'-1 mons'::interval",
            ],
        })
    }

    fn operation(&mut self, of: Type, depth: u32) -> String {
        match of {
            Type::Int => match self.random.random_range(0..6) {
                0 => format!("abs({})", self.value(of, depth)),
                1 => format!("(- {})", self.value(of, depth)),
                2 => format!("length({})", self.value(Type::Text, depth)),
                3 => format!("({})::int", self.value(Type::Numeric, 0)),
                _ => {
                    let operator = self.pick(&["+", "-", "*", "/"]);
                    format!("({} {operator} {})", self.value(of, depth), self.value(of, depth))
                }
            },
            Type::Numeric => {
                let operator = self.pick(&["+", "-", "*", "%"]);
                format!("({} {operator} {})", self.value(of, depth), self.value(of, depth))
            }
            Type::Float => {
                let operator = self.pick(&["+", "-", "*", "/"]);
                format!("({} {operator} {})", self.value(of, depth), self.value(of, depth))
            }
            Type::Text => self.text_operation(depth),
            Type::Date => {
                let operator = self.pick(&["+", "-"]);
                format!("({} {operator} i2::int)", self.value(of, depth))
            }
            Type::Timestamp => {
                let operator = self.pick(&["+", "-"]);
                format!("({} {operator} {})", self.value(of, depth), self.leaf(Type::Interval))
            }
            Type::Interval => format!("({} - {})", self.leaf(Type::Timestamp), self.leaf(Type::Timestamp)),
            Type::Json => {
                let key = self.pick(&["'a'", "'b'", "0", "-1", "t"]);
                format!("({} -> {key})", self.value(of, depth))
            }
            Type::Bytewise => {
                let function = self.pick(&["greatest", "least"]);
                format!("{function}({}, {})", self.leaf(of), self.leaf(of))
            }
            Type::Uuid | Type::Mood => {
                let function = self.pick(&["greatest", "least"]);
                format!("{function}({}, {})", self.value(of, depth), self.value(of, depth))
            }
        }
    }

    fn text_operation(&mut self, depth: u32) -> String {
        let (text, other) = (self.value(Type::Text, depth), self.leaf(Type::Text));
        match self.random.random_range(0..9) {
            0 => format!("({text} || {other})"),
            1 => format!("left({text}, i4)"),
            2 => format!("right({text}, -1)"),
            3 => format!("split_part({text}, {other}, {})", self.pick(&["1", "2", "-1", "i2::int"])),
            4 => format!("replace({text}, {other}, 'x')"),
            5 => format!(
                "substr({text}, {}, {})",
                self.pick(&["0", "2", "i4", "-1"]),
                self.pick(&["1", "3", "i2::int"])
            ),
            6 => format!("btrim({text})"),
            7 => format!("lower({text})"),
            _ => format!("({} ->> {})", self.value(Type::Json, 0), self.pick(&["'a'", "'t'", "0", "-1"])),
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
        match self.random.random_range(0..3) {
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
            0 => (&["ai", "array[i4, i2::int]"], &["'{1,2}'::int[]", "'{}'::int[]", "array[42]", "ai"]),
            1 => (&["at", "array[t, v::text]"], &["array['a']", "array[t]", "'{NULL,x}'::text[]", "at"]),
            _ => (&["au"], &["array[auth.uid()]", "array[u]", "au"]),
        };
        let operator = self.pick(&["@>", "<@", "&&", "=", "<>"]);
        format!("({} {operator} {})", self.pick(arrays), self.pick(literals))
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
        ])
    }
}
