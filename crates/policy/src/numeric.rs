//! PostgreSQL's `numeric`: exact decimals with a display scale (PostgreSQL docs, "Arbitrary Precision Numbers").
//!
//! Comparison and text are exact for any length. Arithmetic is done only where the result fits 38 digits;
//! the functions return `None` otherwise, and the caller leaves the expression to PostgreSQL.

mod rounding;

use std::cmp::Ordering;

pub(crate) use self::rounding::Rounding;

/// A `numeric`. Derived equality is of representation (`1.0` and `1` differ); for SQL's see [`Numeric::compare`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Numeric {
    NegativeInfinity,
    /// `mantissa / 10^scale`, at most 38 digits, scale at most 38.
    Small {
        mantissa: i128,
        scale: u32,
    },
    /// Everything finite beyond that.
    Large(Box<Digits>),
    Infinity,
    NaN,
}

/// Decimal digits around the point; the integer part has no leading zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digits {
    negative: bool,
    integer: String,
    fraction: String,
}

/// Why text is no value that we read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// PostgreSQL refuses it too, with this message.
    Invalid(String),
    /// PostgreSQL may understand it, depending on its version or settings.
    Unsure,
}

/// The longest mantissa, in decimal digits, that [`Numeric::Small`] holds.
const SMALL_DIGITS: usize = 38;
/// Exponents beyond this are left to PostgreSQL, which has its own limits.
const EXPONENT_MAX: i64 = 400;
/// Fractions longer than this are left to PostgreSQL (its limit is 16,383 digits).
const FRACTION_MAX: usize = 4_000;

impl Numeric {
    /// Reads what `numeric_in` reads, without the forms that came with PostgreSQL 16 (`0x1F`, `1_000`).
    pub(crate) fn read(text: &str) -> Result<Numeric, Unreadable> {
        let trimmed = text.trim_matches(is_space);
        let invalid = || Unreadable::Invalid(format!("invalid input syntax for type numeric: \"{text}\""));
        let (negative, unsigned) = match trimmed.as_bytes().first() {
            Some(b'-') => (true, &trimmed[1..]),
            Some(b'+') => (false, &trimmed[1..]),
            _ => (false, trimmed),
        };
        if unsigned.eq_ignore_ascii_case("infinity") || unsigned.eq_ignore_ascii_case("inf") {
            return Ok(if negative { Numeric::NegativeInfinity } else { Numeric::Infinity });
        }
        if trimmed.eq_ignore_ascii_case("nan") {
            return Ok(Numeric::NaN);
        }
        let Some((integer, fraction, exponent)) = split(unsigned) else {
            let newer = unsigned.contains('_') || has_radix_prefix(unsigned);
            return Err(if newer { Unreadable::Unsure } else { invalid() });
        };
        if exponent.abs() > EXPONENT_MAX || fraction.len() > FRACTION_MAX {
            return Err(Unreadable::Unsure);
        }
        Ok(Numeric::from_parts(negative, integer, fraction, exponent))
    }

