//! Rounding and division of numerics.

use std::cmp::Ordering;

use crate::numeric::{Numeric, power_of_ten, small};

/// Which way a fraction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rounding {
    Up,
    Down,
    /// Halves go away from zero; those of floats to the even neighbour.
    Nearest,
    TowardZero,
}

/// The significant digits that a quotient has at least.
const QUOTIENT_DIGITS: i64 = 16;
/// Digits are stored four by four.
const GROUP: i64 = 4;

impl Rounding {
    pub(crate) fn of_float(self, value: f64) -> f64 {
        match self {
            Rounding::Up => value.ceil(),
            Rounding::Down => value.floor(),
            Rounding::Nearest => value.round_ties_even(),
            Rounding::TowardZero => value.trunc(),
        }
    }

    /// `mantissa / unit`, whole.
    fn quotient(self, mantissa: i128, unit: i128) -> i128 {
        let (whole, rest) = (mantissa / unit, mantissa % unit);
        let away = match self {
            Rounding::TowardZero => false,
            Rounding::Up => rest > 0,
            Rounding::Down => rest < 0,
            Rounding::Nearest => rest.unsigned_abs() >= unit.unsigned_abs().div_ceil(2),
        };
        whole + if away { rest.signum() } else { 0 }
    }
}

impl Numeric {
    /// Rounded to so many digits after the point, before it where negative; `None` beyond what is exact here.
    pub(crate) fn rounded(&self, rounding: Rounding, digits: i64) -> Option<Numeric> {
        let (mantissa, scale) = match self {
            Numeric::Small { mantissa, scale } => (*mantissa, *scale),
            Numeric::Large(_) => return None,
            special => return Some(special.clone()),
        };
        let surplus = i64::from(scale) - digits;
        let displayed = u32::try_from(digits.max(0)).ok()?;
        if surplus <= 0 {
            let unit = power_of_ten(u32::try_from(-surplus).ok()?)?;
            return small(mantissa.checked_mul(unit)?, displayed);
        }
        // Further left than any digit is: nothing remains.
        let Some(unit) = u32::try_from(surplus).ok().and_then(power_of_ten) else {
            return (rounding != Rounding::Up && rounding != Rounding::Down)
                .then_some(Numeric::Small { mantissa: 0, scale: displayed });
        };
        let quotient = rounding.quotient(mantissa, unit);
        let restored = if digits < 0 { power_of_ten(u32::try_from(-digits).ok()?) } else { Some(1) };
        match restored {
            Some(unit) => small(quotient.checked_mul(unit)?, displayed),
            None => (quotient == 0).then_some(Numeric::Small { mantissa: 0, scale: displayed }),
        }
    }

    /// `sign(numeric)`.
    pub(crate) fn sign(&self) -> Numeric {
        if *self == Numeric::NaN {
            return Numeric::NaN;
        }
        Numeric::from(match self.compare(&Numeric::from(0)) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        })
    }

    /// Whether a finite number is closer to zero than `10^exponent`; `None` beyond what is exact here.
    pub(crate) fn is_below_power_of_ten(&self, exponent: i64) -> Option<bool> {
        let Numeric::Small { mantissa, scale } = self else { return None };
        let exponent = exponent + i64::from(*scale);
        if exponent < 0 {
            return Some(*mantissa == 0);
        }
        // No small mantissa has so many digits.
        let Some(limit) = u32::try_from(exponent).ok().and_then(power_of_ten) else { return Some(true) };
        Some(mantissa.unsigned_abs() < limit.unsigned_abs())
    }

    /// The quotient, for a divisor that is not zero, with as many digits as PostgreSQL computes
    /// (`select_div_scale` in its `numeric.c`); `None` beyond what is exact here.
    pub(crate) fn divide(&self, other: &Numeric) -> Option<Numeric> {
        let (
            Numeric::Small { mantissa: left, scale: left_scale },
            Numeric::Small { mantissa: right, scale: right_scale },
        ) = (self, other)
        else {
            return None;
        };
        let (left_weight, left_first) = first_group(*left, *left_scale)?;
        let (right_weight, right_first) = first_group(*right, *right_scale)?;
        let weight = left_weight - right_weight - i64::from(left_first <= right_first);
        let scale =
            (QUOTIENT_DIGITS - weight * GROUP).max(i64::from(*left_scale)).max(i64::from(*right_scale));
        let shift = scale + i64::from(*right_scale) - i64::from(*left_scale);
        let dividend = left.checked_mul(power_of_ten(u32::try_from(shift).ok()?)?)?;
        // The sign belongs to the dividend, for the rounding to look at.
        let (dividend, divisor) = if *right < 0 { (-dividend, -*right) } else { (dividend, *right) };
        small(Rounding::Nearest.quotient(dividend, divisor), u32::try_from(scale).ok()?)
    }
}

