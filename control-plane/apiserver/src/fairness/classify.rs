//! Which flow a request belongs to.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::authz::Attributes;
use crate::json::{flag, list, strings, text};

/// A FlowSchema, as it is used.
#[derive(Debug)]
pub struct Schema {
    /// Its name.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: Arc<str>,
    /// The lower comes first.
    pub precedence: i64,
    /// The name of its priority level.
    pub level: String,
    distinguish: Distinguish,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguish {
    Nothing,
    User,
    Namespace,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|own| own == "*" || own == item)
}

impl Schema {
    /// From the stored object.
    pub fn read(object: &Value) -> Self {
        let distinguish = match text(object, "/spec/distinguisherMethod/type") {
            "ByUser" => Distinguish::User,
            "ByNamespace" => Distinguish::Namespace,
            _ => Distinguish::Nothing,
        };
        Self {
            name: text(object, "/metadata/name").into(),
            uid: text(object, "/metadata/uid").into(),
            precedence: object.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000),
            level: text(object, "/spec/priorityLevelConfiguration/name").to_owned(),
            distinguish,
            rules: list(object, "/spec/rules").iter().map(Rule::read).collect(),
        }
    }

    /// Whether the request is one of the schema's.
    pub fn matches(&self, request: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.matches(request))
    }

    /// Which of the schema's flows the request belongs to.
    pub fn distinguisher(&self, request: &Attributes) -> String {
        match self.distinguish {
            Distinguish::Nothing => String::new(),
            Distinguish::User => request.user.name.clone(),
            Distinguish::Namespace => request.namespace.clone(),
        }
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let subject = |subject: &Value| match text(subject, "/kind") {
            "User" => Some(Subject::User(text(subject, "/user/name").to_owned())),
            "Group" => Some(Subject::Group(text(subject, "/group/name").to_owned())),
            "ServiceAccount" => Some(Subject::ServiceAccount {
                namespace: text(subject, "/serviceAccount/namespace").to_owned(),
                name: text(subject, "/serviceAccount/name").to_owned(),
            }),
            _ => None,
        };
        let resource = |rule: &Value| ResourceRule {
            verbs: strings(rule, "/verbs"),
            groups: strings(rule, "/apiGroups"),
            resources: strings(rule, "/resources"),
            namespaces: strings(rule, "/namespaces"),
            cluster_scope: flag(rule, "/clusterScope"),
        };
        let path = |rule: &Value| PathRule { verbs: strings(rule, "/verbs"), paths: strings(rule, "/nonResourceURLs") };
        Self {
            subjects: list(rule, "/subjects").iter().filter_map(subject).collect(),
            resources: list(rule, "/resourceRules").iter().map(resource).collect(),
            paths: list(rule, "/nonResourceRules").iter().map(path).collect(),
        }
    }

    fn matches(&self, request: &Attributes) -> bool {
        self.subjects.iter().any(|subject| subject.matches(request))
            && if request.is_resource {
                self.resources.iter().any(|rule| rule.matches(request))
            } else {
                self.paths.iter().any(|rule| rule.matches(request))
            }
    }
}

impl Subject {
    fn matches(&self, request: &Attributes) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == request.user.name,
            Self::Group(name) => name == "*" || request.user.in_group(name),
            Self::ServiceAccount { namespace, name } => {
                let rest = request.user.name.strip_prefix("system:serviceaccount:");
                let account = rest.and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(of, own)| of == namespace && (name == "*" || own == name))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, request: &Attributes) -> bool {
        let resource = || match request.subresource.as_str() {
            "" => has(&self.resources, &request.resource),
            subresource => has(&self.resources, &format!("{}/{subresource}", request.resource)),
        };
        let place = || match request.namespace.as_str() {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        has(&self.verbs, &request.verb) && has(&self.groups, &request.group) && resource() && place()
    }
}

impl PathRule {
    fn matches(&self, request: &Attributes) -> bool {
        let path = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => request.path.starts_with(start),
            None => request.path == *pattern,
        };
        has(&self.verbs, &request.verb) && self.paths.iter().any(path)
    }
}

/// A number for a flow, by which it is dealt its queues.
pub(super) fn flow_hash(schema: &str, distinguisher: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(schema.as_bytes());
    hash.update([0]);
    hash.update(distinguisher.as_bytes());
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}
