//! Warnings in an answer's headers (RFC 7234 section 5.5, code 299; apiserver `endpoints/filters/warning.go`).

use std::borrow::Cow;
use std::collections::BTreeSet;

use http::Response;
use http::header::{HeaderValue, WARNING};

use crate::body::Body;

/// How much they say together, in characters. What says more is cut.
const MAX_TOTAL_CHARS: usize = 4 << 10;
/// How much each says when they are cut.
const MAX_CUT_CHARS: usize = 256;

/// Adds them to an answer, each once.
pub(crate) fn add(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for text in shown(warnings) {
        let quoted: String = text.chars().filter(|c| !c.is_control()).collect();
        let quoted = quoted.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// All of them, if there is room; else as many as there is room for, cut.
fn shown(warnings: &[String]) -> Vec<Cow<'_, str>> {
    let mut seen = BTreeSet::new();
    let once: Vec<&String> = warnings.iter().filter(|text| !text.is_empty() && seen.insert(text.as_str())).collect();
    let total: usize = once.iter().map(|text| text.chars().count()).sum();
    if total <= MAX_TOTAL_CHARS {
        return once.into_iter().map(|text| Cow::Borrowed(text.as_str())).collect();
    }
    let mut written = 0;
    let mut out = Vec::new();
    for text in once {
        let cut: String = text.chars().take(MAX_CUT_CHARS).collect();
        written += cut.chars().count();
        out.push(Cow::Owned(cut));
        if written >= MAX_TOTAL_CHARS {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_and_never_too_much() {
        let few = ["a".to_owned(), "b".to_owned(), "a".to_owned(), String::new()];
        assert_eq!(shown(&few), ["a", "b"]);
        let many: Vec<String> = (0..1000).map(|n| format!("{n:0300}")).collect();
        let cut = shown(&many);
        assert_eq!(cut.len(), 16);
        assert!(cut.iter().all(|text| text.chars().count() == MAX_CUT_CHARS));
    }
}
