//! The Pod Security Standards: what a pod may ask for at each level (upstream `pod-security-admission/policy` and
//! `/api`). Pure; messages are upstream's.

mod baseline;
mod restricted;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{at, list, text};

/// How much is forbidden. The order is that of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    Privileged,
    /// What is known to lead out of the pod.
    Baseline,
    /// Everything that is not hardened.
    Restricted,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

impl std::str::FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// As of which minor version of Kubernetes; the newest there is, if none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(Option<u32>);

impl Version {
    /// Whether what came with 1.`minor` counts.
    fn is_at_least(self, minor: u32) -> bool {
        self.0.is_none_or(|own| own >= minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(minor) => write!(f, "v1.{minor}"),
            None => f.write_str("latest"),
        }
    }
}

impl std::str::FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be \"latest\" or \"v1.x\"";
        if text == "latest" {
            return Ok(Self(None));
        }
        let minor = text.strip_prefix("v1.").filter(|m| m.bytes().all(|b| b.is_ascii_digit())).ok_or(WRONG)?;
        // Leading zeros are no number.
        let plain = minor == "0" || !minor.starts_with('0');
        minor.parse().ok().filter(|_| plain).map(|minor| Self(Some(minor))).ok_or(WRONG)
    }
}

/// A level as of a version: `restricted:v1.30`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard {
    /// How much is forbidden.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What applies in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate it are refused.
    pub enforce: Standard,
    /// Who makes something that violates it is noted.
    pub audit: Standard,
    /// Who makes something that violates it is told.
    pub warn: Standard,
}

const PREFIX: &str = "pod-security.kubernetes.io/";

/// The policy that a namespace's labels ask for, on top of `defaults`; and what is wrong with the labels. What is wrong
/// is enforced as strictly as possible, and neither noted nor told.
pub fn policy(namespace: &Value, defaults: Policy) -> (Policy, ErrorList) {
    let (mut policy, mut errors) = (defaults, Vec::new());
    let labels = at(namespace, "metadata.labels");
    let mut read = |mode: &str, standard: &mut Standard, otherwise: Level| {
        let (level_key, version_key) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        let mut wrong = |key: &str, value: &str, why: &str| {
            errors.push(Error::invalid(Path::new("metadata.labels").key(key), value, why));
        };
        let (level, version) = (label(&level_key), label(&version_key));
        if let Some(text) = level {
            standard.level = text.parse().unwrap_or_else(|why| {
                wrong(&level_key, text, why);
                otherwise
            });
        }
        if let Some(text) = version {
            standard.version = text.parse().unwrap_or_else(|why| {
                wrong(&version_key, text, why);
                Version::default()
            });
        }
        (level.is_some(), version.is_some())
    };
    let (enforces, _) = read("enforce", &mut policy.enforce, Level::Restricted);
    read("audit", &mut policy.audit, Level::Privileged);
    let (warns, warn_version) = read("warn", &mut policy.warn, Level::Privileged);
    if enforces && !warns && policy.enforce.level > policy.warn.level {
        policy.warn.level = policy.enforce.level;
        if !warn_version {
            policy.warn.version = policy.enforce.version;
        }
    }
    (policy, errors)
}

/// What a pod violates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `privileged`, `host namespaces`...
    pub reason: String,
    /// Where and how; may be empty.
    pub detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason: reason.into(), detail: detail.into() }
    }
}

