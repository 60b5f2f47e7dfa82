//! Random values: columns, literals and what is done to them.

use rand::RngExt as _;

use super::{Generator, Type};

impl Generator {
    pub(super) fn leaf(&mut self, of: Type) -> String {
        self.pick(match of {
            Type::Int => &[
                "i4",
                "i2",
                "i8",
                "0",
                "1",
                "2",
                "42",
                "-7",
                "2147483647",
                "null::int",
                "length(t)",
                "i4",
                "ai[1]",
                "ai[i2::int]",
                "array_position(ai, i4)",
                "array_upper(ai, 1)",
                "num_nulls(b, t, d)",
                "octet_length(v)",
                "extract(day from d)::int",
            ],
            Type::Numeric => &[
                "n",
                "0.00",
                "3.1",
                "-1.5",
                "100::numeric",
                "'NaN'::numeric",
                "1e20",
                "null::numeric",
                "i4::numeric",
                "extract(epoch from ts)",
                "extract(second from tm)",
                "n::numeric(6,2)",
            ],
            Type::Float => &[
                "f8",
                "f4::float8",
                "0.1::float8",
                "'NaN'::float8",
                "'-Infinity'::float8",
                "i4::float8",
                "1e300::float8",
                "date_part('epoch', ts)",
                "date_part('second', tm)",
                "date_part('epoch', iv)",
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
                "at[1]",
                "(js ->> 'a')",
                "(js #>> '{b,c,0}')",
                "d::text",
                "ts::text",
                "tz::text",
                "tm::text",
                "iv::text",
                "n::text",
                "t::varchar(3)::text",
                "v::char(4)::text",
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
            Type::Date => &[
                "d",
                "'2024-02-29'::date",
                "'infinity'::date",
                "ts::date",
                "tz::date",
                "current_date",
                "'0001-01-01'::date",
            ],
            Type::Timestamp => &[
                "ts",
                "'2024-02-29 12:30:00.5'::timestamp",
                "d::timestamp",
                "(tz at time zone 'utc')",
                "tz::timestamp",
                "localtimestamp",
                "(d + iv)",
                "(d + tm)",
            ],
            Type::Mood => &["m", "'ok'::public.mood", "'happy'::public.mood", "null::public.mood"],
            Type::Json => &[
                "j",
                "'1'::jsonb",
                "'{\"a\": 1}'::jsonb",
                "(j -> 'a')",
                "(j -> 'b')",
                "(j -> 0)",
                "'null'::jsonb",
                "to_jsonb(t)",
                "to_jsonb(n)",
                "to_jsonb(tz)",
                "jsonb_build_object('a', i4, 'b', t)",
                "jsonb_build_array(d, u, null, b)",
            ],
            Type::Interval => &[
                "iv",
                "'1 day'::interval",
                "'30 days'::interval",
                "'00:00:00'::interval",
                "'-1 mons'::interval",
                "tm::interval",
                "make_interval(days => i2::int)",
            ],
            Type::Zoned => &[
                "tz",
                "now()",
                "ts::timestamptz",
                "d::timestamptz",
                "'2024-02-29 12:30:00+02'::timestamptz",
                "to_timestamp(i4)",
                "null::timestamptz",
            ],
            Type::Clock => &["tm", "'12:30'::time", "ts::time", "tz::time", "localtime", "iv::time"],
        })
    }

    pub(super) fn operation(&mut self, of: Type, depth: u32) -> String {
        match of {
            Type::Int => match self.random.random_range(0..9) {
                0 => format!("abs({})", self.value(of, depth)),
                1 => format!("(- {})", self.value(of, depth)),
                2 => format!("length({})", self.value(Type::Text, depth)),
                3 => format!("({})::int", self.value(Type::Numeric, 0)),
                4 => format!("(~ {})", self.value(of, depth)),
                5 => {
                    let operator = self.pick(&["&", "|", "#", "%"]);
                    format!("(i4 {operator} {})", self.pick(&["i4", "i2::int", "1", "-7", "length(t)"]))
                }
                _ => {
                    let operator = self.pick(&["+", "-", "*", "/"]);
                    format!("({} {operator} {})", self.value(of, depth), self.value(of, depth))
                }
            },
            Type::Numeric => match self.random.random_range(0..6) {
                0 => {
                    let function = self.pick(&["ceil", "floor", "round", "trunc", "sign", "abs"]);
                    format!("{function}({})", self.value(of, depth))
                }
                1 => {
                    let function = self.pick(&["round", "trunc"]);
                    let digits = self.pick(&["0", "1", "3", "-1", "i2::int"]);
                    format!("{function}({}, {digits})", self.value(of, depth))
                }
                2 => format!(
                    "{}::numeric({})",
                    self.value(of, depth),
                    self.pick(&["5,2", "10", "30,10", "3,-1", "2,2"])
                ),
                _ => {
                    let operator = self.pick(&["+", "-", "*", "%", "/"]);
                    format!("({} {operator} {})", self.value(of, depth), self.value(of, depth))
                }
            },
            Type::Float if self.random.random_range(0..3) == 0 => {
                let function = self.pick(&["ceil", "floor", "round", "trunc", "sign", "abs"]);
                format!("{function}({})", self.value(of, depth))
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
            Type::Timestamp | Type::Zoned => {
                let moment = self.value(of, depth);
                if self.random.random_range(0..2) == 0 {
                    let unit =
                        self.pick(&["second", "minute", "hour", "day", "week", "month", "quarter", "year"]);
                    return format!("date_trunc('{unit}', {moment})");
                }
                let operator = self.pick(&["+", "-"]);
                format!("({moment} {operator} {})", self.value(Type::Interval, depth))
            }
            Type::Clock => {
                let operator = self.pick(&["+", "-"]);
                format!("({} {operator} {})", self.value(of, depth), self.value(Type::Interval, depth))
            }
            Type::Interval => match self.random.random_range(0..6) {
                0 => format!("({} - {})", self.leaf(Type::Timestamp), self.leaf(Type::Timestamp)),
                1 => format!("({} - {})", self.leaf(Type::Zoned), self.leaf(Type::Zoned)),
                2 => format!("({} - {})", self.leaf(Type::Clock), self.leaf(Type::Clock)),
                3 => format!("(- {})", self.value(of, depth)),
                4 => format!("({} * {})", self.value(of, depth), self.pick(&["2", "i2", "-1", "0.5"])),
                _ => {
                    let operator = self.pick(&["+", "-"]);
                    format!("({} {operator} {})", self.value(of, depth), self.value(of, depth))
                }
            },
            Type::Json => match self.random.random_range(0..5) {
                0 => format!("({} || {})", self.value(of, depth), self.value(of, depth)),
                1 => format!("({} - {})", self.value(of, depth), self.pick(&["'a'", "'b'::text", "0", "-1"])),
                _ => {
                    let key = self.pick(&["'a'", "'b'", "0", "-1", "t"]);
                    format!("({} -> {key})", self.value(of, depth))
                }
            },
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
        match self.random.random_range(0..17) {
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
            8 => format!("{}({text}, {other})", self.pick(&["btrim", "ltrim", "rtrim"])),
            9 => format!(
                "{}({text}, {}, {other})",
                self.pick(&["lpad", "rpad"]),
                self.pick(&["7", "0", "i2::int", "-1"])
            ),
            10 => format!("reverse({text})"),
            11 => {
                format!("concat({text}, {}, {other})", self.pick(&["i4", "b", "m", "tz", "c", "j", "null"]))
            }
            12 => format!(
                "concat_ws({}, {text}, {})",
                self.pick(&["','", "''"]),
                self.pick(&["i8", "d", "iv", "u", "null::text"])
            ),
            13 => format!(
                "array_to_string({}, {other})",
                self.pick(&["at", "ai", "am", "au", "(at || t)", "string_to_array(v, 'o')"])
            ),
            14 => format!("({text} || {})", self.pick(&["i4", "b", "n", "u", "m", "d", "ts"])),
            15 => format!("({})::text", self.value(Type::Numeric, depth)),
            _ => format!("({} ->> {})", self.value(Type::Json, 0), self.pick(&["'a'", "'t'", "0", "-1"])),
        }
    }
}
