//! Names of every sort, and what is wrong with them (apimachinery `util/validation`).

use std::net::IpAddr;

/// What a name of a certain sort looks like, in words, examples and as a regular expression.
struct Form {
    words: &'static str,
    examples: &'static [&'static str],
    regex: &'static str,
}

impl Form {
    fn problem(&self) -> String {
        let examples: Vec<_> = self.examples.iter().map(|e| format!("'{e}', ")).collect();
        format!("{} (e.g. {}regex used for validation is '{}')", self.words, examples.join(" or "), self.regex)
    }
}

const DNS_LABEL: Form = Form {
    words: "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
            end with an alphanumeric character",
    examples: &["my-name", "123-abc"],
    regex: "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
};

const DNS_SUBDOMAIN: Form = Form {
    words: "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
            start and end with an alphanumeric character",
    examples: &["example.com"],
    regex: r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
};

const DNS1035_LABEL: Form = Form {
    words: "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
            character, and end with an alphanumeric character",
    examples: &["my-name", "abc-123"],
    regex: "[a-z]([-a-z0-9]*[a-z0-9])?",
};

const QUALIFIED: Form = Form {
    words: "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
            character",
    examples: &["MyName", "my.name", "123-abc"],
    regex: "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
};

const LABEL_VALUE: Form = Form {
    words: "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
            start and end with an alphanumeric character",
    examples: &["MyValue", "my_value", "12345"],
    regex: "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
};

const CONFIG_KEY: Form = Form {
    words: "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    examples: &["key.name", "KEY_NAME", "key-name"],
    regex: "[-._a-zA-Z0-9]+",
};

const HTTP_HEADER: Form = Form {
    words: "a valid HTTP header must consist of alphanumeric characters or '-'",
    examples: &["X-Header-Name"],
    regex: "[-A-Za-z0-9]+",
};

/// DNS names and the like count characters, in upstream's words; labels count bytes. They are ASCII, so that both are
/// one.
fn too_long(max: usize, unit: &str) -> String {
    format!("must be no more than {max} {unit}")
}

fn is_lower_label(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_name_part(name: &str) -> bool {
    let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && alphanumeric(name.bytes().next())
        && alphanumeric(name.bytes().last())
}

/// RFC 1123 label: at most 63 bytes.
pub(crate) fn dns_label_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push(too_long(63, "characters"));
    }
    if !is_lower_label(name) {
        let wrong_dots = name.contains('.') && name.split('.').all(is_lower_label);
        problems.push(if wrong_dots { "must not contain dots".to_owned() } else { DNS_LABEL.problem() });
    }
    problems
}

/// RFC 1123 subdomain: at most 253 bytes.
pub(crate) fn dns_subdomain_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push(too_long(253, "characters"));
    }
    if !name.split('.').all(is_lower_label) {
        problems.push(DNS_SUBDOMAIN.problem());
    }
    problems
}

/// RFC 1035 label: at most 63 bytes, a letter first.
pub(crate) fn dns1035_label_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push(too_long(63, "characters"));
    }
    if !is_lower_label(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        problems.push(DNS1035_LABEL.problem());
    }
    problems
}

/// A label key or the like: a name, with an optional DNS subdomain before a slash.
pub(crate) fn qualified_name_problems(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let parts: Vec<_> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                let of_prefix = dns_subdomain_problems(prefix).into_iter();
                problems.extend(of_prefix.map(|p| format!("prefix part {}", p.replace("253 characters", "253 bytes"))));
            }
            *name
        }
        _ => {
            let form = QUALIFIED.problem();
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {form} {tail}")];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", too_long(63, "bytes")));
    }
    if !is_name_part(name) {
        problems.push(format!("name part {}", QUALIFIED.problem()));
    }
    problems
}

/// A label's value: at most 63 bytes.
pub(crate) fn label_value_problems(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push(too_long(63, "bytes"));
    }
    if !value.is_empty() && !is_name_part(value) {
        problems.push(LABEL_VALUE.problem());
    }
    problems
}

/// A key of a config map or a secret: a file name.
pub(crate) fn config_key_problems(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if key.len() > 253 {
        problems.push(too_long(253, "characters"));
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        problems.push(CONFIG_KEY.problem());
    }
    match key {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// The name of an HTTP header.
pub(crate) fn http_header_problems(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![HTTP_HEADER.problem()]
}

/// An environment variable: printable ASCII without `=`.
pub(crate) fn env_name_problems(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A port's name: an IANA service name (RFC 6335).
pub(crate) fn port_name_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push(too_long(15, "characters"));
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// An IP address, of either family.
pub(crate) fn ip_problems(address: &str) -> Vec<String> {
    if address.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_in_upstreams_words() {
        assert!(dns_label_problems("web-1").is_empty());
        assert_eq!(
            dns_label_problems("Web"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns_label_problems("a.b"), ["must not contain dots"]);
        assert_eq!(dns_label_problems(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(dns_subdomain_problems("a.b-c.d").is_empty());
        assert!(!dns_subdomain_problems("a..d").is_empty());
        assert!(!dns1035_label_problems("1a").is_empty());
        assert!(qualified_name_problems("example.com/My_Name").is_empty());
        assert_eq!(qualified_name_problems("/a"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name_problems("a/b/c").len(), 1);
        assert!(label_value_problems("").is_empty() && !label_value_problems("-a").is_empty());
        assert!(config_key_problems("..data").contains(&"must not start with '..'".to_owned()));
        assert!(env_name_problems("A.b-c d").is_empty() && !env_name_problems("a=b").is_empty());
        assert_eq!(port_name_problems("123"), ["must contain at least one letter (a-z)"]);
        assert_eq!(
            port_name_problems("http--"),
            ["must not contain consecutive hyphens", "must not begin or end with a hyphen"]
        );
        assert!(ip_problems("::1").is_empty() && !ip_problems("1.2.3").is_empty());
    }
}
