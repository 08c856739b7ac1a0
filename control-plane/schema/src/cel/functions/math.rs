//! Numbers: operators, conversions, and cel-go's math extension.

use std::cmp::Ordering;

use super::{Called, EvalError, MAX_SIZE, Val, time};

/// The arithmetic operators.
pub(super) fn operator<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("_+_", [a, b]) => add(a, b),
        ("_-_", [Val::Int(a), Val::Int(b)]) => int(a.checked_sub(*b)),
        ("_-_", [Val::Uint(a), Val::Uint(b)]) => uint(a.checked_sub(*b)),
        ("_-_", [Val::Double(a), Val::Double(b)]) => Ok(Val::Double(a - b)),
        ("_-_", [Val::Timestamp(a), Val::Timestamp(b)]) => time::between(*a, *b),
        ("_-_", [Val::Timestamp(a), Val::Duration(b)]) => b.checked_neg().map_or_else(overflow, |b| time::shift(*a, b)),
        ("_-_", [Val::Duration(a), Val::Duration(b)]) => {
            a.checked_sub(*b).map(Val::Duration).ok_or_else(|| EvalError::new("duration overflow"))
        }
        ("_*_", [Val::Int(a), Val::Int(b)]) => int(a.checked_mul(*b)),
        ("_*_", [Val::Uint(a), Val::Uint(b)]) => uint(a.checked_mul(*b)),
        ("_*_", [Val::Double(a), Val::Double(b)]) => Ok(Val::Double(a * b)),
        ("_/_", [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)]) => Err(EvalError::new("division by zero")),
        ("_/_", [Val::Int(a), Val::Int(b)]) => int(a.checked_div(*b)),
        ("_/_", [Val::Uint(a), Val::Uint(b)]) => uint(a.checked_div(*b)),
        ("_/_", [Val::Double(a), Val::Double(b)]) => Ok(Val::Double(a / b)),
        ("_%_", [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)]) => Err(EvalError::new("modulus by zero")),
        ("_%_", [Val::Int(a), Val::Int(b)]) => int(a.checked_rem(*b)),
        ("_%_", [Val::Uint(a), Val::Uint(b)]) => uint(a.checked_rem(*b)),
        ("-_", [Val::Int(a)]) => int(a.checked_neg()),
        ("-_", [Val::Double(a)]) => Ok(Val::Double(-a)),
        ("-_", [Val::Duration(a)]) => a.checked_neg().map_or_else(overflow, |d| Ok(Val::Duration(d))),
        _ => return None,
    })
}

fn overflow<'a>() -> Called<'a> {
    Err(EvalError::new("integer overflow"))
}

fn int<'a>(value: Option<i64>) -> Called<'a> {
    value.map_or_else(overflow, |v| Ok(Val::Int(v)))
}

fn uint<'a>(value: Option<u64>) -> Called<'a> {
    value.map(Val::Uint).ok_or_else(|| EvalError::new("unsigned integer overflow"))
}

fn add<'a>(a: &Val<'a>, b: &Val<'a>) -> Called<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => int(a.checked_add(*b)),
        (Val::Uint(a), Val::Uint(b)) => uint(a.checked_add(*b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::Str(a), Val::Str(b)) if a.len() + b.len() <= MAX_SIZE => Ok(Val::string(format!("{a}{b}"))),
        (Val::Bytes(a), Val::Bytes(b)) if a.len() + b.len() <= MAX_SIZE => {
            Ok(Val::Bytes([&a[..], &b[..]].concat().into()))
        }
        (Val::Str(_), Val::Str(_)) | (Val::Bytes(_), Val::Bytes(_)) => Err(EvalError::CostLimit),
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => time::shift(*t, *d),
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map(Val::Duration).ok_or_else(|| EvalError::new("duration overflow"))
        }
        (a, b) if a.is_list() && b.is_list() => {
            let mut items = a.items()?;
            items.extend(b.items()?);
            Ok(Val::list(items))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// `int("1")` and the like.
pub(super) fn conversion<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    let [value] = args else { return None };
    Some(match (function, value) {
        ("int", Val::Int(_)) | ("uint", Val::Uint(_)) | ("double", Val::Double(_)) => Ok(value.clone()),
        ("string", Val::Str(_)) | ("bytes", Val::Bytes(_)) | ("bool", Val::Bool(_)) => Ok(value.clone()),
        ("int", Val::Uint(u)) => int(i64::try_from(*u).ok()),
        #[expect(clippy::cast_possible_truncation, reason = "it is in range")]
        ("int", Val::Double(f)) if f.abs() < 9.2e18 => Ok(Val::Int(*f as i64)),
        ("int", Val::Double(_)) => overflow(),
        ("int", Val::Str(s)) => s.parse().map(Val::Int).map_err(|_| unparsable("int", s)),
        ("int", Val::Timestamp(t)) => Ok(Val::Int(t.as_second())),
        ("int", Val::Duration(d)) => Ok(Val::Int(*d)),
        ("uint", Val::Int(i)) => uint(u64::try_from(*i).ok()),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
        ("uint", Val::Double(f)) if *f >= 0.0 && *f < 1.8e19 => Ok(Val::Uint(*f as u64)),
        ("uint", Val::Double(_)) => uint(None),
        ("uint", Val::Str(s)) => s.parse().map(Val::Uint).map_err(|_| unparsable("uint", s)),
        #[expect(clippy::cast_precision_loss, reason = "that is what double() does")]
        ("double", Val::Int(i)) => Ok(Val::Double(*i as f64)),
        #[expect(clippy::cast_precision_loss, reason = "that is what double() does")]
        ("double", Val::Uint(u)) => Ok(Val::Double(*u as f64)),
        ("double", Val::Str(s)) => s.parse().map(Val::Double).map_err(|_| unparsable("double", s)),
        ("bool", Val::Str(s)) => match s.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => Err(unparsable("bool", s)),
        },
        ("string", value) => text(value).map(Val::string).ok_or_else(EvalError::no_overload),
        ("bytes", Val::Str(s)) => Ok(Val::Bytes(s.as_bytes().into())),
        _ => return None,
    })
}

