//! Functions outside `pg_catalog`: those without arguments are put in place of their call, when they are
//! written in SQL and read only claims and settings; so `auth.uid()` and its siblings are known by what
//! they say, not by their names.

use crate::expression::built_in_type;
use crate::parse::{Compiler, Surroundings};
use crate::resolve::Typed;
use crate::schema::{Function, Volatility};
use crate::value::Kind;

/// Functions that call functions that call functions … are left to PostgreSQL below this depth.
const DEPTH_MAX: usize = 4;

/// What becomes of a call.
pub(crate) enum Call {
    /// The body stands for it; its foreign constants are numbered from 0.
    Inlined { typed: Typed, foreign: Vec<String> },
    /// It depends on nothing but constant arguments: PostgreSQL computes it once for each set of claims.
    Foreign(Kind),
}

/// Finds out what to do with a call of `name` (`schema.function`). `constant` says whether every argument is.
pub(crate) fn call(
    name: &str,
    arguments: usize,
    constant: bool,
    surroundings: Surroundings<'_>,
) -> Result<Call, String> {
    let overloads = surroundings.snapshot.functions.get(name).map_or(&[][..], Vec::as_slice);
    let fitting: Vec<&Function> =
        overloads.iter().filter(|function| function.arguments.len() == arguments).collect();
    let [function] = fitting.as_slice() else {
        return Err(format!("the function {name} is not known or has several forms"));
    };
    let declared = built_in_type(function.returns)
        .or_else(|| Some(Kind::of(&surroundings.snapshot.types, function.returns)))
        .filter(|kind| !matches!(kind, Kind::Opaque(_)))
        .ok_or_else(|| format!("the type that the function {name} returns"))?;
    let inlined = if arguments == 0 {
        inline(name, function, &declared, surroundings)
    } else {
        Err(format!("the function {name} has arguments"))
    };
    match inlined {
        Err(_) if function.volatility == Volatility::Immutable && constant => Ok(Call::Foreign(declared)),
        other => other,
    }
}

fn inline(
    name: &str,
    function: &Function,
    declared: &Kind,
    surroundings: Surroundings<'_>,
) -> Result<Call, String> {
    if function.volatility == Volatility::Volatile {
        return Err(format!("the function {name} is VOLATILE"));
    }
    if function.language != "sql" {
        return Err(format!("the function {name} is written in {}", function.language));
    }
    if surroundings.depth >= DEPTH_MAX {
        return Err(format!("the function {name} is called too deep inside others"));
    }
    let mut compiler = Compiler::new(Surroundings {
        table: None,
        snapshot: surroundings.snapshot,
        definer: surroundings.definer || function.security_definer,
        depth: surroundings.depth + 1,
    });
    let typed = compiler.body(&function.body).map_err(|reason| format!("the function {name}: {reason}"))?;
    if typed.kind != *declared {
        return Err(format!(
            "the function {name} returns {}, not {}",
            declared.sql_name(),
            typed.kind.sql_name()
        ));
    }
    Ok(Call::Inlined { typed, foreign: compiler.foreign })
}
