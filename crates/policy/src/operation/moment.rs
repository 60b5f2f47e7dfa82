//! Operations on dates, times and intervals. Our sessions have `TimeZone` UTC, where every day has 24 hours, so
//! `timestamptz` is computed with as `timestamp` is.

use crate::datetime::{self, Field, Interval, Part};
use crate::numeric::Numeric;
use crate::operation::{Operands, Stop};
use crate::value::{Float, Value};

/// A strict operation on moments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// `date + integer`.
    AddDays,
    /// `date - integer`.
    SubtractDays,
    /// `date - date`.
    DaysBetween,
    /// `timestamp + interval`; `zoned` for `timestamptz`. Also `date + interval` and `date + time`, which
    /// convert the date only where the other is not NULL.
    AddInterval {
        zoned: bool,
    },
    /// `timestamp - interval`.
    SubtractInterval {
        zoned: bool,
    },
    /// `timestamp - timestamp`.
    TimeBetween,
    /// `time + interval`.
    AddToTime,
    /// `time - interval`.
    SubtractFromTime,
    /// `time - time`.
    ClockBetween,
    /// `interval + interval`.
    AddIntervals,
    /// `interval - interval`.
    SubtractIntervals,
    /// `- interval`.
    NegateInterval,
    /// `interval * double precision`.
    MultiplyInterval,
    /// `EXTRACT(field FROM …)`.
    Extract {
        field: Field,
        zoned: bool,
    },
    /// `date_part(field, …)`.
    Part {
        field: Field,
        zoned: bool,
    },
    /// `date_trunc(field, timestamp)`.
    Truncate {
        field: Field,
        zoned: bool,
    },
    IsFinite,
    /// `to_timestamp(double precision)`.
    FromEpoch,
    /// `make_interval(days => …, hours => …, mins => …)`.
    MakeInterval,
}

impl Moment {
    pub(super) fn may_ask(&self) -> bool {
        match self {
            // Infinities: an error before PostgreSQL 17, an infinity since.
            Moment::DaysBetween | Moment::TimeBetween | Moment::MultiplyInterval => true,
            _ => false,
        }
    }

    pub(super) fn may_fail(&self) -> bool {
        !matches!(
            self,
            Moment::ClockBetween
                | Moment::Extract { .. }
                | Moment::Part { .. }
                | Moment::IsFinite
                | Moment::MakeInterval
        )
    }

    /// Whether PostgreSQL calls it stable, for the time zone that it could depend on.
    pub(super) fn is_stable(&self) -> bool {
        match self {
            Moment::AddInterval { zoned }
            | Moment::SubtractInterval { zoned }
            | Moment::Extract { zoned, .. }
            | Moment::Part { zoned, .. }
            | Moment::Truncate { zoned, .. } => *zoned,
            _ => false,
        }
    }