fn unparsable(ty: &str, text: &str) -> EvalError {
    EvalError::new(format!("type conversion error from 'string' to '{ty}': parsing {text:?}: invalid syntax"))
}

/// A scalar as text.
pub(super) fn text(value: &Val<'_>) -> Option<String> {
    Some(match value {
        Val::Str(s) => s.clone().into_owned(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(f) => double(*f),
        Val::Bytes(b) => String::from_utf8(b.to_vec()).ok()?,
        Val::Duration(d) => time::print_duration(*d),
        Val::Timestamp(t) => t.to_string(),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(net) => net.to_string(),
        _ => return None,
    })
}

/// A double as Go's `%g` prints it.
pub(super) fn double(f: f64) -> String {
    if f.is_nan() {
        return "NaN".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let exponent =
        if f == 0.0 { 0 } else { format!("{f:e}").split('e').nth(1).and_then(|e| e.parse().ok()).unwrap_or(0) };
    if (-4..21).contains(&exponent) {
        return f.to_string();
    }
    let text = format!("{f:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The math extension.
pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    let function = function.strip_prefix("math.")?;
    Some(match (function, args) {
        ("greatest", args) => extreme(args, Ordering::Greater),
        ("least", args) => extreme(args, Ordering::Less),
        ("abs", [Val::Int(i)]) => int(i.checked_abs()),
        ("abs", [Val::Double(f)]) => Ok(Val::Double(f.abs())),
        ("abs", [value @ Val::Uint(_)]) => Ok(value.clone()),
        ("sign", [Val::Int(i)]) => Ok(Val::Int(i.signum())),
        ("sign", [Val::Uint(u)]) => Ok(Val::Uint(u64::from(*u > 0))),
        ("sign", [Val::Double(f)]) => Ok(Val::Double(if *f == 0.0 || f.is_nan() { *f } else { f.signum() })),
        ("ceil", [Val::Double(f)]) => Ok(Val::Double(f.ceil())),
        ("floor", [Val::Double(f)]) => Ok(Val::Double(f.floor())),
        ("round", [Val::Double(f)]) => Ok(Val::Double(f.round())),
        ("trunc", [Val::Double(f)]) => Ok(Val::Double(f.trunc())),
        #[expect(clippy::cast_precision_loss, reason = "a square root is a double")]
        ("sqrt", [value]) => match value {
            Val::Double(f) => Ok(Val::Double(f.sqrt())),
            Val::Int(i) => Ok(Val::Double((*i as f64).sqrt())),
            Val::Uint(u) => Ok(Val::Double((*u as f64).sqrt())),
            _ => Err(EvalError::no_overload()),
        },
        ("isNaN", [Val::Double(f)]) => Ok(Val::Bool(f.is_nan())),
        ("isInf", [Val::Double(f)]) => Ok(Val::Bool(f.is_infinite())),
        ("isFinite", [Val::Double(f)]) => Ok(Val::Bool(f.is_finite())),
        ("bitAnd", [Val::Int(a), Val::Int(b)]) => Ok(Val::Int(a & b)),
        ("bitAnd", [Val::Uint(a), Val::Uint(b)]) => Ok(Val::Uint(a & b)),
        ("bitOr", [Val::Int(a), Val::Int(b)]) => Ok(Val::Int(a | b)),
        ("bitOr", [Val::Uint(a), Val::Uint(b)]) => Ok(Val::Uint(a | b)),
        ("bitXor", [Val::Int(a), Val::Int(b)]) => Ok(Val::Int(a ^ b)),
        ("bitXor", [Val::Uint(a), Val::Uint(b)]) => Ok(Val::Uint(a ^ b)),
        ("bitNot", [Val::Int(a)]) => Ok(Val::Int(!a)),
        ("bitNot", [Val::Uint(a)]) => Ok(Val::Uint(!a)),
        ("bitShiftLeft" | "bitShiftRight", [value, Val::Int(by)]) => shift(function == "bitShiftLeft", value, *by),
        _ => return None,
    })
}

fn shift<'a>(left: bool, value: &Val<'a>, by: i64) -> Called<'a> {
    let Ok(by) = u32::try_from(by) else {
        return Err(EvalError::new(format!(
            "math.bitShift{}() negative offset: {by}",
            if left { "Left" } else { "Right" }
        )));
    };
    #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "shifts are those of the bits")]
    match (value, left) {
        (Val::Int(i), true) => Ok(Val::Int((*i as u64).checked_shl(by).unwrap_or(0) as i64)),
        (Val::Int(i), false) => Ok(Val::Int((*i as u64).checked_shr(by).unwrap_or(0) as i64)),
        (Val::Uint(u), true) => Ok(Val::Uint(u.checked_shl(by).unwrap_or(0))),
        (Val::Uint(u), false) => Ok(Val::Uint(u.checked_shr(by).unwrap_or(0))),
        _ => Err(EvalError::no_overload()),
    }
}

fn extreme<'a>(args: &[Val<'a>], wanted: Ordering) -> Called<'a> {
    let items = match args {
        [list] if list.is_list() => list.items()?,
        args => args.to_vec(),
    };
    let mut items = items.into_iter();
    let first = items.next().ok_or_else(|| EvalError::new("math.@max(list) argument must not be empty"))?;
    items.try_fold(first, |best, item| Ok(if item.compare(&best)? == wanted { item } else { best }))
}
