//! Kubernetes' URL library: absolute URIs and absolute paths, as Go's `url.ParseRequestURI` reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Called, EvalError, Val};
use crate::cel::value::Key;

/// A URL in its parts.
#[derive(Debug)]
pub struct Url {
    /// As it was written.
    pub(in crate::cel) text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("url", [Val::Str(s)]) => parse(s).map(|url| Val::Url(Arc::new(url))).ok_or_else(|| {
            EvalError::new(format!(
                "URL parse error during conversion from string: parse {s:?}: invalid URI for request"
            ))
        }),
        ("isURL", [Val::Str(s)]) => Ok(Val::Bool(parse(s).is_some())),
        ("getScheme", [Val::Url(url)]) => Ok(Val::string(&url.scheme)),
        ("getHost", [Val::Url(url)]) => Ok(Val::string(&url.host)),
        ("getHostname", [Val::Url(url)]) => Ok(Val::string(host_and_port(&url.host).0)),
        ("getPort", [Val::Url(url)]) => Ok(Val::string(host_and_port(&url.host).1)),
        ("getEscapedPath", [Val::Url(url)]) => Ok(Val::string(&url.path)),
        ("getQuery", [Val::Url(url)]) => Ok(query(&url.query)),
        _ => return None,
    })
}

fn parse(text: &str) -> Option<Url> {
    if text.is_empty() || text.chars().any(|c| c.is_ascii_control() || c == ' ') {
        return None;
    }
    let (scheme, rest) = if text.starts_with('/') {
        (String::new(), text)
    } else {
        let (scheme, rest) = text.split_once(':')?;
        let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        (valid && rest.starts_with('/')).then_some(())?;
        (scheme.to_ascii_lowercase(), rest)
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        Some(authority) => authority.split_at(authority.find('/').unwrap_or(authority.len())),
        None => ("", rest),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let (name, port) = host_and_port(host);
    let brackets = host.starts_with('[');
    if !port.chars().all(|c| c.is_ascii_digit())
        || (brackets && !host.contains(']'))
        || (!brackets && name.contains(':'))
        || !escapes_are_sound(path)
        || !escapes_are_sound(host)
        || name.contains(['<', '>', '"', '\\', '^', '`', '{', '}', '|'])
    {
        return None;
    }
    Some(Url { text: text.into(), scheme, host: host.into(), path: escape(path), query: query.into() })
}

fn host_and_port(host: &str) -> (&str, &str) {
    let after_brackets = host.find(']').map_or(0, |at| at + 1);
    let (name, port) = match host[after_brackets..].rfind(':') {
        Some(at) => (&host[..after_brackets + at], &host[after_brackets + at + 1..]),
        None => (host, ""),
    };
    (name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name), port)
}

fn escapes_are_sound(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(at, b)| *b != b'%' || (hex(at + 1) && hex(at + 2)))
}

/// The path with what needs it escaped.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~/$&+,:;=@%!*'()[]".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn query<'a>(query: &str) -> Val<'a> {
    let mut out: BTreeMap<Key, Vec<Val<'a>>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        out.entry(Key::Str(unescape(key))).or_default().push(Val::string(unescape(value)));
    }
    Val::Map(Arc::new(out.into_iter().map(|(key, values)| (key, Val::list(values))).collect()))
}
