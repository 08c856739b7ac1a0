//! The functions: the standard library's here, the others' by library.

mod authorizer;
mod format;
pub(super) mod lists;
mod math;
mod net;
mod quantity;
mod regex;
mod semver;
mod strings;
pub(super) mod time;
pub(super) mod url;

use std::sync::Arc;

use super::EvalError;
use super::value::{Key, Val};

type Called<'a> = Result<Val<'a>, EvalError>;

/// The longest text, list or pattern result that a function makes; beyond it, the cost limit is reached anyway.
const MAX_SIZE: usize = 10_000_000;

/// The value of a function. Members get their receiver as the first argument. Whether the arguments fit has been
/// checked as far as types were known; what does not fit is `no such overload`.
pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Called<'a> {
    let result = standard(function, args)
        .or_else(|| strings::call(function, args))
        .or_else(|| lists::call(function, args))
        .or_else(|| time::call(function, args))
        .or_else(|| math::call(function, args))
        .or_else(|| quantity::call(function, args))
        .or_else(|| net::call(function, args))
        .or_else(|| url::call(function, args))
        .or_else(|| semver::call(function, args))
        .or_else(|| format::call(function, args))
        .or_else(|| regex::call(function, args))
        .or_else(|| authorizer::call(function, args));
    result.unwrap_or_else(|| Err(EvalError::no_overload()))
}

/// A tenth for each byte, as cel-go counts what goes through a text.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

/// What a call costs before it is made.
pub(super) fn cost(function: &str, args: &[Val<'_>]) -> u64 {
    let size = |at: usize| args.get(at).map_or(0, Val::size);
    match function {
        "contains" | "lastIndexOf" | "indexOf" => match args.first() {
            Some(Val::Str(_)) => tenth(size(0)).max(1) * tenth(size(1)).max(1),
            _ => size(0).max(1),
        },
        "matches" | "find" | "findAll" => tenth(size(0) + 1).max(1) * (size(1).div_ceil(4)).max(1),
        "startsWith" | "endsWith" => tenth(size(1)).max(1),
        "_+_" => match args.first() {
            Some(Val::Str(_) | Val::Bytes(_) | Val::List(_) | Val::Json(..)) => tenth(size(0) + size(1)).max(1),
            _ => 1,
        },
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => match (args.first(), args.get(1)) {
            (Some(Val::Str(_) | Val::Bytes(_)), Some(_)) => tenth(size(0).min(size(1))).max(1),
            (Some(a), Some(b)) => deep_size(a, 4).min(deep_size(b, 4)).max(1),
            _ => 1,
        },
        "@in" => match args.get(1) {
            Some(list) if list.is_list() => list.size().max(1),
            _ => 1,
        },
        "string" | "bytes" | "replace" | "split" | "trim" | "lowerAscii" | "upperAscii" | "substring" | "quantity"
        | "ip" | "cidr" | "url" | "semver" | "isIP" | "isCIDR" | "isURL" | "isQuantity" | "isSemver" | "reverse"
        | "strings.quote" | "base64.encode" | "base64.decode" | "format" | "validate" | "replaceAll" | "charAt" => {
            tenth(size(0)).max(1)
        }
        "isSorted" | "sum" | "min" | "max" | "join" | "slice" | "flatten" | "first" | "last" => size(0).max(1),
        "sort" | "distinct" => size(0).saturating_mul(size(0).ilog2_or_one()).max(1),
        "sets.contains" | "sets.intersects" => size(0).max(1).saturating_mul(size(1).max(1)),
        "sets.equivalent" => size(0).max(1).saturating_mul(size(1).max(1)).saturating_mul(2),
        "check" => 350_000,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed"
        | "reason" | "errored" | "error" | "fieldSelector" | "labelSelector" => 1,
        _ => 1,
    }
}

trait Log {
    fn ilog2_or_one(self) -> Self;
}

impl Log for u64 {
    fn ilog2_or_one(self) -> Self {
        self.checked_ilog2().map_or(1, u64::from).max(1)
    }
}

/// How much a comparison may have to look at: down to `depth` levels, which is as far as most values go.
fn deep_size(value: &Val<'_>, depth: usize) -> u64 {
    if depth == 0 {
        return value.size();
    }
    match value {
        Val::Json(json, _) => json_size(json, 64),
        Val::List(items) => items.iter().map(|item| deep_size(item, depth - 1)).sum::<u64>() + 1,
        Val::Map(entries) | Val::Domains(entries) | Val::Struct(_, entries) => {
            entries.values().map(|entry| deep_size(entry, depth - 1)).sum::<u64>() + 1
        }
        _ => 1,
    }
}

fn json_size(value: &serde_json::Value, depth: usize) -> u64 {
    match value {
        _ if depth == 0 => 1,
        serde_json::Value::Array(items) => items.iter().map(|item| json_size(item, depth - 1)).sum::<u64>() + 1,
        serde_json::Value::Object(map) => map.values().map(|value| json_size(value, depth - 1)).sum::<u64>() + 1,
        serde_json::Value::String(s) => tenth(s.len() as u64).max(1),
        _ => 1,
    }
}

/// What a call costs for what it has made.
pub(super) fn cost_of_result(function: &str, value: &Val<'_>) -> u64 {
    match function {
        "replace" | "join" | "format" | "findAll" | "split" | "flatten" | "lists.range" | "replaceAll" => {
            tenth(value.size())
        }
        _ => 0,
    }
}

/// What is nothing more than an overload of the standard library.
fn standard<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("_==_", [a, b]) => a.equals(b).map(Val::Bool),
        ("_!=_", [a, b]) => a.equals(b).map(|equal| Val::Bool(!equal)),
        ("_<_", [a, b]) => a.compare(b).map(|o| Val::Bool(o.is_lt())),
        ("_<=_", [a, b]) => a.compare(b).map(|o| Val::Bool(o.is_le())),
        ("_>_", [a, b]) => a.compare(b).map(|o| Val::Bool(o.is_gt())),
        ("_>=_", [a, b]) => a.compare(b).map(|o| Val::Bool(o.is_ge())),
        ("!_", [Val::Bool(b)]) => Ok(Val::Bool(!b)),
        ("@in", [item, list]) => contains(list, item).map(Val::Bool),
        ("_[_]", [container, key]) => index(container, key),
        ("_[?_]", [container, key]) => optional_index(container, key),
        ("size", [Val::Str(s)]) => Ok(Val::Int(s.chars().count() as i64)),
        ("size", [Val::Bytes(b)]) => Ok(Val::Int(b.len() as i64)),
        ("size", [value]) => value.len().map(|n| Val::Int(n as i64)).ok_or_else(EvalError::no_overload),
        ("type", [value]) => Ok(Val::Type(value.type_name().into())),
        ("dyn", [value]) => Ok(value.clone()),
        ("optional.of", [value]) => Ok(value.clone().some()),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => {
            Ok(if is_zero(value) { Val::Optional(None) } else { value.clone().some() })
        }
        ("hasValue", [Val::Optional(inner)]) => Ok(Val::Bool(inner.is_some())),
        ("value", [Val::Optional(Some(inner))]) => Ok((**inner).clone()),
        ("value", [Val::Optional(None)]) => Err(EvalError::new("optional.none() dereference")),
        ("optional.unwrap" | "unwrapOpt", [list]) => unwrap_all(list),
        _ => return math::operator(function, args).or_else(|| math::conversion(function, args)),
    })
}