    fn from_parts(negative: bool, integer: &str, fraction: &str, exponent: i64) -> Numeric {
        let mut integer = integer.to_owned();
        let mut fraction = fraction.to_owned();
        for _ in 0..exponent {
            integer.push(if fraction.is_empty() { '0' } else { fraction.remove(0) });
        }
        for _ in exponent..0 {
            fraction.insert(0, integer.pop().unwrap_or('0'));
        }
        let integer = integer.trim_start_matches('0').to_owned();
        if integer.len() + fraction.len() <= SMALL_DIGITS {
            let digits = integer.bytes().chain(fraction.bytes());
            let magnitude = digits.fold(0i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
            let mantissa = if negative { -magnitude } else { magnitude };
            return Numeric::Small { mantissa, scale: u32::try_from(fraction.len()).unwrap_or(0) };
        }
        let zero = integer.is_empty() && fraction.bytes().all(|digit| digit == b'0');
        Numeric::Large(Box::new(Digits { negative: negative && !zero, integer, fraction }))
    }

    /// As SQL compares: NaN equals NaN and is above everything, trailing zeros do not count.
    pub(crate) fn compare(&self, other: &Numeric) -> Ordering {
        if let (
            Numeric::Small { mantissa: left, scale: left_scale },
            Numeric::Small { mantissa: right, scale: right_scale },
        ) = (self, other)
        {
            return compare_small(*left, *left_scale, *right, *right_scale);
        }
        self.rank().cmp(&other.rank()).then_with(|| match (self.digits(), other.digits()) {
            (Some(left), Some(right)) => compare_digits(&left, &right),
            _ => Ordering::Equal,
        })
    }

    /// What `numeric_out` prints: all digits of the scale.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Numeric::NegativeInfinity => "-Infinity".to_owned(),
            Numeric::Infinity => "Infinity".to_owned(),
            Numeric::NaN => "NaN".to_owned(),
            Numeric::Small { .. } | Numeric::Large(_) => {
                self.digits().map_or_else(String::new, |digits| digits.to_text())
            }
        }
    }

    /// Rounded to a whole number, halves away from zero; `None` when not finite or beyond `i64`.
    pub(crate) fn to_integer(&self) -> Option<i64> {
        let digits = self.digits()?;
        let magnitude = if digits.integer.is_empty() { 0 } else { digits.integer.parse::<i128>().ok()? };
        let up = digits.fraction.as_bytes().first().is_some_and(|digit| *digit >= b'5');
        let rounded = magnitude + i128::from(up);
        i64::try_from(if digits.negative { -rounded } else { rounded }).ok()
    }

    /// Whether it is neither infinite nor NaN.
    pub(crate) fn is_finite(&self) -> bool {
        matches!(self, Numeric::Small { .. } | Numeric::Large(_))
    }

    /// Whether it equals zero.
    pub(crate) fn is_zero(&self) -> bool {
        self.compare(&Numeric::from(0)) == Ordering::Equal
    }

    pub(crate) fn negate(&self) -> Numeric {
        match self {
            Numeric::NegativeInfinity => Numeric::Infinity,
            Numeric::Infinity => Numeric::NegativeInfinity,
            Numeric::NaN => Numeric::NaN,
            Numeric::Small { mantissa, scale } => Numeric::Small { mantissa: -mantissa, scale: *scale },
            Numeric::Large(digits) => {
                let zero = self.is_zero();
                let mut negated = digits.clone();
                negated.negative = !digits.negative && !zero;
                Numeric::Large(negated)
            }
        }
    }

    pub(crate) fn absolute(&self) -> Numeric {
        if self.compare(&Numeric::from(0)) == Ordering::Less { self.negate() } else { self.clone() }
    }

    /// The sum; `None` beyond what is exact here.
    pub(crate) fn add(&self, other: &Numeric) -> Option<Numeric> {
        let (left, right, scale) = aligned(self, other)?;
        small(left.checked_add(right)?, scale)
    }

    /// The difference; `None` beyond what is exact here.
    pub(crate) fn subtract(&self, other: &Numeric) -> Option<Numeric> {
        let (left, right, scale) = aligned(self, other)?;
        small(left.checked_sub(right)?, scale)
    }

    /// The product; `None` beyond what is exact here.
    pub(crate) fn multiply(&self, other: &Numeric) -> Option<Numeric> {
        let (
            Numeric::Small { mantissa: left, scale: left_scale },
            Numeric::Small { mantissa: right, scale: right_scale },
        ) = (self, other)
        else {
            return None;
        };
        small(left.checked_mul(*right)?, left_scale + right_scale)
    }

    /// The remainder with the sign of the dividend, for a divisor that is not zero; `None` beyond what is exact here.
    pub(crate) fn remainder(&self, other: &Numeric) -> Option<Numeric> {
        let (left, right, scale) = aligned(self, other)?;
        small(left.checked_rem(right)?, scale)
    }

    fn rank(&self) -> u8 {
        match self {
            Numeric::NegativeInfinity => 0,
            Numeric::Small { .. } | Numeric::Large(_) => 1,
            Numeric::Infinity => 2,
            Numeric::NaN => 3,
        }
    }

    fn digits(&self) -> Option<Digits> {
        match self {
            Numeric::Small { mantissa, scale } => {
                let scale = *scale as usize;
                let all = format!("{:0>width$}", mantissa.unsigned_abs(), width = scale);
                let (integer, fraction) = all.split_at(all.len() - scale);
                Some(Digits {
                    negative: *mantissa < 0,
                    integer: integer.trim_start_matches('0').to_owned(),
                    fraction: fraction.to_owned(),
                })
            }
            Numeric::Large(digits) => Some((**digits).clone()),
            Numeric::NegativeInfinity | Numeric::Infinity | Numeric::NaN => None,
        }
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        Numeric::Small { mantissa: i128::from(value), scale: 0 }
    }
}

