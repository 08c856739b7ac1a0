//! Kubernetes' library of semantic versions.

use std::sync::Arc;

use ::semver::Version;

use super::{Called, EvalError, Val};

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    let part = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    Some(match (function, args) {
        ("semver", [Val::Str(s)]) => parse(s, false),
        ("semver", [Val::Str(s), Val::Bool(normalize)]) => parse(s, *normalize),
        ("isSemver", [Val::Str(s)]) => Ok(Val::Bool(parse(s, false).is_ok())),
        ("isSemver", [Val::Str(s), Val::Bool(normalize)]) => Ok(Val::Bool(parse(s, *normalize).is_ok())),
        ("major", [Val::Semver(v)]) => part(v.major),
        ("minor", [Val::Semver(v)]) => part(v.minor),
        ("patch", [Val::Semver(v)]) => part(v.patch),
        ("isGreaterThan", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Bool(a.cmp_precedence(b).is_gt())),
        ("isLessThan", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Bool(a.cmp_precedence(b).is_lt())),
        ("compareTo", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Int(a.cmp_precedence(b) as i64)),
        _ => return None,
    })
}

fn parse<'a>(text: &str, normalize: bool) -> Called<'a> {
    let text = if normalize { normalized(text) } else { text.to_owned() };
    let version = Version::parse(&text).map_err(|e| EvalError::new(format!("Semver parse error: {e}")))?;
    Ok(Val::Semver(Arc::new(version)))
}

/// Without a leading `v` and leading zeros, and with what is missing of three numbers.
fn normalized(text: &str) -> String {
    let text = text.trim().strip_prefix('v').unwrap_or_else(|| text.trim());
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers.splitn(3, '.').collect();
    for part in &mut parts {
        let trimmed = part.trim_start_matches('0');
        *part = if trimmed.is_empty() && !part.is_empty() { "0" } else { trimmed };
    }
    parts.resize(3, "0");
    format!("{}{rest}", parts.join("."))
}