    pub(super) fn apply<'a>(&self, operands: &Operands<'_>) -> Result<Option<Value<'a>>, Stop> {
        match operands.as_slice() {
            [one] => self.of_one(one),
            [left, right] => self.of_two(left, right).map(Some),
            [Value::Int(days), Value::Int(hours), Value::Int(minutes)] if *self == Moment::MakeInterval => {
                let days = i32::try_from(*days).map_err(|_| Stop::Ask)?;
                let microseconds = (hours * 60 + minutes).checked_mul(60_000_000).ok_or(Stop::Ask)?;
                Ok(Some(Value::Interval(Interval { months: 0, days, microseconds })))
            }
            _ => Err(Stop::Ask),
        }
    }

    fn of_one<'a>(&self, operand: &Value<'_>) -> Result<Option<Value<'a>>, Stop> {
        Ok(Some(match (self, operand) {
            (Moment::NegateInterval, Value::Interval(interval)) => {
                interval.negate().map(Value::Interval).ok_or_else(|| out_of_range("interval"))?
            }
            (Moment::IsFinite, Value::Date(date)) => Value::Bool(datetime::is_finite_date(*date)),
            (Moment::IsFinite, Value::Timestamp(timestamp)) => {
                Value::Bool(datetime::is_finite_timestamp(*timestamp))
            }
            (Moment::FromEpoch, Value::Float(Float(seconds))) => {
                if seconds.is_nan() {
                    return Err(Stop::Failed("timestamp cannot be NaN".to_owned()));
                }
                datetime::from_epoch(*seconds)
                    .map(Value::Timestamp)
                    .ok_or_else(|| Stop::Failed(format!("timestamp out of range: \"{seconds}\"")))?
            }
            (Moment::Truncate { field, .. }, Value::Timestamp(timestamp)) => {
                datetime::truncate(*field, *timestamp)
                    .map(Value::Timestamp)
                    .ok_or_else(|| out_of_range("timestamp"))?
            }
            (Moment::Extract { field, .. }, moment) => match part(*field, moment)? {
                Part::Nothing => return Ok(None),
                Part::Infinity { negative: true } => Value::Numeric(Numeric::NegativeInfinity),
                Part::Infinity { negative: false } => Value::Numeric(Numeric::Infinity),
                Part::Number { mantissa, scale } => Value::Numeric(Numeric::Small { mantissa, scale }),
            },
            (Moment::Part { field, .. }, moment) => {
                let interval = match moment {
                    Value::Interval(interval) => Some(*interval),
                    _ => None,
                };
                let float = part(*field, moment)?.to_float(*field, interval);
                return Ok(float.map(|float| Value::Float(Float(float))));
            }
            _ => return Err(Stop::Ask),
        }))
    }

    fn of_two<'a>(&self, first: &Value<'_>, second: &Value<'_>) -> Result<Value<'a>, Stop> {
        let interval =
            |sum: Option<Interval>| sum.map(Value::Interval).ok_or_else(|| out_of_range("interval"));
        match (self, first, second) {
            (Moment::AddDays, Value::Date(date), Value::Int(days)) => {
                datetime::add_days(*date, *days).map(Value::Date).ok_or_else(|| out_of_range("date"))
            }
            (Moment::SubtractDays, Value::Date(date), Value::Int(days)) => {
                datetime::add_days(*date, -*days).map(Value::Date).ok_or_else(|| out_of_range("date"))
            }
            (Moment::DaysBetween, Value::Date(left), Value::Date(right)) => {
                datetime::subtract_dates(*left, *right).map(Value::Int).ok_or(Stop::Ask)
            }
            (Moment::TimeBetween, Value::Timestamp(left), Value::Timestamp(right)) => {
                datetime::subtract_timestamps(*left, *right).map(Value::Interval).ok_or(Stop::Ask)
            }
            (Moment::AddInterval { .. }, moment, Value::Interval(interval)) => {
                moved(timestamp(moment)?, Some(*interval))
            }
            (Moment::AddInterval { .. }, moment, Value::Time(microseconds)) => {
                let interval = Interval { microseconds: *microseconds, ..Interval::default() };
                moved(timestamp(moment)?, Some(interval))
            }
            (Moment::SubtractInterval { .. }, moment, Value::Interval(interval)) => {
                moved(timestamp(moment)?, interval.negate())
            }
            (Moment::AddToTime, Value::Time(time), Value::Interval(interval)) => {
                datetime::add_to_time(*time, interval.microseconds).map(Value::Time).ok_or(Stop::Ask)
            }
            (Moment::SubtractFromTime, Value::Time(time), Value::Interval(interval)) => {
                let back = interval.microseconds.checked_neg().ok_or(Stop::Ask)?;
                datetime::add_to_time(*time, back).map(Value::Time).ok_or(Stop::Ask)
            }
            (Moment::ClockBetween, Value::Time(left), Value::Time(right)) => {
                Ok(Value::Interval(Interval { microseconds: left - right, ..Interval::default() }))
            }
            (Moment::AddIntervals, Value::Interval(left), Value::Interval(right)) => {
                interval(left.add(*right))
            }
            (Moment::SubtractIntervals, Value::Interval(left), Value::Interval(right)) => {
                interval(left.subtract(*right))
            }
            (Moment::MultiplyInterval, Value::Interval(interval), Value::Float(Float(factor))) => {
                interval.multiply(*factor).map(Value::Interval).ok_or(Stop::Ask)
            }
            _ => Err(Stop::Ask),
        }
    }
}

fn out_of_range(what: &str) -> Stop {
    Stop::Failed(format!("{what} out of range"))
}

fn timestamp(moment: &Value<'_>) -> Result<i64, Stop> {
    match moment {
        Value::Timestamp(timestamp) => Ok(*timestamp),
        Value::Date(date) => datetime::date_to_timestamp(*date)
            .ok_or_else(|| Stop::Failed("date out of range for timestamp".to_owned())),
        _ => Err(Stop::Ask),
    }
}

fn moved<'a>(moment: i64, interval: Option<Interval>) -> Result<Value<'a>, Stop> {
    datetime::add_interval(moment, interval.ok_or(Stop::Ask)?)
        .map(Value::Timestamp)
        .ok_or_else(|| out_of_range("timestamp"))
}

fn part(field: Field, moment: &Value<'_>) -> Result<Part, Stop> {
    Ok(match moment {
        Value::Date(date) => field.of_date(*date),
        Value::Time(time) => field.of_time(*time),
        Value::Timestamp(timestamp) => field.of_timestamp(*timestamp),
        Value::Interval(interval) => field.of_interval(*interval),
        _ => return Err(Stop::Ask),
    })
}
