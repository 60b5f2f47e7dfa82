//! Types as SQL text names them.

use sqlparser::ast::{ArrayElemTypeDef, DataType, ExactNumberInfo, ObjectName, TimezoneInfo};

use crate::schema::{TypeKind, Types};
use crate::value::Kind;

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
