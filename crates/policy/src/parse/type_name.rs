//! Types as SQL text names them.

use sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, ObjectName, TimezoneInfo,
};

use crate::resolve::Modifier;
use crate::schema::{TypeKind, Types};
use crate::value::Kind;

/// The type that `data_type` names, with its length or precision.
pub(crate) fn kind_and_modifier(
    data_type: &DataType,
    types: &Types,
) -> Result<(Kind, Option<Modifier>), String> {
    let length = |length: &Option<CharacterLength>| match length {
        None => Some(1),
        Some(CharacterLength::IntegerLength { length, unit: None }) => u32::try_from(*length).ok(),
        Some(_) => None,
    };
    let number = |precision: u64, scale: i64| {
        let precision = u32::try_from(precision).ok().filter(|precision| *precision <= PRECISION_MAX)?;
        Some(Modifier::Numeric { precision, scale: i32::try_from(scale).ok()? })
    };
    let (kind, modifier) = match data_type {
        DataType::CharacterVarying(most @ Some(_)) | DataType::Varchar(most @ Some(_)) => {
            (Kind::Text, length(most).map(Modifier::AtMost))
        }
        DataType::Character(width) | DataType::Char(width) => {
            (Kind::Char, length(width).map(Modifier::Exactly))
        }
        DataType::Numeric(ExactNumberInfo::Precision(precision))
        | DataType::Decimal(ExactNumberInfo::Precision(precision)) => (Kind::Numeric, number(*precision, 0)),
        DataType::Numeric(ExactNumberInfo::PrecisionAndScale(precision, scale))
        | DataType::Decimal(ExactNumberInfo::PrecisionAndScale(precision, scale)) => {
            (Kind::Numeric, number(*precision, *scale))
        }
        plain => return Ok((kind(plain, types)?, None)),
    };
    match modifier {
        Some(modifier) => Ok((kind, Some(modifier))),
        None => Err(format!("the type {data_type}")),
    }
}

/// Numbers of more digits are left to PostgreSQL.
const PRECISION_MAX: u32 = 38;

/// The type that `data_type` names; an error where it has a length or precision, or is not known.
pub(crate) fn kind(data_type: &DataType, types: &Types) -> Result<Kind, String> {
    Ok(match data_type {
        DataType::Text | DataType::CharacterVarying(None) | DataType::Varchar(None) => Kind::Text,
        DataType::Uuid => Kind::Uuid,
        DataType::Boolean | DataType::Bool => Kind::Bool,
        DataType::SmallInt(None) | DataType::Int2(None) => Kind::Int2,
        DataType::Integer(None) | DataType::Int(None) | DataType::Int4(None) => Kind::Int4,
        DataType::BigInt(None) | DataType::Int8(None) => Kind::Int8,
        DataType::Real | DataType::Float4 => Kind::Float4,
        DataType::DoublePrecision | DataType::Float8 => Kind::Float8,
        DataType::Numeric(ExactNumberInfo::None) | DataType::Decimal(ExactNumberInfo::None) => Kind::Numeric,
        DataType::Date => Kind::Date,
        DataType::Time(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => Kind::Time,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => Kind::Timestamp,
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => Kind::TimestampTz,
        DataType::Interval { fields: None, precision: None } => Kind::Interval,
        DataType::JSON => Kind::Json,
        DataType::JSONB => Kind::Jsonb,
        DataType::Bytea => Kind::Bytea,
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)) => {
            Kind::Array(Box::new(kind(element, types)?))
        }
        DataType::Custom(name, modifiers) if modifiers.is_empty() => named(name, types)?,
        other => return Err(format!("the type {other}")),
    })
}

fn named(name: &ObjectName, types: &Types) -> Result<Kind, String> {
    let unknown = || format!("the type {name}");
    let parts: Vec<&str> =
        name.0.iter().filter_map(|part| part.as_ident()).map(|part| part.value.as_str()).collect();
    let (schema, name) = match parts.as_slice() {
        [name] => (None, *name),
        [schema, name] => (Some(*schema), *name),
        _ => return Err(unknown()),
    };
    // What `NULL` is where any type may stand.
    if (schema, name) == (None, "unknown") {
        return Ok(Kind::Untyped);
    }
    if schema.is_none_or(|schema| schema == "pg_catalog")
        && let Some(kind) = Kind::of_base_name(name)
    {
        return Ok(kind);
    }
    let mut found = types
        .0
        .values()
        .filter(|one| one.name == name && schema.is_none_or(|schema| schema == one.schema))
        .filter(|one| matches!(one.kind, TypeKind::Enum { .. }));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Kind::of(types, one.oid)),
        _ => Err(unknown()),
    }
}