fn contains<'a>(container: &Val<'a>, item: &Val<'a>) -> Result<bool, EvalError> {
    if container.is_list() {
        for at in 0..container.len().unwrap_or(0) {
            if let Some(candidate) = container.at(at)
                && candidate.clone()?.equals(item)?
            {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    if let Val::Domains(entries) = container {
        return Ok(item.key().is_ok_and(|key| entries.contains_key(&key)));
    }
    match item.key() {
        Ok(key) => Ok(container.get(&key)?.is_some()),
        Err(_) => container.get(&Key::Bool(false)).map(|_| false),
    }
}

fn index<'a>(container: &Val<'a>, key: &Val<'a>) -> Called<'a> {
    match container {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => optional_index(inner, key),
        list if list.is_list() => {
            let Key::Int(at) = key.key()? else { return Err(EvalError::no_overload()) };
            let found = usize::try_from(at).ok().and_then(|at| list.at(at));
            found.unwrap_or_else(|| Err(EvalError::new(format!("index out of bounds: {at}"))))
        }
        map => {
            let key = key.key()?;
            map.get(&key)?.ok_or_else(|| EvalError::new(format!("no such key: {key}")))
        }
    }
}

fn optional_index<'a>(container: &Val<'a>, key: &Val<'a>) -> Called<'a> {
    let found = match container {
        Val::Optional(None) => None,
        Val::Optional(Some(inner)) => return optional_index(inner, key),
        list if list.is_list() => match key.key()? {
            Key::Int(at) => usize::try_from(at).ok().and_then(|at| list.at(at)).transpose()?,
            _ => return Err(EvalError::no_overload()),
        },
        map => map.get(&key.key()?)?,
    };
    Ok(found.map_or(Val::Optional(None), Val::some))
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) | Val::Optional(None) => true,
        Val::Double(f) => *f == 0.0,
        Val::Str(s) => s.is_empty(),
        Val::Bytes(b) => b.is_empty(),
        value => value.len() == Some(0),
    }
}

fn unwrap_all<'a>(list: &Val<'a>) -> Called<'a> {
    let mut out = Vec::new();
    for item in list.items()? {
        match item {
            Val::Optional(inner) => out.extend(inner.map(Arc::unwrap_or_clone)),
            _ => return Err(EvalError::no_overload()),
        }
    }
    Ok(Val::list(out))
}
