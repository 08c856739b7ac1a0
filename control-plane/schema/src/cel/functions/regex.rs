//! Patterns: `matches`, and Kubernetes' regex library. RE2's syntax, in linear time.

use ::regex::{Regex, RegexBuilder};

use super::{Called, EvalError, Val};

/// The largest compiled pattern.
const MAX_COMPILED: usize = 1 << 20;

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("matches", [Val::Str(s), Val::Str(pattern)]) => compile(pattern).map(|p| Val::Bool(p.is_match(s))),
        ("find", [Val::Str(s), Val::Str(pattern)]) => {
            compile(pattern).map(|p| Val::string(p.find(s).map_or("", |found| found.as_str())))
        }
        ("findAll", [Val::Str(s), Val::Str(pattern)]) => find_all(s, pattern, -1),
        ("findAll", [Val::Str(s), Val::Str(pattern), Val::Int(n)]) => find_all(s, pattern, *n),
        _ => return None,
    })
}

fn compile(pattern: &str) -> Result<Regex, EvalError> {
    let compiled = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    compiled.map_err(|e| {
        let why = e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        EvalError::new(format!("error parsing regexp: {why}: `{pattern}`"))
    })
}

fn find_all<'a>(text: &str, pattern: &str, limit: i64) -> Called<'a> {
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let pattern = compile(pattern)?;
    Ok(Val::list(pattern.find_iter(text).take(count).map(|found| Val::string(found.as_str())).collect()))
}
