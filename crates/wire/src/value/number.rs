//! Numbers: digits go out as they came, exponents are written out as `jsonb` does.

/// Exponents up to this are written out; `float8` has 323 at most. Larger ones stay as they are.
const EXPONENT_WRITTEN_OUT_MAX: usize = 400;

/// Appends a number, or null for NaN and the infinities, which JSON has no words for.
pub(super) fn encode(text: &str, out: &mut Vec<u8>) -> bool {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        out.extend_from_slice(b"null");
        return true;
    }
    let Some(number) = Number::parse(text) else {
        return false;
    };
    // There is no negative zero in `numeric`, nor in `jsonb`.
    if number.negative && !number.is_zero() {
        out.push(b'-');
    }
    match number.exponent {
        None => out.extend_from_slice(number.mantissa.as_bytes()),
        Some(exponent) if exponent.unsigned_abs() > EXPONENT_WRITTEN_OUT_MAX => {
            out.extend_from_slice(text.trim_start_matches('-').as_bytes());
        }
        Some(exponent) => number.write_out(exponent, out),
    }
    true
}

/// A number taken apart by the grammar of RFC 8259 §6, which PostgreSQL's output keeps to.
struct Number<'a> {
    negative: bool,
    /// Digits with at most one point.
    mantissa: &'a str,
    exponent: Option<isize>,
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix('-');
        let negative = unsigned.is_some();
        let unsigned = unsigned.unwrap_or(text);
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            None => (unsigned, None),
            Some(at) => (&unsigned[..at], Some(parse_exponent(&unsigned[at + 1..])?)),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            None => (mantissa, None),
            Some((whole, fraction)) => (whole, Some(fraction)),
        };
        let well_formed = are_digits(whole)
            && fraction.is_none_or(are_digits)
            && (whole.len() == 1 || !whole.starts_with('0'));
        well_formed.then_some(Number { negative, mantissa, exponent })
    }

    fn is_zero(&self) -> bool {
        self.mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'))
    }

    /// The number without its exponent: the point moves, zeros fill the gap.
    fn write_out(&self, exponent: isize, out: &mut Vec<u8>) {
        let whole_length = self.mantissa.find('.').unwrap_or(self.mantissa.len());
        let all = self.mantissa.bytes().filter(|&byte| byte != b'.');
        let leading_zeros = all.clone().take_while(|&digit| digit == b'0').count();
        let digits: Vec<u8> = all.skip(leading_zeros).collect();
        if digits.is_empty() {
            out.push(b'0');
            return;
        }
        let point = whole_length.cast_signed() - leading_zeros.cast_signed() + exponent;
        match usize::try_from(point) {
            Ok(point) if point >= digits.len() => {
                out.extend_from_slice(&digits);
                out.resize(out.len() + point - digits.len(), b'0');
            }
            Ok(point) if point > 0 => {
                out.extend_from_slice(&digits[..point]);
                out.push(b'.');
                out.extend_from_slice(&digits[point..]);
            }
            _ => {
                out.extend_from_slice(b"0.");
                out.resize(out.len() + point.unsigned_abs(), b'0');
                out.extend_from_slice(&digits);
            }
        }
    }
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_exponent(text: &str) -> Option<isize> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !are_digits(digits) {
        return None;
    }
    let size = digits.parse::<isize>().unwrap_or(isize::MAX);
    Some(if text.starts_with('-') { -size } else { size })
}
