//! Text: the standard library's, cel-go's strings extension, and base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Called, EvalError, MAX_SIZE, Val};

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("contains", [Val::Str(s), Val::Str(part)]) => Ok(Val::Bool(s.contains(part.as_ref()))),
        ("startsWith", [Val::Str(s), Val::Str(part)]) => Ok(Val::Bool(s.starts_with(part.as_ref()))),
        ("endsWith", [Val::Str(s), Val::Str(part)]) => Ok(Val::Bool(s.ends_with(part.as_ref()))),
        ("charAt", [Val::Str(s), Val::Int(at)]) => char_at(s, *at),
        ("indexOf", [Val::Str(s), Val::Str(part)]) => index_of(s, part, 0),
        ("indexOf", [Val::Str(s), Val::Str(part), Val::Int(from)]) => index_of(s, part, *from),
        ("lastIndexOf", [Val::Str(s), Val::Str(part)]) => last_index_of(s, part, None),
        ("lastIndexOf", [Val::Str(s), Val::Str(part), Val::Int(from)]) => last_index_of(s, part, Some(*from)),
        ("lowerAscii", [Val::Str(s)]) => Ok(Val::string(s.to_ascii_lowercase())),
        ("upperAscii", [Val::Str(s)]) => Ok(Val::string(s.to_ascii_uppercase())),
        ("trim", [Val::Str(s)]) => Ok(Val::string(s.trim())),
        ("reverse", [Val::Str(s)]) => Ok(Val::string(s.chars().rev().collect::<String>())),
        ("replace", [Val::Str(s), Val::Str(from), Val::Str(to)]) => replace(s, from, to, -1),
        ("replace", [Val::Str(s), Val::Str(from), Val::Str(to), Val::Int(n)]) => replace(s, from, to, *n),
        ("split", [Val::Str(s), Val::Str(by)]) => Ok(split(s, by, -1)),
        ("split", [Val::Str(s), Val::Str(by), Val::Int(n)]) => Ok(split(s, by, *n)),
        ("substring", [Val::Str(s), Val::Int(from)]) => substring(s, *from, None),
        ("substring", [Val::Str(s), Val::Int(from), Val::Int(to)]) => substring(s, *from, Some(*to)),
        ("join", [list]) => join(list, ""),
        ("join", [list, Val::Str(by)]) => join(list, by),
        ("strings.quote", [Val::Str(s)]) => Ok(Val::string(quote(s))),
        ("format", [Val::Str(pattern), list]) if list.is_list() => super::format::format(pattern, list),
        ("base64.encode", [Val::Bytes(b)]) => Ok(Val::string(STANDARD.encode(b))),
        ("base64.decode", [Val::Str(s)]) => {
            let lenient = base64::engine::general_purpose::STANDARD_NO_PAD;
            let decoded = STANDARD.decode(s.as_bytes()).or_else(|_| lenient.decode(s.as_bytes()));
            decoded.map(|b| Val::Bytes(b.into())).map_err(|e| EvalError::new(format!("illegal base64 data: {e}")))
        }
        ("jsonpatch.escapeKey", [Val::Str(s)]) => Ok(Val::string(s.replace('~', "~0").replace('/', "~1"))),
        _ => return None,
    })
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::new(format!("index out of range: {at}"))
}

fn char_at<'a>(s: &str, at: i64) -> Called<'a> {
    let size = s.chars().count();
    match usize::try_from(at) {
        Ok(at) if at <= size => Ok(Val::string(s.chars().nth(at).map(String::from).unwrap_or_default())),
        _ => Err(out_of_range(at)),
    }
}

fn index_of<'a>(s: &str, part: &str, from: i64) -> Called<'a> {
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let Some(byte) = byte_at(s, start) else { return Err(out_of_range(from)) };
    let found = s[byte..].find(part).map(|at| s[..byte + at].chars().count() as i64);
    Ok(Val::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(s: &str, part: &str, from: Option<i64>) -> Called<'a> {
    let end = match from {
        None => s.len(),
        Some(from) => {
            let at = usize::try_from(from).map_err(|_| out_of_range(from))?;
            let byte = byte_at(s, at).ok_or_else(|| out_of_range(from))?;
            (byte + part.len()).min(s.len())
        }
    };
    // The end may be within a character that does not belong to a match.
    let end = (0..=end).rev().find(|at| s.is_char_boundary(*at)).unwrap_or(0);
    let found = s[..end].rfind(part).map(|at| s[..at].chars().count() as i64);
    Ok(Val::Int(found.unwrap_or(-1)))
}

/// Where the character `at` begins; the end is where the one after the last would.
fn byte_at(s: &str, at: usize) -> Option<usize> {
    s.char_indices().map(|(byte, _)| byte).chain([s.len()]).nth(at)
}

fn replace<'a>(s: &str, from: &str, to: &str, n: i64) -> Called<'a> {
    let count = usize::try_from(n).unwrap_or(usize::MAX);
    let occurrences = s.matches(from).count().min(count);
    if s.len().saturating_add(occurrences.saturating_mul(to.len())) > MAX_SIZE {
        return Err(EvalError::CostLimit);
    }
    Ok(Val::string(s.replacen(from, to, count)))
}

fn split<'a>(s: &str, by: &str, n: i64) -> Val<'a> {
    let own = |part: &str| Val::string(part);
    let parts: Vec<Val<'a>> = match (n, by) {
        (0, _) => Vec::new(),
        (1, _) => vec![Val::string(s)],
        (n, "") => {
            let limit = usize::try_from(n).unwrap_or(usize::MAX);
            let mut rest = s;
            let mut parts = Vec::new();
            while let Some(c) = rest.chars().next() {
                if parts.len() + 1 == limit {
                    break;
                }
                let (first, after) = rest.split_at(c.len_utf8());
                parts.push(own(first));
                rest = after;
            }
            if !rest.is_empty() {
                parts.push(own(rest));
            }
            parts
        }
        (n, by) if n > 0 => s.splitn(usize::try_from(n).unwrap_or(usize::MAX), by).map(own).collect(),
        (_, by) => s.split(by).map(own).collect(),
    };
    Val::list(parts)
}

fn substring<'a>(s: &str, from: i64, to: Option<i64>) -> Called<'a> {
    let place = |at: i64| usize::try_from(at).ok().and_then(|n| byte_at(s, n)).ok_or_else(|| out_of_range(at));
    let start = place(from)?;
    let end = to.map_or(Ok(s.len()), place)?;
    if start > end {
        return Err(EvalError::new(format!("invalid substring range. start: {from}, end: {}", to.unwrap_or(0))));
    }
    Ok(Val::string(&s[start..end]))
}

fn join<'a>(list: &Val<'a>, by: &str) -> Called<'a> {
    let mut out = String::new();
    for (at, item) in list.items()?.into_iter().enumerate() {
        let Val::Str(item) = item else { return Err(EvalError::no_overload()) };
        if at > 0 {
            out.push_str(by);
        }
        out.push_str(&item);
        if out.len() > MAX_SIZE {
            return Err(EvalError::CostLimit);
        }
    }
    Ok(Val::string(out))
}

fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
