//! Kubernetes' quantity library.

use super::{Called, EvalError, Val};
use crate::quantity::{Format, Quantity};

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("quantity", [Val::Str(s)]) => Quantity::parse(s).map(Val::Quantity).map_err(|e| EvalError::new(e.to_string())),
        ("isQuantity", [Val::Str(s)]) => Ok(Val::Bool(Quantity::parse(s).is_ok())),
        ("sign", [Val::Quantity(q)]) => Ok(Val::Int(if q.is_zero() {
            0
        } else if q.is_negative() {
            -1
        } else {
            1
        })),
        ("isInteger", [Val::Quantity(q)]) => Ok(Val::Bool(integer(q).is_some())),
        ("asInteger", [Val::Quantity(q)]) => {
            integer(q).map(Val::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        }
        #[expect(clippy::cast_precision_loss, reason = "that is what was asked for")]
        ("asApproximateFloat", [Val::Quantity(q)]) => Ok(Val::Double(q.nano() as f64 / 1e9)),
        ("isGreaterThan", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Bool(a > b)),
        ("isLessThan", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Bool(a < b)),
        ("compareTo", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Int(a.cmp(b) as i64)),
        ("add", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Quantity(a.add(b))),
        ("sub", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Quantity(a.sub(b))),
        ("add", [Val::Quantity(a), Val::Int(b)]) => Ok(Val::Quantity(a.add(&Quantity::new(*b, Format::DecimalSi)))),
        ("sub", [Val::Quantity(a), Val::Int(b)]) => Ok(Val::Quantity(a.sub(&Quantity::new(*b, Format::DecimalSi)))),
        _ => return None,
    })
}

fn integer(q: &Quantity) -> Option<i64> {
    let nano = q.nano();
    (nano % 1_000_000_000 == 0).then(|| i64::try_from(nano / 1_000_000_000).ok()).flatten()
}