/// The place of the first group of four digits that is not zero, counted from the point, and that group.
fn first_group(mantissa: i128, scale: u32) -> Option<(i64, i128)> {
    if mantissa == 0 {
        return Some((0, 0));
    }
    let scale = i64::from(scale);
    let magnitude = mantissa.checked_abs()?;
    let digits = i64::from(magnitude.ilog10()) + 1;
    // The first digit stands for 10^(digits - 1 - scale).
    let weight = (digits - 1 - scale).div_euclid(GROUP);
    let dropped = weight * GROUP + scale;
    let first = if dropped >= 0 {
        magnitude / power_of_ten(u32::try_from(dropped).ok()?)?
    } else {
        magnitude * power_of_ten(u32::try_from(-dropped).ok()?)?
    };
    Some((weight, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(text: &str) -> Numeric {
        Numeric::read(text).unwrap()
    }

    #[test]
    fn rounding_keeps_the_scale_that_was_asked_for() {
        for (given, rounding, digits, expected) in [
            ("2.5", Rounding::Nearest, 0, "3"),
            ("-2.5", Rounding::Nearest, 0, "-3"),
            ("2.449", Rounding::Nearest, 1, "2.4"),
            ("3.1", Rounding::Nearest, 3, "3.100"),
            ("155", Rounding::Nearest, -1, "160"),
            ("155", Rounding::Nearest, -3, "0"),
            ("555", Rounding::Nearest, -3, "1000"),
            ("-155.9", Rounding::TowardZero, -1, "-150"),
            ("155", Rounding::Nearest, -60, "0"),
            ("-0.5", Rounding::Up, 0, "0"),
            ("-0.5", Rounding::Down, 0, "-1"),
            ("0.1", Rounding::Up, 0, "1"),
        ] {
            let rounded = numeric(given).rounded(rounding, digits).map(|rounded| rounded.to_text());
            assert_eq!(rounded.as_deref(), Some(expected), "{given} to {digits}");
        }
        assert_eq!(Numeric::NaN.rounded(Rounding::Up, 0), Some(Numeric::NaN));
        assert_eq!(numeric("1").rounded(Rounding::Nearest, 40), None);
    }

    #[test]
    fn quotients_have_the_digits_that_postgres_gives_them() {
        for (left, right, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("10", "4", "2.5000000000000000"),
            ("3.10", "3", "1.03333333333333333333"),
            ("3.10", "2", "1.5500000000000000"),
            ("2", "-3", "-0.66666666666666666667"),
            ("100000", "7", "14285.714285714286"),
            ("0.00", "5", "0.00000000000000000000"),
        ] {
            let divided = numeric(left).divide(&numeric(right)).map(|quotient| quotient.to_text());
            assert_eq!(divided.as_deref(), Some(quotient), "{left} / {right}");
        }
    }

    #[test]
    fn a_number_fits_below_a_power_of_ten_or_not() {
        assert_eq!(numeric("99.9").is_below_power_of_ten(2), Some(true));
        assert_eq!(numeric("100.0").is_below_power_of_ten(2), Some(false));
        assert_eq!(numeric("0.01").is_below_power_of_ten(-1), Some(true));
        assert_eq!(numeric("0.1").is_below_power_of_ten(-1), Some(false));
        assert_eq!(numeric("0").is_below_power_of_ten(-60), Some(true));
    }
}
