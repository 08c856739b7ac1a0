//! A short form for roles: what the tables in [`super::roles`] and [`super::controllers`] are written in.

use serde_json::{Map, Value, json};

use crate::authz::rbac::Rule;

/// A ClusterRole or Role.
pub(super) struct Role {
    pub(super) name: &'static str,
    /// `aggregate-to-<this>`: the role's rules are added to those of `admin`, `edit` or `view`.
    pub(super) part_of: &'static str,
    /// The role takes its rules from those that are part of `this`; empty if it has its own.
    pub(super) gathers: &'static str,
    pub(super) rules: &'static [R],
}

/// A rule; each text is a list separated by spaces, `core` stands for the core group.
pub(super) enum R {
    /// Verbs, groups, resources.
    On(&'static str, &'static str, &'static str),
    /// The same, for objects of these names only.
    Named(&'static str, &'static str, &'static str, &'static str),
    /// Verbs, paths.
    Url(&'static str, &'static str),
}

pub(super) const READ: &str = "get list watch";
pub(super) const WRITE: &str = "create delete deletecollection patch update";
pub(super) const ALL: &str = "create delete deletecollection get list patch update watch";
/// Recording events.
pub(super) const EVENTS: R = R::On("create patch update", "core events.k8s.io", "events");

fn words(text: &str) -> Vec<String> {
    text.split(' ').filter(|w| !w.is_empty()).map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect()
}

impl R {
    pub(super) fn rule(&self) -> Rule {
        match self {
            Self::On(verbs, groups, resources) => {
                Rule { verbs: words(verbs), api_groups: words(groups), resources: words(resources), ..Rule::default() }
            }
            Self::Named(verbs, groups, resources, names) => {
                Rule { resource_names: words(names), ..Self::On(verbs, groups, resources).rule() }
            }
            Self::Url(verbs, urls) => Rule { verbs: words(verbs), non_resource_urls: words(urls), ..Rule::default() },
        }
    }
}

/// Metadata with the marks of upstream's default policy: the server adds rules that are missing at each start, unless
/// the annotation is set to false.
pub(super) fn metadata(namespace: &str, name: &str) -> Value {
    let mut out = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        out["namespace"] = namespace.into();
    }
    out
}

fn aggregate_label(to: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{to}")
}

impl Role {
    pub(super) const fn new(name: &'static str, rules: &'static [R]) -> Self {
        Self { name, part_of: "", gathers: "", rules }
    }

    pub(super) const fn part(name: &'static str, part_of: &'static str, rules: &'static [R]) -> Self {
        Self { name, part_of, gathers: "", rules }
    }

    pub(super) const fn gathering(name: &'static str, part_of: &'static str) -> Self {
        Self { name, part_of, gathers: name, rules: &[] }
    }

    /// The object; `all` are the roles among which are those it gathers. `namespace` is empty for a ClusterRole.
    pub(super) fn object(&self, namespace: &str, all: &[&Self]) -> Value {
        let mut metadata = metadata(namespace, self.name);
        if !self.part_of.is_empty() {
            metadata["labels"][aggregate_label(self.part_of)] = "true".into();
        }
        let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
        let mut out = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata});
        if !self.gathers.is_empty() {
            let labels: Map<String, Value> = Map::from_iter([(aggregate_label(self.gathers), "true".into())]);
            out["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        }
        out["rules"] = self.gathered(all).iter().map(Rule::to_value).collect();
        out
    }

    fn gathered(&self, all: &[&Self]) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.rules.iter().map(R::rule).collect();
        if !self.gathers.is_empty() {
            for part in all.iter().filter(|r| r.part_of == self.gathers && r.name != self.name) {
                rules.extend(part.gathered(all));
            }
        }
        rules
    }
}

/// A binding of a role to `subjects`, each `Group:name`, `User:name` or `ServiceAccount:namespace/name`. `namespace` is
/// empty for a ClusterRoleBinding.
pub(super) fn binding(namespace: &str, name: &str, role_kind: &str, role: &str, subjects: &[&str]) -> Value {
    let subject = |text: &&str| {
        let (kind, name) = text.split_once(':').unwrap_or(("User", text));
        match name.split_once('/').filter(|_| kind == "ServiceAccount") {
            Some((namespace, name)) => json!({"kind": kind, "name": name, "namespace": namespace}),
            None => json!({"kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": name}),
        }
    };
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let mut out = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata(namespace, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        out["subjects"] = subjects.iter().map(subject).collect();
    }
    out
}