impl Digits {
    fn to_text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let integer = if self.integer.is_empty() { "0" } else { &self.integer };
        let point = if self.fraction.is_empty() { "" } else { "." };
        format!("{sign}{integer}{point}{}", self.fraction)
    }
}

/// What PostgreSQL's input functions skip around a value (C's `isspace` in the C locale).
pub(crate) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Whether digits begin as hexadecimal, octal or binary ones do, which PostgreSQL 16 learned to read.
pub(crate) fn has_radix_prefix(unsigned: &str) -> bool {
    let mut characters = unsigned.chars().map(|character| character.to_ascii_lowercase());
    characters.next() == Some('0') && matches!(characters.next(), Some('x' | 'o' | 'b'))
}

/// Digits before the point, after it, and the exponent.
fn split(unsigned: &str) -> Option<(&str, &str, i64)> {
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], exponent(&unsigned[at + 1..])?),
        None => (unsigned, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let some = !(integer.is_empty() && fraction.is_empty());
    (some && digits(integer) && digits(fraction)).then_some((integer, fraction, exponent))
}

fn exponent(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Too many digits for an i64 is beyond every limit too.
    Some(text.parse().unwrap_or(i64::MAX))
}

fn power_of_ten(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

fn small(mantissa: i128, scale: u32) -> Option<Numeric> {
    let limit = power_of_ten(38)?;
    (mantissa.unsigned_abs() < limit.unsigned_abs() && scale <= 38)
        .then_some(Numeric::Small { mantissa, scale })
}

fn aligned(left: &Numeric, right: &Numeric) -> Option<(i128, i128, u32)> {
    let (
        Numeric::Small { mantissa: left, scale: left_scale },
        Numeric::Small { mantissa: right, scale: right_scale },
    ) = (left, right)
    else {
        return None;
    };
    let scale = *left_scale.max(right_scale);
    let left = left.checked_mul(power_of_ten(scale - left_scale)?)?;
    let right = right.checked_mul(power_of_ten(scale - right_scale)?)?;
    Some((left, right, scale))
}

fn compare_small(left: i128, left_scale: u32, right: i128, right_scale: u32) -> Ordering {
    if left_scale == right_scale {
        return left.cmp(&right);
    }
    // Scales are at most 38, and a remainder scaled up stays below 10^38, so nothing here overflows.
    let part = |value: i128, scale: u32, common: u32| {
        let unit = 10i128.pow(scale);
        (value / unit, value % unit * 10i128.pow(common - scale))
    };
    let common = left_scale.max(right_scale);
    part(left, left_scale, common).cmp(&part(right, right_scale, common))
}

fn compare_digits(left: &Digits, right: &Digits) -> Ordering {
    let magnitude = |left: &Digits, right: &Digits| {
        left.integer
            .len()
            .cmp(&right.integer.len())
            .then_with(|| left.integer.cmp(&right.integer))
            .then_with(|| left.fraction.trim_end_matches('0').cmp(right.fraction.trim_end_matches('0')))
    };
    match (left.negative, right.negative) {
        (false, false) => magnitude(left, right),
        (true, true) => magnitude(right, left),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    fn numeric(text: &str) -> Numeric {
        Numeric::read(text).unwrap()
    }

    #[test]
    fn text_is_printed_with_all_digits_of_its_scale() {
        for (given, printed) in [
            ("1.50", "1.50"),
            ("  +007 ", "7"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.00", "0.00"),
            ("1e5", "100000"),
            ("1.25e-3", "0.00125"),
            ("1.25e1", "12.5"),
            ("123456789012345678901234567890123456789.10", "123456789012345678901234567890123456789.10"),
            ("nan", "NaN"),
            ("-inf", "-Infinity"),
        ] {
            assert_eq!(numeric(given).to_text(), printed, "{given}");
        }
    }

    #[test]
    fn what_newer_versions_may_read_is_left_open_and_the_rest_refused() {
        assert_eq!(Numeric::read("0x1F"), Err(Unreadable::Unsure));
        assert_eq!(Numeric::read("1_000"), Err(Unreadable::Unsure));
        assert_eq!(Numeric::read("1e9999999999999999999999"), Err(Unreadable::Unsure));
        for wrong in ["", " ", "-", "1.2.3", "1e", "e5", ".", "abc", "1 2", "--1"] {
            assert!(matches!(Numeric::read(wrong), Err(Unreadable::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn order_has_infinities_outside_and_nan_on_top() {
        let long = "9".repeat(60);
        let ascending =
            ["-Infinity", "-1e50", "-2.5", "-0.1", "0.000", "0.01", "7", &long, "Infinity", "NaN"];
        for (left_at, left) in ascending.iter().enumerate() {
            for (right_at, right) in ascending.iter().enumerate() {
                assert_eq!(numeric(left).compare(&numeric(right)), left_at.cmp(&right_at), "{left} {right}");
            }
        }
        assert_eq!(numeric("1.0").compare(&numeric("1")), Ordering::Equal);
    }

    #[test]
    fn rounding_to_an_integer_takes_halves_away_from_zero() {
        for (given, rounded) in [("2.5", 3), ("-2.5", -3), ("2.49", 2), ("-0.5", -1), ("0.4999", 0)] {
            assert_eq!(numeric(given).to_integer(), Some(rounded), "{given}");
        }
        assert_eq!(numeric("9223372036854775807.5").to_integer(), None);
        assert_eq!(numeric("NaN").to_integer(), None);
    }

    #[test]
    fn arithmetic_keeps_the_scale_and_gives_up_rather_than_round() {
        assert_eq!(numeric("1.10").add(&numeric("2.2")).unwrap().to_text(), "3.30");
        assert_eq!(numeric("1.10").multiply(&numeric("2.0")).unwrap().to_text(), "2.200");
        assert_eq!(numeric("-7.5").remainder(&numeric("2")).unwrap().to_text(), "-1.5");
        let huge = numeric(&"9".repeat(38));
        assert_eq!(huge.add(&numeric("1")), None);
        assert_eq!(huge.multiply(&huge), None);
    }

    proptest! {
        #[test]
        fn comparison_and_sums_agree_with_an_independent_decimal(
            left in -1_000_000_000i64..1_000_000_000, left_scale in 0u32..8,
            right in -1_000_000_000i64..1_000_000_000, right_scale in 0u32..8,
        ) {
            let (left, right) = (Decimal::new(left, left_scale), Decimal::new(right, right_scale));
            let (ours_left, ours_right) = (numeric(&left.to_string()), numeric(&right.to_string()));
            prop_assert_eq!(ours_left.compare(&ours_right), left.cmp(&right));
            let sum = numeric(&(left + right).to_string());
            prop_assert_eq!(ours_left.add(&ours_right).unwrap().compare(&sum), Ordering::Equal);
            let product = numeric(&(left * right).to_string());
            prop_assert_eq!(ours_left.multiply(&ours_right).unwrap().compare(&product), Ordering::Equal);
        }

        #[test]
        fn reading_never_panics(text in "[-+0-9.eE_x ]{0,50}") {
            let _ = Numeric::read(&text);
        }
    }
}