/// The violations' reasons and details in one line.
pub fn details(violations: &[Violation]) -> String {
    let one = |v: &Violation| match v.detail.as_str() {
        "" => v.reason.clone(),
        detail => format!("{} ({detail})", v.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The violations' reasons in one line.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// A check of a pod: its metadata and its spec.
type Check = fn(&Pod<'_>) -> Option<Violation>;

/// A pod, or the template of one.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    version: Version,
}

/// Everything about a pod (or template: anything with `metadata` and `spec`) that a standard forbids, in upstream's
/// order.
pub fn violations(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { metadata, spec, version: standard.version };
    // Some of the restricted checks take the place of weaker ones.
    let (replaced, more): (&[&str], &[Check]) = match standard.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => (&[], &[]),
        Level::Restricted => (&restricted::REPLACES, &restricted::CHECKS),
    };
    let replaced = |id: &str| replaced.contains(&id) && restricted::is_replaced(id, standard.version);
    let base = baseline::CHECKS.iter().filter(|(id, _)| !replaced(id)).map(|(_, check)| check);
    base.chain(more).filter_map(|check| check(&pod)).collect()
}

impl<'a> Pod<'a> {
    /// The containers of all sorts, in upstream's order.
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let of = |key| list(self.spec, key).iter();
        of("initContainers").chain(of("containers")).chain(of("ephemeralContainers"))
    }

    /// The names of the containers that are so.
    fn named(&self, is: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| is(c)).map(|c| text(c, "name")).collect()
    }

    fn is_windows(&self) -> bool {
        text(self.spec, "os.name") == "windows"
    }

    /// Whether the pod's users are not the host's.
    fn has_own_users(&self) -> bool {
        at(self.spec, "hostUsers") == &Value::Bool(false)
    }

    fn annotations(&self) -> Vec<(&'a str, &'a str)> {
        let all = crate::kinds::json::entries(self.metadata, "annotations");
        all.into_iter().map(|(key, value)| (key, value.as_str().unwrap_or_default())).collect()
    }

    /// Who sets a field of the security context to a bad value: `pod`, `container "a"`; and the values.
    fn bad_setters(&self, path: &str, is_bad: impl Fn(&Value) -> bool) -> (Vec<String>, BTreeSet<String>) {
        let (mut setters, mut values) = (Vec::new(), BTreeSet::new());
        let path = format!("securityContext.{path}");
        let mut bad = |of: &Value| {
            let value = at(of, &path);
            let is_bad = !value.is_null() && is_bad(value);
            if is_bad {
                values.insert(value.as_str().unwrap_or_default().to_owned());
            }
            is_bad
        };
        if bad(self.spec) {
            setters.push("pod".to_owned());
        }
        let mut names = Vec::new();
        for container in self.containers() {
            if bad(container) {
                names.push(text(container, "name"));
            }
        }
        if !names.is_empty() {
            setters.push(these("container", &names));
        }
        (setters, values)
    }
}

/// `a` or `as`.
fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `"a", "b"`.
fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
}

/// `containers "a", "b"`.
fn these(word: &str, names: &[&str]) -> String {
    format!("{} {}", plural(word, names.len()), quoted(names.iter().copied()))
}

/// Whether an update of a pod changes anything that a standard is about.
pub fn is_significant_update(new: &Value, old: &Value) -> bool {
    let annotation = |pod: &Value, key: &str| {
        at(pod, "metadata.annotations").get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let differs = |key: &str| annotation(new, key) != annotation(old, key);
    let changed = |a: &Value, b: &Value| {
        let seccomp = format!("container.seccomp.security.alpha.kubernetes.io/{}", text(a, "name"));
        text(a, "image") != text(b, "image") || differs(&seccomp)
    };
    let any_changed = |path: &str| {
        let (new, old) = (list(new, path), list(old, path));
        new.len() != old.len() || new.iter().zip(old).any(|(a, b)| changed(a, b))
    };
    let ephemeral = || {
        let before = list(old, "spec.ephemeralContainers");
        list(new, "spec.ephemeralContainers")
            .iter()
            .any(|c| before.iter().find(|b| text(b, "name") == text(c, "name")).is_none_or(|before| changed(c, before)))
    };
    differs("seccomp.security.alpha.kubernetes.io/pod")
        || any_changed("spec.containers")
        || any_changed("spec.initContainers")
        || ephemeral()
}

/// Metadata and spec of the pods that an object of a kind makes, if it makes any.
pub fn template<'a>(group: &str, plural: &str, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match (group, plural) {
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        | ("batch", "jobs")
        | ("", "replicationcontrollers") => at(object, "spec.template"),
        ("batch", "cronjobs") => at(object, "spec.jobTemplate.spec.template"),
        ("", "podtemplates") => at(object, "template"),
        _ => return None,
    };
    let found = !at(template, "spec").is_null();
    found.then(|| (at(template, "metadata"), at(template, "spec")))
}
